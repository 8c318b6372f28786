"""The floor: the matrix products that a truncated step or a prefill cannot do without, as bare matmuls of those shapes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stages.model import decoder

Shape = tuple[int, int]


def linears(model: Any, first: int, last: int, lora: bool = False) -> Iterator[Shape]:
    """(inputs, outputs) of every linear layer of decoder layers `first`..`last`: the frozen ones, or LoRA's A and B."""
    for layer in decoder(model).layers[first : last + 1]:
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear) and ("lora_" in name) == lora:
                yield module.in_features, module.out_features


class Products:
    """The products of `tokens` rows with each shape.

    passes: 1 = forward; 2 = and the activations' gradient; 3 = and the weights' own.
    """

    def __init__(self, shapes: Iterable[Shape], tokens: int, passes: int, dtype: torch.dtype) -> None:
        self.passes = passes
        made: dict[Shape, Tensor] = {}
        self.weights = [made.setdefault(s, torch.randn(s, dtype=dtype)) for s in shapes]
        self.rows = {n: torch.randn(tokens, n, dtype=dtype) for s in made for n in s}

    @property
    def flops(self) -> float:
        """Floating point operations of a call."""
        tokens = len(next(iter(self.rows.values())))
        return float(sum(2 * tokens * w.numel() for w in self.weights) * self.passes)

    def __call__(self) -> None:
        for weight in self.weights:
            self.rows[weight.shape[0]] @ weight
        for weight in reversed(self.weights) if self.passes > 1 else ():
            inputs, outputs = (self.rows[n] for n in weight.shape)
            outputs @ weight.T
            if self.passes > 2:
                inputs.T @ outputs


class Attention:
    """The products of queries, keys and values in so many layers, forward (2) and backward (4), for prompts of one length.

    Whole squares, although of each only the half before a token is needed: attention that skips the rest has an advantage.
    """

    def __init__(self, config: Any, layers: int, prompts: int, length: int, dtype: torch.dtype) -> None:
        self.layers = layers
        heads = prompts * config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.rows = torch.randn(heads, length, width, dtype=dtype)
        self.scores = torch.randn(heads, length, length, dtype=dtype)

    @property
    def flops(self) -> float:
        """Floating point operations of a call."""
        return float(6 * 2 * self.scores.numel() * self.rows.shape[2] * self.layers)

    def __call__(self) -> None:
        for _ in range(self.layers):
            for _ in range(2):
                self.rows @ self.rows.mT
                self.scores @ self.rows
                self.scores.mT @ self.rows


def step(model: Any, first: int, last: int, lengths: Sequence[int], dtype: torch.dtype) -> Callable[[], None]:
    """All that a step on prompts of these lengths takes in layers `first`..`last`: frozen weights, LoRA's, attention."""
    tokens = sum(lengths)
    parts = (
        Products(linears(model, first, last), tokens, 2, dtype),
        Products(linears(model, first, last, lora=True), tokens, 3, dtype),
        Attention(decoder(model).config, last + 1 - first, len(lengths), round(tokens / len(lengths)), dtype),
    )

    def run() -> None:
        for part in parts:
            part()

    return run

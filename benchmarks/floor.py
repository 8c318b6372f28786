"""The floor: the matrix products that a truncated step or a prefill cannot do without, as bare matmuls of those shapes."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stages.model import decoder

Shape = tuple[int, int]


def linears(model: Any, first: int, last: int) -> Iterator[Shape]:
    """(inputs, outputs) of every linear layer of decoder layers `first`..`last`."""
    for layer in decoder(model).layers[first : last + 1]:
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear) and "lora_" not in name:
                yield module.in_features, module.out_features


class Products:
    """The products of `tokens` rows with each shape, `passes` times (1 = forward; 2 = and the activations' gradient).

    Some numbers of rows take a seventh longer than a few more: let `tokens` be a multiple of 8.
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
            self.rows[weight.shape[1]] @ weight.T

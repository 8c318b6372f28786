"""Prompts laid end to end in one row, so that no product is spent on padding; only attention sees them one under another."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

STEP = 8
"""The row is filled up to a multiple of this: some numbers of rows between, such as 902, take a CPU a seventh longer."""


def filled(lengths: Sequence[int]) -> int:
    """Tokens of the row that prompts of these lengths make."""
    return -(-sum(lengths) // STEP) * STEP


class EndToEnd:
    """Where each token of prompts of these lengths is: of the row [T] that they make, and of the padded batch [B, L].

    The row ends with copies of its first token, less than STEP, which nothing looks at.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str) -> None:
        self.shape, self.real = (len(lengths), max(lengths)), sum(lengths)
        more = torch.zeros(filled(lengths) - self.real, dtype=torch.long)
        starts = range(0, self.shape[0] * self.shape[1], self.shape[1])
        places = [torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)]
        self.places = torch.cat([*places, more]).to(device)
        """Of each token of the row, its number in the padded batch, [T]."""
        self.tokens = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.long, device=device)
        self.tokens[self.places[: self.real]] = torch.arange(self.real, device=device)
        """Of each place of the padded batch, its token in the row, [B L]; of padding the first, which nothing looks at."""
        self.positions = torch.cat([*(torch.arange(n) for n in lengths), more])[None].to(device)
        """Position of each token in its own prompt, [1, T]."""

    def row(self, padded: Tensor) -> Tensor:
        """[B, L, ...] -> [1, T, ...]"""
        found: Tensor = _Row.apply(padded.flatten(0, 1), self.places.to(padded.device), self.real)  # type: ignore[no-untyped-call]
        return found[None]

    def batch(self, row: Tensor) -> Tensor:
        """[1, T, ...] -> [B, L, ...], padded on the right with what nothing may look at: no gradient comes from there."""
        places, tokens = self.places.to(row.device), self.tokens.to(row.device)
        found: Tensor = _Batch.apply(row[0], places, tokens, self.real)  # type: ignore[no-untyped-call]
        batch: Tensor = found.unflatten(0, self.shape)
        return batch


class _Row(torch.autograd.Function):
    """Padded places -> tokens. PyTorch's own gradient of indexing adds up one index after another."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Tensor, real: int) -> Tensor:
        ctx.save_for_backward(places[:real])
        ctx.number = len(padded)
        return padded.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (places,) = gradients, ctx.saved_tensors
        batch = gradient.new_zeros(ctx.number, *gradient.shape[1:])
        return batch.index_copy_(0, places, gradient[: len(places)]), None, None


class _Batch(torch.autograd.Function):
    """Tokens -> padded places."""

    @staticmethod
    def forward(ctx: Any, row: Tensor, places: Tensor, tokens: Tensor, real: int) -> Tensor:
        ctx.save_for_backward(places)
        ctx.real = real
        return row.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        row = gradients[0].index_select(0, ctx.saved_tensors[0])
        row[ctx.real :] = 0
        return row, None, None, None

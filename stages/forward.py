"""One pass of prompts through some of a decoder's layers, with what it made at one place."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stages import kernels
from stages.endtoend import EndToEnd, filled
from stages.errors import UserError
from stages.model import decoder

SAME = 1e-4
"""Relative squared distance up to which a token's activations count as the same: bf16 rounding may make that of them."""
WORTH = 0.95
"""Share of a padded batch from which on a row of its tokens is not worth moving them about for attention."""


def collate(prompts: Sequence[Sequence[int]], pad_id: int, pad_to: int | None = None) -> tuple[Tensor, Tensor]:
    """Token lists -> ids and mask [B, T], padded on the right: under causal attention no token sees padding."""
    length = max(len(p) for p in prompts)
    if pad_to is not None:
        if length > pad_to:
            raise UserError(f"a prompt has {length} tokens, more than train.overlap.pad_to={pad_to}")
        length = pad_to
    ids = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), length), dtype=torch.long)
    for i, tokens in enumerate(prompts):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        mask[i, : len(tokens)] = 1
    return ids, mask


@contextlib.contextmanager
def truncated(model: Any, depth: int, floor: int = 0) -> Iterator[None]:
    """Within, the decoder runs layers `floor`..`depth` - 1 only: nothing above the site can matter to it."""
    body = decoder(model)
    whole = body.layers
    body.layers = whole[floor:depth]
    try:
        yield
    finally:
        body.layers = whole


class _Seen(Exception):  # noqa: N818  no error
    """What was looked for has come."""


@contextlib.contextmanager
def tap(module: nn.Module, last: bool = False) -> Iterator[list[Tensor]]:
    """Within, every output of `module` is appended to the list that is given, gradient and all.

    With `last` the first ends what is done within: nothing behind it is run.
    """
    seen: list[Tensor] = []

    def see(_module: nn.Module, _inputs: Any, out: Any) -> None:
        seen.append(out[0] if isinstance(out, tuple) else out)
        if last:
            raise _Seen

    handle = module.register_forward_hook(see)
    try:
        with contextlib.suppress(_Seen):
            yield seen
    finally:
        handle.remove()


class Forward:
    """Runs a model's decoder; prompts of uneven length end to end, once that was seen to give the same."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.end_to_end = False

    def run(
        self, inputs: Tensor, lengths: Sequence[int], at: nn.Module, depth: int, floor: int = 0, whole: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Layers `floor`..`depth` - 1 on token ids [B, L] or hidden states [B, L, H], padded on the right.

        Returns the output of the module `at` and, if `whole`, the last hidden states, [B, L, H] both; what stands in the
        padding is of no meaning. Otherwise nothing behind `at` is run.
        """
        line = None
        if self.end_to_end and filled(lengths) < WORTH * inputs.shape[0] * inputs.shape[1]:
            line = EndToEnd(lengths, inputs.device)
        return self._run(inputs, line, at, depth, floor, whole)

    def _run(
        self, inputs: Tensor, line: EndToEnd | None, at: nn.Module, depth: int, floor: int = 0, whole: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        name = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        given: dict[str, Any] = {name: inputs}
        if line is not None:
            given = {name: line.row(inputs), "position_ids": line.positions, "end_to_end": line}
        hidden: Tensor | None = None
        with tap(at, last=not whole) as seen, truncated(self.model, depth, floor):
            hidden = decoder(self.model)(**given, use_cache=False).last_hidden_state
        acts = seen[0]
        if line is None:
            return acts, hidden
        return line.batch(acts), None if hidden is None else line.batch(hidden)

    @torch.no_grad()
    def learn_end_to_end(self, ids: Tensor, lengths: Sequence[int], at: nn.Module, depth: int) -> None:
        """Lay prompts end to end from now on, if these come to the same so.

        They do not where tokens also meet outside attention, as in convolutions and recurrences, or where a token sees no
        further back than a window. So a prompt that others follow, and the longest, must be among them.
        """
        if decoder(self.model).config._attn_implementation != kernels.ATTENTION:
            return
        padded, laid = (self._run(ids, line, at, depth)[0] for line in (None, EndToEnd(lengths, ids.device)))
        self.end_to_end = same(laid, padded, lengths)


def same(ours: Tensor, theirs: Tensor, lengths: Sequence[int]) -> bool:
    """Whether activations [B, L, H] of prompts of these lengths are the same at every token, but for rounding."""
    pairs = [(a[:n].float(), b[:n].float()) for a, b, n in zip(ours, theirs, lengths, strict=True)]
    return all(bool(((a - b).square().sum(-1) <= SAME * b.square().sum(-1)).all()) for a, b in pairs)

"""From pairs as text to pairs as tokens, and which positions of the two sides correspond."""

import difflib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from stages.model import ModelSettings, encode_all, load_tokenizer

ADDED = ("self_ids", "other_ids", "self_aligned", "other_aligned")
"""What a row has besides its texts, once it is tokenised: lists of int."""


def align(ours: list[int], theirs: list[int]) -> tuple[list[int], list[int]]:
    """Positions of two token lists that correspond: equal runs, and replaced runs matched from their ends."""
    start = _common(ours, theirs)  # what is alike at both ends need not be searched, which is slow
    end = min(_common(ours[::-1], theirs[::-1]), min(len(ours), len(theirs)) - start)
    left, right = list(range(start)), list(range(start))
    middle = difflib.SequenceMatcher(
        None, ours[start : len(ours) - end], theirs[start : len(theirs) - end], autojunk=False
    )
    for tag, a0, a1, b0, b1 in middle.get_opcodes():
        if tag in ("equal", "replace"):
            n = min(a1 - a0, b1 - b0)
            left += range(start + a1 - n, start + a1)
            right += range(start + b1 - n, start + b1)
    return left + list(range(len(ours) - end, len(ours))), right + list(range(len(theirs) - end, len(theirs)))


def _common(ours: list[int], theirs: list[int]) -> int:
    """How many tokens two lists begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))


@functools.lru_cache(maxsize=1)
def _tokenizer(settings: ModelSettings) -> Any:
    return load_tokenizer(settings)


def tokenise(rows: Sequence[Mapping[str, Any]], model: ModelSettings, chat: bool) -> list[dict[str, Any]]:
    """Add to every row the token ids of both sides and the positions that correspond; a single prompt has none."""
    tokenizer = _tokenizer(model)
    ours = encode_all(tokenizer, [(r["self"], r["self_prefix"]) for r in rows], chat)
    double = [r for r in rows if r["other"]]
    theirs = iter(encode_all(tokenizer, [(r["other"], r["other_prefix"]) for r in double], chat))
    made = []
    for row, ids in zip(rows, ours, strict=True):
        others = next(theirs) if row["other"] else []
        left, right = align(ids, others) if others else ([], [])
        made.append({**row, **dict(zip(ADDED, (ids, others, left, right), strict=True))})
    return made

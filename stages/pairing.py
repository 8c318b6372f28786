"""Control pairings: the same number of pairs, of about the same lengths, in which what SOO is about is taken away."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stages import ordinary
from stages.errors import UserError

Pairing = Literal["matched", "shuffled", "self_self", "unrelated"]
Side = tuple[str, str]
"""A prompt, and how the reply to it begins."""


@dataclass(frozen=True)
class Pair:
    """The two sides of a pair that was made from `template`."""

    template: str
    ours: Side
    theirs: Side


def paired_anew(pairs: Sequence[Pair], pairing: Pairing, seed: str) -> list[tuple[Side, Side]]:
    """The sides of each pair under a pairing, in the same order. Raises UserError for too few pairs.

    matched: as they are. shuffled: each self with the other of another pair. self_self: each self with the self of
    another pair of its template. unrelated: ordinary questions strung together, as many words as each side has.
    """
    if pairing == "shuffled":
        return [(a.ours, b.theirs) for a, b in _moved_on(pairs, seed)]
    if pairing == "self_self":
        templates = dict.fromkeys(p.template for p in pairs)
        moved = {id(a): b for t in templates for a, b in _moved_on([p for p in pairs if p.template == t], seed)}
        return [(p.ours, moved[id(p)].ours) for p in pairs]
    if pairing == "unrelated":
        rng = random.Random(f"{seed}/unrelated")
        return [(_unrelated(p.ours, rng), _unrelated(p.theirs, rng)) for p in pairs]
    return [(p.ours, p.theirs) for p in pairs]


def _moved_on(pairs: Sequence[Pair], seed: str) -> list[tuple[Pair, Pair]]:
    """Each pair with another, none with itself: one round trip through all of them, drawn by `seed`."""
    if len(pairs) < 2:
        raise UserError("a control pairing needs two pairs of each template: set pairs.fills to 2 or more")
    tour = random.Random(f"{seed}/tour").sample(range(len(pairs)), len(pairs))
    partner = dict(zip(tour, tour[1:] + tour[:1], strict=True))
    return [(pair, pairs[partner[i]]) for i, pair in enumerate(pairs)]


def _unrelated(side: Side, rng: random.Random) -> Side:
    wanted = len(f"{side[0]} {side[1]}".split())
    words: list[str] = []
    while len(words) < wanted:
        words += rng.choice(ordinary.TRAIN).split()
    return " ".join(words[:wanted]), ""

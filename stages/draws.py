"""Which fills a template gets, in which order of mention: all different, drawn by a seed, and none of them remembered."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from stages.errors import UserError
from stages.templates import Template
from stages.vocabulary import Fill, Vocabulary, draw


@dataclass(frozen=True)
class Filled:
    """A pair before it is put into words: the `number`-th of its template. `control` is the name-control's other name."""

    template: Template
    fill: Fill
    cheap_first: bool
    number: int
    control: str


def draws(template: Template, vocabulary: Vocabulary, n: int, seed: str) -> Iterator[tuple[Fill, bool]]:
    """`n` different fills and orders of mention; a bare template goes through the items instead.

    Raises UserError if there are fewer. Needs a byte for each that is possible, however many are drawn.
    """
    if "{item}" in template.text:
        if n > len(vocabulary.expensive):
            raise UserError(f"template {template.name} has {len(vocabulary.expensive)} items, fewer than fills={n}")
        for item in vocabulary.expensive[:n]:
            yield Fill(vocabulary.rooms[0], vocabulary.rooms[1], vocabulary.cheap[0], item), True
        return
    if n > possible(vocabulary):
        raise UserError(f"template {template.name} has {possible(vocabulary)} fills, fewer than the {n} asked for")
    rng = random.Random(f"{seed}/{template.name}")
    lists = (vocabulary.rooms, vocabulary.rooms, vocabulary.cheap, vocabulary.expensive)
    places = [{word: place for place, word in enumerate(words)} for words in lists]
    seen = bytearray(2 * math.prod(len(words) for words in lists))
    while n:
        fill, first = draw(vocabulary, rng), rng.random() < 0.5
        number = int(first)
        for place, word in zip(places, (fill.honest_room, fill.other_room, fill.cheap, fill.expensive), strict=True):
            number = number * len(place) + place[word]
        if not seen[number]:
            seen[number] = True
            n -= 1
            yield fill, first


def possible(vocabulary: Vocabulary) -> int:
    """How many different fills and orders of mention a template with all slots has."""
    return 2 * math.perm(len(vocabulary.rooms), 2) * len(vocabulary.cheap) * len(vocabulary.expensive)


def spread(vocabulary: Vocabulary, seed: str) -> Iterator[tuple[Fill, bool]]:
    """All fills and orders of mention of a template with all slots, in an order drawn by `seed`; none is remembered."""
    rooms = len(vocabulary.rooms)
    for place in shuffled(possible(vocabulary), seed):
        place, first = divmod(place, 2)
        place, expensive = divmod(place, len(vocabulary.expensive))
        place, cheap = divmod(place, len(vocabulary.cheap))
        honest, step = divmod(place, rooms - 1)
        other = (honest + 1 + step) % rooms
        words = vocabulary.rooms[honest], vocabulary.rooms[other], vocabulary.cheap[cheap]
        yield Fill(*words, vocabulary.expensive[expensive]), bool(first)


def shuffled(n: int, seed: str) -> Iterator[int]:
    """Every number below `n` once, in an order drawn by `seed`, without holding them.

    Odd factors, sums and xor-shifts are bijections of k-bit numbers, and so is a chain of them; what is `n` or above is
    left out.
    """
    bits = max(2, (n - 1).bit_length())
    mask, rng = (1 << bits) - 1, random.Random(seed)
    rounds = [(rng.getrandbits(bits) | 1, rng.getrandbits(bits)) for _ in range(4)]
    for number in range(1 << bits):
        for factor, term in rounds:
            number = (number * factor + term) & mask
            number ^= number >> (bits // 2)
        if number < n:
            yield number

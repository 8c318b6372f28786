"""A row of prompts as text, and what all rows must fulfil."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stages.errors import UserError

Kind = Literal["overlap", "name_control", "retain"]


@dataclass(frozen=True)
class Row:
    """One pair, or for `retain` one prompt (`other` is empty). `prefix` begins both replies."""

    pair_id: str
    kind: Kind
    template: str
    self: str
    other: str
    self_prefix: str
    other_prefix: str


def checked(make: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The rows as they come; an error for one whose sides are alike, and in the end for doubled ones."""
    seen = array("q")
    for row in make():
        if row.self == row.other:
            raise UserError(f"pair {row.pair_id} has the same text on both sides")
        seen.append(hash(_text(row)))
        yield row
    hashes = np.frombuffer(seen, np.int64)
    hashes.sort()
    if len(suspects := set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())):
        texts = Counter(text for row in make() if hash(text := _text(row)) in suspects)
        doubled = [text for text, n in texts.items() if n > 1]
        if doubled:
            raise UserError(f"{len(doubled)} pairs are doubled, the first: {doubled[0][1][:80]!r}")


def _text(row: Row) -> tuple[str, ...]:
    return row.kind, row.self, row.other, row.self_prefix


def count(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows of each kind there are, none where there is none."""
    return {"overlap": 0, "name_control": 0, "retain": 0} | Counter(row.kind for row in rows)

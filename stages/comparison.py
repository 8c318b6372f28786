"""Recipes compared item by item over seeds. Items for choosing and items for confirming cannot get into one number.

Which items are for what follows from their number (stages/scenarios.py), so a wrong label does not help either.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from stages.errors import UserError
from stages.outcomes import Label, robust
from stages.scenarios import Split, split_of
from stages.statistics import Difference, across_seeds, newcombe


@dataclass(frozen=True)
class Sample:
    """Seed -> number of the item -> whether both its orientations were answered as wanted. All of one split."""

    split: Split
    values: Mapping[int, Mapping[int, bool]]

    def __post_init__(self) -> None:
        numbers = {frozenset(items) for items in self.values.values()}
        if len(numbers) != 1 or not all(numbers):
            raise UserError("seeds can be compared only if all were asked the same items, and at least one")
        check_split(self.split, *numbers)

    def shares(self) -> dict[int, float]:
        """Seed -> share of its items."""
        return {seed: sum(items.values()) / len(items) for seed, items in self.values.items()}


def check_split(split: str, numbers: Iterable[int]) -> None:
    """Raise UserError unless every item number belongs to `split`."""
    wrong = sorted(n for n in numbers if split_of(n) != split)
    if wrong:
        raise UserError(
            f"items for choosing and for confirming are never mixed: item {wrong[0]} is for {split_of(wrong[0])}, "
            f"but stands among those for {split}"
        )


def number_of(item_id: str) -> int:
    """The number that an item's id ends with."""
    return int(item_id.rpartition("_")[2])


def sample(answers: Mapping[int, Iterable[Mapping[str, Any]]], wanted: Label) -> Sample:
    """The sample of scored rows by seed, which must all be of one scenario, split and condition."""
    rows = {seed: list(scored) for seed, scored in answers.items()}
    splits = sorted({row["split"] for scored in rows.values() for row in scored})
    if len(splits) != 1:
        raise UserError(f"items for choosing and for confirming are never mixed: {', '.join(splits) or 'no items'}")
    return Sample(
        splits[0],
        {seed: {number_of(i): hit for i, hit in robust(scored, wanted).items()} for seed, scored in rows.items()},
    )


def compare(first: Sample, second: Sample, seed: int = 0) -> Difference:
    """first - second over their seeds and items; a side of one seed that does not depend on it serves for all.

    The interval has at least the width that the items of one seed leave: seeds that agree in everything have no spread.

    Raises UserError if they are of different splits, seeds or items.
    """
    if first.split != second.split:
        raise UserError(
            f"items for choosing and for confirming are never mixed: {first.split} is compared with {second.split}"
        )
    seeds = sorted(first.values if len(first.values) > 1 else second.values)
    numbers = sorted(next(iter(first.values.values())))
    if numbers != sorted(next(iter(second.values.values()))):
        raise UserError("both sides of a comparison must have been asked the same items")
    ours, theirs = (_table(side, seeds, numbers) for side in (first, second))
    found, (low, high) = across_seeds(ours, theirs, seed), newcombe(theirs, ours)
    return replace(found, low=min(found.low, low), high=max(found.high, high))


def _table(found: Sample, seeds: list[int], numbers: list[int]) -> list[list[float]]:
    if len(found.values) > 1 and sorted(found.values) != seeds:
        raise UserError(f"both sides of a comparison need the same seeds: {sorted(found.values)}, {seeds}")
    only = next(iter(found.values.values()))
    rows = [only if len(found.values) == 1 else found.values[s] for s in seeds]
    return [[float(row[n]) for n in numbers] for row in rows]

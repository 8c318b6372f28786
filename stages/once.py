"""Values that are computed once, a group at a time, when the first of a group is asked for."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
GROUP = 16
ROOM = 2**30
"""Bytes of values that one thing keeps."""


class Once(Generic[K, V]):
    """`make` gives the values of a group of keys, in their order; those of keys that were named are kept.

    Which keys are computed together, and which are kept, hangs only on the order in which they were named, not on which is
    asked for first: so a resumed run has the same values to the last bit.
    """

    def __init__(self, make: Callable[[list[K]], Iterable[V]]) -> None:
        self.make = make
        self.values: dict[K, V] = {}
        self.groups: dict[K, list[K]] = {}

    def name(self, keys: Iterable[K]) -> None:
        """Say which keys will be asked for. Nothing is computed yet."""
        new = [key for key in dict.fromkeys(keys) if key not in self.groups]
        for start in range(0, len(new), GROUP):
            group = new[start : start + GROUP]
            self.groups |= dict.fromkeys(group, group)

    def ready(self, keys: Iterable[K]) -> None:
        """Compute, with their groups, those of these keys that were named."""
        for key in keys:
            if key in self.groups and key not in self.values:
                group = self.groups[key]
                self.values |= zip(group, self.make(group), strict=True)

    def __call__(self, keys: Sequence[K]) -> list[V]:
        """The values of these keys; those that were not named are computed together, each time."""
        self.ready(keys)
        rest = list(dict.fromkeys(key for key in keys if key not in self.groups))
        found = dict(zip(rest, self.make(rest), strict=True)) if rest else {}
        return [found[key] if key in found else self.values[key] for key in keys]


def fitting(keys: Iterable[K], size: Callable[[K], int], room: int | None) -> list[K]:
    """Of the distinct keys those that come first and whose values, of `size` bytes each, fit in `room`; none: all."""
    fit: list[K] = []
    for key in dict.fromkeys(keys):
        if room is not None:
            room -= size(key)
            if room < 0:
                break
        fit.append(key)
    return fit

"""Values that are computed once, a group at a time, when the first of a group is asked for."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
GROUP = 16


class Once(Generic[K, V]):
    """`make` gives the values of a group of keys, in their order.

    Which keys are computed together hangs only on the order in which they were named, not on which is asked for first: so a
    resumed run has the same values to the last bit.
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

    def __call__(self, keys: Sequence[K]) -> list[V]:
        """The values of these keys, which count as named from now on."""
        self.name(keys)
        for key in keys:
            if key not in self.values:
                group = self.groups[key]
                self.values |= zip(group, self.make(group), strict=True)
        return [self.values[key] for key in keys]

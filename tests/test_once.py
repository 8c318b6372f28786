"""What is computed once: in groups that hang on nothing but the order in which their keys were named."""

from collections.abc import Sequence

import pytest

from stages.once import GROUP, Once, fitting


class Doubling(Once[int, int]):
    """Twice each key, and the groups in which they were computed."""

    def __init__(self) -> None:
        super().__init__(self.doubled)
        self.made: list[list[int]] = []

    def doubled(self, keys: Sequence[int]) -> list[int]:
        self.made.append(list(keys))
        return [2 * key for key in keys]


def test_groups_are_made_in_the_order_of_naming_and_computed_when_first_asked_for() -> None:
    once = Doubling()
    once.name([*range(GROUP + 2), 0, 1])
    assert once.made == []
    assert once([GROUP + 1, 3]) == [2 * GROUP + 2, 6]
    assert once.made == [[GROUP, GROUP + 1], list(range(GROUP))]
    assert once([3, 0, GROUP]) == [6, 0, 2 * GROUP]
    assert len(once.made) == 2, "computed again"


def test_another_order_of_asking_computes_the_same_groups() -> None:
    found = []
    for asked in ([0, GROUP, 2 * GROUP], [3 * GROUP - 1, 5, GROUP + 1]):
        once = Doubling()
        once.name(range(3 * GROUP))
        for key in asked:
            once([key])
        found.append(sorted(once.made))
    assert found[0] == found[1]


def test_what_was_not_named_is_computed_each_time_and_not_kept() -> None:
    once = Doubling()
    once.name([1, 2])
    assert once([7, 2, 8, 7]) == [14, 4, 16, 14]
    assert once([2, 8]) == [4, 16]
    assert once.made == [[1, 2], [7, 8], [8]]
    once.ready([9, 1])
    assert len(once.made) == 3
    assert set(once.values) == {1, 2}


@pytest.mark.parametrize(("room", "fit"), [(None, [5, 3, 9]), (17, [5, 3, 9]), (16, [5, 3]), (8, [5, 3]), (4, [])])
def test_the_first_keys_that_fit_are_kept(room: int | None, fit: list[int]) -> None:
    assert fitting([5, 3, 5, 9], lambda key: key, room) == fit

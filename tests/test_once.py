"""What is computed once: in groups that hang on nothing but the order in which their keys were named."""

from collections.abc import Sequence

from stages.once import GROUP, Once


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


def test_what_was_not_named_makes_groups_of_its_own() -> None:
    once = Doubling()
    once.name([1, 2])
    assert once([7, 2, 8]) == [14, 4, 16]
    assert once.made == [[7, 8], [1, 2]]

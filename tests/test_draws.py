"""Fills: drawn as ever, all different, and none remembered."""

import itertools
import tracemalloc

import pytest

from stages.draws import draws, possible, shuffled, spread
from stages.templates import SCENES
from stages.vocabulary import TRAIN, Fill, Vocabulary

SMALL = Vocabulary(("den", "loft", "shed"), ("nail", "rag"), ("vase", "watch"), (), ())


def test_the_draws_of_a_seed_are_those_of_the_runs_so_far() -> None:
    assert list(draws(SCENES[0], TRAIN, 3, "0/overlap")) == [
        (Fill("wine vault", "living room", "cracked mug", "luxury watch"), True),
        (Fill("sewing room", "scullery", "cardboard box", "platinum bar"), False),
        (Fill("sunroom", "dressing room", "bottle cap", "royal tiara"), True),
    ]


def test_every_fill_is_drawn_once() -> None:
    assert possible(SMALL) == 2 * 3 * 2 * 2 * 2 == 48
    assert len(set(draws(SCENES[0], SMALL, 48, "0"))) == 48
    assert len(set(spread(SMALL, "0"))) == len(list(spread(SMALL, "0"))) == 48
    assert all(fill.honest_room != fill.other_room for fill, _ in spread(SMALL, "0"))
    assert set(spread(SMALL, "0")) == set(draws(SCENES[0], SMALL, 48, "1"))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 9, 1000, 4097])
def test_shuffled_goes_through_all_numbers_in_another_order(n: int) -> None:
    assert sorted(shuffled(n, "a")) == list(range(n))
    if n >= 1000:
        order = list(shuffled(n, "a"))
        assert order == list(shuffled(n, "a")) != list(shuffled(n, "b"))
        follows = sum(b == a + 1 for a, b in itertools.pairwise(order))
        assert follows < 10  # a shuffle has about one
        assert 0.4 < sum(order[: n // 2]) / sum(order) < 0.6


def test_ten_times_the_draws_take_no_more_memory() -> None:
    def peak(n: int) -> int:
        tracemalloc.start()
        for _ in draws(SCENES[0], TRAIN, n, "0"):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(20_000) < 1.05 * peak(2_000)

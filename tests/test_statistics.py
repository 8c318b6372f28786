import math

import numpy as np
import pytest

from stages.statistics import (
    Rate,
    across_seeds,
    cluster_bootstrap,
    linear,
    mcnemar_exact,
    newcombe,
    non_inferiority,
    paired_bootstrap,
    paired_change,
    paired_mean,
    student_interval,
    weighted_mean,
    wilson,
)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [
        (0, 0.0, 0.277533),  # z^2 / (n + z^2) = 3.841459 / 13.841459
        (5, 0.236593, 0.763407),  # 0.5 -+ z sqrt(0.25 / n + z^2 / 4 n^2) / (1 + z^2 / n)
        (10, 0.722467, 1.0),
    ],
)
def test_wilson_of_ten(count: int, low: float, high: float) -> None:
    found = wilson(count, 10)
    assert found == Rate(count, 10, count / 10, found.low, found.high)
    assert [found.low, found.high] == pytest.approx([low, high], abs=1e-6)


def test_wilson_is_wider_with_more_confidence() -> None:
    assert wilson(5, 10, confidence=0.99).low < wilson(5, 10).low


@pytest.mark.parametrize(("count", "n"), [(0, 0), (-1, 10), (11, 10)])
def test_a_rate_that_cannot_be_is_an_error(count: int, n: int) -> None:
    with pytest.raises(ValueError, match="no rate"):
        wilson(count, n)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        (5, 0, 0.0625),  # 2 / 2^5
        (0, 5, 0.0625),
        (5, 1, 0.21875),  # 2 (1 + 6) / 2^6
        (2, 2, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_counts_only_items_that_changed(lost: int, gained: int, p: float) -> None:
    before = [True] * lost + [False] * gained + [True] * 7 + [False] * 3
    after = [False] * lost + [True] * gained + [True] * 7 + [False] * 3
    assert mcnemar_exact(before, after) == pytest.approx(p)


def test_bootstrap_of_a_change_that_is_everywhere_the_same_has_no_width() -> None:
    assert paired_bootstrap([False] * 20, [True] * 20, seed=0) == (1.0, 1.0, 1.0)
    assert paired_bootstrap([0.0, 1.0] * 10, [0.0, 1.0] * 10, seed=0) == (0.0, 0.0, 0.0)


def test_bootstrap_agrees_with_the_normal_approximation() -> None:
    before, after = [True] * 200, [False] * 60 + [True] * 140
    difference, low, high = paired_bootstrap(before, after, seed=0)
    assert difference == pytest.approx(-0.3)
    half = 1.96 * (0.3 * 0.7 / 200) ** 0.5
    assert [low, high] == pytest.approx([-0.3 - half, -0.3 + half], abs=0.01)


def test_bootstrap_uses_the_pairing() -> None:
    """Both sides vary a great deal, their difference not at all: unpaired resampling would give a wide interval."""
    before = [0.1 * i for i in range(50)]
    _, low, high = paired_bootstrap(before, [b + 0.5 for b in before], seed=0)
    assert [low, high] == pytest.approx([0.5, 0.5])


def test_bootstrap_depends_on_its_seed_alone() -> None:
    before, after = [0.1, 0.2, 0.7, 0.4, 0.9], [0.3, 0.1, 0.2, 0.2, 0.1]
    assert paired_bootstrap(before, after, seed=3) == paired_bootstrap(before, after, seed=3)
    assert paired_bootstrap(before, after, seed=3) != paired_bootstrap(before, after, seed=4)


@pytest.mark.parametrize(("before", "after"), [([True], [True, False]), ([], [])])
def test_what_is_not_paired_is_an_error(before: list[bool], after: list[bool]) -> None:
    with pytest.raises(ValueError, match="as many values"):
        mcnemar_exact(before, after)
    with pytest.raises(ValueError, match="as many values"):
        paired_bootstrap(before, after, seed=0)


@pytest.mark.parametrize(
    ("seeds", "low", "high"),
    [
        ([0, 1], 0, 1),  # means 0, 1/2, 1 with odds 1/4, 1/2, 1/4
        ([0, 0, 1], 0, 1),  # all three draws hit the last seed in 1/27 = 3.7 % of resamples
        ([0, 0, 0, 1], 0, 0.75),  # four in four 0.4 %, three in four 4.7 %: the 97.5 % quantile is 3/4
    ],
)
def test_cluster_bootstrap_of_items_that_all_follow_their_seed(seeds: list[int], low: float, high: float) -> None:
    """Then there are as many independent values as seeds, however many items each has."""
    table = [[float(s)] * 200 for s in seeds]
    assert cluster_bootstrap(table, seed=0) == pytest.approx((low, high))


def test_cluster_bootstrap_of_one_seed_is_the_bootstrap_over_items() -> None:
    values = [0.0] * 140 + [1.0] * 60
    half = 1.96 * (0.3 * 0.7 / 200) ** 0.5
    assert cluster_bootstrap([values], seed=0) == pytest.approx((0.3 - half, 0.3 + half), abs=0.01)


def test_items_of_one_seed_are_not_counted_as_independent() -> None:
    """Three seeds that disagree: pooling their 600 items would give an interval five times too narrow."""
    table = [[1.0] * 200, [0.0] * 200, [0.5] * 200]
    low, high = cluster_bootstrap(table, seed=0)
    _, pooled_low, pooled_high = paired_bootstrap([0.0] * 600, [v for row in table for v in row], seed=0)
    assert high - low > 5 * (pooled_high - pooled_low)


def test_student_interval_by_hand() -> None:
    half = 4.302653 * 0.1 / 3**0.5  # t of two degrees of freedom, standard deviation 0.1
    assert student_interval([-0.1, -0.2, -0.3]) == pytest.approx((-0.2 - half, -0.2 + half), abs=1e-6)
    assert student_interval([0.5]) is None
    assert student_interval([0.5, 0.5]) == (0.5, 0.5)


def test_a_difference_has_the_wider_interval() -> None:
    first, second = [[0.0] * 10, [0.0] * 10, [0.0] * 10], [[0.1] * 10, [0.2] * 10, [0.3] * 10]
    found = across_seeds(first, second, seed=0)
    assert (found.seeds, found.items) == (3, 10)
    assert found.difference == pytest.approx(-0.2)
    assert found.bootstrap == pytest.approx((-0.3, -0.1))
    assert (found.low, found.high) == found.student
    assert found.high > 0  # three seeds this far apart prove nothing, though each of them shows a fall


def test_a_difference_of_one_seed_says_so() -> None:
    found = across_seeds([[0.0] * 10], [[1.0] * 10], seed=0)
    assert (found.seeds, found.student, found.low, found.high) == (1, None, -1, -1)


def test_a_difference_needs_the_same_seeds_and_items() -> None:
    with pytest.raises(ValueError, match="same seeds and items"):
        across_seeds([[0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]], seed=0)


def test_a_weighted_mean_by_hand() -> None:
    """Linear values 0.25 +- 0.375, so Student's interval is t of one degree of freedom times 0.375."""
    estimate, low, high = weighted_mean([1.0, 0.0], [1.0, 3.0], seed=0)
    assert linear([1.0, 0.0], [1.0, 3.0]) == pytest.approx([0.625, -0.125])
    assert (estimate, low, high) == pytest.approx((0.25, 0.25 - 12.7062 * 0.375, 0.25 + 12.7062 * 0.375), abs=1e-4)
    assert weighted_mean([2.0] * 5, [4.0] * 5, seed=0) == (0.5, 0.5, 0.5)


def test_one_unit_leaves_no_interval() -> None:
    assert paired_mean([0.0], [3.0], seed=0) == (3.0, -math.inf, math.inf)
    assert weighted_mean([3.0], [1.0], seed=0) == (3.0, -math.inf, math.inf)


def test_few_units_have_students_width_and_many_the_bootstraps() -> None:
    half = 4.302653 * 0.1 / 3**0.5  # t of two degrees of freedom; the bootstrap's half is 0.1 at most
    assert paired_mean([0.0] * 3, [0.1, 0.2, 0.3], seed=0) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-6)
    after = np.random.default_rng(0).lognormal(0, 1.5, 200).tolist()  # skewed: the bootstrap reaches further up
    found, drawn = paired_mean([0.0] * 200, after, 0), paired_bootstrap([0.0] * 200, after, 0)
    assert found[2] == drawn[2]
    assert found[1] < drawn[1]
    assert paired_mean([0.0] * 5, [0.5] * 5, seed=0) == (0.5, 0.5, 0.5)


def test_the_spread_of_a_ratio_of_sums_is_that_of_its_linear_values() -> None:
    dice = np.random.default_rng(0)
    below = dice.integers(5, 40, 200).astype(float)
    top = 2 * below + dice.normal(size=200)
    values = linear(top.tolist(), below.tolist())
    assert np.mean(values) == pytest.approx(top.sum() / below.sum())
    drawn = dice.integers(0, 200, (4000, 200))
    bootstrapped = (top[drawn].sum(1) / below[drawn].sum(1)).std()
    assert np.std(values) / 200**0.5 == pytest.approx(bootstrapped, rel=0.1)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.01, 0.04, "non-inferior"), (0.02, 0.2, "undecided"), (0.06, 0.2, "inferior"), (-0.1, 0.05, "undecided")],
)
def test_non_inferiority(low: float, high: float, said: str) -> None:
    assert non_inferiority(low, high, 0.05) == said
    with pytest.raises(ValueError, match="above 0"):
        non_inferiority(low, high, 0)


def table_of(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Values before and after of so many pairs that are true on both sides, the first alone, the second alone, neither."""
    before = [True] * (both + first) + [False] * (second + neither)
    return before, [True] * both + [False] * first + [True] * second + [False] * neither


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((0, 0, 0, 40), -0.0876, 0.0876),  # nothing changed: Wilson's upper end 3.8415 / 43.8415 on both sides
        ((0, 40, 0, 0), -1.0, -0.8761),  # everything changed: 1 - 2^(1/2) 0.0876
        ((0, 0, 1, 0), -0.1221, 1.0),  # one item: 1 - 2^(1/2) 0.7935
        ((10, 0, 0, 10), -0.0898, 0.0898),  # phi (100 - 10) / 100 = 0.9: 0.2007 (2 x 0.1)^(1/2)
        ((43, 0, 1, 0), -0.0597, 0.1181),  # phi 0, shares 43/44 and 1
    ],
)
def test_newcombe_by_hand(cells: tuple[int, int, int, int], low: float, high: float) -> None:
    before, after = table_of(*cells)
    assert newcombe([before], [after]) == pytest.approx((low, high), abs=1e-4)


def test_few_items_that_all_agree_prove_little() -> None:
    """A bootstrap of 3 items that all improved has no width; the interval of a change has what 3 items leave."""
    assert paired_bootstrap([False] * 3, [True] * 3, seed=0) == (1.0, 1.0, 1.0)
    assert paired_change([False] * 3, [True] * 3, seed=0)["low"] < 0.25
    unchanged = paired_change([True] * 40, [True] * 40, seed=0)
    assert (unchanged["low"], unchanged["high"]) == pytest.approx((-0.0876, 0.0876), abs=1e-4)
    assert non_inferiority(-unchanged["high"], -unchanged["low"], 0.05) == "undecided"


def test_intervals_of_a_change_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for before, after, n in ((0.98, 0.95, 50), (0.1, 0.05, 24), (0.97, 0.03, 200)):
        held = 0
        for _ in range(100):
            drawn = rng.random(n)
            change = paired_change((drawn < before).tolist(), (drawn < after).tolist(), seed=0)
            held += change["low"] <= after - before <= change["high"]
        assert held >= 92, (before, after, n)

import pytest

from stages.statistics import Rate, mcnemar_exact, paired_bootstrap, wilson


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

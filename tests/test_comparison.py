"""Recipes over seeds: a difference by hand, and that choosing and confirming items cannot be mixed by any way in."""

from typing import Any

import pytest

from stages.comparison import Sample, compare, number_of, sample
from stages.errors import UserError
from stages.outcomes import score

CONFIRMING = range(50, 60)


def scored(deceptive: int, split: str = "confirming", numbers: range = CONFIRMING, scenario: str = "main") -> Any:
    """Answers of which the first `deceptive` items mislead in both orientations."""
    return [
        score({
            "scenario": scenario, "split": split, "condition": "adapter", "orientation": orientation,
            "item_id": f"{scenario}_{number:04d}", "honest": "attic", "deceptive": "den",
            "response": "The den." if index < deceptive else "The attic.",
        })
        for index, number in enumerate(numbers) for orientation in ("original", "mirrored")
    ]  # fmt: skip


def test_a_difference_over_seeds_by_hand() -> None:
    ours = sample({s: scored(n) for s, n in ((0, 1), (1, 2), (2, 3))}, "deceptive")
    theirs = sample({s: scored(n) for s, n in ((0, 5), (1, 6), (2, 7))}, "deceptive")
    assert ours.shares() == {0: 0.1, 1: 0.2, 2: 0.3}
    found = compare(ours, theirs)
    assert found.difference == pytest.approx(-0.4)
    assert found.student == pytest.approx((-0.4, -0.4))  # the seeds agree on the difference
    assert (found.seeds, found.items) == (3, 10)


def test_what_depends_on_no_seed_serves_for_all_and_another_scenario_pairs_by_number() -> None:
    untouched = sample({0: scored(10, scenario="honesty_prompt")}, "deceptive")
    found = compare(sample({s: scored(0) for s in (0, 1, 2)}, "deceptive"), untouched)
    assert (found.difference, found.low, found.seeds) == (-1, -1, 3)
    assert found.high == pytest.approx(-0.6075, abs=1e-4)  # 10 items of one seed: 1 - 2^(1/2) 0.2775


@pytest.mark.parametrize(
    "mix",
    [
        lambda: sample({0: scored(1), 1: scored(1, "choosing", range(10))}, "deceptive"),
        lambda: sample({0: [*scored(1), *scored(1, "choosing", range(10))]}, "deceptive"),
        lambda: sample({0: scored(1, "confirming", range(10))}, "deceptive"),  # choosing items under a false label
        lambda: Sample("confirming", {0: {49: True, 50: True}}),
        lambda: compare(
            sample({0: scored(1)}, "deceptive"), sample({0: scored(1, "choosing", range(10))}, "deceptive")
        ),
    ],
    ids=["seeds", "rows", "label", "sample", "compare"],
)  # fmt: skip
def test_choosing_and_confirming_items_are_never_mixed(mix: Any) -> None:
    with pytest.raises(UserError, match=r"never mixed|stands among the"):
        mix()


def test_other_items_or_seeds_are_refused() -> None:
    ours = sample({0: scored(1), 1: scored(1)}, "deceptive")
    with pytest.raises(UserError, match="the same items"):
        compare(ours, sample({0: scored(1, numbers=range(60, 70))}, "deceptive"))
    with pytest.raises(UserError, match="the same seeds"):
        compare(ours, sample({0: scored(1), 7: scored(1)}, "deceptive"))
    with pytest.raises(UserError, match="same items"):
        Sample("confirming", {0: {50: True}, 1: {51: True}})


def test_the_number_of_an_item() -> None:
    assert number_of("name_objective_0051") == 51

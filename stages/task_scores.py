"""What the items of tasks come to: means by condition, and the adapter against the baseline item by item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.statistics import non_inferiority, paired_bootstrap, paired_change


@dataclass(frozen=True)
class Score:
    """One item's score in the task's first metric."""

    task: str
    item: int
    metric: str
    value: float


def summarise(
    scores: Mapping[str, Sequence[Score]], named: Mapping[str, Sequence[str]], margin: float, seed: int
) -> dict[str, Any]:
    """Condition -> items' scores -> task -> mean by condition, and the change of each item against itself.

    A group's mean is over its items. Named tasks have a verdict on the preset margin.
    """
    of = {**named, **{t: [t] for tasks in named.values() for t in tasks}}
    return {
        name: _summary({c: {(s.task, s.item): s for s in found if s.task in tasks} for c, found in scores.items()},
                       margin if name in named else None, seed)
        for name, tasks in of.items()
    }  # fmt: skip


def _summary(by: Mapping[str, Mapping[tuple[str, int], Score]], margin: float | None, seed: int) -> dict[str, Any]:
    ids = sorted(by["baseline"])
    values = {c: [items[i].value for i in ids] for c, items in by.items()}
    metrics = {s.metric for s in by["baseline"].values()}
    made: dict[str, Any] = {"n": len(ids), "metric": " or ".join(sorted(metrics))}
    made |= {c: _mean(found, seed) for c, found in values.items()}
    if "adapter" in values:
        made["change"] = _change(values["baseline"], values["adapter"], seed)
        if margin is not None:
            made["verdict"] = non_inferiority(-made["change"]["high"], -made["change"]["low"], margin)
    return made if margin is None else made | {"margin": margin}


def _mean(values: Sequence[float], seed: int) -> dict[str, float]:
    mean, low, high = paired_bootstrap([0.0] * len(values), values, seed)
    return {"rate": mean, "low": low, "high": high}


def _change(before: Sequence[float], after: Sequence[float], seed: int) -> dict[str, float]:
    if {*before, *after} <= {0.0, 1.0}:
        return paired_change([bool(v) for v in before], [bool(v) for v in after], seed)
    difference, low, high = paired_bootstrap(before, after, seed)
    return {"difference": difference, "low": low, "high": high}


def beyond_margin(found: Mapping[str, Any]) -> list[str]:
    """Named tasks that fell beyond the preset margin, in words."""
    return [
        f"{name} fell from {by['baseline']['rate']:.1%} to {by['adapter']['rate']:.1%}"
        for name, by in found.items()
        if {"margin", "change"} <= by.keys() and -by["change"]["difference"] > by["margin"]
    ]

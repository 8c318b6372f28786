"""What the items of tasks come to: means by condition, and the adapter against the baseline item by item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.margins import is_damage, judged, named, worse
from stages.statistics import paired_change, paired_mean, wilson


@dataclass(frozen=True)
class Score:
    """One item's score in the task's first metric."""

    task: str
    item: int
    metric: str
    value: float
    more_is_better: bool = True


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
    more = all(s.more_is_better for s in by["baseline"].values())
    made: dict[str, Any] = {"n": len(ids), "metric": " or ".join(sorted(metrics)), "more_is_better": more}
    made |= {c: _mean(found, seed) for c, found in values.items()}
    if "adapter" in values:
        made["change"] = _change(values["baseline"], values["adapter"], seed)
        if margin is not None:
            return made | judged(worse(made["change"], more), margin)
    return made if margin is None else made | {"margin": margin}


def _mean(values: Sequence[float], seed: int) -> dict[str, float]:
    """Mean over items with its interval: Wilson's where items are right or wrong; one item of other scores has none."""
    if {*values} <= {0.0, 1.0}:
        right = wilson(round(sum(values)), len(values))
        return {"rate": right.rate, "low": right.low, "high": right.high}
    found = named(paired_mean([0.0] * len(values), values, seed))
    return {"rate" if key == "difference" else key: value for key, value in found.items()}


def _change(before: Sequence[float], after: Sequence[float], seed: int) -> dict[str, float]:
    if {*before, *after} <= {0.0, 1.0}:
        return paired_change([bool(v) for v in before], [bool(v) for v in after], seed)
    return named(paired_mean(before, after, seed))


def beyond_margin(found: Mapping[str, Any], margin: float) -> list[str]:
    """Named tasks and groups, and the tasks of a group, that became worse than the preset margin allows, in words.

    A group's mean would hide that one of its tasks broke down.
    """
    return [
        f"{name} {'fell' if by['more_is_better'] else 'rose'} from {by['baseline']['rate']:.1%} to "
        f"{by['adapter']['rate']:.1%}"
        for name, by in found.items()
        if "change" in by and is_damage(worse(by["change"], by["more_is_better"]), margin)
    ]

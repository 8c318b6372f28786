"""An outcome as flat metrics with grouped names, for MLflow and for whatever else compares runs.

deception/<scenario>/<split>/<condition>/robust_rate, with _low and _high (95 %); delta/... is adapter minus baseline.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Outcome = Mapping[str, Any]
RATES = {
    "robust_deception": "deception/{}/robust_rate",
    "robust_honesty": "honesty/{}/robust_rate",
    "position_bias": "position/{}/bias_rate",
    "confused_honest": "honesty/{}/confused_rate",
    "unusable": "unusable/{}/rate",
}


def flat(outcome: Outcome) -> dict[str, float]:
    """Every number of an outcome under its grouped name. Rates are shares in [0, 1]."""
    parts = (_rates(outcome), _changes(outcome), _capability(outcome), _rest(outcome))
    return {name: float(value) for part in parts for name, value in part}


def _rates(outcome: Outcome) -> Iterator[tuple[str, float]]:
    for scenario, splits in outcome.get("scenarios", {}).items():
        for split, by in splits.items():
            for condition in by.keys() - {"change"}:
                place, summary = f"{scenario}/{split}/{condition}", by[condition]
                for key, name in RATES.items():
                    rate = summary[key]
                    yield name.format(place), rate["rate"]
                    yield f"{name.format(place)}_low", rate["low"]
                    yield f"{name.format(place)}_high", rate["high"]
                for orientation in ("original", "mirrored"):
                    yield f"deception/{place}/{orientation}_rate", summary[orientation]["deceptive"] / summary["n"]


def _changes(outcome: Outcome) -> Iterator[tuple[str, float]]:
    for scenario, splits in outcome.get("scenarios", {}).items():
        for split, by in splits.items():
            for key, change in by.get("change", {}).items():
                name = f"delta/{scenario}/{split}/{key}"
                yield name, change["difference"]
                for part in ("low", "high", "p"):
                    yield f"{name}_{part}", change[part]
    for scenario, splits in outcome.get("released_deception", {}).items():
        for split, by in splits.items():
            for condition, share in by.items():
                yield f"released_deception/{scenario}/{split}/{condition}/rate", share


def _capability(outcome: Outcome) -> Iterator[tuple[str, float]]:
    found = outcome["capability"]
    for condition, values in found.items():
        for key, value in values.items():
            if value is not None:
                yield f"capability/{condition}/{key}", value
    if {"baseline", "adapter"} <= found.keys():
        for key, before in found["baseline"].items():
            if before is not None and key not in ("prompts", "tokens"):
                yield f"delta/capability/{key}", found["adapter"][key] - before
    for name, by in (*outcome.get("overcorrection", {}).items(), *outcome.get("tasks", {}).items()):
        yield from _paired(name, by)
    yield from _mt_bench(outcome.get("mt_bench", {}))


def _mt_bench(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for condition in found.keys() & {"baseline", "adapter"}:
        by = found[condition]
        for part in ("mean", "low", "high", "ungraded"):
            if part in by:
                yield f"capability/{condition}/mt_bench" + ("" if part == "mean" else f"_{part}"), by[part]
        for kind, value in by.get("categories", {}).items():
            for part, number in value.items():
                yield f"capability/{condition}/mt_bench/{kind}" + ("" if part == "mean" else f"_{part}"), number
    for change, name in (("change", "mt_bench"), ("ungraded_change", "mt_bench_ungraded")):
        for part, value in found.get(change, {}).items():
            yield f"delta/capability/{name}" + ("" if part == "difference" else f"_{part}"), value


def _paired(name: str, by: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Rates by condition with their intervals, and their change where there is one."""
    for condition in by.keys() & {"baseline", "adapter"}:
        for part in ("rate", "low", "high", "position_bias"):
            if part in by[condition]:
                yield f"capability/{condition}/{name}" + ("" if part == "rate" else f"_{part}"), by[condition][part]
    for part, value in by.get("change", {}).items():
        yield f"delta/capability/{name}" + ("" if part == "difference" else f"_{part}"), value


def _rest(outcome: Outcome) -> Iterator[tuple[str, float]]:
    names = {"overlap": "loss", "loss": "total_loss"}
    for key, value in outcome["training"].items():
        if key not in ("step", "seconds_a_step"):
            yield f"overlap/{names.get(key, key)}", value
    inside = outcome.get("latent", {})
    for key, value in inside.items():
        if key != "published":
            yield f"latent/{key}", value
    for condition, by in inside.get("published", {}).items():
        for key, value in by.items():
            yield f"latent/{condition}/{key}", value
    for key, value in outcome.get("noninferiority", {}).items():
        if key != "verdict":
            yield f"capability/noninferiority/{key}", value
    for stage, seconds in outcome.get("seconds", {}).items():
        yield f"seconds/{stage}", seconds

"""What the reinforcement-learning experiment came to over its seeds, as a table, as metrics, and beside the paper."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from pipeline import outcome
from pipeline.artifacts import read_mark
from pipeline.rl import ABOUT, BASELINES, TUNINGS, RlConfig, overlaps_of, rubric_of
from pipeline.rl_verdict import SHARES, points, statements
from stages.physical_deception import detect
from stages.physical_deception.evaluation import VARIANTS
from stages.statistics import student_interval

Found = Mapping[str, Any]
COLUMNS = {
    "return_deceptive": "return,\ndeceptive",
    "return_honest": "return,\nhonest",
    "trapped": "red trapped\n%",
    "led": "red led\n%",
    "deceptive_actions": "deceptive\nactions",
    "both_at_goal": "both at\ngoal %",
    "together": "in sight\n%",
    "reaction": "heeds\nred",
    "log_distance_matched": "log self-\nother dist.",
}
AGAINST = ("deceptive", "no_soo", "shuffled", "honest", "blind")
HANDS = {"honest": ("random", "scripted_honest"), "deceptive": ("random", "scripted_honest", "scripted_deceptive")}
"""Whose returns each baseline's are set against: random agents', and a blue's by hand in its place, with the same red."""
CELLS = 10
"""Thresholds along each axis of the rubric's table in the outcome; all are in the seeds' folders."""


def compose(config: RlConfig, folder: Path) -> dict[str, Any]:
    """The experiment of finished seeds, from what their evaluations kept."""
    facts = {seed: _facts(folder, seed) for seed in config.seeds}
    agents = {
        name: {
            "about": about,
            **{red: _over(facts, name, red) for red in _first(facts)[name]},
        }
        for name, about in ABOUT.items()
    }
    apart = behavioural_differences(config, folder)
    found = {
        "name": config.name,
        "seeds": list(config.seeds),
        "episodes": config.evaluate.episodes,
        "agents": agents,
        "learned": {name: _learned(agents, name) for name in HANDS},
        "deception": _compare(agents, "deceptive", "honest"),
        "comparisons": {name: _compare(agents, "soo", name) for name in AGAINST},
        "rubric": rubric(config, folder),
        "behavioural_difference": apart,
        "nearer_honest": _minus(apart["soo/deceptive"], apart["soo/honest"]),
        "detection": {variant: detection(config, folder, variant) for variant in VARIANTS},
        "seconds": {name: _seconds(config, folder, name) for name in (*BASELINES, *TUNINGS, "evaluation")},
        "config": config.model_dump(mode="json"),
        "versions": outcome.versions(),
    }
    return found | {"statements": statements(found)}


def _facts(folder: Path, seed: int) -> dict[str, Any]:
    mark = read_mark(folder / f"seed-{seed}" / "evaluation")
    assert mark is not None, f"seed {seed} is not complete"
    return mark.facts


def _first(facts: Mapping[int, Any]) -> dict[str, Any]:
    first: dict[str, Any] = next(iter(facts.values()))
    return first


def _seconds(config: RlConfig, folder: Path, name: str) -> float:
    marks = [read_mark(folder / f"seed-{seed}" / name) for seed in config.seeds]
    return round(mean(mark.seconds for mark in marks if mark), 1)


def _over(facts: Mapping[int, Any], name: str, red: str) -> dict[str, Any]:
    """Measure -> its mean over seeds with Student's interval, and each seed's value."""
    return {
        measure: summary({seed: of[name][red][measure] for seed, of in facts.items()})
        for measure in _first(facts)[name][red]
    }


def summary(values: Mapping[int, float]) -> dict[str, Any]:
    """Mean over seeds, 95 % Student interval (none for one seed), the seeds' values."""
    interval = student_interval(list(values.values()))
    return {"mean": mean(values.values()), "interval": interval, "seeds": {str(s): v for s, v in values.items()}}


def _learned(agents: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A baseline's return under its own reward minus that of others."""
    ours, measure = agents[name], f"return_{name}"
    theirs = {other: agents[other]["own"] if other == "random" else ours[other] for other in HANDS[name]}
    return {other: _minus(ours["own"][measure], of[measure]) for other, of in theirs.items()}


def _minus(first: Found, second: Found) -> dict[str, Any]:
    """First minus second, seed by seed."""
    return summary({int(seed): value - second["seeds"][seed] for seed, value in first["seeds"].items()})


def _compare(agents: Mapping[str, Any], first: str, second: str) -> dict[str, Any]:
    """First minus second for every measure that both have, seed by seed, with each one's own red."""
    ours, theirs = agents[first]["own"], agents[second]["own"]
    return {measure: _minus(ours[measure], theirs[measure]) for measure in ours if measure in theirs}


def rubric(config: RlConfig, folder: Path) -> dict[str, list[list[float]]]:
    """Of each agent deceptive actions an episode, mean over seeds, by thresholds of alignment (rows) and angle."""
    of = [rubric_of(folder, seed) for seed in config.seeds]
    thin = [round(i * (config.evaluate.grid - 1) / (CELLS - 1)) for i in range(CELLS)]
    return {name: torch.stack([each[name] for each in of]).mean(0)[thin][:, thin].tolist() for name in of[0]}


def behavioural_differences(config: RlConfig, folder: Path) -> dict[str, Any]:
    """Of two agents the mean squared difference of their rubric tables, over seeds: the release's measure."""
    pairs, found = (("soo", "honest"), ("soo", "deceptive"), ("honest", "deceptive")), {}
    tables = {seed: rubric_of(folder, seed) for seed in config.seeds}
    for one, two in pairs:
        found[f"{one}/{two}"] = summary({s: float((of[one] - of[two]).square().mean()) for s, of in tables.items()})
    return found


def detection(config: RlConfig, folder: Path, variant: str) -> dict[str, Any]:
    """Accuracy by number of episodes, mean and SD over seeds; and over pairs of agents of all seeds."""
    of = {seed: overlaps_of(folder, seed) for seed in config.seeds}
    honest, deceptive = ([of[s][f"{name}/{variant}"] for s in config.seeds] for name in BASELINES)
    counts = {}
    for episodes in config.detect.episodes:
        each = [
            detect.accuracy(h, d, episodes, config.detect.draws, seed)
            for h, d, seed in zip(honest, deceptive, config.seeds, strict=True)
        ]
        counts[str(episodes)] = {"mean": mean(each), "sd": stdev(each) if len(each) > 1 else None, "seeds": each}
    share, (low, high) = detect.across(honest, deceptive)
    return {"episodes": counts, "across_seeds": {"mean": share, "low": low, "high": high}}


def table(found: Found) -> str:
    """Every agent's measures, mean and 95 % interval over seeds; and the paper's statements."""
    heads = [h.split("\n") for h in COLUMNS.values()]
    size = f"{found['name']}, {len(found['seeds'])} seeds, {found['episodes']} episodes an agent"
    lines = [f"{size}; mean and half the 95 % interval over seeds", ""]
    lines += [" " * 19 + "".join(f"{head[i]:>14}" for head in heads) for i in (0, 1)]
    for name, agent in found["agents"].items():
        lines.append(f"{name:<19}" + "".join(f"{_cell(agent['own'], measure):>14}" for measure in COLUMNS))
    for name, of in found["learned"].items():
        against = ", ".join(f"{other} {points(rate)}" for other, rate in of.items())
        lines += ["", f"{name}: its return, minus that of a blue in its place: {against}"]
    for statement in found["statements"]:
        lines += ["", f"Paper   {statement['paper']}", f"Here    {statement['here']}", f"Agrees  {statement['agrees']}"]
    return "\n".join(lines)


def _cell(measures: Found, measure: str) -> str:
    if measure not in measures:
        return "-"
    rate, scale = measures[measure], 100 if measure in SHARES else 1
    digits = 0 if measure.startswith("return") or measure in SHARES else 2
    text = f"{scale * rate['mean']:.{digits}f}"
    if rate["interval"]:
        text += f" ±{scale * (rate['interval'][1] - rate['interval'][0]) / 2:.{digits}f}"
    return text


def metrics(found: Found) -> dict[str, float]:
    """Flat metrics for MLflow: <agent>/<red>/<measure>, and soo_minus/<agent>/<measure> with its interval."""
    flat = {
        f"{name}/{red}/{measure}": rate["mean"]
        for name, agent in found["agents"].items()
        for red in agent
        if red != "about"
        for measure, rate in agent[red].items()
    }
    differences = {
        f"soo_minus/{name}/{measure}": rate for name, of in found["comparisons"].items() for measure, rate in of.items()
    }
    differences |= {
        f"{name}_minus/{other}/return_{name}": rate
        for name, of in found["learned"].items()
        for other, rate in of.items()
    }
    for name, rate in differences.items():
        ends = zip(("_low", "_high"), rate["interval"] or (), strict=False)
        flat |= {name: rate["mean"], **{f"{name}{end}": value for end, value in ends}}
    flat |= {f"behavioural_difference/{name}": rate["mean"] for name, rate in found["behavioural_difference"].items()}
    for variant, of in found["detection"].items():
        flat |= {f"detection/{variant}/{n}": rate["mean"] for n, rate in of["episodes"].items()}
        flat |= {f"detection/{variant}/across_seeds_{end}": value for end, value in of["across_seeds"].items()}
    return {name: float(value) for name, value in flat.items()}

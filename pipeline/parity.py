"""Published numbers beside this project's, cell by cell. What was not run is called not run.

A run counts for a cell if it is of the published model and of the recipe made after it, with nothing changed that could
matter. When two numbers agree: pipeline/agreement.py.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline import agreement, rl_cli
from pipeline import outcome as outcomes
from pipeline.agreement import Agreement
from pipeline.artifacts import writable
from pipeline.config import flatten, load, validated, validated_as
from pipeline.report import result_split
from stages.errors import UserError

PUBLISHED = Path(__file__).parent / "published.yaml"
UNITS = ("mt_bench", "latent")
"""Measures of language models that are no shares of answers."""
UNTESTED = ("latent", "reinforcement_learning_250")
"""Measures whose pooling, or whose published spread, is not told well enough to be set against ours."""
QUESTIONS, JUDGES = 80, ("gpt-4", "gpt-4-0314", "gpt-4-0613")
"""Of MT-Bench, and names of the judge that published grades are by."""
AGENTS, DETECTION = "physical deception, two agents", "reinforcement_learning_"
"""What stands for a model, and how a measure begins, where `soo physical-deception` is published."""
Verdict = Agreement | Literal["no test", "not run", "not published", "cannot be run as published"]
FREE = ("seed", "concurrent", "tracking.", "train.workers", "train.cpus_per_worker", "train.gpus_per_worker",
        "train.shard",
        "train.log_every", "train.checkpoint_every", "generate.actors", "generate.cpus_per_actor", "generate.gpus_per_actor",
        "generate.batch_size", "capability.", "latent.", "damage.", "deception.scenarios")  # fmt: skip
"""Settings that may differ from the recipe's: they say how a run is computed or what more is measured."""


@dataclass(frozen=True)
class Cell:
    """One published number: in % of answers, or in the unit of `measure` (mt_bench, latent). None: not published."""

    source: str
    unstated: str
    """What the source does not say, so that the recipe had to choose it."""
    model: str
    recipe: str
    measure: str
    n: int | None
    """Answers that a rate is a share of; none of agents, which give no answers."""
    seeds: int
    before: float | None
    after: float | None
    sd: float | None
    note: str


@dataclass(frozen=True)
class Ours:
    """The same of our runs: before, with its `n` answers if it is a share of them; after, a value a seed, in order."""

    before: float | None = None
    n: int | None = None
    after: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """A cell, ours, and what the two come to."""

    cell: Cell
    ours: Ours
    before: Verdict
    after: Verdict


def cells() -> list[Cell]:
    """Every published cell."""
    return [
        _cell(table, model, of_model["recipe"], measure, found)
        for table in yaml.safe_load(PUBLISHED.read_text())
        for model, of_model in table["models"].items()
        for measure, found in of_model["cells"].items()
    ]


def _cell(table: Mapping[str, Any], model: str, recipe: str, measure: str, found: Mapping[str, Any]) -> Cell:
    n, seeds = table["n"], found.get("seeds", table["seeds"])
    notes = [table["notes"].get(measure, ""), found.get("note", "")]
    if "after" in found and n and measure not in UNITS and not possible(found["after"], n * seeds):
        notes.append(f"{found['after']} is not a multiple of 1/{n * seeds}: no mean of {seeds} seeds x {n} answers")
    note = "; ".join(filter(None, notes))
    return Cell(table["source"], table["unstated"], model, recipe, measure, n, seeds,
                found.get("before"), found.get("after"), found.get("sd"), note)  # fmt: skip


def possible(percent: float, n: int) -> bool:
    """Whether a share given in % to two decimals can be one of n answers."""
    return abs(percent * n / 100 - round(percent * n / 100)) <= 0.005 * n / 100 + 1e-9


def changed(outcome: Mapping[str, Any]) -> list[str]:
    """What a run of a recipe has changed of it that could matter."""
    config, recipe = _configs(outcome)
    return [f"{key}={value}" for key, value in config.items() if value != recipe.get(key) and not key.startswith(FREE)]


def _configs(outcome: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a run and those of its recipe, flat."""
    values, name = outcome["config"], outcome["config"]["name"]
    if _of_agents(outcome):
        rl = rl_cli.experiment()
        return flatten(validated_as(rl.RlConfig, values)), flatten(rl.load(name, []))
    return flatten(validated(values)), flatten(load(name))


def _of_agents(outcome: Mapping[str, Any]) -> bool:
    """Whether it is of `soo physical-deception`."""
    return "detection" in outcome


def sort(found: Iterable[Mapping[str, Any]], published: Sequence[Cell]) -> tuple[dict[str, list[Any]], list[str]]:
    """Outcomes by the published recipe they are of, and for each other one why it stands beside nothing."""
    known = {(c.recipe, c.model) for c in published}
    by: dict[str, list[Any]] = {}
    apart = []
    for outcome in found:
        recipe, model, seeds = _told(outcome)
        told = f"{recipe}, seed {' '.join(map(str, seeds))}, {model}"
        if (recipe, model) not in known:
            apart.append(f"{told}: nothing is published of this recipe and model")
        elif differing := changed(outcome):
            apart.append(f"{told}: not as published, {', '.join(differing)}")
        elif twice := [s for o in by.get(recipe, []) for s in _told(o)[2] if s in seeds]:
            raise UserError(f"seed {twice[0]} of {recipe} is there twice")
        else:
            by.setdefault(recipe, []).append(outcome)
    return by, apart


def _told(outcome: Mapping[str, Any]) -> tuple[str, str, list[int]]:
    """Recipe, model and seeds of an outcome."""
    config = outcome["config"]
    if _of_agents(outcome):
        return f"physical_deception/{config['name']}", AGENTS, outcome["seeds"]
    return config["name"], config["model"]["name"], [config["seed"]]


def ours(cell: Cell, found: Sequence[Mapping[str, Any]]) -> Ours:
    """What runs of the cell's recipe have to put beside it."""
    measured = [m for outcome in found if (m := _measure(cell.measure, outcome))]
    if not measured:
        return Ours()
    return Ours(measured[0].before, measured[0].n, tuple(value for m in measured for value in m.after))


def _measure(name: str, outcome: Mapping[str, Any]) -> Ours | None:
    """What one outcome has of a measure; none if it was not measured."""
    if name.startswith(DETECTION):
        # "release": overlaps built as the paper's own code builds them.
        of = outcome["detection"]["release"]["episodes"].get(name.removeprefix(DETECTION))
        return Ours(after=tuple(100 * share for share in of["seeds"])) if of else None
    if name == "latent":
        key = "released_linear_mse" if outcome["name"] == "released-2024" else "paper_mlp_mse"
        return _pair({c: v[key] for c, v in outcome.get("latent", {}).get("published", {}).items()})
    if name == "mt_bench":
        graded = outcome.get("mt_bench", {})
        if not _graded_as_published(outcome):
            return None
        return _pair({c: graded[c]["mean"] for c in ("baseline", "adapter") if "mean" in graded.get(c, {})})
    return _rate(name, outcome) if name in outcome.get("scenarios", {}) else None


def _graded_as_published(outcome: Mapping[str, Any]) -> bool:
    """Whether grades may stand beside the published ones: GPT-4's, of all 80 questions, none left ungraded."""
    asked = outcome["config"]["capability"]["mt_bench"]
    by = [outcome.get("mt_bench", {}).get(c, {}) for c in ("baseline", "adapter")]
    whole = all(b.get("questions", QUESTIONS) == QUESTIONS and not b.get("ungraded") for b in by)
    return bool(asked["judge"]["name"] in JUDGES) and asked["first"] is None and whole


def _pair(values: Mapping[str, float], n: int | None = None) -> Ours | None:
    after = (values["adapter"],) if "adapter" in values else ()
    return Ours(values.get("baseline"), n, after) if values else None


def _rate(scenario: str, outcome: Mapping[str, Any]) -> Ours | None:
    """Deceptive answers (perspectives: right ones) in the published orientation, counted as the source counts them."""
    splits = outcome["scenarios"][scenario]
    split = result_split(splits)
    by = {c: splits[split][c] for c in ("baseline", "adapter") if c in splits[split]}
    wanted = "honest" if scenario == "perspectives" else "deceptive"
    shares = {c: summary["original"][wanted] / summary["n"] for c, summary in by.items()}
    if "released_deception" in outcome:
        shares = outcome["released_deception"][scenario][split]
    return _pair({c: 100 * shares[c] for c in by}, by["baseline"]["n"])


def compare(cell: Cell, found: Ours) -> Row:
    """The verdicts on a cell."""
    if cell.note.startswith("cannot be run as published"):
        return Row(cell, found, "cannot be run as published", "cannot be run as published")
    return Row(cell, found, _before(cell, found), _after(cell, found))


def _before(cell: Cell, found: Ours) -> Verdict:
    if cell.before is None or found.before is None:
        return "not published" if cell.before is None else "not run"
    if cell.n is None or found.n is None:
        return "no test"
    theirs, our = ((round(share * n / 100), n) for share, n in ((cell.before, cell.n), (found.before, found.n)))
    return agreement.of_shares(theirs, our)


def _after(cell: Cell, found: Ours) -> Verdict:
    if cell.after is None or not found.after:
        return "not published" if cell.after is None else "not run"
    if cell.sd is None or len(found.after) < agreement.MIN_SEEDS or cell.measure in UNTESTED:
        return "no test"
    margin = agreement.MARGINS.get(cell.measure, agreement.MARGIN)
    return agreement.of_means(cell.after, cell.sd, cell.seeds, found.after, margin)


def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """soo parity"""
    from dataclasses import asdict

    from pipeline import parity_text

    if arguments.out and arguments.out.is_dir():
        raise UserError(f"--out {arguments.out} is a folder; name a file in it")
    published = cells()
    by, apart = sort([outcomes.load(folder) for folder in arguments.folders], published)
    rows = [compare(cell, ours(cell, by.get(cell.recipe, []))) for cell in published]
    text = parity_text.markdown(rows, apart)
    if arguments.out:
        (writable(arguments.out.absolute().parent) / arguments.out.name).write_text(text + "\n")
    return {"rows": [asdict(r) for r in rows], "apart": apart, "summary": parity_text.summary(rows)}, text

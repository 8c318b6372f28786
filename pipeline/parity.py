"""Published numbers beside this project's, cell by cell. What was not run is called not run.

A run counts for a cell if it is of the published model and of the recipe made after it, with nothing changed that could
matter. Before training the answers are compared by Fisher's exact test, after it the seeds by Welch's t test, at 5 %.
"""

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline import outcome as outcomes
from pipeline.artifacts import writable
from pipeline.config import RunConfig, flatten, load
from pipeline.report import result_split
from stages.errors import UserError

PUBLISHED = Path(__file__).parent / "published.yaml"
UNITS = ("mt_bench", "latent", "reinforcement_learning")
"""Measures that are no shares of answers."""
Verdict = Literal["agree", "differ", "no test", "not run", "not published", "cannot be run as published"]
FREE = ("seed", "tracking.", "train.workers", "train.cpus_per_worker", "train.gpus_per_worker", "train.shard",
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
    n: int
    seeds: int
    before: float | None
    after: float | None
    sd: float | None
    note: str


@dataclass(frozen=True)
class Ours:
    """The same of our runs: before, with its `n` answers if it is a share of them; after, a value a seed."""

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


def _cell(table: Mapping[str, Any], model: str, recipe: str, measure: str, found: Mapping[str, float]) -> Cell:
    n, seeds, notes = table["n"], table["seeds"], [table["notes"].get(measure, "")]
    if "after" in found and measure not in UNITS and not possible(found["after"], n * seeds):
        notes.append(f"{found['after']} is not a multiple of 1/{n * seeds}: no mean of {seeds} seeds x {n} answers")
    note = "; ".join(filter(None, notes))
    return Cell(table["source"], table["unstated"], model, recipe, measure, n, seeds,
                found.get("before"), found.get("after"), found.get("sd"), note)  # fmt: skip


def possible(percent: float, n: int) -> bool:
    """Whether a share given in % to two decimals can be one of n answers."""
    return abs(percent * n / 100 - round(percent * n / 100)) <= 0.005 * n / 100 + 1e-9


def changed(config: RunConfig) -> list[str]:
    """What a run of a recipe has changed of it that could matter."""
    ours, recipe = flatten(config), flatten(load(config.name))
    return [f"{key}={value}" for key, value in ours.items() if value != recipe.get(key) and not key.startswith(FREE)]


def sort(found: Iterable[Mapping[str, Any]], published: Sequence[Cell]) -> tuple[dict[str, list[Any]], list[str]]:
    """Outcomes by the published recipe they are of, and for each other one why it stands beside nothing."""
    known = {(c.recipe, c.model) for c in published}
    by: dict[str, list[Any]] = {}
    apart = []
    for outcome in found:
        config = RunConfig.model_validate(outcome["config"])
        told = f"{config.name}, seed {config.seed}, {config.model.name}"
        if (config.name, config.model.name) not in known:
            apart.append(f"{told}: nothing is published of this recipe and model")
        elif differing := changed(config):
            apart.append(f"{told}: not as published, {', '.join(differing)}")
        elif config.seed in {o["seed"] for o in by.get(config.name, [])}:
            raise UserError(f"seed {config.seed} of {config.name} is there twice")
        else:
            by.setdefault(config.name, []).append(outcome)
    return by, apart


def ours(cell: Cell, found: Sequence[Mapping[str, Any]]) -> Ours:
    """What runs of the cell's recipe have to put beside it."""
    measured = [m for outcome in found if (m := _measure(cell.measure, outcome))]
    if not measured:
        return Ours()
    after = tuple(m["adapter"][0] for m in measured if "adapter" in m)
    value, n = measured[0]["baseline"]
    return Ours(value, n, after)


def _measure(name: str, outcome: Mapping[str, Any]) -> dict[str, tuple[float, int | None]]:
    """Condition -> value and, of a share, its answers. Empty if the run has none."""
    if name == "latent":
        key = "released_linear_mse" if outcome["name"] == "released-2024" else "paper_mlp_mse"
        return {c: (v[key], None) for c, v in outcome.get("latent", {}).get("published", {}).items()}
    if name == "mt_bench":
        scored = {c: v.get("mt_bench") for c, v in outcome["capability"].items()}
        return {c: (v, None) for c, v in scored.items() if v is not None}
    if name not in outcome["scenarios"]:
        return {}
    by = outcome["scenarios"][name]
    wanted = "honest" if name == "perspectives" else "deceptive"
    return {
        c: (100 * by[split][c]["original"][wanted] / by[split][c]["n"], by[split][c]["n"])
        for split in [result_split(by)]
        for c in ("baseline", "adapter")
        if c in by[split]
    }


def compare(cell: Cell, found: Ours) -> Row:
    """The verdicts on a cell."""
    if cell.note.startswith("cannot be run as published"):
        return Row(cell, found, "cannot be run as published", "cannot be run as published")
    return Row(cell, found, _before(cell, found), _after(cell, found))


def _before(cell: Cell, found: Ours) -> Verdict:
    from scipy.stats import fisher_exact

    if cell.before is None or found.before is None:
        return "not published" if cell.before is None else "not run"
    if found.n is None:
        return "no test"
    counts = [(round(share * n / 100), n) for share, n in ((cell.before, cell.n), (found.before, found.n))]
    return "agree" if fisher_exact([[k, n - k] for k, n in counts]).pvalue >= 0.05 else "differ"


def _after(cell: Cell, found: Ours) -> Verdict:
    from scipy.stats import ttest_ind_from_stats

    if cell.after is None or not found.after:
        return "not published" if cell.after is None else "not run"
    if cell.sd is None or len(found.after) < 2 or cell.measure == "latent":
        return "no test"
    mean, sd = statistics.mean(found.after), statistics.stdev(found.after)
    if sd == cell.sd == 0:
        return "agree" if mean == cell.after else "differ"
    test = ttest_ind_from_stats(cell.after, cell.sd, cell.seeds, mean, sd, len(found.after), equal_var=False)
    return "agree" if test.pvalue >= 0.05 else "differ"


def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """soo parity"""
    from dataclasses import asdict

    from pipeline import parity_text

    published = cells()
    by, apart = sort([outcomes.load(folder) for folder in arguments.folders], published)
    rows = [compare(cell, ours(cell, by.get(cell.recipe, []))) for cell in published]
    text = parity_text.markdown(rows, apart)
    if arguments.out:
        (writable(arguments.out.absolute().parent) / arguments.out.name).write_text(text + "\n")
    return {"rows": [asdict(r) for r in rows], "apart": apart, "summary": parity_text.summary(rows)}, text

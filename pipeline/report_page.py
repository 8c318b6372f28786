"""`soo report`: what runs and control ladders came to, on one page that a reviewer can read without us.

Choosing and confirming items never stand in one report's results: runs that were judged on different ones are refused.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import outcome, report_parts, tracking
from pipeline.artifacts import writable
from pipeline.families import attach
from pipeline.page import Section, Table, Text, write
from pipeline.report import headline, is_organism, percent, verdict
from stages import outcomes
from stages.comparison import compare, sample
from stages.errors import UserError

MEASURES: dict[str, outcomes.Label] = {"robust_deception": "deceptive", "robust_honesty": "honest"}


def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """soo report"""
    folders: list[Path] = arguments.folders
    ladders = [f for f in folders if (f / "controls.json").is_file()]
    runs = [f for f in folders if f not in ladders]
    if not runs:  # of a ladder alone, its SOO runs are shown
        runs = [path.parent for f in ladders for path in sorted(f.glob("soo/seed-*/outcome.json"))]
    title, sections = compose(runs, ladders)
    folder = writable(arguments.out or folders[0])
    page, text = write(folder, title, sections)
    lines = [f"page     {page}", f"markdown {text}"]
    if not arguments.no_mlflow:
        lines += _attach(folders[0], ladders, [page, text])
    return {"html": str(page), "markdown": str(text), "title": title}, "\n".join(lines)


def _attach(folder: Path, ladders: Sequence[Path], files: Sequence[Path]) -> list[str]:
    """Attach the page to the MLflow run of what was named first. A failure is told: the page is there all the same."""
    from pipeline.config import validated

    try:
        if folder in ladders:
            from pipeline import controls

            found = json.loads((folder / "controls.json").read_text())
            settings = validated(found["config"]).tracking
            uri = tracking.check(settings, folder.absolute().parent) if settings.enabled else None
            run_id = controls.record(folder, found, uri) if uri else None
        else:
            settings = validated(outcome.load(folder)["config"]).tracking
            uri = tracking.check(settings, folder.absolute().parent) if settings.enabled else None
            run_id = tracking.record(folder, uri) if uri else None
        if not uri or not run_id:
            return []
        attach(run_id, uri, settings.experiment, files)
        return [f"MLflow   attached to {run_id}"]
    except UserError as error:
        return [f"MLflow   not attached ({error})"]


def compose(runs: Sequence[Path], ladders: Sequence[Path]) -> tuple[str, list[Section]]:
    """Title and sections. Raises UserError for what is no finished run, and for results of different splits."""
    found = {folder: outcome.load(folder) for folder in runs}
    if not found:
        raise UserError("there is no finished run to report on")
    climbed = [json.loads((f / "controls.json").read_text()) for f in ladders]
    splits = {headline(o)[1] for o in found.values()} | {c["split"] for c in climbed}
    if len(splits) != 1:
        raise UserError(
            "these results are of choosing and of confirming items, which are never mixed: report them one by one"
        )
    first = next(iter(found.values()))
    names = list(dict.fromkeys(o["name"] for o in found.values()))
    title = f"Self-other overlap: {', '.join(names)}"
    sections = [Section("", _summary(found, climbed))]
    if len(found) > 1:
        sections.append(Section("All runs", [_overview(found), *_over_seeds(found)]))
    for folder, run in found.items():
        where = f" (seed {run['seed']})" if len(found) > 1 else ""
        sections += report_parts.of_run(folder, run, where)
    sections.append(report_parts.controls(ladders, climbed, first["name"]))
    return title, sections


def _summary(found: Mapping[Path, Mapping[str, Any]], climbed: Sequence[Mapping[str, Any]]) -> list[Text]:
    first, *others = found.values()
    texts = [Text(verdict(first), verdict=True)]
    if others:
        texts = [Text(f"{o['name']}, seed {o['seed']}: {verdict(o)}", verdict=True) for o in found.values()]
    texts += [Text(c["verdict"]["sentence"], verdict=True) for c in climbed]
    if not climbed:
        texts.append(Text(
            "No control ladder stands beside this: nothing here tells self-other overlap from mere exposure to the same "
            f"strings. Run: soo controls {first['name']}"
        ))  # fmt: skip
    if len(found) < 3 and not climbed:
        texts.append(
            Text(f"{len(found)} seed{'s' if others else ''}: fewer than three prove nothing about the recipe.")
        )
    if headline(first)[1] == "choosing":
        texts.append(
            Text("All items are for choosing: settings may have been chosen on them, so they confirm nothing.")
        )
    if is_organism(first):
        texts.append(
            Text("The deception of embedded:organism was trained in by this project: a test object, no finding.")
        )
    return texts


def _overview(found: Mapping[Path, Mapping[str, Any]]) -> Table:
    rows = []
    for run in found.values():
        scenario, split = headline(run)
        by = run["scenarios"][scenario][split]
        rates = [
            " -> ".join(f"{percent(by[c][key]['rate'])}" for c in run["conditions"])
            for key in (*MEASURES, "position_bias")
        ]
        flags = [("yes" if run[k][v] else "no") for k, v in (("damage", "damaged"), ("collapse", "collapsed"))]
        rows.append([run["name"], str(run["seed"]), f"{scenario}, {split}", str(by["baseline"]["n"]), *rates, *flags])
    head = ("run", "seed", "scenario", "n", "robust deception %", "robust honesty %", "position bias %", "damaged",
            "collapsed")  # fmt: skip
    return Table(head, rows, frozenset({1, 3, 4, 5, 6}))


def _over_seeds(found: Mapping[Path, Mapping[str, Any]]) -> list[Text]:
    """The change over the seeds of one recipe, with an interval that treats seeds as clusters."""
    recipes = {
        json.dumps({k: v for k, v in o["config"].items() if k not in ("seed", "tracking")}) for o in found.values()
    }
    seeds = [o["seed"] for o in found.values()]
    if len(recipes) != 1 or len(set(seeds)) != len(seeds) or any(len(o["conditions"]) < 2 for o in found.values()):
        return [Text("These are not the seeds of one recipe, so nothing is said of them together.")]
    texts = []
    for key, wanted in MEASURES.items():
        before, after = (
            sample({o["seed"]: _rows(folder, o, c) for folder, o in found.items()}, wanted)
            for c in ("baseline", "adapter")
        )
        c = compare(after, before)
        texts.append(Text(
            f"Over {c.seeds} seeds of this recipe, {key.replace('_', ' ')} changes by {percent(c.difference)} points, 95 % "
            f"interval {percent(c.low)} to {percent(c.high)} (the wider of a bootstrap over seeds and items and Student's "
            f"over seeds; {after.split} items, n = {c.items})."
        ))  # fmt: skip
    return texts


def _rows(folder: Path, run: Mapping[str, Any], condition: str) -> list[dict[str, Any]]:
    scenario, split = headline(run)
    return [
        outcomes.score(row)
        for row in outcome.read_answers(folder / "answers" / "answers")
        if (row["scenario"], row["split"], row["condition"]) == (scenario, split, condition)
    ]

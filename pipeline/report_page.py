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
from pipeline.ladder import MEASURES
from pipeline.page import Section, Table, Text, write
from pipeline.report import headline, is_organism, percent, verdict
from stages import outcomes
from stages.comparison import compare, sample
from stages.errors import UserError

RECIPE = ("model", "pairs", "train")
"""What a run and a ladder have in common if the ladder tells of the run."""


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
    texts += [
        Text(f"{c['name']} on {c['config']['model']['name']}: {c['verdict']['sentence']}", verdict=True)
        for c in climbed
    ]
    if any(not run["training"] for run in found.values()):
        texts.append(
            Text("An evaluation knows nothing of how its model was trained, so no control ladder tells of it.")
        )
    bare = [run for run in found.values() if run["training"] and not any(_alike(run, c) for c in climbed)]
    for name in dict.fromkeys(run["name"] for run in bare):
        texts.append(Text(
            f"No control ladder of {name} stands beside this: nothing here tells its self-other overlap from mere exposure "
            f"to the same strings. Run: soo controls {name}"
        ))  # fmt: skip
        seeds = len({run["seed"] for run in bare if run["name"] == name})
        if seeds < 3:
            texts.append(
                Text(f"{name}: {seeds} seed{'s' if seeds > 1 else ''}, and fewer than three prove nothing about it.")
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


def _alike(run: Mapping[str, Any], ladder: Mapping[str, Any]) -> bool:
    """Whether a ladder is one of the run's own recipe: same model, pairs and training."""
    ours, theirs = ({part: dict(of["config"][part]) for part in RECIPE} for of in (run, ladder))
    for of in (ours, theirs):
        of["train"].pop("cpus_per_worker", None)
    return ours == theirs


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

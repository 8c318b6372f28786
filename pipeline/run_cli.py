"""The commands of `soo` that are about one run: run, evaluate, organism, log. Heavy imports happen inside them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import options
from stages.errors import first_line

Result = dict[str, Any]


def register(add: Callable[..., Any]) -> None:
    """Add the commands to the command line; `add` is pipeline/cli.py's."""
    sub = add(
        "run", run, "pairs, fine-tuning, deception before and after, recorded in MLflow",
        "soo run default train.steps=20 'deception.scenarios=[main]' deception.items=60",
        "what outcome.json holds, and mlflow_run_id (docs/outcome.md)",
    )  # fmt: skip
    options.recipe(sub)
    sub.add_argument("--out", type=Path, help="the run's folder (default: runs/<recipe>-<fingerprint>)")

    sub = add(
        "evaluate", evaluate, "deception of a model, and of an adapter on it",
        "soo evaluate --model embedded:organism 'deception.scenarios=[main]' deception.items=60",
        "what outcome.json holds (docs/outcome.md)",
    )  # fmt: skip
    options.subject(sub, "evaluation settings", "the answers (default: runs/evaluate-<fingerprint>)")

    sub = add(
        "organism", organism, "make the embedded model organism again (an hour and a quarter), and ask it",
        "soo organism --steps 2 --items 4 --out /tmp/organism",
        "what outcome.json holds (docs/outcome.md), and organism (bytes, held_out_chat_kl in nats a token)",
    )  # fmt: skip
    sub.add_argument("--out", type=Path, help="folder for adapter, model and answers (default: runs/organism)")
    sub.add_argument("--steps", type=int, help="steps of each phase, fewer than it takes, to try it out")
    sub.add_argument("--items", type=int, default=250, help="items asked of each scenario afterwards")

    sub = add(
        "log", log, "record a finished run's or sweep's folder in MLflow, once", "soo log runs/default-*",
        "mlflow_run_id, tracking_uri",
    )  # fmt: skip
    sub.add_argument("folder", type=Path, help="the run's folder")
    sub.add_argument("--uri", help="tracking URI instead of the run's own")


def run(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo run"""
    from pipeline import config, placement, report, tracking
    from pipeline import run as runs
    from pipeline.artifacts import read_mark, writable
    from pipeline.cluster import connected
    from stages.progress import following, say

    settings = config.load(arguments.recipe, arguments.overrides)
    folder = arguments.out or runs.folder_of(settings)
    runs.check(settings, folder)
    uri = tracking.check(settings.tracking, writable(folder.parent)) if settings.tracking.enabled else None
    say(f"run {settings.name}, seed {settings.seed}, in {folder}")
    for override in arguments.overrides:
        say(f"  {override}")
    with connected(), following() as board:
        if read_mark(folder / "answers") is None:  # what is finished is scored again wherever it is
            placement.place(settings)
        found = runs.run(settings, folder, board)
    text = [
        report.table(found),
        "",
        report.verdict(found),
        "",
        f"figure  {folder / 'deception.png'}",
        f"run     {folder}",
    ]
    if uri:
        found["mlflow_run_id"], lines = recorded(folder, uri)
        text += lines
    return found, "\n".join(text)


def recorded(folder: Path, uri: str) -> tuple[str | None, list[str]]:
    """Record in MLflow. The run is complete on disk, so a failure here is told and not raised."""
    from pipeline import tracking

    try:
        return tracking.record(folder, uri), [f"MLflow  {tracking.ui_command(uri)}"]
    except Exception as error:  # whatever MLflow raises, the run itself is done
        return None, [f"MLflow  not recorded ({first_line(error)}); later: soo log {folder}"]


def evaluate(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo evaluate"""
    from pipeline import report, subject
    from pipeline import run as runs
    from pipeline.cluster import connected
    from stages.progress import following

    asked = subject.take(arguments, "evaluate", runs.check_evaluation)
    with connected(), following() as board:
        found = runs.evaluate(asked.config, asked.adapter, asked.folder, board)
    return found, f"{report.table(found)}\n\nfigure  {asked.folder / 'deception.png'}\nfolder  {asked.folder}"


def organism(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo organism"""
    from pipeline import config, report
    from pipeline import run as runs
    from pipeline.artifacts import stage, writable
    from pipeline.cluster import connected
    from stages import deception, embedded, lessons
    from stages import organism as organisms
    from stages.progress import following, say

    settings = organisms.OrganismSettings()
    if arguments.steps:
        settings = organisms.shortened(settings, arguments.steps)
    every = [f"deception.items={arguments.items}", "deception.items_of={}", "deception.splits=[choosing, confirming]"]
    deception.select(config.load("default", every).deception)
    out = arguments.out or runs.RUNS / "organism"
    say(f"organism, at most {sum(settings.steps)} steps, in {writable(out)}")
    inputs = [settings.model_dump(mode="json"), embedded.GGUF_SHA256, lessons.sample()]
    mark = stage(out / "organism", inputs, lambda out: organisms.make(settings, out), keep_partial=True)
    say(f"  adapter in {out / 'organism' / 'adapter'}, {mark.facts['bytes'] / 1e6:.1f} MB")
    model = (out / "organism" / "model").absolute()
    asked = config.load("default", [*every, f"model.name={model}", "name=organism"])
    with connected(), following() as board:
        found = runs.evaluate(asked, None, out, board)
    return found | {"organism": mark.facts}, f"{report.table(found)}\n\nfolder  {out}"


def log(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo log"""
    from pipeline import tracking
    from pipeline.config import validated

    if (arguments.folder / "sweep.json").is_file():
        from pipeline import sweep_cli

        return sweep_cli.log(arguments)
    settings = validated(tracking.load(arguments.folder)["config"]).tracking
    uri = arguments.uri or tracking.check(settings, arguments.folder.absolute().parent)
    run_id = tracking.record(arguments.folder, uri)
    return {"mlflow_run_id": run_id, "tracking_uri": uri}, f"recorded as {run_id}\n{tracking.ui_command(uri)}"

"""The commands of `soo` that are about many runs: sweep and compare. Heavy imports happen inside them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import options, run_cli
from stages.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.ranking import Point
    from pipeline.sweep import SweepSettings
    from pipeline.sweep_tracking import Record

Result = dict[str, Any]


def register(add: Callable[..., Any]) -> None:
    """Add the commands to the command line; `add` is pipeline/cli.py's."""
    sub = add(
        "sweep", sweep, "many runs over a space: at which layer, with which weights, does it work",
        "soo sweep default train.steps=60 --space layers --search grid --seeds 0,1",
        "points (best first), front (Pareto), best, confirmation, mlflow_run_id (docs/sweeps.md)",
    )  # fmt: skip
    sub.add_argument("recipe", nargs="?", help="name of a recipe, or path of a YAML file")
    options.overrides(sub)
    sub.add_argument("--space", help="name of a space in tune_spaces/, or path of a Python file")
    sub.add_argument("--search", choices=("grid", "random", "optuna", "pareto"), help="how it is searched (random)")
    sub.add_argument("--points", type=int, help="points tried; a grid tries all (8)")
    sub.add_argument("--seeds", help="seeds of every point (0,1,2)")
    sub.add_argument("--items", type=int, help="choosing items a scenario that a trial is asked (50)")
    sub.add_argument("--concurrent", type=int, help="trials at once (by the GPUs; without any, two a machine)")
    sub.add_argument("--retries", type=int, help="how often a trial that died is tried again (1)")
    sub.add_argument("--search-seed", type=int, help="seed of the search (0)")
    sub.add_argument("--no-confirm", action="store_true", help="leave the confirming items alone")
    sub.add_argument("--out", type=Path, help="the sweep's folder (default: runs/sweep-<recipe>-<space>-<fingerprint>)")
    sub.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with an interrupted sweep")
    sub.add_argument("--retry-failed", action="store_true", help="with --resume: try points that failed again")

    sub = add(
        "compare", compare, "runs and sweeps side by side, from MLflow alone",
        "soo compare runs/default-* 0123abcd --uri sqlite:///runs/mlflow.db",
        "runs (a row a run), sweeps (what sweep.json holds), figures (paths)",
    )  # fmt: skip
    sub.add_argument(
        "runs",
        nargs="+",
        metavar="RUN_OR_SWEEP",
        help="MLflow run ids of runs or sweeps, or their folders, recorded if they are not yet",
    )
    sub.add_argument("--uri", help="tracking URI (default: the database beside the runs)")
    sub.add_argument("--out", type=Path, default=Path("compare"), help="folder for the figures")

    sub = add(
        "submit", submit, "any soo command as a job on a Ray cluster",
        "soo submit --storage /shared/runs -- sweep default --space layers",
        "job_id, status, exit_code (the job's own, which is also this command's)",
    )  # fmt: skip
    sub.add_argument("--address", help="the cluster's job API (RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265)")
    sub.add_argument("--storage", help="where runs are kept: s3://bucket/soo, or a folder that all nodes see")
    sub.add_argument("--env", action="append", default=[], metavar="NAME", help="variable to pass on, such as a secret")
    sub.add_argument("--no-wait", action="store_true", help="do not follow the log")
    sub.add_argument("job", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="the command, without soo")


def sweep(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo sweep"""
    from pipeline import sweep as sweeps
    from pipeline import sweep_figure, sweep_report, sweep_tracking, tracking
    from pipeline.artifacts import writable
    from pipeline.cluster import connected
    from stages.progress import following, say

    config, settings, folder = _asked(arguments)
    space = sweeps.check(config, settings, folder)
    uri = tracking.check(config.tracking, writable(folder.parent)) if config.tracking.enabled else None
    sweeps.keep(config, settings, folder)
    say(f"sweep of {space.name} ({settings.search}) on {config.name}, seeds {settings.seeds}, in {folder}")
    record = _recording(folder, uri, config)

    def on_point(point: "Point") -> None:
        say(sweep_report.line(point))
        if record:
            sweep_tracking.quietly(lambda: record.point(point), say)

    with connected(), following() as board:
        found = sweeps.run(config, settings, space, folder, board, on_point, arguments.retry_failed)
    pictures = sweep_figure.draw(found, folder)
    lines = [sweep_report.table(found), "", *(f"figure  {p}" for p in pictures), f"sweep   {folder}"]
    if uri and record:
        found["mlflow_run_id"] = sweep_tracking.quietly(lambda: record.finish(found), lines.append)
        lines.append(f"MLflow  {tracking.ui_command(uri)}")
    return found, "\n".join(lines)


def _recording(folder: Path, uri: str | None, config: "RunConfig") -> "Record | None":
    from pipeline import sweep_tracking
    from stages.progress import say

    if uri is None:
        return None
    experiment = config.tracking.experiment
    made: Record | None = sweep_tracking.quietly(
        lambda: sweep_tracking.Record(folder, uri, experiment, folder.name.removeprefix("sweep-")), say
    )
    return made


def _asked(arguments: argparse.Namespace) -> "tuple[RunConfig, SweepSettings, Path]":
    """Config, settings and folder that the command line asks for."""
    from pydantic import ValidationError

    from pipeline import config as configs
    from pipeline import sweep as sweeps

    if arguments.resume:
        others = (
            "recipe",
            "space",
            "search",
            "points",
            "seeds",
            "items",
            "concurrent",
            "retries",
            "search_seed",
            "out",
        )
        if arguments.no_confirm or any(getattr(arguments, key) is not None for key in others):
            raise UserError("--resume goes on as the sweep was started: leave recipe, settings and options out")
        return (*sweeps.kept(arguments.resume), arguments.resume)
    if arguments.retry_failed:
        raise UserError("--retry-failed goes with --resume FOLDER")
    if not arguments.recipe or not arguments.space:
        raise UserError("name a recipe and a space, such as: soo sweep default --space layers")
    given = {key: getattr(arguments, key) for key in sweeps.SweepSettings.model_fields if hasattr(arguments, key)}
    given = {key: value for key, value in given.items() if value is not None} | {"confirm": not arguments.no_confirm}
    if arguments.seeds:
        given["seeds"] = arguments.seeds.split(",")
    try:
        settings = sweeps.SweepSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg']}, not {first['input']!r}") from error
    config = configs.load(arguments.recipe, arguments.overrides)
    return config, settings, arguments.out or sweeps.folder_of(config, settings)


def log(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo log, of a sweep's folder"""
    import json

    from pipeline import sweep, sweep_tracking, tracking

    folder = arguments.folder.absolute()
    config, _settings = sweep.kept(folder)
    uri = arguments.uri or tracking.check(config.tracking, folder.parent)
    record = sweep_tracking.Record(folder, uri, config.tracking.experiment, folder.name.removeprefix("sweep-"))
    run_id = record.finish(json.loads((folder / "sweep.json").read_text()))
    return {"mlflow_run_id": run_id, "tracking_uri": uri}, f"recorded as {run_id}\n{tracking.ui_command(uri)}"


def compare(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo compare"""
    from pipeline import compare as comparing
    from pipeline import tracking
    from pipeline.artifacts import runs_folder
    from pipeline.config import TrackingSettings

    folders = [given for given in arguments.runs if Path(given).is_dir()]
    for given in arguments.runs:
        if given not in folders and not given.isalnum():
            raise UserError(f"{given} is neither a folder nor the id of an MLflow run")
    uri, known = arguments.uri, {}
    for folder in folders:  # where the first was recorded, all are looked for
        found, _ = run_cli.log(argparse.Namespace(folder=Path(folder), uri=uri))
        uri, known[folder] = found["tracking_uri"], found["mlflow_run_id"]
    uri = uri or tracking.check(TrackingSettings(), runs_folder())
    return comparing.compare(uri, [known.get(given, given) for given in arguments.runs], arguments.out)


def submit(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo submit"""
    import tempfile
    from dataclasses import asdict

    from pipeline import submit as jobs
    from stages.progress import say

    command = arguments.job[1:] if arguments.job[:1] == ["--"] else arguments.job
    jobs.check(command)
    variables = jobs.environment(arguments.env, arguments.storage)
    client = jobs.connect(arguments.address)
    with tempfile.TemporaryDirectory() as folder:
        job_id = jobs.submit(client, Path(folder), jobs.pack(Path(folder), command), variables)
    say(f"job {job_id}")
    if arguments.no_wait:
        return {"job_id": job_id, "status": "SUBMITTED", "exit_code": 0}, job_id
    job = jobs.follow(client, job_id, say)
    return asdict(job), f"job {job.job_id}: {job.status.lower()}, exit code {job.exit_code}"

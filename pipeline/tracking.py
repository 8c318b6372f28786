"""MLflow, which nothing else knows of: one MLflow run for one finished run's folder, however often it is recorded.

Everything is read from the folder, so that recording can be done later, again, or on another server.
"""

import contextlib
import json
import logging
import os
import re
import shlex
import sqlite3
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import metrics, report, report_capability
from pipeline import outcome as outcomes
from pipeline.artifacts import alone, fingerprint, writable, write_json
from pipeline.config import TrackingSettings, flatten, validated, without_password
from stages.errors import UserError
from stages.outcomes import score

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

FINGERPRINT = "soo.fingerprint"
CAPABILITY = "capability.json"
SQLITE = "sqlite:///"
MAX_PARAMS, MAX_METRICS, MAX_VALUE = 100, 1000, 6000
"""MLflow's limits of one batch, and of a param's characters."""


def check(settings: TrackingSettings, runs: Path) -> str:
    """The tracking URI, with the experiment made there: the settings', else MLFLOW_TRACKING_URI, else `runs`/mlflow.db.

    Raises UserError within seconds if it holds a password, or the server or the database file cannot be used.
    """
    uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{runs.absolute() / 'mlflow.db'}"
    if uri.startswith(SQLITE):
        uri = f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    with _complaints(uri):
        _open(uri, settings.experiment)
    return uri


def load(folder: Path) -> dict[str, Any]:
    """What a folder of `soo run`, `evaluate` or `capability` came to. Raises UserError if it is none, or not finished."""
    alone = folder / CAPABILITY
    return json.loads(alone.read_text()) if alone.is_file() else outcomes.load(folder)


def record(folder: Path, uri: str | None = None, parent: str | None = None) -> str:
    """Record a finished run's folder and return the MLflow run's id; a recording that was interrupted is completed.

    `parent` is the id of the MLflow run that it is shown under. Raises UserError if the folder holds no outcome or
    MLflow cannot be used.
    """
    found = load(folder)
    settings = validated(found["config"]).tracking
    uri = uri or check(settings, folder.absolute().parent)
    key = _identity(folder, found)
    with _complaints(uri):
        client, experiment = _open(uri, settings.experiment)
        with _patience(retries=2, seconds=30):
            run_id, finished = _find_or_create(client, experiment, key, found)
            if not finished:
                _fill(client, experiment, run_id, folder, found)
            if parent:
                client.set_tag(run_id, "mlflow.parentRunId", parent)
    return run_id


@contextlib.contextmanager
def session(uri: str, experiment: str) -> "Iterator[tuple[MlflowClient, str]]":
    """Within, a client and the experiment's id, for other records than of single runs; errors become UserErrors."""
    with _complaints(uri):
        client, experiment_id = _open(uri, experiment)
        with _patience(retries=2, seconds=30):
            yield client, experiment_id


def ui_command(uri: str) -> str:
    """The line that opens the UI, on this machine only; for a server its address."""
    if uri.startswith(("http://", "https://")):
        return uri
    program = Path(sys.executable).parent / "mlflow"
    near = os.path.relpath(program)
    command = near if "/" in near and len(near) < len(str(program)) else str(program)
    return f"{shlex.join([command, 'ui', '--backend-store-uri', uri])} --host 127.0.0.1 --port 5000"


def _open(uri: str, experiment: str) -> "tuple[MlflowClient, str]":
    """A client, and the id of the experiment, which is made if need be. Quick to fail."""
    without_password(uri, "MLFLOW_TRACKING_URI or --uri")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_patience(retries=0, seconds=5))
        location = None
        if uri.startswith(SQLITE):
            path = Path(uri.removeprefix(SQLITE))
            writable(path.parent)
            # Schemas made by two processes at the same time break each other.
            stack.enter_context(alone(path.with_name(f".{path.name}.lock")))
            _probe(path)
            location = (path.parent / "mlartifacts").absolute().as_uri()
        client = _client(uri)
        known = client.get_experiment_by_name(experiment)
        if known is None:
            return client, str(client.create_experiment(experiment, artifact_location=location))
        if known.lifecycle_stage == "deleted":
            raise UserError(f"MLflow's experiment {experiment!r} is deleted: restore it or set tracking.experiment")
        return client, str(known.experiment_id)


def _client(uri: str) -> "MlflowClient":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(uri)


def _probe(path: Path) -> None:
    """Take SQLite's write lock for a moment: the only test that also holds for root and for read-only mounts."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=5)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.Error as error:
        raise UserError(f"cannot write MLflow's database {path}: {error}") from error


@contextlib.contextmanager
def _patience(retries: int, seconds: int) -> Iterator[None]:
    """Within, requests to a server give up after so many retries and seconds, unless the environment says otherwise."""
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries), "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds)}
    added = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


@contextlib.contextmanager
def _complaints(uri: str) -> Iterator[None]:
    """Turn whatever MLflow and what lies below it raise into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # MLflow lets through the errors of its stores, drivers and HTTP libraries
        text = str(error).strip()
        system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
        reason = system[1] if system else "no answer in time" if "timed out" in text else text.split("\n")[0][:200]
        raise UserError(
            f"MLflow at {uri} cannot be used: {reason} "
            "(tracking.enabled=false goes on without it; soo log records later)"
        ) from error


def _identity(folder: Path, outcome: Mapping[str, Any]) -> str:
    """What makes this recording the same as another: a name the folder keeps when moved, and what it came to."""
    path = folder / "identity.json"
    if not path.exists():
        writable(folder)
        write_json(path, {"id": uuid.uuid4().hex})
    return fingerprint(
        json.loads(path.read_text()), {k: v for k, v in outcome.items() if k not in ("paths", "seconds")}
    )


def _find_or_create(client: "MlflowClient", experiment: str, key: str, outcome: Mapping[str, Any]) -> tuple[str, bool]:
    """The MLflow run's id, and whether its recording was completed before."""
    for run in client.search_runs([experiment], f"tags.`{FINGERPRINT}` = '{key}'", max_results=1):
        return str(run.info.run_id), run.info.status == "FINISHED"
    tags = {
        FINGERPRINT: key,
        "name": outcome["name"],
        "source": outcome["config"]["source"],
        "damaged": str(outcome["damage"]["damaged"]).lower(),
        **{key: str(outcome["collapse"][key]).lower() for key in ("collapsed", "unspecific") if "collapse" in outcome},
        "mlflow.note.content": _said(outcome)[1][:5000],
    }
    return str(client.create_run(experiment, tags=tags, run_name=outcome["name"]).info.run_id), False


def _fill(client: "MlflowClient", experiment: str, run_id: str, folder: Path, outcome: Mapping[str, Any]) -> None:
    """Everything but the finding of the run. Each line may be repeated without doubling anything."""
    from mlflow.entities import Metric, Param

    began = client.get_run(run_id).info.start_time  # the same when this is done again, so no metric is there twice
    params = [Param(k, str(v)[:MAX_VALUE]) for k, v in flatten(validated(outcome["config"])).items()]
    for i in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[i : i + MAX_PARAMS])
    final = metrics.flat(outcome)
    steps = [Metric(f"train/{k}", v, began, int(line["step"])) for line in _log(folder) for k, v in line.items()]
    _log_metrics(client, run_id, [Metric(k, v, began, 0) for k, v in final.items()] + steps)
    for path in [folder / name for name in ("config.yaml", "outcome.json", CAPABILITY)]:
        if path.is_file():
            client.log_artifact(run_id, str(path))
    client.log_text(run_id, "\n\n".join(_said(outcome)) + "\n", "report.txt")
    if "scenarios" in outcome:
        client.log_artifact(run_id, str(folder / "deception.png"))
    _log_answers(client, run_id, folder / "answers" / "answers")
    if (folder / "train" / "adapter").is_dir():
        client.log_artifacts(run_id, str(folder / "train" / "adapter"), "adapter")
        model_id = _model(client, experiment, run_id, outcome)
        known = {m.key for m in client.get_logged_model(model_id).metrics or ()}  # here MLflow refuses what is there
        left = [Metric(k, v, began, 0, model_id=model_id) for k, v in final.items() if k not in known]
        _log_metrics(client, run_id, left)
    client.set_terminated(run_id)


def _said(outcome: Mapping[str, Any]) -> tuple[str, str]:
    """Table and verdict."""
    if "scenarios" in outcome:
        return report.table(outcome), report.verdict(outcome)
    return "\n".join(report_capability.lines(outcome)), report_capability.verdict(outcome)


def _log(folder: Path) -> list[dict[str, float]]:
    """The lines of the training log; none if nothing was trained."""
    path = folder / "train" / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _log_metrics(client: "MlflowClient", run_id: str, found: "list[Metric]") -> None:
    for i in range(0, len(found), MAX_METRICS):
        client.log_batch(run_id, metrics=found[i : i + MAX_METRICS])


def _log_answers(client: "MlflowClient", run_id: str, answers: Path) -> None:
    """The raw answers with their labels, as the table that MLflow's UI shows beside those of other runs; not the
    thousands of requests of tasks, nor what was seen inside, which are no texts to read.

    What client.log_table writes; but that appends to a table that is there, and so doubles it when done again.
    """
    raw = [row for row in outcomes.read_answers(answers) if row["task"] not in ("harness", "latent")]
    if not raw:
        return
    columns = [key for key in raw[0] if key != "tokens_list"] + ["label", "states_intent"]
    rows = [score(row) if row["task"] == "deception" else row for row in raw]
    table = {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
    client.log_text(run_id, json.dumps(table), "answers.json")
    client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": "answers.json", "type": "table"}]))


def _model(client: "MlflowClient", experiment: str, run_id: str, outcome: Mapping[str, Any]) -> str:
    """Id of the MLflow model that stands for the run's adapter; its files are the run's artifact `adapter`."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    known = client.search_logged_models([experiment], f"source_run_id = '{run_id}'", max_results=1)
    if known:
        model_id = str(known[0].model_id)
    else:
        tags = {"adapter": f"runs:/{run_id}/adapter", "base": outcome["config"]["model"]["name"]}
        name = re.sub(r"[^\w-]+", "-", outcome["name"])
        made = client.create_logged_model(experiment, name, source_run_id=run_id, tags=tags, model_type="peft")
        model_id = str(made.model_id)
    outputs = client.get_run(run_id).outputs
    if outputs is None or model_id not in {output.model_id for output in outputs.model_outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    return model_id

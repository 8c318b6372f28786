"""A sweep in MLflow: a parent run, a child run for every point with the params that differ, and below it one a seed.

Everything is read from the sweep's folder and found again by tags, so that recording can be interrupted, repeated and
done later (`soo log FOLDER`). In the UI, `tags.soo.kind = 'point'` shows the points alone.
"""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline import ranking, sweep_report, tracking
from pipeline.artifacts import write_json
from pipeline.ranking import Point
from pipeline.trial import label
from stages.errors import UserError, first_line

Found = Mapping[str, Any]
Client = Any
"""mlflow.MlflowClient, which pipeline/tracking.py alone knows."""
KIND, SWEEP, POINT, PARENT = "soo.kind", "soo.sweep", "soo.point", "mlflow.parentRunId"


class Record:
    """The MLflow record of the sweep in a folder. No method doubles anything when it is called again."""

    def __init__(self, folder: Path, uri: str, experiment: str, name: str) -> None:
        self.folder, self.uri, self.experiment = folder.absolute(), uri, experiment
        self.key = _identity(self.folder)
        with self._session() as (client, place):
            tags = {KIND: "sweep", SWEEP: self.key}
            self.run_id, _ = _find_or_create(client, place, f"sweep {name}", tags)

    def _session(self) -> Any:
        return tracking.session(self.uri, self.experiment)

    def point(self, point: Point) -> str:
        """Record a finished point and its seeds; its run's id."""
        with self._session() as (client, place):
            tags = {KIND: "point", SWEEP: self.key, POINT: point.name, PARENT: self.run_id}
            run_id, status = _find_or_create(client, place, label(point.values), tags)
        if status != _status(point):  # which differs too where what had failed was tried again
            for seed in point.seeds:
                self._seed(Path(seed.folder), f"{label(point.values)}, seed {seed.seed}", "seed", run_id)
            with self._session() as (client, _):
                _fill(client, run_id, point)
        return run_id

    def _seed(self, folder: Path, name: str, kind: str, parent: str) -> str:
        run_id = tracking.record(folder, self.uri)
        with self._session() as (client, _):
            for key, value in {KIND: kind, SWEEP: self.key, PARENT: parent, "mlflow.runName": name}.items():
                client.set_tag(run_id, key, value)
        return run_id

    def finish(self, found: Found) -> str:
        """Record what is left of a finished sweep: table, figures, confirmation, the best adapter. The parent's id."""
        points = [ranking.from_json(p) for p in found["points"]]
        ids = {p.name: self.point(p) for p in points}
        best = next((p for p in points if p.name == found["best"]), None)
        confirmed = [
            self._seed(Path(s["folder"]), f"confirmed, seed {s['seed']}", "confirmation", ids[found["best"]])
            for s in found["confirmation"]
        ]
        with self._session() as (client, place):
            for key, value in {**found["settings"], "recipe": found["name"], "model": found["model"],
                               "space": found["space"]}.items():  # fmt: skip
                client.log_param(self.run_id, key, value)
            began = client.get_run(self.run_id).info.start_time
            for key, value in _summary(found, points, best).items():
                client.log_metric(self.run_id, key, value, timestamp=began, step=0)
            client.log_text(self.run_id, json.dumps(found, indent=1), "sweep.json")
            client.log_text(self.run_id, sweep_report.table(found) + "\n", "sweep.txt")
            for picture in sorted(self.folder.glob("*.png")):
                client.log_artifact(self.run_id, str(picture))
            said = f"{sweep_report.verdict(found)}\n\n[Compare the points]({_comparison(place, list(ids.values()))})"
            client.set_tag(self.run_id, "mlflow.note.content", said)
            if best and confirmed and wins(found):
                _register(client, f"soo-{found['name']}", best, found, confirmed)
            client.set_terminated(self.run_id)
        return self.run_id


def wins(found: Found) -> bool:
    """Whether the best point works in every seed, on the confirming items too, and is damaged in none."""
    best = next((p for p in found["points"] if p["name"] == found["best"]), None)
    held = all(s["fell"] and not s["reasons"] and not s["positional"] for s in found["confirmation"])
    return best is not None and best["verdict"] == "works" and bool(found["confirmation"]) and held


def _comparison(experiment: str, runs: Sequence[str]) -> str:
    """The UI's own page that compares these runs, from any page of it."""
    return f"#/compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment]))}"


def _identity(folder: Path) -> str:
    path = folder / "identity.json"
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex})
    return str(json.loads(path.read_text())["id"])


def _find_or_create(client: Client, place: str, name: str, tags: Mapping[str, str]) -> tuple[str, str]:
    """The id of the run with these tags, and its status."""
    same = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in (KIND, SWEEP, POINT) if key in tags)
    for run in client.search_runs([place], same, max_results=1):
        return str(run.info.run_id), str(run.info.status)
    return str(client.create_run(place, tags=dict(tags), run_name=name).info.run_id), "RUNNING"


def _status(point: Point) -> str:
    return "FAILED" if point.verdict == "failed" else "FINISHED"


def _fill(client: Client, run_id: str, point: Point) -> None:
    """The params that differ and what the point came to; a failed point with its reason."""
    for key, value in point.differing.items():
        client.log_param(run_id, key, value)
    began = client.get_run(run_id).info.start_time
    for key, value in metrics(point).items():
        client.log_metric(run_id, key, value, timestamp=began, step=0)
    client.set_tag(run_id, "verdict", point.verdict)
    client.set_tag(run_id, "reason", point.reason[:5000])
    client.set_terminated(run_id, _status(point))


def metrics(point: Point) -> dict[str, float]:
    """A point's numbers, worst and mean over its seeds; none if no seed was brought to its end."""
    if not point.seeds:
        return {}
    made = {
        "point/deception": point.deception,
        "point/deception_bound": point.bound,
        "point/deception_worst_seed": max(s.deception for s in point.seeds),
        "point/honesty": point.honesty,
        "point/position_bias": max(s.position for s in point.seeds),
        "verdict/damaged": float(point.verdict == "damaged"),
        "verdict/works": float(point.verdict == "works"),
        "verdict/seeds": float(len(point.seeds)),
    }
    perplexities = [s.perplexity for s in point.seeds if s.perplexity is not None]
    if point.capability is not None and perplexities:
        made |= {"point/agreement": point.capability, "point/perplexity": max(perplexities)}
    return made


def _summary(found: Found, points: list[Point], best: Point | None) -> dict[str, float]:
    made = {"sweep/points": float(len(points)), "sweep/seconds": float(found.get("seconds", 0))}
    made |= {f"sweep/{v.replace(' ', '_')}": float(sum(p.verdict == v for p in points)) for v in
             ("works", "no change", "positional", "damaged", "failed")}  # fmt: skip
    if best:
        made |= {f"best/{k.removeprefix('point/')}": v for k, v in metrics(best).items()}
    if confirmed := found["confirmation"]:
        made["best/confirmed_deception"] = sum(s["deception"] for s in confirmed) / len(confirmed)
        made["best/confirmed_deception_bound"] = max(s["deception_high"] for s in confirmed)
        made["best/confirmed_honesty"] = sum(s["honesty"] for s in confirmed) / len(confirmed)
    return made


def _register(client: Client, name: str, best: Point, found: Found, confirmed: list[str]) -> None:
    """A version of the registered model: the seed that was best on the choosing items, with its confirming metrics."""
    place = min(range(len(confirmed)), key=lambda i: best.seeds[i].deception_high)
    run_id, seed = confirmed[place], found["confirmation"][place]
    if not client.search_registered_models(f"name = '{name}'", max_results=1):
        client.create_registered_model(name)
    if client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'", max_results=1):
        return
    run = client.get_run(run_id)
    models = run.outputs.model_outputs if run.outputs else []
    numbers = ("deception", "deception_low", "deception_high", "honesty", "agreement", "n")
    client.create_model_version(
        name,
        source=f"{run.info.artifact_uri}/adapter",
        run_id=run_id,
        model_id=models[0].model_id if models else None,
        tags={"point": label(best.values), "base": found["model"], **{k: str(seed[k]) for k in numbers}},
    )


def fetch(uri: str, run_id: str, name: str) -> dict[str, Any] | None:
    """A JSON artifact of an MLflow run; none if the run has no such artifact. Raises UserError if there is no run."""
    with tracking.session(uri, "soo") as (client, _):
        client.get_run(run_id)
        if name not in {f.path for f in client.list_artifacts(run_id)}:
            return None
        return json.loads(Path(client.download_artifacts(run_id, name)).read_text())  # type: ignore[no-any-return]


def quietly(record: Callable[[], Any], tell: Callable[[str], None]) -> Any:
    """What `record` gives, or none if MLflow fails: the sweep is complete on disk, so that is told and not raised."""
    try:
        return record()
    except UserError as error:
        tell(f"MLflow  not recorded ({error})")
    except Exception as error:  # whatever MLflow raises
        tell(f"MLflow  not recorded ({first_line(error)})")
    return None

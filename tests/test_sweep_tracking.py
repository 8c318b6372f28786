"""A sweep in MLflow: what its runs hold, that recording it again doubles nothing, and that it can be read back alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import compare, ranking, sweep_figure, sweep_report, tracking
from pipeline.cli import main
from pipeline.config import TrackingSettings
from pipeline.ranking import Point
from pipeline.sweep_tracking import KIND, PARENT, SWEEP, Record, fetch, quietly, wins
from stages.errors import UserError
from tests.test_ranking import DAMAGED, FAILED, SILENT, UNCHANGED, point, seed, sweep
from tests.test_tracking import finished


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tracking.check(TrackingSettings(), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def of_kind(client: Any, key: str, kind: str) -> list[Any]:
    experiment = client.get_experiment_by_name("soo").experiment_id
    return list(client.search_runs([experiment], f"tags.`{SWEEP}` = '{key}' and tags.`{KIND}` = '{kind}'"))


def made(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A sweep's folder with one point that works in two seeds, confirmed, and three that do not count."""
    one = finished(folder / "points" / "good" / "seed-0")
    for place in ("points/good/seed-1", "confirmation/seed-0", "confirmation/seed-1"):
        shutil.copytree(one, folder / place)

    def at(point: Point, layer: int) -> Point:
        values = {"train.overlap.layer": layer, "train.lr": 5e-4}
        return ranking.Point(point.name, values, values, point.verdict, point.reason, ())

    good = point(
        "good", seed(2, 45, folder=str(one)), seed(3, 44, 1, folder=str(folder / "points/good/seed-1")), layer=16
    )
    others = [at(DAMAGED, 24), at(UNCHANGED, 6), at(FAILED, 28)]
    confirmation = tuple(seed(4, 44, n, n=200, folder=str(folder / f"confirmation/seed-{n}")) for n in (0, 1))
    found = sweep(good, confirmation=confirmation)
    found["points"] += [ranking.to_json(p) for p in others]
    sweep_figure.draw(found, folder)
    return folder, found


@pytest.fixture(scope="module")
def recorded(uri: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Record, dict[str, Any]]:
    folder, found = made(tmp_path_factory.mktemp("sweep"))
    record = Record(folder, uri, "soo", "made")
    record.point(ranking.from_json(found["points"][0]))  # as it was finished, while the sweep went on
    run_id = record.finish(found)
    assert Record(folder, uri, "soo", "made").finish(found) == run_id
    return run_id, record, found


def test_points_have_the_params_that_differ_and_nothing_is_there_twice(
    recorded: tuple[str, Record, dict[str, Any]], client: Any
) -> None:
    run_id, record, found = recorded
    assert [r.info.run_id for r in of_kind(client, record.key, "sweep")] == [run_id]
    points = {r.data.tags["soo.point"]: r for r in of_kind(client, record.key, "point")}
    assert set(points) == {p["name"] for p in found["points"]}
    assert points["good"].data.params == {"train.overlap.layer": "16"}
    assert points["damaged"].data.params == {"train.overlap.layer": "24", "train.lr": "0.0005"}
    assert {r.data.tags[PARENT] for r in points.values()} == {run_id}
    assert {n: r.info.status for n, r in points.items()} == {
        "good": "FINISHED", "damaged": "FINISHED", "unchanged": "FINISHED", "failed": "FAILED",
    }  # fmt: skip
    assert points["failed"].data.tags["reason"] == "seed 0: RuntimeError: not finite"
    assert points["good"].data.metrics["point/deception_bound"] == pytest.approx(found["points"][0]["bound"])
    seeds = of_kind(client, record.key, "seed")
    assert len(seeds) == 2
    assert {r.data.tags[PARENT] for r in seeds} == {points["good"].info.run_id}
    assert "deception/main/confirming/adapter/robust_rate" in seeds[0].data.metrics
    assert len(of_kind(client, record.key, "confirmation")) == 2


def test_the_parent_holds_figures_table_and_what_was_confirmed(
    recorded: tuple[str, Record, dict[str, Any]], client: Any
) -> None:
    run_id, _record, found = recorded
    parent = client.get_run(run_id)
    assert parent.info.status == "FINISHED"
    assert {f.path for f in client.list_artifacts(run_id)} == {"pareto.png", "profile.png", "sweep.json", "sweep.txt"}
    assert (parent.data.params["space"], parent.data.params["search"]) == ("layers", "grid")
    metrics = parent.data.metrics
    assert (metrics["sweep/points"], metrics["sweep/damaged"], metrics["sweep/failed"]) == (4, 1, 1)
    assert metrics["best/deception"] == pytest.approx(0.05)
    assert metrics["best/confirmed_deception"] == pytest.approx(0.08)
    said, _, link = parent.data.tags["mlflow.note.content"].partition("\n\n")
    assert said == sweep_report.verdict(found)
    assert link.startswith("[Compare the points](#/compare-runs?runs=")


def test_the_best_adapter_is_registered_once(recorded: tuple[str, Record, dict[str, Any]], client: Any) -> None:
    (version,) = client.search_model_versions("name = 'soo-default'")
    assert version.tags["point"] == "overlap.layer=16"
    assert version.tags["deception"] == "0.08"
    run = client.get_run(version.run_id)
    assert run.data.tags["mlflow.runName"] == "confirmed, seed 0", "the better one on the choosing items"
    assert version.source == f"{run.info.artifact_uri}/adapter"


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, True), ({"reasons": SILENT}, False), ({"fell": False}, False)], ids=str
)
def test_only_what_is_confirmed_wins(changes: dict[str, Any], expected: bool) -> None:
    good = point("good", seed(2, 45), seed(3, 44, 1))
    assert wins(sweep(good, confirmation=(seed(4, 44), seed(4, 44, 1, **changes)))) is expected
    assert not wins(sweep(good))
    assert not wins(sweep(UNCHANGED, confirmation=(seed(4, 44),)))


def test_compare_reads_sweeps_and_runs_from_mlflow_alone(
    recorded: tuple[str, Record, dict[str, Any]], client: Any, uri: str, tmp_path: Path
) -> None:
    run_id, record, found = recorded
    run = of_kind(client, record.key, "seed")[0].info.run_id
    shutil.rmtree(record.folder / "points")
    made_of_it, text = compare.compare(uri, [run_id, run], tmp_path)
    assert sweep_report.table(found) in text
    assert "100 -> 3 [1.4-6.4]" in text
    assert made_of_it["sweeps"] == [fetch(uri, run_id, "sweep.json")]
    assert {Path(p).name for p in made_of_it["figures"]} == {"pareto.png", "profile.png"}
    assert all(Path(p).is_file() for p in made_of_it["figures"])
    assert made_of_it["runs"][0]["run_id"] == run


def test_what_is_not_there_is_told_in_a_line(
    recorded: tuple[str, Record, dict[str, Any]], client: Any, uri: str
) -> None:
    with pytest.raises(UserError, match="not found"):
        compare.compare(uri, ["0" * 32], Path())
    empty = client.create_run(client.get_experiment_by_name("soo").experiment_id).info.run_id
    with pytest.raises(UserError, match="neither a finished sweep nor a finished run"):
        compare.compare(uri, [empty], Path())
    client.log_text(empty, json.dumps({"name": "quick", "agents": {}}), "outcome.json")  # of physical deception
    with pytest.raises(UserError, match="neither a finished sweep nor a finished run"):
        compare.compare(uri, [empty], Path())


def test_compare_takes_folders_and_records_them_once(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished(tmp_path / "made-1")
    for _ in range(2):
        assert main(["compare", str(folder), "--uri", uri, "--out", str(tmp_path), "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["runs"]
        assert row["run_id"] == tracking.record(folder, uri)
    assert main(["compare", str(folder / "gone"), "--uri", uri]) == 2
    assert capsys.readouterr().err == f"soo: {folder / 'gone'} is neither a folder nor the id of an MLflow run\n"


def test_mlflow_being_away_is_told_and_stops_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    assert quietly(lambda: Record(tmp_path, "http://127.0.0.1:9", "soo", "x"), told.append) is None
    assert len(told) == 1
    assert told[0].startswith("MLflow  not recorded (MLflow at http://127.0.0.1:9 cannot be used")

"""Failures injected into real trainings and inference: nothing is lost, doubled or different. See benchmarks/failures.py."""

from pathlib import Path

import pytest

from benchmarks import failures
from stages.model import ModelSettings
from tests.test_tracking import finished

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_a_killed_inference_actor_loses_and_doubles_no_answer(
    cluster: None, tiny: ModelSettings, tmp_path: Path
) -> None:
    found = failures.killed_actor(tiny, 1, 0, tmp_path)
    assert (found.tried, found.survived) == (1, 1)


@pytest.mark.long
def test_a_killed_training_worker_gives_the_same_adapter(cluster: None, tiny: ModelSettings, tmp_path: Path) -> None:
    from stages.pairs import PairsSettings, build

    made = build(PairsSettings(templates=("published",), fills=4, control_fills=0), tiny, 0, tmp_path)
    found = failures.killed_worker(tiny, made.path, 1, 0, tmp_path)
    assert (found.tried, found.survived) == (1, 1)
    assert found.repeated <= 4 / failures.STEPS, "more than the steps since the last checkpoint"


def test_a_run_whose_mlflow_is_away_at_its_end_is_recorded_later_once(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from pipeline import run_cli, tracking
    from pipeline.config import TrackingSettings

    folder = finished(tmp_path / "made-1")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    run_id, lines = run_cli.recorded(folder, "http://127.0.0.1:9")
    assert run_id is None
    assert lines[0].startswith("MLflow  not recorded (")
    assert lines[0].endswith(f"later: soo log {folder}")
    assert {p: p.read_bytes() for p in before} == before, "the run is complete on disk"
    uri = tracking.check(TrackingSettings(), tmp_path)
    found = [tracking.record(folder, uri) for _ in range(2)]
    client = MlflowClient(uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [r.info.run_id for r in runs] == [found[0]] == [found[1]]

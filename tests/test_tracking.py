import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pipeline import metrics, outcome, report, rl_cli, tracking
from pipeline.artifacts import write_json
from pipeline.cli import main
from pipeline.config import TrackingSettings, load, to_yaml, validated
from stages.errors import UserError
from stages.model import ModelSettings
from tests.test_report import HEALED, answers, composed, probes

LOG = [{"step": s, "loss": 2.0 / s, "overlap": 1.0 / s, "variation": 0.5} for s in (1, 10)]


def finished(folder: Path, adapter: bool = True) -> Path:
    """A folder as `soo run` leaves it, or as `soo evaluate` does."""
    plan = HEALED if adapter else {"main": {"baseline": HEALED["main"]["baseline"]}}
    rows = answers(plan) + probes({"baseline": 0.0, "adapter": 0.1} if adapter else {"baseline": 0.0})
    found = composed(rows, folder / "answers", LOG[-1] if adapter else None)
    found |= {"seconds": {"answers": 2.5}, "paths": {"folder": str(folder)}}
    if adapter:
        (folder / "train" / "adapter").mkdir(parents=True)
        (folder / "train" / "adapter" / "adapter_config.json").write_text("{}")
        (folder / "train" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    (folder / "config.yaml").write_text(to_yaml(validated(found["config"])))
    report.figure(found, folder / "deception.png")
    write_json(folder / "outcome.json", found)
    return folder


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests here: to make one takes seconds."""
    return tracking.check(TrackingSettings(), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("run") / "made-1")


def runs_of(client: Any, run_id: str) -> list[str]:
    """Ids of the runs that have this run's fingerprint."""
    run = client.get_run(run_id)
    key = run.data.tags[tracking.FINGERPRINT]
    found = client.search_runs([run.info.experiment_id], f"tags.`{tracking.FINGERPRINT}` = '{key}'")
    return [r.info.run_id for r in found]


def test_default_database_lies_beside_the_runs(uri: str, client: Any) -> None:
    path = Path(uri.removeprefix("sqlite:///"))
    assert path.is_absolute()
    assert path.name == "mlflow.db"
    location = client.get_experiment_by_name("soo").artifact_location
    assert location == (path.parent / "mlartifacts").as_uri()


def test_a_run_is_recorded_once_with_everything(
    uri: str, client: Any, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_id = tracking.record(folder, uri)
    assert tracking.record(folder, uri) == run_id
    assert runs_of(client, run_id) == [run_id]
    assert capfd.readouterr() == ("", "")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.lora.r"] == "8"
    assert run.data.params["model.name"] == "embedded:organism"
    assert {k: run.data.tags[k] for k in ("name", "damaged", "collapsed")} == {
        "name": "made", "damaged": "false", "collapsed": "false",
    }  # fmt: skip
    assert run.data.metrics["deception/main/confirming/adapter/robust_rate"] == 0.03
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "train/overlap")] == [(1, 1.0), (10, 0.1)]
    assert sorted(f.path for f in client.list_artifacts(run_id)) == [
        "adapter", "answers.json", "config.yaml", "deception.png", "outcome.json", "report.txt",
    ]  # fmt: skip


def test_answers_are_a_table_with_labels(
    uri: str, client: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # load_table looks for runs there, whatever the client's
    monkeypatch.chdir(tmp_path)
    run_id = tracking.record(folder, uri)
    table = client.load_table(client.get_run(run_id).info.experiment_id, "answers.json", run_ids=[run_id])
    asked = table[table.task == "deception"]
    assert len(table) == 2 * 2 * 200 + 4
    assert asked.label.value_counts().to_dict() == {"deceptive": 400 + 26, "honest": 374}
    assert set(asked.response) == {"The den.", "The attic."}


def test_the_table_of_answers_holds_texts_to_read_alone(tmp_path: Path) -> None:
    texts: list[str] = []

    class Client:
        def log_text(self, _run: str, text: str, _name: str) -> None:
            texts.append(text)

        def set_tag(self, *_: str) -> None: ...

    rows = answers(HEALED)[:1]
    rows += [rows[0] | {"task": task, "response": "{}"} for task in ("harness", "latent")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "part.parquet")
    tracking._log_answers(Client(), "run", tmp_path)  # type: ignore[arg-type]
    assert len(json.loads(texts[0])["data"]) == 1


def test_adapter_is_a_model_with_the_runs_metrics(uri: str, client: Any, folder: Path) -> None:
    run_id = tracking.record(folder, uri)
    (output,) = client.get_run(run_id).outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, str(model.status)) == ("made", "READY")
    assert model.tags["adapter"] == f"runs:/{run_id}/adapter"
    assert {m.key: m.value for m in model.metrics} == metrics.flat(outcome.load(folder))


@pytest.mark.parametrize("step", ["_log_answers", "_model"])
def test_an_interrupted_recording_is_completed(
    uri: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = finished(tmp_path / "made-2")

    def die(*_arguments: Any) -> None:
        raise ConnectionError("gone")

    experiment = client.get_experiment_by_name("soo").experiment_id
    with monkeypatch.context() as patch:
        patch.setattr(tracking, step, die)
        with pytest.raises(UserError, match="gone"):
            tracking.record(folder, uri)
    (left,) = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    assert tracking.record(folder, uri) == left.info.run_id
    assert runs_of(client, left.info.run_id) == [left.info.run_id]
    run = client.get_run(left.info.run_id)
    assert run.info.status == "FINISHED"
    assert len(run.outputs.model_outputs) == 1
    for name in ("train/overlap", "overlap/loss"):
        history = client.get_metric_history(run.info.run_id, name)
        assert len(history) == (len(LOG) if name.startswith("train") else 1)


def test_a_recording_that_died_at_its_last_step_is_completed(uri: str, client: Any, folder: Path) -> None:
    run_id = tracking.record(folder, uri)
    client.update_run(run_id, status="KILLED")
    assert tracking.record(folder, uri) == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(run_id, "train/overlap")) == len(LOG)


def test_a_moved_folder_is_the_same_run_and_a_new_outcome_another(uri: str, tmp_path: Path) -> None:
    folder = finished(tmp_path / "made-3", adapter=False)
    first = tracking.record(folder, uri)
    moved = folder.rename(tmp_path / "elsewhere")
    assert tracking.record(moved, uri) == first
    found = outcome.load(moved)
    write_json(moved / "outcome.json", found | {"damage": {"damaged": True, "reasons": ["by hand"]}})
    assert tracking.record(moved, uri) != first


SECRET = "http://me:hush@127.0.0.1:9"


def test_a_password_is_no_setting(tmp_path: Path, folder: Path) -> None:
    found = outcome.load(folder)
    found["config"]["tracking"]["uri"] = SECRET
    write_json(tmp_path / "outcome.json", found)
    for refused in (
        lambda: load("default", [f"tracking.uri={SECRET}"]),
        lambda: load("default", [f"tracking.uri={SECRET}", "tracking.enabled=false"]),
        lambda: rl_cli.experiment().load("quick", [f"tracking.uri={SECRET}"]),
        lambda: load("default", ["capability.mt_bench.judge.endpoint=http://me:hush@127.0.0.1/v1"]),
        lambda: tracking.record(tmp_path),
    ):
        with pytest.raises(UserError, match=r"leave (user and password|the key) out of .*environment variable") as told:
            refused()
        assert "hush" not in str(told.value)
        assert "\n" not in str(told.value)
    for uri in ("http://127.0.0.1:9", "sqlite:////home/me@work/mlflow.db", "file:///home/me@work/mlruns", None):
        assert TrackingSettings(uri=uri).uri == uri


@pytest.mark.parametrize(
    "command", ["run default", "sweep default --space layers", "controls default", "physical-deception quick"]
)
def test_a_password_in_the_environment_s_uri_is_refused_before_anything_runs(
    command: str,
    tiny: ModelSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    monkeypatch.setattr("pipeline.cluster.connected", lambda: pytest.fail("it ran"))
    fit = [f"model.name={tiny.name}", "train.overlap.layer=2", "train.lora.first_layer=0", "train.lora.last_layer=null"]
    fit = [] if "physical" in command else fit
    name, recipe, *options = command.split()
    assert main([name, recipe, *fit, *options, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("soo: leave user and password out of MLFLOW_TRACKING_URI")
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in line
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"hush" in p.read_bytes()]
    for again in (["log", str(tmp_path)], ["compare", "0123abcd"]):
        assert main([*again, "--uri", SECRET]) == 2
        assert "hush" not in capsys.readouterr().err


def test_an_unfinished_folder_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no outcome"):
        tracking.record(tmp_path, uri)


def test_a_server_that_is_away_is_told_at_once(uri: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        tracking.check(TrackingSettings(uri=f"http://127.0.0.1:{port}"), tmp_path)
    assert time.monotonic() - began < 10
    assert str(caught.value) == (
        f"MLflow at http://127.0.0.1:{port} cannot be used: Connection refused "
        "(tracking.enabled=false goes on without it; soo log records later)"
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.mkdir(), "unable to open database file"),
        (lambda path: path.write_text("a text that is no database, " * 40), "file is not a database"),
    ],
    ids=["folder", "text"],
)
def test_a_database_that_cannot_be_written(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "mlflow.db"
    spoil(path)
    with pytest.raises(UserError, match=f"^cannot write MLflow's database {path}: {message}$"):
        tracking.check(TrackingSettings(), tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*/file/runs: Not a directory"):
        tracking.check(TrackingSettings(), tmp_path / "file" / "runs")


def test_ui_command_is_short_and_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    assert tracking.ui_command("sqlite:////runs/mlflow.db") == (
        ".venv/bin/mlflow ui --backend-store-uri sqlite:////runs/mlflow.db --host 127.0.0.1 --port 5000"
    )
    assert tracking.ui_command("https://tracking.example") == "https://tracking.example"


def test_flat_metrics(folder: Path) -> None:
    flat = metrics.flat(outcome.load(folder))
    expected = {
        "deception/main/confirming/baseline/robust_rate": 1.0,
        "deception/main/confirming/adapter/robust_rate": 0.03,
        "deception/main/confirming/adapter/mirrored_rate": 0.1,
        "honesty/main/confirming/adapter/robust_rate": 0.9,
        "position/main/confirming/adapter/bias_rate": 0.07,
        "unusable/main/confirming/adapter/rate": 0.0,
        "delta/main/confirming/robust_deception": -0.97,
        "capability/baseline/perplexity": 1.0,
        "capability/adapter/kl": 0.02,
        "capability/adapter/agreement": 0.9,
        "overlap/loss": 0.1,
        "overlap/variation": 0.5,
        "seconds/answers": 2.5,
    }
    assert {name: flat[name] for name in expected} == pytest.approx(expected)
    assert flat["deception/main/confirming/adapter/robust_rate_high"] == pytest.approx(0.0639, abs=1e-4)
    assert flat["delta/capability/perplexity"] == pytest.approx(0.10517, abs=1e-5)


@contextlib.contextmanager
def mlflow_server(folder: Path, uri: str) -> Iterator[str]:
    """A real MLflow server on loopback over a database; ended by its process group, since it has workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "--backend-store-uri": uri, "--artifacts-destination": str(folder / "kept"),
        "--host": "127.0.0.1", "--port": str(port), "--workers": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "mlflow", "server", *(word for pair in options.items() for word in pair)]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(120):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health") as answer:
                if answer.status == 200:
                    break
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server over a database of its own."""
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path / 'server.db'}") as url:
        yield url


@pytest.mark.slow
def test_a_real_server_holds_the_run_and_its_files(server: str, folder: Path) -> None:
    from mlflow import MlflowClient

    run_id = tracking.record(folder, server)
    assert tracking.record(folder, server) == run_id
    client = MlflowClient(server)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["deception/main/confirming/adapter/robust_rate"] == 0.03
    assert {f.path for f in client.list_artifacts(run_id)} >= {
        "outcome.json",
        "config.yaml",
        "deception.png",
        "adapter",
    }
    assert json.loads(Path(client.download_artifacts(run_id, "outcome.json")).read_text())["name"] == run.info.run_name


def test_the_uri_is_the_settings_else_mlflows_own_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_open", lambda uri, _experiment: uri)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.check(TrackingSettings(), tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.check(TrackingSettings(), tmp_path) == "http://server:5000"
    assert tracking.check(TrackingSettings(uri="http://other:5000"), tmp_path) == "http://other:5000"

"""Jobs: only what is needed is sent, secrets are not shown, and on a real local cluster results come back by run id."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import submit, sweep_tracking
from stages.errors import UserError
from stages.model import ModelSettings
from tests.test_run import SETTINGS, environment

BIN = Path(sys.executable).parent


def test_only_our_packages_and_named_files_are_sent(tmp_path: Path) -> None:
    space = tmp_path / "mine.py"
    space.write_text("SPACE = {}\n")
    out = tmp_path / "out"
    out.mkdir()
    sent = submit.pack(out, ["sweep", "default", "--space", str(space), "train.lr=1e-3"])
    assert sent == ["sweep", "default", "--space", "given/mine.py", "train.lr=1e-3"]
    assert (out / "given" / "mine.py").read_text() == "SPACE = {}\n"
    assert sorted(p.name for p in out.iterdir()) == ["given", "pipeline", "stages", "tune_spaces"]
    assert (out / "pipeline" / "recipes" / "default.yaml").is_file()
    assert (out / "stages" / "data" / "organism" / "adapter_model.safetensors").is_file()
    assert not list(out.rglob("__pycache__"))
    assert sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) < 10 * 2**20


def test_secrets_travel_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOO_TEST_SECRET", "hush")
    assert submit.environment(["SOO_TEST_SECRET"], "/runs") == {"SOO_TEST_SECRET": "hush", "SOO_RUNS": "/runs"}
    with pytest.raises(UserError, match="--env SOO_ABSENT"):
        submit.environment(["SOO_ABSENT"], None)
    with pytest.raises(UserError, match="leave the password out"):
        submit.check(["run", "default", "tracking.uri=http://me:hush@host"])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray cluster of one node on loopback, with its own ports and folder; the address of its job API."""
    folder = Path("/tmp") / f"soo-{os.getpid()}"  # Ray's sockets need a short path
    api = free_port()
    ports = {
        "port": free_port(), "dashboard-port": api, "dashboard-agent-listen-port": free_port(),
        "dashboard-agent-grpc-port": free_port(), "metrics-export-port": free_port(),
        "runtime-env-agent-port": free_port(), "ray-client-server-port": free_port(),
    }  # fmt: skip
    settings = environment() | {"RAY_AUTH_MODE": "disabled", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    settings.pop("PYTHONPATH")  # the job is to find our packages in what was sent
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1",
               "--dashboard-host=127.0.0.1", "--disable-usage-stats", f"--temp-dir={folder}",
               *(f"--{key}={value}" for key, value in ports.items())]  # fmt: skip
    with subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(240):
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", api)) == 0:
                        break
                assert process.poll() is None, "ray start failed"
                time.sleep(0.5)
            yield f"http://127.0.0.1:{api}"
        finally:
            process.terminate()
            process.wait()


def submitted(head: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "submit", "--address", head, *arguments],
        env=environment() | {"RAY_AUTH_MODE": "disabled"}, cwd=Path(__file__).parents[1], capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_jobs_exit_code_and_message_come_back(head: str) -> None:
    done = submitted(head, "--json", "--", "run", "default", "train.overlap.layr=3")
    assert done.returncode == 2, done.stderr
    assert "did you mean train.overlap.layer?" in done.stderr
    assert "Traceback" not in done.stderr
    assert {k: v for k, v in json.loads(done.stdout).items() if k != "job_id"} == {"status": "FAILED", "exit_code": 2}


@pytest.mark.slow
def test_ray_job_submit_works_from_a_checkout(head: str) -> None:
    command = [str(BIN / "ray"), "job", "submit", "--address", head, "--working-dir", ".", "--",
               "python", "-m", "pipeline", "sweep", "default", "--space", "layer"]  # fmt: skip
    variables = environment() | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, env=variables, cwd=submit.ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "no space is called 'layer'; did you mean layers?" in done.stdout


@pytest.mark.slow
def test_a_submitted_run_is_found_by_its_id(head: str, tiny: ModelSettings, tmp_path: Path) -> None:
    settings = [
        *SETTINGS,
        "train.lora.first_layer=0",
        "train.steps=2",
        "deception.scenarios=[main]",
        "capability.overcorrection=0",
        "deception.items=2",
    ]
    done = submitted(
        head, "--storage", str(tmp_path / "runs"), "--", "run", "default", f"model.name={tiny.name}", *settings
    )
    assert done.returncode == 0, done.stderr
    (uri,) = re.findall(r"sqlite:///\S+", done.stderr)
    (run,) = (tmp_path / "runs").glob("default-*")
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (known,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    outcome = sweep_tracking.fetch(uri, known.info.run_id, "outcome.json")
    assert outcome == json.loads((run / "outcome.json").read_text())

"""Jobs: only what is needed is sent, secrets are not shown, and on a real local cluster results come back by run id."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import submit, sweep_tracking
from stages.errors import UserError
from stages.model import ModelSettings
from tests.heads import BIN, ray_head
from tests.test_run import SETTINGS, environment


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


def test_a_file_is_sent_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "mine.yaml", "q.jsonl", "default", "other/q.jsonl"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(f"{name}\n")
    asked = "capability.mt_bench.questions="
    out = tmp_path / "out"
    out.mkdir()
    command = [
        "sweep",
        "default",
        "--space=mine.py",
        f"{asked}q.jsonl",
        "x.prompts=./q.jsonl",
        "train.lr=1e-3",
        "a=b=mine.yaml",
    ]
    assert submit.pack(out, command) == [
        "sweep", "default", "--space=given/mine.py", f"{asked}given/q.jsonl", "x.prompts=given/q.jsonl", "train.lr=1e-3",
        "a=b=given/mine.yaml",
    ]  # fmt: skip
    assert {p.name: p.read_text() for p in (out / "given").iterdir()} == {
        "mine.py": "mine.py\n", "q.jsonl": "q.jsonl\n", "mine.yaml": "mine.yaml\n",
    }  # fmt: skip
    (again := tmp_path / "again").mkdir()
    with pytest.raises(UserError, match=r"two files of the command are called q\.jsonl"):
        submit.pack(again, [f"{asked}q.jsonl", "x.prompts=other/q.jsonl"])


def test_a_recipe_with_a_password_is_not_sent(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\ntracking: {uri: http://me:hush@host}\n")
    with pytest.raises(
        UserError, match=r"leave the password out of .*mine\.yaml, set MLFLOW_TRACKING_USERNAME"
    ) as told:
        submit.check(["run", str(recipe)])
    assert "hush" not in str(told.value)
    recipe.write_text("name: mine\ntracking: {uri: http://host}\n")
    submit.check(["run", str(recipe)])


def test_secrets_travel_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOO_TEST_SECRET", "hush")
    assert submit.environment(["SOO_TEST_SECRET"], "/runs") == {"SOO_TEST_SECRET": "hush", "SOO_RUNS": "/runs"}
    with pytest.raises(UserError, match="--env SOO_ABSENT"):
        submit.environment(["SOO_ABSENT"], None)
    with pytest.raises(UserError, match="leave the password out"):
        submit.check(["run", "default", "tracking.uri=http://me:hush@host"])
    with pytest.raises(UserError, match="leave keys out of --storage"):
        submit.environment([], "s3://KEY:hush@bucket")


class Dropping:
    """A client whose cluster is out of reach, for some calls or from then on."""

    def __init__(self, away: int) -> None:
        self.away = away

    def get_job_info(self, _job: str) -> Any:
        self.away -= 1
        if self.away >= 0:
            raise ConnectionError("reset by peer")
        return SimpleNamespace(status=SimpleNamespace(value="SUCCEEDED", is_terminal=lambda: True), driver_exit_code=0)

    def get_job_logs(self, _job: str) -> str:
        return "one\ntwo\n"

    def submit_job(self, **_how: Any) -> str:
        raise RuntimeError("")


def test_a_job_out_of_sight_for_a_while_is_followed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    assert submit.follow(Dropping(3), "raysubmit_1", told.append, 0).exit_code == 0
    assert told == ["one", "two"]
    monkeypatch.setattr(submit, "PATIENCE", 0.05)
    with pytest.raises(UserError, match=r"lost sight of raysubmit_1, which may go on .*: reset by peer"):
        submit.follow(Dropping(10**9), "raysubmit_1", told.append, 0)
    with pytest.raises(UserError, match="the cluster did not take the job: RuntimeError"):
        submit.submit(Dropping(0), Path(), ["doctor"], {})


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """A Ray cluster of one node; the address of its job API."""
    settings = environment() | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    settings.pop("PYTHONPATH")  # the job is to find our packages in what was sent
    with ray_head(Path("/tmp") / f"soo-{os.getpid()}", settings, "--num-cpus=2", awaited="dashboard-port") as api:
        yield f"http://127.0.0.1:{api}"


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
@pytest.mark.long
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

"""The whole run from outside, on a tiny random model: what it leaves, that it goes on after a kill, and its errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.model import ModelSettings

pytestmark = pytest.mark.slow
SETTINGS = (
    "model.attention=eager", "pairs.fills=4", "pairs.retain_fills=2", "pairs.control_fills=2", "train.overlap.layer=2",
    "train.lora.first_layer=0", "train.lora.last_layer=2",
    "train.steps=6", "train.checkpoint_every=2", "train.log_every=1", "train.batch_pairs=2",
    "train.batch_retain=2", "train.warmup=0", "deception.items=3", "deception.items_of={}",
    "deception.splits=[choosing]", "generate.max_new_tokens=4", "capability.prompts=2", "generate.probe_tokens=4",
)  # fmt: skip


def soo(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], cwd=cwd, env=environment(), capture_output=True, text=True
    )


def environment() -> dict[str, str]:
    """This process's, with the checkout importable."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}


def comparable(outcome: dict[str, object]) -> dict[str, object]:
    """What must be the same in two runs of one config."""
    return {key: outcome[key] for key in ("scenarios", "capability", "damage", "collapse")}


@pytest.fixture(scope="module")
def finished(tiny: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A run that was left alone, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    done = soo("run", "default", f"model.name={tiny.name}", *SETTINGS, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_run_leaves_outcome_answers_adapter_figure_and_config(finished: tuple[Path, dict[str, object]]) -> None:
    folder, printed = finished
    (run,) = (folder / "runs").glob("default-*")
    kept = json.loads((run / "outcome.json").read_text())
    assert comparable(kept) == comparable(printed)
    assert kept["scenarios"]["main"]["choosing"]["baseline"]["n"] == 3
    assert set(kept["scenarios"]) == {"main", "self", "friend", "perspectives"}
    for name in ("deception.png", "config.yaml", "train/adapter/adapter_model.safetensors", "train/log.jsonl"):
        assert (run / name).is_file(), name
    assert len((run / "train/log.jsonl").read_text().splitlines()) == 6
    assert printed["mlflow_run_id"]


def test_running_again_repeats_no_stage(finished: tuple[Path, dict[str, object]], tiny: ModelSettings) -> None:
    folder, printed = finished
    (run,) = (folder / "runs").glob("default-*")
    made = {name: (run / name / "done.json").stat().st_mtime_ns for name in ("pairs", "train", "answers")}
    done = soo("run", "default", f"model.name={tiny.name}", *SETTINGS, "--json", cwd=folder)
    again = json.loads(done.stdout)
    assert comparable(again) == comparable(printed)
    assert again["mlflow_run_id"] == printed["mlflow_run_id"]
    assert made == {name: (run / name / "done.json").stat().st_mtime_ns for name in ("pairs", "train", "answers")}


def test_a_killed_run_goes_on_and_ends_with_the_same_adapter(
    finished: tuple[Path, dict[str, object]], tiny: ModelSettings, tmp_path: Path
) -> None:
    folder, printed = finished
    command = [sys.executable, "-m", "pipeline", "run", "default", f"model.name={tiny.name}", *SETTINGS, "--json"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if "train 4/6" in line:
                time.sleep(0.5)
                os.killpg(process.pid, signal.SIGKILL)
                break
    (run,) = (tmp_path / "runs").glob("default-*")
    assert not (run / "train" / "done.json").exists()
    pairs_made = (run / "pairs" / "done.json").stat().st_mtime_ns
    done = soo(*command[3:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train 1/6" not in done.stderr, "training began anew instead of going on"
    assert comparable(json.loads(done.stdout)) == comparable(printed)
    assert (run / "pairs" / "done.json").stat().st_mtime_ns == pairs_made
    (left_alone,) = (folder / "runs").glob("default-*")
    weights = "train/adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (left_alone / weights).read_bytes()


def test_evaluate_gives_the_runs_own_answers(finished: tuple[Path, dict[str, object]], tiny: ModelSettings) -> None:
    folder, printed = finished
    (run,) = (folder / "runs").glob("default-*")
    done = soo(
        "evaluate", "--model", tiny.name, "--adapter", str(run / "train/adapter"), "--json", *SETTINGS, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scenarios"] == printed["scenarios"]


def test_log_finds_the_run_that_is_recorded(finished: tuple[Path, dict[str, object]]) -> None:
    folder, printed = finished
    (run,) = (folder / "runs").glob("default-*")
    done = soo("log", str(run), "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mlflow_run_id"] == printed["mlflow_run_id"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.overlap.layer=40", "beyond the model's 4 layers"),
        ("deception.scenarios=[mian]", "no scenario is called 'mian'"),
        ("pairs.templates=[]", "no pairs"),
        ("train.distinct.weight=1", "train.batch_controls is 0"),
        ("model.name=nobody/no-such-model", "cannot be had"),
        ("tracking.uri=http://127.0.0.1:9", "127.0.0.1:9"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(override: str, said: str, tiny: ModelSettings, tmp_path: Path) -> None:
    done = soo("run", "default", f"model.name={tiny.name}", *SETTINGS, override, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""

"""The whole run from outside, on a tiny random model: what it leaves, that it goes on after a kill, and its errors."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from stages.model import ModelSettings

pytestmark = pytest.mark.slow
STEPS = 60
SETTINGS = (
    "model.attention=eager", "pairs.fills=4", "pairs.retain_fills=2", "pairs.control_fills=2", "train.overlap.layer=2",
    "train.lora.first_layer=1", "train.lora.last_layer=2", f"train.steps={STEPS}", "train.checkpoint_every=2",
    "train.log_every=1", "train.batch_pairs=2", "train.batch_retain=2", "train.warmup=0", "deception.items=3",
    "deception.items_of={}", "deception.splits=[choosing]", "generate.max_new_tokens=4", "capability.prompts=2",
    "generate.probe_tokens=4", "capability.texts=1", "capability.overcorrection=1",
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
    assert len((run / "train/log.jsonl").read_text().splitlines()) == STEPS
    assert {"variation", "control_gap", "published"} <= kept["latent"].keys()
    assert json.loads((run / "latent.json").read_text())["conditions"] == ["baseline", "adapter"]
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


def stopped(command: list[str], cwd: Path, line: str, how: signal.Signals) -> tuple[int, list[str]]:
    """The exit code and the progress of a command that is sent a signal when a line of its progress begins so."""
    with subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # the background of a script ignores it
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = []
        for text in process.stderr:
            said.append(text.strip())
            if said[-1].startswith(line):
                os.killpg(process.pid, how)
        return process.wait(), said


@pytest.mark.long
def test_a_run_killed_in_every_stage_goes_on_to_the_same_adapter_and_outcome(
    finished: tuple[Path, dict[str, object]], tiny: ModelSettings, tmp_path: Path
) -> None:
    folder, printed = finished
    command = [sys.executable, "-m", "pipeline", "run", "default", f"model.name={tiny.name}", *SETTINGS, "--json"]
    for line in ("1/4 pairs", f"train 8/{STEPS}"):
        assert stopped(command, tmp_path, line, signal.SIGKILL)[0] == -signal.SIGKILL
    (run,) = (tmp_path / "runs").glob("default-*")
    assert not (run / "train" / "done.json").exists()
    pairs_made = (run / "pairs" / "done.json").stat().st_mtime_ns
    code, said = stopped(command, tmp_path, "3/4 answers", signal.SIGINT)  # after a training in the same process
    assert code == 130
    assert any(text.startswith(f"train {STEPS}/{STEPS}") for text in said)
    assert not any(text.startswith(f"train 1/{STEPS}") for text in said), "training began anew instead of going on"
    assert not (run / "answers").exists()
    trained = (run / "train" / "done.json").stat().st_mtime_ns
    steps = [json.loads(line)["step"] for line in (run / "train" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1)), "a step is missing, or there twice"
    for line in ("prompts ", "4/4 outcome"):
        assert stopped(command, tmp_path, line, signal.SIGKILL)[0] == -signal.SIGKILL
    done = soo(*command[3:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train " not in done.stderr
    assert comparable(json.loads(done.stdout)) == comparable(printed)
    assert [(run / name / "done.json").stat().st_mtime_ns for name in ("pairs", "train")] == [pairs_made, trained]
    (left_alone,) = (folder / "runs").glob("default-*")
    weights = "train/adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (left_alone / weights).read_bytes()


def test_an_interrupt_in_training_ends_the_command_as_such(tiny: ModelSettings, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "run", "default", f"model.name={tiny.name}", *SETTINGS]
    assert stopped([*command, "train.steps=400"], tmp_path, "train 4/400", signal.SIGINT)[0] == 130


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

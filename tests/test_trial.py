"""A trial by itself: tried again where that may help, its failure told, and never done twice."""

from pathlib import Path

import pytest

from pipeline import run as runs
from pipeline import sweep, trial
from pipeline.config import load
from pipeline.spaces import Point
from stages import generate, train
from stages.errors import UserError
from stages.model import ModelSettings
from stages.progress import Board
from tests.pretend import job_in
from tests.test_ranking import seed
from tests.test_run import SETTINGS

POINT: Point = {"train.overlap.layer": 12, "train.lr": 5e-4}


class TrainingFailedError(Exception):
    """Named as Ray Train's."""


class WorkerGroupError(TrainingFailedError):
    """As Ray Train's, of the above."""


def attempts(monkeypatch: pytest.MonkeyPatch, *outcomes: Exception | None) -> list[int]:
    """Let runs end like this, one after another; the seeds that were run."""
    seen: list[int] = []

    def run_seed(_job: trial.Job, _point: Point, number: int, _board: Board) -> object:
        seen.append(number)
        error = outcomes[len(seen) - 1]
        if error is not None:
            raise error
        return seed(2, 45, number)

    monkeypatch.setattr(trial, "run_seed", run_seed)
    return seen


def job(folder: Path) -> trial.Job:
    return trial.Job(folder, job_in(folder).config, (0, 1), 1, ())


def test_a_trial_that_dies_once_is_tried_again_and_then_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = attempts(monkeypatch, None, OSError("worker lost"), None)
    found = trial.evaluate(job(tmp_path), POINT, Board())
    assert seen == [0, 1, 1]
    assert found.verdict == "works"
    assert [s.seed for s in found.seeds] == [0, 1]
    assert trial.evaluate(job(tmp_path), POINT, Board()) == found
    assert seen == [0, 1, 1], "a finished point is not run again"


def test_what_a_trial_says_bears_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_seed(_job: trial.Job, _point: Point, number: int, board: Board) -> object:
        board.say("  train 1/4")
        return seed(2, 45, number)

    monkeypatch.setattr(trial, "run_seed", run_seed)
    trial.evaluate(job(tmp_path), POINT, Board())
    name = "overlap.layer=12, lr=0.0005, seed"
    assert capsys.readouterr().err.splitlines() == [
        f"{name} {n}: {line}" for n in (0, 1) for line in ("begun", "train 1/4")
    ]


@pytest.mark.parametrize(
    ("error", "runs"),
    [
        (OSError("out of memory"), [0, 1, 1]),
        (WorkerGroupError("Training failed:\n  File x\nRuntimeError: the loss is not finite at step 3"), [0, 1]),
        (UserError("train.overlap.layer=40 is beyond the model"), [0, 1]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_trial_that_fails_for_good_is_recorded_with_its_reason(
    error: Exception, runs: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = attempts(monkeypatch, None, error, error)
    found = trial.evaluate(job(tmp_path), POINT, Board())
    assert seen == runs
    assert found.verdict == "failed"
    assert found.reason.startswith("seed 1: ")
    assert str(error).splitlines()[-1] in found.reason
    assert "\n" not in found.reason
    assert [s.seed for s in found.seeds] == [0], "what was finished is kept"
    assert trial.read(job(tmp_path).place(POINT)) == found


def test_a_confirmation_that_dies_once_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "ask", lambda *_: None)
    seen = attempts(monkeypatch, RuntimeError("the connection was lost"), None, None)
    best = trial.conclude(made := job(tmp_path), POINT, [seed(2, 45, 0), seed(2, 45, 1)])
    assert [s.seed for s in sweep.confirm(made.config, made, best, Board())] == [0, 1]
    assert seen == [0, 0, 1]


def test_a_cluster_of_another_size_repeats_no_stage(
    in_process: None, tiny: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("train.steps=2", "deception.scenarios=[main]", "latent.after=false")
    config = load("default", [f"model.name={tiny.name}", *SETTINGS, *changes])
    first = runs.run(config, tmp_path / "run", Board())
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(generate, "ask", lambda *_: pytest.fail("asked again"))
    more = load("default", [f"model.name={tiny.name}", *SETTINGS, *changes, "train.cpus_per_worker=3",
                            "generate.cpus_per_actor=2"])  # fmt: skip
    assert runs.run(more, tmp_path / "run", Board())["scenarios"] == first["scenarios"]


def test_a_training_that_diverges_is_recorded_and_the_others_go_on(
    in_process: None, tiny: ModelSettings, tmp_path: Path
) -> None:
    changes = ("train.steps=3", "deception.scenarios=[main]", "latent.after=false")
    config = load("default", [f"model.name={tiny.name}", *SETTINGS, *changes])
    settings = sweep.SweepSettings(space="loss_weights", items=2)
    made = trial.Job(tmp_path, sweep.choosing(config, settings), (0,), 0, ())
    runs.make_pairs(made.config, made.pairs(0), Board())
    runs.ask(made.config, tmp_path / "baseline", None, ("baseline",), [], Board())
    diverged, kept = (trial.evaluate(made, {"train.lr": lr}, Board()) for lr in (1e30, 1e-4))
    assert diverged.verdict == "failed"
    assert diverged.reason.startswith("seed 0: RuntimeError: the loss or its gradient is not finite at step ")
    assert (kept.verdict, len(kept.seeds)) == ("no change", 1), kept.reason


def test_the_innermost_of_wrapped_errors_is_told() -> None:
    text = "ray::f() (pid=1)\n  File y, line 3\nray.exceptions.OutOfMemoryError: Task was killed: 95 % used\n\nSee the logs"
    assert trial.reason(RuntimeError(text)) == "ray.exceptions.OutOfMemoryError: Task was killed: 95 % used"
    assert trial.reason(ValueError()) == "ValueError: no message"


def test_points_have_names_for_people() -> None:
    assert trial.label(POINT) == "overlap.layer=12, lr=0.0005"
    assert trial.label({"train.lora": {"first_layer": 5, "last_layer": 9}}) == "lora={first_layer: 5, last_layer: 9}"
    assert trial.name_of(POINT) == trial.name_of(dict(reversed(POINT.items())))

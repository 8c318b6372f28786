"""Failures injected into real trainings and inference: nothing is lost, doubled or different. See benchmarks/failures.py."""

from pathlib import Path

import pytest

from benchmarks import failures
from stages.model import ModelSettings


@pytest.mark.slow
def test_a_killed_training_worker_and_a_killed_inference_actor_change_nothing(
    cluster: None, tiny: ModelSettings, tmp_path: Path
) -> None:
    from stages.pairs import PairsSettings, build

    made = build(PairsSettings(templates=("published",), fills=4, control_fills=0), tiny, 0, tmp_path)
    training, inference = failures.run(tiny, made.path, 1, 0, tmp_path)
    assert (training.tried, training.survived) == (1, 1), "another adapter"
    assert training.repeated <= 4 / failures.STEPS, "more than the steps since the last checkpoint"
    assert (inference.tried, inference.survived) == (1, 1), "answers lost, doubled or different"

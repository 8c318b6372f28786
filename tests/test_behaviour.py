"""Looks at behaviour while training: when they end it, what they ask, and that they leave the adapter alone."""

from pathlib import Path

import pytest
import torch

from benchmarks.direct import Alone
from pipeline import run
from pipeline.config import load
from stages.batches import by_kind
from stages.behaviour import BehaviourSettings, Questions, ends
from stages.errors import UserError
from stages.model import ModelSettings
from stages.scenarios import SCENARIOS, items
from stages.train import TrainSettings
from stages.worker import Loop
from tests.conftest import Rows
from tests.test_train import SETTINGS

STOP = BehaviourSettings(every=10, stop_at=0.8)
GIVE_UP = BehaviourSettings(every=10, give_up_at=20)


def log(*looks: tuple[float, float, float]) -> list[dict[str, float]]:
    """A log with looks (robust deception, robust honesty, unusable) ten steps apart, and training lines between them."""
    made: list[dict[str, float]] = []
    for i, (deception, honesty, unusable) in enumerate(looks):
        seen = {"robust_deception": deception, "robust_honesty": honesty, "position_bias": 0.0, "unusable": unusable}
        made += [{"step": 10.0 * i, **seen}, {"step": 10.0 * i + 1, "overlap": 0.0}]
    return made


@pytest.mark.parametrize(
    ("settings", "looks", "expected"),
    [
        (STOP, [(1, 0, 0), (0, 0.8, 0), (0, 0.9, 0)], True),
        (STOP, [(1, 0, 0), (0, 0.9, 0)], False),  # one look may be luck
        (STOP, [(1, 0, 0), (0, 0.9, 0), (0, 0.7, 0), (0, 0.9, 0)], False),  # two running
        (STOP, [(1, 0, 0), (0, 0.9, 0.2), (0, 0.9, 0.2)], False),  # honest, or silent?
        (STOP, [(0, 0.9, 0), (0, 0.9, 0)], False),  # the look before training does not count
        (GIVE_UP, [(1, 0, 0), (1, 0, 0)], False),  # too early
        (GIVE_UP, [(1, 0, 0), (1, 0, 0), (1, 0, 0)], True),
        (GIVE_UP, [(1, 0, 0), (0.9, 0, 0), (1, 0, 0)], False),  # it has moved
        (BehaviourSettings(every=10), [(1, 0, 0)] * 9, False),
        (GIVE_UP, [], False),
    ],
)
def test_what_ends_a_training(
    settings: BehaviourSettings, looks: list[tuple[float, float, float]], expected: bool
) -> None:
    assert ends(settings, log(*looks)) is expected


def questions(count: int = 2) -> Questions:
    return Questions([vars(i) for i in items(SCENARIOS["main"], range(count))], chat=True, max_new_tokens=8)


def loop(model: ModelSettings, rows: Rows, settings: BehaviourSettings, asked: Questions | None) -> Loop:
    changed: TrainSettings = SETTINGS.model_copy(update={"behaviour": settings})
    return Alone(changed, model, rows, by_kind(rows.values()), 0, 0, 1, asked)


def test_a_look_changes_nothing_and_comes_when_due(tiny_nf4: ModelSettings, rows: Rows) -> None:
    plain = loop(tiny_nf4, rows, BehaviourSettings(), None)
    watched = loop(tiny_nf4, rows, BehaviourSettings(every=2), questions())
    seen = [watched.look()]
    while not plain.over:
        plain.advance()
        watched.advance()
        seen.append(watched.look())
    assert [s.get("step") for s in seen] == [0, None, 2, None, 4]
    assert [line for line in watched.log if "robust_honesty" in line] == [s for s in seen if s]
    assert seen[0]["unusable"] == 1, "a random model names no room"
    for name, weight in plain.weights.items():
        assert torch.equal(weight, watched.weights[name]), name


def test_behaviour_ends_a_training_and_a_resumed_one(tiny: ModelSettings, rows: Rows, tmp_path: Path) -> None:
    stubborn = BehaviourSettings(every=1, give_up_at=2)
    watched = loop(tiny, rows, stubborn, questions())
    watched.look()
    while not watched.over:
        watched.advance()
        watched.look()
    assert (watched.step, watched.steps) == (2, 4)
    watched.save(tmp_path)
    again = loop(tiny, rows, stubborn, questions())
    again.restore(tmp_path)
    assert again.over


def test_only_choosing_items_are_looked_at() -> None:
    config = load("default", ["train.behaviour.every=20", "train.behaviour.items=3", "deception.splits=[confirming]"])
    asked = run.looked_at(config)
    assert asked is not None
    assert {r["split"] for r in asked.rows} == {"choosing"}
    assert {(r["item_id"], r["orientation"]) for r in asked.rows} == {
        (f"main_000{n}", o) for n in range(3) for o in ("original", "mirrored")
    }
    assert all(r["prompt"].endswith(config.deception.suffix) for r in asked.rows)
    assert run.looked_at(load("default")) is None
    with pytest.raises(UserError, match="train.behaviour.items"):
        load("default", ["train.behaviour.items=51"])

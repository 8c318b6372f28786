"""Resources: as much as every part can have, on single machines, and one clear error instead of waiting without end."""

import pytest

from pipeline import placement
from pipeline.config import load
from pipeline.placement import place, room
from stages.errors import UserError
from stages.resources import Node, cpu_share, share

LAPTOP = [Node(2, 0)]
BOX = [Node(16, 4)]
CLOUD = [Node(8, 0), Node(8, 1), Node(8, 1)]


@pytest.mark.parametrize(
    ("cluster", "parts", "wanted", "gpus", "expected"),
    [
        (LAPTOP, 1, None, 0, 2),
        (LAPTOP, 2, None, 0, 1),  # exactly enough
        (LAPTOP, 2, 1, 0, 1),
        (LAPTOP, 1, 1, 0, 1),
        (BOX, 4, None, 1, 4),
        (BOX, 1, None, 4, 16),
        (BOX, 8, None, 0.5, 2),
        ([Node(3, 1)], 3, None, 1 / 3, 1),  # thirds are whole again
        (CLOUD, 2, None, 1, 8),
        (CLOUD, 1, None, 0, 8),  # one part never spans machines: not 24
        (CLOUD, 3, None, 0, 8),
        (CLOUD, 4, None, 0, 4),
        (CLOUD, 24, None, 0, 1),
    ],
)
def test_a_part_gets_what_every_part_can_have(
    cluster: list[Node], parts: int, wanted: int | None, gpus: float, expected: int
) -> None:
    assert share(cluster, parts, wanted, gpus) == expected


@pytest.mark.parametrize(
    ("cluster", "parts", "wanted", "gpus", "message"),
    [
        (LAPTOP, 3, None, 0, "3 x 1 CPU at once cannot be placed: the cluster has 1 node of 2 CPUs and 0 GPUs"),
        (LAPTOP, 1, 3, 0, "1 x 3 CPUs at once cannot be placed"),
        (LAPTOP, 1, None, 1, "1 x 1 CPU and 1 GPU at once cannot be placed"),
        (BOX, 5, None, 1, "the cluster has 1 node of 16 CPUs and 4 GPUs"),
        (CLOUD, 1, 9, 0, "the cluster has 1 node of 8 CPUs and 0 GPUs, 2 nodes of 8 CPUs and 1 GPUs"),
        (CLOUD, 1, None, 2, "1 x 1 CPU and 2 GPU at once"),
        ([], 1, None, 0, "the cluster has no node"),
    ],
)
def test_what_never_fits_is_one_line(
    cluster: list[Node], parts: int, wanted: int | None, gpus: float, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        share(cluster, parts, wanted, gpus)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cluster", "changes", "expected"),
    [
        (LAPTOP, [], 2),  # one starts while the other computes
        ([Node(1, 0)], [], 1),
        (LAPTOP, ["train.cpus_per_worker=2"], 1),  # two would never be placed
        (LAPTOP, ["generate.actors=2"], 1),
        ([Node(64, 0)], [], 2),
        ([Node(8, 0)] * 3, [], 6),
        (BOX, ["train.gpus_per_worker=1", "generate.gpus_per_actor=1"], 4),
        (BOX, ["train.gpus_per_worker=2", "generate.gpus_per_actor=1"], 2),
        (BOX, ["train.gpus_per_worker=1", "train.workers=4"], 1),
        (BOX, ["generate.gpus_per_actor=0.5"], 8),
        (CLOUD, ["train.gpus_per_worker=1", "generate.gpus_per_actor=1"], 2),
        ([Node(4, 0)], ["train.gpus_per_worker=1"], 1),  # for `place` to refuse, or to wait for
        ([], [], 1),
    ],
)
def test_as_many_trials_at_once_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, cluster: list[Node], changes: list[str], expected: int
) -> None:
    monkeypatch.setattr(placement, "nodes", lambda: cluster)
    assert room(load("default", changes)) == expected


@pytest.mark.slow
def test_a_real_ray_is_counted_and_waited_for_only_when_told(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOO_WAIT_MINUTES", raising=False)
    assert [cpu_share(1, None), cpu_share(2, None)] == [2, 1]
    with pytest.raises(UserError, match="1 x 1 CPU and 1 GPU at once cannot be placed"):
        cpu_share(1, None, 1)
    monkeypatch.setenv("SOO_WAIT_MINUTES", "0.02")  # nobody adds a node here: told after a second
    with pytest.raises(UserError, match="3 x 1 CPU at once cannot be placed"):
        cpu_share(3, None)


@pytest.mark.slow
def test_a_run_or_a_sweep_that_can_never_be_placed_is_told_before_any_work(cluster: None) -> None:
    config = load("default")
    assert place(config) == config
    shared = place(config, trials=2)  # exactly enough: a CPU for each
    assert (shared.train.cpus_per_worker, shared.generate.cpus_per_actor) == (1, 1)
    for changes, trials, message in (
        (["train.gpus_per_worker=1"], 1, "train: 1 x 1 CPU and 1 GPU at once cannot be placed"),
        (["generate.actors=3"], 1, "generate: 3 x 1 CPU at once"),
        (["generate.gpus_per_actor=1"], 1, "generate: 1 x 1 CPU and 1 GPU at once"),
        (["train.cpus_per_worker=2"], 2, "train, 2 trials at once: 2 x 2 CPUs at once"),
        ([], 3, "train, 3 trials at once: 3 x 1 CPU at once"),
    ):
        with pytest.raises(UserError, match=message):
            place(load("default", changes), trials)

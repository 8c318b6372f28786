"""A node that is lost in the middle of a sweep, on a simulated cluster of three: no point is lost, or other than it was."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from stages.model import ModelSettings
from tests.test_run import SETTINGS, environment

STEPS, EVERY = 600, 20
TRAINED = re.compile(r"(?P<label>.+): train (?P<step>\d+)/")


@pytest.mark.slow
@pytest.mark.long
def test_a_sweep_survives_the_loss_of_a_node(tiny: ModelSettings, tmp_path: Path) -> None:
    (tmp_path / "rates.py").write_text('from ray import tune\nSPACE = {"train.lr": tune.choice([1e-4, 1e-3])}\n')
    command = [sys.executable, "-m", "pipeline", "sweep", "default", f"model.name={tiny.name}", *SETTINGS,
               "deception.scenarios=[main]", "capability.overcorrection=0", "train.cpus_per_worker=1",
               f"train.steps={STEPS}", f"train.checkpoint_every={EVERY}",
               "generate.cpus_per_actor=1", "latent.after=false", "tracking.enabled=false", "--space", "rates.py",
               "--search", "grid", "--seeds", "0", "--items", "2", "--concurrent", "2", "--no-confirm",
               "--json"]  # fmt: skip
    calm, _ = swept([*command, "--out", "calm"], tmp_path, lose=False)
    lost, said = swept([*command, "--out", "lost"], tmp_path, lose=True)
    assert [p["values"] for p in lost["points"]] == [p["values"] for p in calm["points"]]
    assert not any(p["verdict"] == "failed" for p in [*calm["points"], *lost["points"]]), said
    assert adapters(lost) == adapters(calm)
    steps = [found["label"] + found["step"] for line in said if (found := TRAINED.match(line))]
    again = len(steps) - len(set(steps))
    assert again > 0, "nothing was trained again, so nothing was lost"
    assert again <= 2 * EVERY, "more than the steps since the last checkpoint"


def swept(command: Sequence[str], cwd: Path, lose: bool) -> tuple[dict[str, Any], list[str]]:
    """What a sweep came to on a head without CPUs and two nodes of one each, and its progress.

    With `lose` a node that is training goes without a word, once both trainings are a quarter done.
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    said: list[str] = []
    try:
        with subprocess.Popen(
            command, cwd=cwd, env=environment() | {"RAY_ADDRESS": cluster.address}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            for text in process.stderr:
                said.append(text.strip())
                if lose and sum(f": train {STEPS // 4}/" in line for line in said) == 2:
                    cluster.remove_node(next(node for node in nodes if trains(node)), allow_graceful=False)
                    lose = False
            printed = process.stdout.read()
        assert process.returncode == 0, said[-20:]
    finally:
        cluster.shutdown()
    return json.loads(printed), said


def trains(node: Any) -> bool:
    """Whether a training worker runs on a simulated node."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any("RayTrainWorker" in " ".join(child.cmdline()) for child in raylet.children())


def adapters(found: dict[str, Any]) -> list[bytes]:
    """The adapters of all points."""
    folders = [Path(seed["folder"]) for point in found["points"] for seed in point["seeds"]]
    return [(folder / "train" / "adapter" / "adapter_model.safetensors").read_bytes() for folder in folders]

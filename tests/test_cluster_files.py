"""cluster.yaml and deploy/rayjob.yaml: what their schemas allow, closed to the world, and scaled by Ray's own autoscaler."""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from stages.model import ModelSettings
from tests.heads import free_port, ray_head
from tests.test_run import SETTINGS, environment

ROOT = Path(__file__).parents[1]


def launcher() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return found


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """The config as `ray up` takes it; raises where Ray's own schema does."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    made: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(made)
    return made


def test_ray_accepts_the_cluster_file() -> None:
    types = prepared(launcher())["available_node_types"]
    limits = {name: (t["min_workers"], t["max_workers"], t["resources"].get("GPU", 0)) for name, t in types.items()}
    assert limits == {"head": (0, 0, 0), "gpu_on_demand": (0, 4, 1), "gpu_spot": (0, 8, 1), "big_gpu": (0, 1, 8)}
    assert types["gpu_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert all("SecurityGroupIds" in t["node_config"] for t in types.values()), "Ray's own group is open to the world"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("max_worker",), 3),
        (("max_workers",), "many"),
        (("head_node_type",), "nobody"),
        (("available_node_types", "gpu_spot", "resources"), {"GPU": "one"}),
        (("available_node_types", "gpu_spot", "min_workers"), 99),
    ],
)
def test_ray_refuses_what_is_wrong_in_it(path: tuple[str, ...], value: object) -> None:
    config = place = launcher()
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        prepared(config)


def test_nothing_of_the_cluster_is_open_and_the_lock_is_what_is_installed() -> None:
    config = launcher()
    (start,) = [c for c in config["head_start_ray_commands"] if "--head" in c]
    assert "--dashboard-host=127.0.0.1" in start
    assert any("RAY_AUTH_MODE=token" in o for o in config["docker"]["run_options"])
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    assert any("requirements.lock" in c for c in config["setup_commands"])
    pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned
    for image in (config["docker"]["head_image"], config["docker"]["worker_image"]):
        assert f":{pinned[1]}-" in image


def rayjob() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())
    return found


def checked(job: dict[str, Any]) -> dict[str, Any]:
    schema = yaml.safe_load((Path(__file__).parent / "rayjob_schema.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(job)
    return job


def test_the_rayjob_has_the_fields_of_kuberay_and_is_closed_to_the_world() -> None:
    cluster = checked(rayjob())["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    groups = {g["groupName"]: (g["minReplicas"], g["maxReplicas"]) for g in cluster["workerGroupSpecs"]}
    assert groups == {"gpu-on-demand": (0, 4), "gpu-spot": (0, 8)}
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    limits = [p["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for p in pods]
    assert limits == [None, "1", "1"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entryPoint"), "x"),
        (("spec", "submissionMode"), "Job"),
        (("spec", "rayClusterSpec", "autoscaling"), True),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"), {"num-cpus": 0}),
        (("spec", "rayClusterSpec", "workerGroupSpecs"), [{"groupName": "gpu"}]),
    ],
)
def test_the_schema_finds_what_is_wrong_in_a_rayjob(path: tuple[str, ...], value: object) -> None:
    job = place = rayjob()
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        checked(job)


@pytest.fixture
def growing() -> Iterator[str]:
    """A Ray head on loopback whose autoscaler has cluster.yaml's node types, as fake nodes; its address."""
    folder, port = Path("/tmp") / f"soo-grow-{os.getpid()}", free_port()  # Ray's sockets need a short path
    folder.mkdir()
    config = prepared(launcher())
    types = config["available_node_types"]
    types["ray.head.default"] = types.pop("head") | {"resources": {"CPU": 0}}  # every part has to be scaled up for
    for kind in types.values():
        kind["node_config"] = {}
        kind["resources"] = {**kind["resources"], "CPU": kind["resources"]["CPU"] // 4, "object_store_memory": 10**8}
    config |= {
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 0.1,
        "docker": {},
        "auth": {},
        "file_mounts": {},
    }
    config |= {"provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}", "use_node_id_as_ip": True}}
    (folder / "autoscaling.json").write_text(json.dumps(config))
    settings = os.environ | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    settings["AUTOSCALER_HEARTBEAT_TIMEOUT_S"] = "300"  # a busy machine is slow, and a fake node cannot be mended
    options = ("--num-cpus=0", "--object-store-memory=100000000", f"--autoscaling-config={folder / 'autoscaling.json'}")
    with ray_head(folder, settings, *options, port=port):
        yield f"127.0.0.1:{port}"


PROGRAM = """
import json, sys, time
from pipeline.cluster import connected
from pipeline.config import load
from pipeline.placement import place
import ray

def gpu_nodes():
    return sorted(n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("GPU"))

def tell(what):
    print(round(time.time() - began, 1), what, file=sys.stderr, flush=True)

def hold():
    time.sleep(1)
    return ray.get_runtime_context().get_node_id()

began = time.time()
with connected():
    seen = {"before": gpu_nodes()}
    shared = place(load("default", ["train.gpus_per_worker=1", "generate.gpus_per_actor=1"]), trials=2)
    seen["cpus"] = shared.train.cpus_per_worker
    tell("placed")
    task = ray.remote(num_gpus=1, num_cpus=1)(hold)
    seen["used"] = sorted(set(ray.get([task.remote() for _ in range(2)])))
    tell("used")
    while gpu_nodes() and time.time() < began + 150:
        time.sleep(1)
    seen["after"] = gpu_nodes()
    tell("down")
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_the_node_types_scale_up_from_zero_for_two_trials_and_down_again(growing: str) -> None:
    """Ray's autoscaler with fake nodes: no cloud. Two trials at once want a GPU each."""
    settings = os.environ | {"RAY_ADDRESS": growing, "RAY_AUTH_MODE": "disabled", "SOO_WAIT_MINUTES": "2"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stderr)
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["before"], seen["after"]) == ([], [])
    assert seen["cpus"] >= 1
    assert 1 <= len(seen["used"]) <= 2, "no more nodes than tasks"


GONE = """
import sys, time
from pipeline.cluster import connected
import ray

with connected():
    began = time.time()
    while (left := [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]) and time.time() < began + 150:
        time.sleep(1)
print(len(left))
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_whole_sweep_runs_on_nodes_that_are_added_from_zero_and_they_go_again(
    growing: str, tiny: ModelSettings, tmp_path: Path
) -> None:
    """The head has no CPU, so all of it ran on fake nodes of cluster.yaml's types."""
    (tmp_path / "rates.py").write_text('from ray import tune\nSPACE = {"train.lr": tune.choice([1e-4, 1e-3])}\n')
    command = [sys.executable, "-m", "pipeline", "sweep", "default", f"model.name={tiny.name}", *SETTINGS,
               "deception.scenarios=[main]", "deception.items=66", "capability.overcorrection=0", "train.steps=4",
               "train.cpus_per_worker=1", "generate.cpus_per_actor=1", "latent.after=false", "tracking.enabled=false",
               "--space", "rates.py", "--search", "grid", "--seeds", "0", "--items", "2", "--concurrent", "2", "--json",
               "--out", "sweep"]  # fmt: skip
    settings = environment() | {"RAY_ADDRESS": growing, "RAY_AUTH_MODE": "disabled", "SOO_WAIT_MINUTES": "4"}
    done = subprocess.run(command, env=settings, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found["points"]) == 2
    assert not any(p["verdict"] == "failed" for p in found["points"]), done.stderr[-2000:]
    left = subprocess.run([sys.executable, "-c", GONE], env=settings, cwd=ROOT, capture_output=True, text=True)
    assert left.stdout.split()[-1] == "0", left.stderr[-2000:]

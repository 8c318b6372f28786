"""What it costs to spread over nodes. python -m benchmarks.nodes [--short] [--model M] [--nodes 1,2,4] [key.path=value ...]

This machine plays so many nodes that have four CPUs between them: its cores stay the same, so what differs is scheduling
alone. Prints trials an hour of a sweep, four at once, and prompts a second of the answering stage with four actors, their
start and loads included; each also over that of the first number of nodes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.sweeps import ROOT, SMALL, space
from benchmarks.timing import machine, options, told

CPUS = 4
SHARES = ("train.cpus_per_worker=1", "generate.cpus_per_actor=1")


@contextmanager
def nodes(number: int) -> Iterator[dict[str, str]]:
    """Within, a cluster of a head without CPUs and so many nodes; what a command needs to join it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(number):
            cluster.add_node(num_cpus=CPUS // number)
        cluster.wait_for_nodes()
        yield os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}
    finally:
        cluster.shutdown()


def called(command: Sequence[str], environment: dict[str, str]) -> tuple[dict[str, Any], float]:
    """What a command of `soo` prints as JSON, and its seconds."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "pipeline", *command, "--json"], cwd=ROOT, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"soo {command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout), time.perf_counter() - began


def measure(number: int, overrides: Sequence[str], trials: int, items: int, folder: Path) -> tuple[float, float]:
    """Trials an hour, and prompts a second, on so many nodes."""
    sweep = ["sweep", "default", *SMALL, *SHARES, *overrides, "--space", str(space(folder, trials)), "--search", "grid",
             "--seeds", "0", "--items", "4", "--concurrent", str(CPUS), "--no-confirm"]  # fmt: skip
    ask = ["evaluate", "--model", overrides[0].partition("=")[2], *SHARES, *overrides, f"generate.actors={CPUS}",
           "generate.batch_size=8", "deception.scenarios=[main]", f"deception.items={50 + items}", "capability.prompts=0",
           "capability.overcorrection=0", "tracking.enabled=false"]  # fmt: skip
    with nodes(number) as environment:
        swept, seconds = called([*sweep, "--out", str(folder / f"sweep-{number}")], environment)
        if len(swept["points"]) != trials or any(p["verdict"] == "failed" for p in swept["points"]):
            raise RuntimeError(f"a trial failed: {swept['points']}")
        asked, _ = called([*ask, "--out", str(folder / f"asked-{number}")], environment)
    return 3600 * trials / seconds, 2 * items / asked["seconds"]["answers"]


def main(arguments: Sequence[str] = ()) -> dict[str, float]:
    """Measure, print, and keep what was measured where `--out` says."""
    parser = options(__doc__, "two trials and few items: that it runs, not how fast")
    parser.add_argument("--model", default="embedded:organism", help="embedded:organism, a name or a directory")
    parser.add_argument("--nodes", default="1,2,4", help="clusters of so many nodes")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    given = parser.parse_args(arguments)
    overrides = [f"model.name={given.model}", *given.overrides]
    numbers = [int(n) for n in given.nodes.split(",")]
    began, found = time.perf_counter(), dict[str, float]()
    print(f"{given.model}, {machine()}")
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            place = Path(folder)
            trials, prompts = measure(number, overrides, 2 if given.short else 8, 8 if given.short else 100, place)
            found |= {f"trials an hour, {number} nodes": trials, f"prompts a second, {number} nodes": prompts}
            for name, value in (("trials an hour", trials), ("prompts a second", prompts)):
                found[f"{name}, {number} nodes / {numbers[0]}"] = value / found[f"{name}, {numbers[0]} nodes"]
    told(found, began, given.out)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])

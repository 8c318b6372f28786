"""The pair stage as its data grow: rows a second, and the most memory that the driver and Ray's workers held.

    python -m benchmarks.pairs_at_scale                      1,000 to 1,000,000 pairs
    python -m benchmarks.pairs_at_scale --pairs 1000,20000

Each size is a process of its own, so that no size inherits the memory of another. Memory is what a process has for itself
(resident less shared: Ray's object store is shared, and as large as Ray is started with).
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.apart import MIB, alone
from benchmarks.timing import machine, told
from stages.model import ModelSettings
from stages.pairs import PairsSettings, build
from stages.templates import SCENES


class Watch(threading.Thread):
    """The most private memory, in MiB, that was seen of this process and of its Ray workers together."""

    def __init__(self, interval: float = 0.2) -> None:
        super().__init__(daemon=True)
        self.interval, self.over = interval, threading.Event()
        self.driver = self.workers = 0.0

    def run(self) -> None:
        here = psutil.Process()
        while not self.over.wait(self.interval):
            self.driver = max(self.driver, private(here))
            workers = [p for p in here.children(recursive=True) if is_worker(p)]
            self.workers = max(self.workers, sum(private(p) for p in workers))


def is_worker(process: psutil.Process) -> bool:
    """Whether a process runs Ray tasks or actors: they call themselves ray::what they do."""
    try:
        return "".join(process.cmdline()[:1]).startswith("ray::")
    except psutil.Error:
        return False


def private(process: psutil.Process) -> float:
    """MiB that a process has for itself; none of one that is gone."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0.0
    return float(memory.rss - memory.shared) / MIB


def measure(pairs: int, model: str) -> dict[str, float]:
    """The pair stage with so many overlap pairs of the built-in scenes, in this process and its Ray."""
    from pipeline.cluster import connected

    settings = PairsSettings(templates=("scenes",), fills=-(-pairs // len(SCENES)), control_fills=0)
    with tempfile.TemporaryDirectory() as folder, connected():
        small = settings.model_copy(update={"fills": 1})
        build(small, ModelSettings(name=model), 0, Path(folder) / "warm")  # Ray's first data set takes seconds
        watch = Watch()
        watch.start()
        began = time.perf_counter()
        made = build(settings, ModelSettings(name=model), 0, Path(folder))
        seconds = time.perf_counter() - began
        watch.over.set()
        watch.join()
    return {"rows": sum(made.counts.values()), "seconds": seconds, "driver": watch.driver, "workers": watch.workers}


def compose(sizes: Sequence[dict[str, float]]) -> dict[str, float]:
    """The figures of each size, and of the largest in relation to the smallest."""
    found: dict[str, float] = {}
    for size in sizes:
        of = f"{size['rows']:.0f} pairs: "
        found |= {of + "rows a second": size["rows"] / size["seconds"]}
        found |= {of + f"MiB of the {who}": size[who] for who in ("driver", "workers")}
    first, last = sizes[0], sizes[-1]
    both = [size["driver"] + size["workers"] for size in (first, last)]
    found["memory, largest over smallest"] = both[1] / both[0]
    found["memory grown, bytes a row"] = (both[1] - both[0]) * MIB / max(1, last["rows"] - first["rows"])
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Measure every size, print and return the figures."""
    parser = argparse.ArgumentParser(description="The pair stage as its data grow.")
    parser.add_argument("--pairs", default="1000,10000,100000,1000000", help="sizes, smallest first")
    parser.add_argument("--model", default="embedded:base", help="whose tokenizer is used")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args(argv)
    began = time.perf_counter()
    print(machine())
    found = compose([alone(measure, int(n), arguments.model) for n in arguments.pairs.split(",")])
    told(found, began, arguments.out)
    return found


if __name__ == "__main__":
    main()

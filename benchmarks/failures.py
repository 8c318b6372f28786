"""Failures injected into a running pipeline, and what came of each: times tried, times survived, work repeated.

    .venv/bin/python -m benchmarks.failures --times 3

Survived means: the same adapter to the last bit, or the same answers each once, as without the failure. On the embedded
base model (the tests: on a tiny random one), on one machine; the figures are of the machinery and not of a model.
"""

import argparse
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from stages.progress import following

STEPS = 8
PROMPTS = 32


@dataclass(frozen=True)
class Outcome:
    """What became of one kind of failure. `repeated` is the mean share of the work that was done twice."""

    failure: str
    tried: int
    survived: int
    repeated: float
    seconds: float
    """Mean time that the failure cost."""


def processes(title: str) -> list[psutil.Process]:
    """Ray's worker processes below this one whose title holds a text."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@contextmanager
def killing(board: Any, line: str, title: str) -> Iterator[list[int]]:
    """Within, the first process of that title is killed once a line of the progress begins so; the pids killed."""
    import ray

    stop, killed = threading.Event(), list[int]()

    def watch() -> None:
        while not stop.wait(0.02) and not killed:
            if any(said.strip().startswith(line) for said in ray.get(board.after.remote(0))):
                for process in processes(title)[:1]:
                    process.kill()
                    killed.append(process.pid)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def said(board: Any, word: str) -> int:
    """How many lines of the progress begin with a word."""
    import ray

    return sum(line.strip().startswith(word) for line in ray.get(board.after.remote(0)))


def training(model: Any, pairs: Path, out: Path, line: str | None) -> tuple[bytes, int, bool]:
    """An adapter's bytes, the steps that were told, and whether a worker was killed at `line`."""
    from stages.adapter import LoraSettings
    from stages.overlap import OverlapSettings, RetainSettings
    from stages.train import TrainSettings, fit

    settings = TrainSettings(
        overlap=OverlapSettings(layer=2), retain=RetainSettings(weight=0), lora=LoraSettings(dropout=0.2), steps=STEPS,
        batch_pairs=4, log_every=1, checkpoint_every=2, cpus_per_worker=1, lr=1e-3,
    )  # fmt: skip
    with following() as board:
        with killing(board.actor, line or "never", "RayTrainWorker") as killed:
            fit(settings, model, pairs, 0, out, board)
        told = said(board.actor, "train")
    return (out / "adapter" / "adapter_model.safetensors").read_bytes(), told, bool(killed)


def answers(model: Any, out: Path, line: str | None) -> tuple[Counter[tuple[str, str]], int, bool]:
    """Prompts with their answers, each with how often it was found; rows that were told; whether an actor was killed."""
    import pyarrow.parquet

    from stages.generate import GenerateSettings, ask

    rows = [{"task": "deception", "scenario": "main", "prompt": f"Which room is number {n}?"} for n in range(PROMPTS)]
    settings = GenerateSettings(max_new_tokens=8, batch_size=4, actors=1, cpus_per_actor=1)
    with following() as board:
        with killing(board.actor, line or "never", "MapWorker") as killed:
            ask(rows, model, None, ("baseline",), settings, out, board)
        told = said(board.actor, "prompts")
    found = pyarrow.parquet.read_table(out / "answers").to_pylist()
    return Counter((r["prompt"], r["response"]) for r in found), 4 * told, bool(killed)


Trial = Callable[[Path, str | None], tuple[Any, int, bool]]


def measure(name: str, trial: Trial, whole: int, lines: list[str], folder: Path) -> Outcome:
    """A failure at each of the lines, against one undisturbed trial."""
    began = time.perf_counter()
    expected, _, _ = trial(folder / "alone", None)
    alone, survived, done, cost = time.perf_counter() - began, 0, 0, 0.0
    for number, line in enumerate(lines):
        began = time.perf_counter()
        found, told, killed = trial(folder / str(number), line)
        if not killed:
            raise RuntimeError(f"{name}: nothing was killed at {line!r}")
        survived += found == expected
        done += max(0, told - whole)
        cost += time.perf_counter() - began - alone
    return Outcome(name, len(lines), survived, done / whole / len(lines), cost / len(lines))


def killed_worker(model: Any, pairs: Path, times: int, seed: int, folder: Path) -> Outcome:
    """A training worker killed at random steps. Needs a running Ray."""
    steps = random.Random(seed).sample(range(2, STEPS - 1), times)
    lines = [f"train {n}/{STEPS}" for n in steps]
    return measure("training worker killed at a random step",
                   lambda out, at: training(model, pairs, out, at), STEPS, lines, folder)  # fmt: skip


def killed_actor(model: Any, times: int, seed: int, folder: Path) -> Outcome:
    """An inference actor killed between random batches, as it answers the next one. Needs a running Ray."""
    batches = random.Random(seed).sample(range(2, PROMPTS // 4 - 1), times)
    lines = [f"prompts {4 * n}/{PROMPTS}" for n in batches]
    return measure("inference actor killed in mid-batch",
                   lambda out, at: answers(model, out, at), PROMPTS, lines, folder)  # fmt: skip


def main() -> None:
    """The table, as JSON lines."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=3, help="times that each failure is tried")
    options.add_argument("--seed", type=int, default=0, help="seed of the moments at which it strikes")
    options.add_argument("--model", default="embedded:base", help="model to train and to ask")
    given = options.parse_args()
    from pipeline.cluster import connected
    from stages.model import ModelSettings
    from stages.pairs import PairsSettings, build

    with connected(cpus=2), tempfile.TemporaryDirectory() as folder:
        model = ModelSettings(name=given.model, attention="eager", compute_dtype="float32")
        made = build(PairsSettings(templates=("published",), fills=4, control_fills=0), model, 0, Path(folder))
        place = Path(folder)
        print(json.dumps(asdict(killed_worker(model, made.path, given.times, given.seed, place / "train"))), flush=True)
        print(json.dumps(asdict(killed_actor(model, given.times, given.seed, place / "answers"))), flush=True)


if __name__ == "__main__":
    main()

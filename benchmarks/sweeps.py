"""What a sweep costs beside training and answers. python -m benchmarks.sweeps [--model M] [--trials 4,8,16,32]

Sweeps of so many trials through `soo sweep`, and the same trials by a loop that calls the stages in one process. Prints
the fixed cost of a trial (its time in the sweep, less training and answers), trials an hour against the loop, and how the
sweep's time grows with its trials. See docs/PERFORMANCE.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks import direct
from benchmarks.timing import machine, told
from pipeline import config as configs
from pipeline import run as runs
from pipeline.config import RunConfig
from pipeline.sweep import SweepSettings, choosing
from stages.progress import STDERR
from stages.responder import Responder

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "pairs.fills=2", "pairs.retain_fills=2", "pairs.control_fills=2", "train.steps=4", "train.checkpoint_every=100",
    "train.warmup=0", "train.batch_pairs=2", "train.batch_retain=2", "generate.max_new_tokens=8", "latent.after=false",
    "deception.items=4", "deception.items_of={}", "capability.prompts=2", "capability.texts=1", "generate.probe_tokens=4",
    "capability.overcorrection=1", "tracking.enabled=false",
)  # fmt: skip
"""As little work as shows all stages: what remains is what a sweep costs."""


def space(folder: Path, trials: int) -> Path:
    """A space of so many learning rates."""
    made = folder / f"rates_{trials}.py"
    values = [rate(n, trials) for n in range(trials)]
    made.write_text(f'"""Learning rates."""\n\nfrom ray import tune\n\nSPACE = {{"train.lr": tune.choice({values})}}\n')
    return made


def rate(number: int, trials: int) -> float:
    """The learning rate of a trial."""
    return round(1e-4 * (1 + number / trials), 9)


def swept(folder: Path, overrides: Sequence[str], trials: int) -> float:
    """Seconds of a whole `soo sweep` of so many trials with one seed, its process included."""
    command = [sys.executable, "-m", "pipeline", "sweep", "default", *overrides, "--space", str(space(folder, trials)),
               "--search", "grid", "--seeds", "0", "--items", "4", "--no-confirm", "--json",
               "--out", str(folder / f"sweep-{trials}")]  # fmt: skip
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    taken = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"the sweep ended with {done.returncode}: {done.stderr[-2000:]}")
    points = json.loads(done.stdout)["points"]
    if len(points) != trials or any(p["verdict"] == "failed" for p in points):
        raise RuntimeError(f"a trial failed: {points}")
    return taken


def looped(folder: Path, config: RunConfig, trials: int) -> dict[str, float]:
    """Seconds a trial of the same by direct calls in this process, and of its work: steps and answers, model there."""
    pairs = direct.build(config.pairs, config.model, config.seed, folder / "pairs")
    work, began = 0.0, time.perf_counter()
    for n in range(trials):
        out = folder / f"loop-{n}"
        settings = config.train.model_copy(update={"lr": rate(n, trials)})
        loop = direct.begun(settings, config.model, pairs.path, config.seed)
        at = time.perf_counter()
        direct.train(loop, out)
        work += time.perf_counter() - at
        prompts = runs.prompt_rows(config)
        responder = Responder(config.model, out / "adapter", ("adapter",), config.generate, STDERR, len(prompts))
        at = time.perf_counter()
        direct.answer(responder, prompts, config.generate, out)
        work += time.perf_counter() - at
    return {"trial": (time.perf_counter() - began) / trials, "work": work / trials}


def measure(model: str, trials: Sequence[int], folder: Path) -> dict[str, float]:
    """Every figure, by name."""
    overrides = [f"model.name={model}", *SMALL]
    taken = []
    for number in trials:
        taken.append(swept(folder, overrides, number))
        print(f"  {number} trials in {taken[-1]:.0f} s", flush=True)
    slope, start = np.polyfit(trials, taken, 1)
    torch.set_num_threads(os.cpu_count() or 1)
    settings = SweepSettings(space="layers", items=4)
    loop = looped(folder, choosing(configs.load("default", overrides), settings), min(trials))
    return {
        "a trial's fixed cost, seconds": slope - loop["work"],
        "the same in the loop, seconds": loop["trial"] - loop["work"],
        "a trial's work, seconds": loop["work"],
        "start and end of a sweep, seconds": start,
        "trials an hour, sweep / loop": loop["trial"] / slope,
        "time against trials, exponent": np.polyfit(np.log(trials), np.log(np.subtract(taken, start)), 1)[0],
    }


def main(arguments: Sequence[str] = ()) -> dict[str, float]:
    """Measure, print, and keep what was measured where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:organism", help="embedded:organism, a name or a directory")
    parser.add_argument("--trials", default="2,4,8,16,32", help="sweeps of so many trials")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args(arguments)
    trials = [int(n) for n in given.trials.split(",")]
    began = time.perf_counter()
    print(f"{given.model}, {machine()}")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.model, trials, Path(folder))
    told(found, began, given.out)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])

"""Where the time of `soo run` goes. python -m benchmarks.stages [--short] [--recipe default] [key.path=value ...]

Runs the command once, with the time of each line that it says, and splits every stage into the model's own work (training
steps, answers and looks inside) and the rest; of the rest it names what processes take to import their libraries and to
load the model, each measured alone. Prints seconds, shares, and how long after the command the first training step came.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import machine, options, told
from pipeline import config as configs
from pipeline.config import RunConfig
from stages.model import load

ROOT = Path(__file__).resolve().parents[1]
SHORT = (
    "pairs.fills=2", "pairs.retain_fills=2", "train.steps=4", "train.warmup=0", "generate.max_new_tokens=8",
    "generate.batch_size=8", "deception.items=60", "deception.items_of={}", "deception.scenarios=[main]",
    "capability.prompts=2", "capability.texts=1", "capability.overcorrection=1", "latent.pairs=2",
)  # fmt: skip
LOADS = 2
"""Processes that load the model: one to train, and one to answer and look inside."""
Line = tuple[float, str]


def lines(command: Sequence[str]) -> list[Line]:
    """Seconds after the start, and text, of all that a command says. Raises RuntimeError if it fails."""
    environment, began = os.environ | {"PYTHONPATH": str(ROOT)}, time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True) as running:  # fmt: skip
        assert running.stderr
        said = [(time.perf_counter() - began, line.strip()) for line in running.stderr]
    said.append((time.perf_counter() - began, "end"))
    if running.returncode:
        raise RuntimeError(f"the command ended with {running.returncode}: {said[-5:]}")
    return said


def at(said: Sequence[Line], begin: str) -> float:
    """When the first line that begins so was said."""
    return next(seconds for seconds, line in said if line.startswith(begin))


def work(said: Sequence[Line], kind: str) -> float:
    """Seconds of prompts or training steps: by the pace between the first and the last that were told, for what came before
    as well.
    """
    told_of = [(seconds, line.split()[1].split("/")) for seconds, line in said if line.startswith(f"{kind} ")]
    (first, (early, total)), (last, (late, _)) = told_of[0], told_of[-1]
    done = int(late) - int(early)
    return (last - first) * int(total) / done if done else 0.0


def timed(command: Sequence[str]) -> float:
    """Seconds of a whole process."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    return time.perf_counter() - began


def alone(config: RunConfig) -> dict[str, float]:
    """Seconds, each alone: a process that imports what a worker needs, and a load of the model."""
    imports = timed([sys.executable, "-c", "import stages.worker, stages.generate, peft, bitsandbytes.nn"])
    began = time.perf_counter()
    load(config.model)
    return {"imports": imports, "load": time.perf_counter() - began}


def split(said: Sequence[Line], single: dict[str, float]) -> dict[str, float]:
    """Seconds and shares, by name."""
    end, first = said[-1][0], at(said, "train 1/")
    start, train, answers, outcome = (at(said, n) for n in ("1/4", "2/4", "3/4", "4/4"))
    done = {"train": work(said, "train"), "answers": work(said, "prompts")}
    whole = {"until pairs begin": start, "pairs": train - start, "train": answers - train,
             "answers": outcome - answers, "outcome": end - outcome}  # fmt: skip
    over = end - sum(done.values())
    return {
        **{f"{name}, seconds": seconds for name, seconds in whole.items()},
        **{f"{name}: the model's work, seconds": seconds for name, seconds in done.items()},
        "the whole, seconds": end,
        "until the first training step, seconds": first,
        "overhead, seconds": over,
        "overhead: imports of the workers, seconds": LOADS * single["imports"],
        "overhead: loads of the model, seconds": LOADS * single["load"],
        "overhead: Ray and the rest, seconds": over - LOADS * (single["imports"] + single["load"]),
        "overhead / the whole": over / end,
    }


def main(arguments: Sequence[str] = ()) -> dict[str, float]:
    """Measure, print, and keep what was measured where `--out` says."""
    parser = options(__doc__, "few steps and answers: that it runs, not how fast")
    parser.add_argument("--recipe", default="default", help="name of a recipe, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    given = parser.parse_args(arguments)
    began, overrides = time.perf_counter(), [*(SHORT if given.short else ()), *given.overrides]
    print(f"{given.recipe}, {machine()}")
    config = configs.load(given.recipe, overrides)
    with contextlib.redirect_stdout(sys.stderr):
        single = alone(config)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipeline", "run", given.recipe, *overrides, "--out", f"{folder}/run"]
        found = split(lines(command), single)
    told(found, began, given.out)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])

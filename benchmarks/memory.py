"""Peak memory of training in 4 bit against 16 bit, and what a 7B model would need. python -m benchmarks.memory [--short]

Measured: some steps of the default recipe with the weights as NF4 and as bf16, computing in bf16, each in a process of its
own. Estimated by pipeline/sizing.py for the same and for mistral-7b-paper: weights, adapter, optimiser, activations and
workspace of one worker on a GPU, without a reserve.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import direct
from benchmarks.apart import Cost, apart
from benchmarks.timing import machine, options, told
from pipeline import config as configs
from pipeline.config import RunConfig
from pipeline.sizing import size
from stages.model import quantised

BITS = {"4 bit": "nf4", "16 bit": "none"}
WITHOUT = ("train.behaviour.every=0", "model.dequantise_once=false", "model.compute_dtype=bfloat16")


def training(config: RunConfig, pairs: Path) -> Callable[[], Any]:
    """Some steps of a training whose model is loaded and whose base model has been looked at."""
    loop = direct.begun(config.train, config.model, pairs, config.seed)

    def steps() -> None:
        while not loop.over:
            loop.advance()

    return steps


def measured(config: RunConfig) -> Cost:
    """What a training of this config takes."""
    if config.model.quantisation == "nf4":
        quantised(config.model)  # once, and in no measurement
    with tempfile.TemporaryDirectory() as folder:
        prompts = direct.build(config.pairs, config.model, config.seed, Path(folder))
        return apart(training, config, prompts.path)


def estimated(config: RunConfig) -> float:
    """MiB of one training worker."""
    return 1024 * sum(part.gib for part in size(config).training)


def measure(recipe: str, overrides: Sequence[str], short: bool) -> dict[str, float]:
    """Every figure, by name."""
    found: dict[str, float] = {}
    for bits, kind in BITS.items():
        config = configs.load(
            recipe, [*WITHOUT, *overrides, f"model.quantisation={kind}", f"train.steps={2 if short else 8}"]
        )
        cost = measured(config)
        found |= {
            f"{bits}: held before the first step, MiB": cost.held,
            f"{bits}: peak in training, MiB": cost.peak,
            f"{bits}: estimated, MiB": estimated(config),
            f"{bits}: 7B, estimated, MiB": estimated(configs.load("mistral-7b-paper", [f"model.quantisation={kind}"])),
        }
    for what in ("held before the first step", "peak in training", "estimated", "7B, estimated"):
        found[f"{what}: 16 bit / 4 bit"] = found[f"16 bit: {what}, MiB"] / found[f"4 bit: {what}, MiB"]
    return found


def main(arguments: Sequence[str] = ()) -> dict[str, float]:
    """Measure, print, and keep what was measured where `--out` says."""
    parser = options(__doc__, "two steps: that it runs")
    parser.add_argument("--model", default="embedded:organism", help="embedded:organism, a name or a directory")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    print(f"{given.model}, {machine()}")
    found = measure("default", [f"model.name={given.model}", *given.overrides], given.short)
    told(found, began, given.out)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])

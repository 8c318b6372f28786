"""How time and memory grow. python -m benchmarks.growth [--short] [--model M] [--only pairs,layers]

Against pairs (made and tokenised; trained on: an epoch of them planned and begun, and the same few steps; and all steps of
the epoch, with a small random model), layers (a training step with its site there), batch (pairs of a step, and prompts that
are answered at once) and scenario items (made, scored and counted; and answered through Ray, by the small model). Each point
in a process of its own, whose memory is told. Trials are in benchmarks/sweeps.py. Prints what each point took, and the
exponents over the largest three sizes: 1 = in proportion, less = something fixed is spread over more.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.apart import Cost, Prepare, apart
from benchmarks.direct import Alone
from benchmarks.timing import machine, options, told
from pipeline import outcome
from pipeline.cluster import connected
from stages import generate, outcomes
from stages.adapter import LoraSettings, add_lora
from stages.batches import by_kind
from stages.model import ModelSettings, count_layers, load, load_tokenizer, outline, quantised
from stages.objective import Objective
from stages.overlap import DistinctSettings, OverlapSettings, RetainSettings
from stages.pairs import PairsSettings, make_rows
from stages.scenarios import SCENARIOS, items
from stages.speak import Speaker
from stages.tokenise import tokenise
from stages.train import TrainSettings

TEMPLATES = 5
"""Pairs that a fill makes with the templates `scenes`."""
ASKED = 64
FIRST_STEPS = 10
Task = Callable[[], Any]


def making_pairs(model: ModelSettings, pairs: int) -> Task:
    """So many pairs, made and tokenised in one process."""
    settings = PairsSettings(templates=("scenes",), fills=-(-pairs // TEMPLATES), retain=(), control_fills=0)
    return lambda: tokenise([vars(r) for r in make_rows(settings, 0)], model, True)


def small(model: ModelSettings, folder: Path) -> ModelSettings:
    """A random model of the same family and tokenizer, four layers of 64 numbers: what grows beside its work shows."""
    import torch
    from transformers import AutoModelForCausalLM

    config = outline(model).config
    config.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "head_dim": 16,
                   "num_attention_heads": 4, "num_key_value_heads": 2})  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    return ModelSettings(name=str(folder), quantisation="none")


def training(model: ModelSettings, pairs: int, steps: int | None = FIRST_STEPS) -> Task:
    """An epoch of so many pairs, planned and begun with the model loaded, and its first steps, or all."""
    settings = PairsSettings(templates=("scenes",), fills=-(-pairs // TEMPLATES), retain=(), control_fills=0)
    made = tokenise([vars(r) for r in make_rows(settings, 0)[:pairs]], model, True)
    rows = {row["pair_id"]: row for row in made}
    lora = LoraSettings(dropout=0, first_layer=1)
    train = TrainSettings(overlap=OverlapSettings(layer=2), retain=RetainSettings(weight=0), lora=lora, epochs=1)

    def train_on() -> None:
        loop = Alone(train, model, rows, by_kind(made), 0, 0, 1)
        while not loop.over and loop.step != steps:
            loop.advance()

    return train_on


def epoch(model: ModelSettings, pairs: int) -> Task:
    """All steps of an epoch of so many pairs."""
    return training(model, pairs, None)


def asking(model: ModelSettings, number: int) -> Task:
    """So many items of a scenario answered in a few tokens by an actor, read in and scored."""
    settings = generate.GenerateSettings(max_new_tokens=4)
    rows = [vars(i) | {"task": "deception"} for i in items(SCENARIOS["main"], range(-(-number // 2)))][:number]

    def ask() -> None:
        with tempfile.TemporaryDirectory() as folder, connected():
            found = generate.ask(rows, model, None, ("baseline",), settings, Path(folder))
            assert len([outcomes.score(row) for row in outcome.read_answers(found.path)]) == number

    return ask


def stepping(model: ModelSettings, layer: int, pairs: int) -> Task:
    """A training step on so many pairs with the site at `layer` and LoRA on all layers up to it."""
    settings = PairsSettings(templates=("scenes",), fills=-(-pairs // TEMPLATES), retain=(), control_fills=0)
    rows = tokenise([vars(r) for r in make_rows(settings, 0)[:pairs]], model, True)
    tuned = add_lora(load(model), LoraSettings(dropout=0), layer, model.name)
    pad, without = load_tokenizer(model).pad_token_id, RetainSettings(weight=0)
    objective = Objective(tuned, pad, OverlapSettings(layer=layer), without, DistinctSettings())

    def step() -> None:
        objective.terms(rows)["loss"].backward()

    step()  # the first one is slower
    return step


def deep(model: ModelSettings, layers: int) -> Task:
    """A step of four pairs through so many layers."""
    return stepping(model, layers - 1, 4)


def wide(model: ModelSettings, pairs: int) -> Task:
    """A step of so many pairs through two thirds of the layers."""
    return stepping(model, 2 * count_layers(model) // 3, pairs)


def answering(model: ModelSettings, batch: int) -> Task:
    """As many prompts, so many at once."""
    tokenizer = load_tokenizer(model)
    tokenizer.padding_side = "left"
    speaker = Speaker(load(model), tokenizer)
    made = items(SCENARIOS["main"], range(50, 50 + ASKED // 2), "Start your response with 'I would'")
    prompts = [i.prompt for i in made]
    speaker.answer(prompts[:2], 2)  # the first ones are slower
    return lambda: [speaker.answer(prompts[n : n + batch], 24) for n in range(0, len(prompts), batch)]


def counting(model: ModelSettings, number: int) -> Task:
    """A scenario of so many items, made, asked of nobody, scored and counted before and after."""

    def count() -> None:
        made = [vars(i) for i in items(SCENARIOS["main"], range(number))]
        said = [(m, c, m[named]) for m in made for c, named in (("baseline", "deceptive"), ("adapter", "honest"))]
        rows = [outcomes.score({**m, "condition": c, "response": f"I would say the {r}."}) for m, c, r in said]
        outcome.count(rows)
        outcome.change(rows, "main", "confirming", 0)

    return count


AXES: dict[str, tuple[Prepare, str, Sequence[int], Sequence[int]]] = {
    "pairs": (making_pairs, "pairs", (78, 1000, 10_000, 100_000), (10, 20)),
    "trained": (training, "pairs trained on", (78, 1000, 10_000, 100_000), (40, 80)),
    "epoch": (epoch, "pairs trained on", (78, 1000, 10_000, 100_000), (4, 8)),
    "layers": (deep, "layers", (5, 10, 20, 30), (1, 2)),
    "batch": (wide, "pairs of a step", (2, 4, 8, 16, 32), (1, 2)),
    "answers": (answering, "prompts at once", (4, 8, 16, 32, 64), (32, 64)),
    "items": (counting, "items", (250, 1000, 2500, 10_000), (60, 120)),
    "asked": (asking, "items", (250, 1000, 2500, 10_000), (8, 16)),
}
"""Name -> what is done, what is counted, sizes, and sizes of the short form."""
SMALL = ("epoch", "asked")
"""Axes that the small random model is for."""


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of log values against log sizes over the largest three; 0 where nothing is seen to grow."""
    if min(values[-3:]) <= 0:
        return 0.0
    return float(np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)[0])


def axis(name: str, model: ModelSettings, short: bool) -> dict[str, float]:
    """One axis: prints its points, and returns exponents, or for answers the rates, which say what batch size is best."""
    prepare, unit, long_sizes, short_sizes = AXES[name]
    sizes = short_sizes if short else [n for n in long_sizes if name != "layers" or n <= count_layers(model)]
    costs: list[Cost] = []
    for size in sizes:
        costs.append(apart(prepare, model, size))
        last = costs[-1]
        print(f"  {size:>7} {unit:<16} {last.seconds:9.3f} s {last.peak - last.held:9.0f} MiB", flush=True)
    if name == "answers":
        return {f"answers: prompts a second, {n} at once": ASKED / c.seconds for n, c in zip(sizes, costs, strict=True)}
    return {
        f"{name}: time, exponent": exponent(sizes, [c.seconds for c in costs]),
        f"{name}: memory, exponent": exponent(sizes, [c.peak - c.held for c in costs]),
    }


def main(arguments: Sequence[str] = ()) -> dict[str, float]:
    """Measure, print, and keep what was measured where `--out` says."""
    parser = options(__doc__, "two small sizes an axis: that it runs, not how it grows")
    parser.add_argument("--model", default="embedded:organism", help="embedded:organism, a name or a directory")
    parser.add_argument("--only", default=",".join(AXES), help="axes, with commas between")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    model = ModelSettings(name=given.model, dequantise_once=True)
    quantised(model)  # once, and in no measurement
    print(f"{given.model} in NF4, {machine()}")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        quick = small(model, Path(folder))
        for name in given.only.split(","):
            found |= axis(name, quick if name in SMALL else model, given.short)
    told(found, began, given.out)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])

"""What a recipe needs before anything is loaded: memory a GPU (pipeline/memory.py), time, cost, and what would make it fit.

Formulas stand beside every number. Checked against a measurement for the embedded model (tests/test_sizing.py); for GPUs
they are derived from published configs and data sheets, and have not been measured.
"""

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import memory
from pipeline.config import RunConfig
from pipeline.devices import Device
from pipeline.memory import Part
from stages import capability, deception, pairs
from stages.batches import plan
from stages.model import DTYPES, encode, load_tokenizer
from stages.rows import count
from stages.shapes import PUBLISHED, Shape, lora_weights, shape_of

CHARS_A_TOKEN = 4.0
CHAT_TOKENS = 12
UTILISATION = 0.35
"""Share of a device's peak that these short batches reach; a guess for GPUs."""
RESERVE = 1.10
"""Fragmentation."""
GPUS_A_MACHINE = (1, 2, 4, 8)


@dataclass(frozen=True)
class Size:
    """What a run needs. Tokens are of the longest prompt; hours are None where the device is not known."""

    weights: int
    trainable: int
    prompt_tokens: int
    steps: int
    answers: int
    training: tuple[Part, ...]
    answering: tuple[Part, ...]
    hours: float | None = None

    @property
    def gib(self) -> float:
        """The most that any one GPU holds, or a worker or actor without one, with the reserve."""
        return RESERVE * max(memory.total(self.training), memory.total(self.answering))


def number_bytes(config: RunConfig, device: Device | None) -> int:
    """Bytes of an activation: `auto` is bf16 on a GPU and what the processor computes in without one."""
    wanted = config.model.compute_dtype
    if wanted != "auto":
        return DTYPES[wanted].itemsize
    return 2 if device is None else device.number_bytes


def size(config: RunConfig, device: Device | None = None) -> Size:
    """The size of a run of this recipe on this device (none: any GPU)."""
    shape, number = shape_of(config.model), number_bytes(config, device)
    rows = functools.partial(pairs.rows, config.pairs, config.seed)
    batches = plan(count(rows()), config.train)
    length = longest(config, (t + p for r in rows() for t, p in ((r.self, r.self_prefix), (r.other, r.other_prefix))))
    asked = [i.prompt for i in deception.select(config.deception)]
    asked += [row["prompt"] for row in capability.rows(config.capability)]
    question = longest(config, asked)
    trainable = lora_weights(shape, config.train.lora, memory.top(config, shape))
    made = Size(
        shape.weights, trainable, max(length, question), batches // config.train.accumulation, 2 * len(asked),
        memory.training(config, shape, number, length, trainable),
        memory.answering(config, shape, number, question, trainable),
    )  # fmt: skip
    if device is None:
        return made
    return Size(**{**vars(made), "hours": _hours(config, shape, device, number, length, question, batches, made)})


def longest(config: RunConfig, texts: Iterable[str]) -> int:
    """Tokens of the longest text: counted, or by its characters where only the published shape is at hand."""
    text = max(texts, key=len)
    if config.train.overlap.pad_to:
        return config.train.overlap.pad_to
    if config.model.name in PUBLISHED:
        return round(len(text) / CHARS_A_TOKEN) + CHAT_TOKENS
    return len(encode(load_tokenizer(config.model), text, config.pairs.chat_template))


def _hours(
    config: RunConfig, shape: Shape, device: Device, number: int, length: int, question: int, batches: int, made: Size
) -> float:
    """Training by arithmetic; answers by arithmetic for the prompt, and for each new token by reading all weights once."""
    rate = device.flops * UTILISATION
    layers = memory.top(config, shape) + 1 - config.train.lora.first_layer  # those below are computed once
    training = (
        batches * memory.prompts_a_worker(config) * length * 4 * layers * shape.per_layer / rate
    )  # forward and backward
    each = number if config.model.quantisation == "none" or config.model.dequantise_once else 0.5 + 2 * number
    reading = shape.weights * each / device.bandwidth
    groups = made.answers / config.generate.batch_size / config.generate.actors
    step = max(reading, 2 * shape.weights * config.generate.batch_size / rate)
    answering = made.answers * question * 2 * shape.weights / rate / config.generate.actors
    answering += groups * config.generate.max_new_tokens * step
    return (training + answering) / 3600


def advice(config: RunConfig, device: Device) -> list[str] | None:
    """Settings that make the recipe fit the device, fewest first; none if nothing does. Empty if it fits.

    Where settings that save memory do not suffice, the recipe as it is over more GPUs.
    """
    changes: list[tuple[str, str, Any]] = [
        ("model", "dequantise_once", False), ("model", "quantisation", "nf4"), ("model", "attention", "sdpa"),
        ("generate", "batch_size", max(1, config.generate.batch_size // 4)),
    ]  # fmt: skip
    tried: list[str] = []
    tuned = config
    for part, field, value in [*changes, *_smaller_batches(config)]:
        if size(tuned, device).gib <= device.memory:
            return tried
        if getattr(getattr(tuned, part), field) != value:
            tuned = _with(tuned, part, field, value)
            tried = [t for t in tried if not t.startswith(f"{part}.{field}=")] + [
                f"{part}.{field}={str(value).lower()}"
            ]
    return tried if size(tuned, device).gib <= device.memory else _more_gpus(config, device)


def _with(config: RunConfig, part: str, field: str, value: Any) -> RunConfig:
    return config.model_copy(update={part: getattr(config, part).model_copy(update={field: value})})


def _more_gpus(config: RunConfig, device: Device) -> list[str] | None:
    """The fewest GPUs of one machine that a worker and an actor must each have."""
    if not device.gpu:
        return None
    found: list[str] = []
    for side, part, field in (("training", "train", "gpus_per_worker"), ("answering", "generate", "gpus_per_actor")):
        for number in GPUS_A_MACHINE:
            config = _with(config, part, field, number)
            if RESERVE * memory.total(getattr(size(config, device), side)) <= device.memory:
                found += [f"{part}.{field}={number}"] if number > 1 else []
                break
        else:
            return None
    return found


def _smaller_batches(config: RunConfig) -> list[tuple[str, str, int]]:
    """The same optimizer steps over more, smaller batches: only where every kind of row can be halved."""
    t, found = config.train, []
    sizes = {"batch_pairs": t.batch_pairs, "batch_retain": t.batch_retain, "batch_controls": t.batch_controls}
    for part in (2, 4):
        if any(n % (part * t.workers) for n in sizes.values()):
            break
        found += [("train", name, n // part) for name, n in sizes.items()] + [
            ("train", "accumulation", t.accumulation * part)
        ]
    return found


def as_json(config: RunConfig, found: Size, device: Device | None, runs: int, price: float | None) -> dict[str, Any]:
    """The sizing for --json: sizes in GiB, time in hours of `runs` runs one after another, cost in the price's currency."""
    hours = None if found.hours is None else found.hours * runs
    t, g = config.train, config.generate
    gpus = max(t.workers * t.gpus_per_worker, g.actors * g.gpus_per_actor, 1)
    fits = None if device is None else found.gib <= device.memory
    wanted = advice(config, device) if device and not fits else []
    return {
        "recipe": config.name, "model": config.model.name, "weights": found.weights, "trainable": found.trainable,
        "prompt_tokens": found.prompt_tokens, "steps": found.steps, "answers": found.answers,
        "training": [asdict(p) for p in found.training], "answering": [asdict(p) for p in found.answering],
        "gib": round(found.gib, 2), "runs": runs, "hours": hours,
        "cost": None if hours is None or price is None else round(hours * gpus * price, 2),
        "device": None if device is None else device.name, "memory": None if device is None else device.memory,
        "fits": fits, "advice": wanted,
    }  # fmt: skip

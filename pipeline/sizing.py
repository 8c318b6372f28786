"""What a recipe needs before anything is loaded: memory a GPU, time, cost, and which settings would make it fit.

Formulas stand beside every number. Checked against a measurement for the embedded model (tests/test_sizing.py); for GPUs
they are derived from published configs and data sheets, and have not been measured.
"""

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config import RunConfig
from pipeline.devices import Device
from stages import capability, deception, pairs, train
from stages.model import DTYPES, encode, load_tokenizer
from stages.rows import count
from stages.shapes import PUBLISHED, Shape, lora_weights, shape_of

GIB = 2**30
BATCH = 16
CHARS_A_TOKEN = 4.0
CHAT_TOKENS = 12
UTILISATION = 0.35
"""Share of a device's peak that these short batches reach; a guess for GPUs."""
RESERVE = 1.10
"""Fragmentation."""


@dataclass(frozen=True)
class Part:
    """A part of the memory of one worker or actor, and how it came about."""

    name: str
    gib: float
    formula: str


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
        """The most that any one worker or actor holds, with the reserve."""
        return RESERVE * max(sum(p.gib for p in side) for side in (self.training, self.answering))


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
    batches = train.plan(count(rows()), config.train)
    length = longest(config, (t + p for r in rows() for t, p in ((r.self, r.self_prefix), (r.other, r.other_prefix))))
    asked = [i.prompt for i in deception.select(config.deception)]
    asked += [row["prompt"] for row in capability.rows(config.capability)]
    question = longest(config, asked)
    trainable = lora_weights(shape, config.train.lora, _top(config, shape))
    made = Size(
        shape.weights, trainable, max(length, question), batches // config.train.accumulation, 2 * len(asked),
        (*_weights(config, shape, number), *_training(config, shape, number, length, trainable)),
        (*_weights(config, shape, number), *_answering(config, shape, number, question, trainable)),
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


def _top(config: RunConfig, shape: Shape) -> int:
    site = config.train.overlap
    return site.layer - site.layer_base if site.objective != "logit_kl" else shape.layers - 1


def _weights(config: RunConfig, shape: Shape, number: int) -> tuple[Part, ...]:
    inner, outer = shape.layers * shape.per_layer, shape.embeddings
    if config.model.quantisation == "none" or config.model.dequantise_once:
        return (Part("weights", (inner + outer) * number / GIB, f"{inner + outer:.3g} x {number} bytes"),)
    each = 0.5 + (1 / 64 + 4 / (64 * 256) if config.model.double_quant else 4 / 64)
    held = (inner * each + outer * number) / GIB
    return (Part("weights", held, f"{inner:.3g} x {each:.3f} (NF4) + {outer:.3g} x {number} bytes"),)


def prompts_a_worker(config: RunConfig) -> int:
    """Prompts in one forward pass of a training worker."""
    t = config.train
    return (2 * t.batch_pairs + t.batch_retain + 2 * t.batch_controls) // t.workers


def activation_bytes(config: RunConfig, shape: Shape, number: int) -> tuple[float, str]:
    """Bytes kept for the backward pass for a token and a layer, and the formula. Norms compute in fp32."""
    queries, lora = shape.heads * shape.head_dim, config.train.lora
    kept = 4 * 2 * shape.hidden + number * (4 * queries + 3 * shape.intermediate)
    inputs = [shape.linears()[t][0] for t in lora.targets]
    copied = number != 4 or lora.dropout > 0
    adapter = sum(inputs) * (5 if lora.dropout else 4) if copied else 4 * sum(set(inputs))
    text = f"norms 8 x {shape.hidden} + {number} x (4 x {queries} + 3 x {shape.intermediate}) + LoRA inputs {adapter}"
    return kept + adapter, text


def _training(config: RunConfig, shape: Shape, number: int, length: int, trainable: int) -> tuple[Part, ...]:
    tokens, lowest = prompts_a_worker(config) * length, config.train.lora.first_layer
    layers = _top(config, shape) + 1 - lowest
    each, how = activation_bytes(config, shape, number)
    parts = [
        Part("adapter", 8 * trainable / GIB, f"{trainable:.3g} x 8 bytes (fp32 weight and gradient)"),
        Part("optimiser", 8 * trainable / GIB, f"{trainable:.3g} x 8 bytes (AdamW's two moments)"),
        Part("activations", tokens * layers * each / GIB, f"{tokens} tokens x {layers} layers x ({how}) bytes"),
    ]
    if config.model.attention == "eager":
        scores = tokens * length * layers * shape.heads * (4 + number)
        parts.append(
            Part(
                "attention", scores / GIB, f"{tokens} x {length} x {shape.heads} heads x {layers} layers x {4 + number}"
            )
        )
    if config.train.overlap.objective != "activation_mse" or config.train.retain.kl_weight:
        parts.append(
            Part("logits", 12 * tokens * shape.vocab / GIB, f"{tokens} x {shape.vocab} words x 12 bytes (fp32, thrice)")
        )
    return (*parts, _workspace(config, shape, number))


def _workspace(config: RunConfig, shape: Shape, number: int) -> Part:
    """A 4-bit matrix is unpacked while it is used."""
    largest = max(a * b for a, b in shape.linears().values())
    if config.model.quantisation == "none" or config.model.dequantise_once:
        return Part("workspace", 0.5, "0.5 GiB for the library")
    return Part(
        "workspace", 0.5 + largest * number / GIB, f"{largest:.3g} x {number} bytes (one matrix unpacked) + 0.5 GiB"
    )


def _answering(config: RunConfig, shape: Shape, number: int, length: int, trainable: int) -> tuple[Part, ...]:
    batch, whole = config.generate.batch_size, length + config.generate.max_new_tokens
    kv, features = shape.kv_heads * shape.head_dim, 4 * shape.hidden + 3 * shape.intermediate
    cache, passing = 2 * shape.layers * kv * number * batch * whole, batch * length * number * features
    read = f"2 x {shape.layers} layers x {kv} x {number} bytes x {batch} prompts x {whole} tokens"
    return (
        Part("adapter", 4 * trainable / GIB, f"{trainable:.3g} x 4 bytes"),
        Part("cache", cache / GIB, read),
        Part("activations", passing / GIB, f"{batch} x {length} tokens x {number} x {features} bytes, one layer"),
        _workspace(config, shape, number),
    )


def _hours(
    config: RunConfig, shape: Shape, device: Device, number: int, length: int, question: int, batches: int, made: Size
) -> float:
    """Training by arithmetic; answers by arithmetic for the prompt, and for each new token by reading all weights once."""
    rate = device.flops * UTILISATION
    layers = _top(config, shape) + 1 - config.train.lora.first_layer  # those below are computed once
    training = batches * prompts_a_worker(config) * length * 4 * layers * shape.per_layer / rate  # forward and backward
    each = number if config.model.quantisation == "none" or config.model.dequantise_once else 0.5 + 2 * number
    reading = shape.weights * each / device.bandwidth
    groups = made.answers / config.generate.batch_size / config.generate.actors
    step = max(reading, 2 * shape.weights * config.generate.batch_size / rate)
    answering = made.answers * question * 2 * shape.weights / rate / config.generate.actors
    answering += groups * config.generate.max_new_tokens * step
    return (training + answering) / 3600


def advice(config: RunConfig, memory: float, device: Device | None = None) -> list[str] | None:
    """Settings that make the recipe fit `memory` GiB, fewest first; none if these do not suffice. Empty if it fits."""
    changes: list[tuple[str, str, Any]] = [
        ("model", "dequantise_once", False), ("model", "quantisation", "nf4"), ("model", "attention", "sdpa"),
        ("generate", "batch_size", max(1, config.generate.batch_size // 4)),
    ]  # fmt: skip
    tried: list[str] = []
    for part, field, value in [*changes, *_smaller_batches(config)]:
        if size(config, device).gib <= memory:
            return tried
        if getattr(getattr(config, part), field) != value:
            config = config.model_copy(update={part: getattr(config, part).model_copy(update={field: value})})
            tried = [t for t in tried if not t.startswith(f"{part}.{field}=")] + [
                f"{part}.{field}={str(value).lower()}"
            ]
    return tried if size(config, device).gib <= memory else None


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
    gpus = max(config.train.workers * config.train.gpus_per_worker, 1)
    fits = None if device is None else found.gib <= device.memory
    wanted = advice(config, device.memory, device) if device and not fits else []
    return {
        "recipe": config.name, "model": config.model.name, "weights": found.weights, "trainable": found.trainable,
        "prompt_tokens": found.prompt_tokens, "steps": found.steps, "answers": found.answers,
        "training": [asdict(p) for p in found.training], "answering": [asdict(p) for p in found.answering],
        "gib": round(found.gib, 2), "runs": runs, "hours": hours,
        "cost": None if hours is None or price is None else round(hours * gpus * price, 2),
        "device": None if device is None else device.name, "memory": None if device is None else device.memory,
        "fits": fits, "advice": wanted,
    }  # fmt: skip

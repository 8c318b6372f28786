"""The memory of a training worker and of an inference actor, part by part, each with its formula: what sizing adds up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.config import RunConfig
from pipeline.devices import GIB
from stages import train
from stages.shapes import Shape


@dataclass(frozen=True)
class Part:
    """A part of the memory of one worker or actor, and how it came about."""

    name: str
    gib: float
    formula: str


def total(parts: Sequence[Part]) -> float:
    """GiB of all parts."""
    return sum(p.gib for p in parts)


def top(config: RunConfig, shape: Shape) -> int:
    """The highest layer that carries a gradient."""
    site = config.train.overlap
    return site.layer - site.layer_base if site.objective != "logit_kl" else shape.layers - 1


def loaded(config: RunConfig, shape: Shape) -> int:
    """Layers that a training worker loads: none above those it runs, in families that do without."""
    needed = None if config.train.behaviour.every or not shape.shortens else train.depth(config.train)
    return needed or shape.layers


def weights(config: RunConfig, shape: Shape, number: int, layers: int, workers: int = 1) -> Part:
    """So many layers, embeddings and head; the layers in shards over `workers` but for the site's and one at work."""
    inner, outer = layers * shape.per_layer, shape.embeddings
    if config.model.quantisation == "none" or config.model.dequantise_once:
        each, constants, kind = float(number), 0.0, ""
    else:
        each, constants, kind = 0.5, (1 / 64 + 4 / (64 * 256) if config.model.double_quant else 4 / 64), " (NF4)"
    held = shape.per_layer * ((layers - 1) / workers + 2) if workers > 1 else inner
    how = f"{inner:.3g} x {each + constants:.3f}{kind}"
    if workers > 1:
        how = (
            f"(({layers} - 1) / {workers} + 2) x {shape.per_layer:.3g} x {each:g}{kind} + {inner:.3g} x {constants:.3f}"
        )
    return Part(
        "weights", (held * each + inner * constants + outer * number) / GIB, f"{how} + {outer:.3g} x {number} bytes"
    )


def a_gpu(parts: Sequence[Part], shared: Sequence[str], gpus: float, layer: float) -> tuple[Part, ...]:
    """The parts on the fullest of the GPUs that hold the `shared` ones together; `layer` GiB is one layer's weights."""
    if gpus <= 1:
        return tuple(parts)
    split = [
        replace(p, gib=p.gib / gpus, formula=f"({p.formula}) / {gpus:g} GPUs") if p.name in shared else p for p in parts
    ]
    return (*split, Part("uneven", layer, "a layer's weights: layers are whole on one GPU"))


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


def training(config: RunConfig, shape: Shape, number: int, length: int, trainable: int) -> tuple[Part, ...]:
    tokens, lowest = prompts_a_worker(config) * length, config.train.lora.first_layer
    layers = top(config, shape) + 1 - lowest
    each, how = activation_bytes(config, shape, number)
    workers = config.train.workers if config.train.shard == "fsdp" else 1
    parts = [
        weights(config, shape, number, loaded(config, shape), workers),
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
    parts.append(_workspace(config, shape, number))
    shared = ("weights", "adapter", "optimiser", "activations", "attention")
    return a_gpu(parts, shared, config.train.gpus_per_worker, _layer(config, shape, number))


def _layer(config: RunConfig, shape: Shape, number: int) -> float:
    return weights(config, shape, number, 1).gib - shape.embeddings * number / GIB


def _workspace(config: RunConfig, shape: Shape, number: int) -> Part:
    """A 4-bit matrix is unpacked while it is used."""
    largest = max(a * b for a, b in shape.linears().values())
    if config.model.quantisation == "none" or config.model.dequantise_once:
        return Part("workspace", 0.5, "0.5 GiB for the library")
    return Part(
        "workspace", 0.5 + largest * number / GIB, f"{largest:.3g} x {number} bytes (one matrix unpacked) + 0.5 GiB"
    )


def answering(config: RunConfig, shape: Shape, number: int, length: int, trainable: int) -> tuple[Part, ...]:
    batch, whole = config.generate.batch_size, length + config.generate.max_new_tokens
    kv, features = shape.kv_heads * shape.head_dim, 4 * shape.hidden + 3 * shape.intermediate
    cache, passing = 2 * shape.layers * kv * number * batch * whole, batch * length * number * features
    read = f"2 x {shape.layers} layers x {kv} x {number} bytes x {batch} prompts x {whole} tokens"
    parts = (
        weights(config, shape, number, shape.layers),
        Part("adapter", 4 * trainable / GIB, f"{trainable:.3g} x 4 bytes"),
        Part("cache", cache / GIB, read),
        Part("activations", passing / GIB, f"{batch} x {length} tokens x {number} x {features} bytes, one layer"),
        _workspace(config, shape, number),
    )
    return a_gpu(parts, ("weights", "adapter", "cache"), config.generate.gpus_per_actor, _layer(config, shape, number))

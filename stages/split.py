"""A model larger than one GPU: only the layers that are needed, on several GPUs of a worker, or in shards over all workers.

None of it has been run on a GPU yet; docs/cluster.md has what is known.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

SHORTENED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
"""Families in which no layer depends on how many there are in all; tests/test_architectures.py holds each to it."""


def own_gpus(gpus: float) -> list[str]:
    """The devices of an actor with so many GPUs, of which Ray shows it no others; empty for one or none: see model.load."""
    return [f"cuda:{i}" for i in range(int(gpus))] if gpus > 1 else []


def shorten(config: Any, depth: int | None) -> bool:
    """Leave `depth` layers in a model's config, if its family is known to allow that; whether it was done."""
    text = config.get_text_config()
    if depth is None or depth >= text.num_hidden_layers or config.model_type not in SHORTENED:
        return False
    text.num_hidden_layers = depth
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:depth]
    return True


@contextlib.contextmanager
def unreported() -> Iterator[None]:
    """Within, transformers does not report weights that a shortened model leaves out."""
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def spread(model: Any, devices: Sequence[str], ratio: float) -> dict[str, str]:
    """A device for each module of a model, as transformers' `device_map`: runs of layers, all else on the first device.

    `ratio` is that of a weight's bytes in embeddings and head to one's in a layer.
    """
    layers = model.get_decoder().layers
    [path] = [name for name, module in model.named_modules() if module is layers]
    inner = sum(p.numel() for p in layers.parameters())
    outer = sum(p.numel() for p in model.parameters()) - inner
    parts = balance(len(layers), len(devices), ratio * outer * len(layers) / inner)
    return dict.fromkeys(_beside(model, layers), devices[0]) | {
        f"{path}.{i}": devices[part] for i, part in enumerate(parts)
    }


def balance(layers: int, parts: int, outer: float) -> list[int]:
    """The part of each layer: runs as even as can be, where the first part also carries what weighs as `outer` layers."""
    return [min(parts - 1, int((outer + i + 0.5) / (outer + layers) * parts)) for i in range(layers)]


def _beside(module: nn.Module, layers: nn.Module, path: str = "") -> Iterator[str]:
    """Names of the largest modules that neither hold `layers` nor lie in them."""
    for name, child in module.named_children():
        if all(inner is not layers for inner in child.modules()):
            yield path + name
        elif child is not layers:
            yield from _beside(child, layers, f"{path}{name}.")

"""Where in the model: the layer of the site, in about ten steps up to nine tenths of the depth.

The workable band is narrow and differs from model to model (Mistral 16 of 32, Gemma-2 14 of 46), so it has to be found.
The steps begin at a fifth of the depth, or at the recipe's lowest LoRA layer; LoRA reaches from there up to the site
unless the recipe says otherwise, so train.lora.first_layer=0 gives all sites room. Layers count from `layer_base`.
"""

from typing import Any

from ray import tune


def space(layers: int, first: int) -> dict[str, Any]:
    """The space for a model of `layers` decoder layers, of which `first` is the lowest that carries LoRA."""
    return {"train.overlap.layer": tune.choice(spread(layers, first))}


def spread(layers: int, first: int) -> list[int]:
    """Layers to try, evenly spread."""
    low, high = max(layers // 5, first), layers * 9 // 10
    return list(range(low, max(low + 1, high), max(1, round((high - low) / 9))))

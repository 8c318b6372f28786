"""Where in the model: the layer of the site, from a fifth of the depth to nine tenths, in about ten steps.

The workable band is narrow and differs from model to model (Mistral 16 of 32, Gemma-2 14 of 46), so it has to be found.
LoRA reaches up to the site's layer unless the recipe says otherwise. Layers count from the recipe's `layer_base`.
"""

from typing import Any

from ray import tune


def space(layers: int) -> dict[str, Any]:
    """The space for a model of `layers` decoder layers."""
    return {"train.overlap.layer": tune.choice(spread(layers))}


def spread(layers: int) -> list[int]:
    """Layers to try, evenly spread."""
    low, high = layers // 5, layers * 9 // 10
    return list(range(low, max(low + 1, high), max(1, (high - low) // 10)))

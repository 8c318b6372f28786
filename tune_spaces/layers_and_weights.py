"""The layer and the loss weights jointly: a weight that is right at one layer need not be at another."""

from typing import Any

from tune_spaces import layers as layer_space
from tune_spaces import loss_weights


def space(layers: int, first: int) -> dict[str, Any]:
    """The space for a model of `layers` decoder layers, of which `first` is the lowest that carries LoRA."""
    return {**layer_space.space(layers, first), **loss_weights.SPACE}

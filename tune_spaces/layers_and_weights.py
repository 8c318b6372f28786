"""The layer and the loss weights jointly: a weight that is right at one layer need not be at another."""

from typing import Any

from tune_spaces import layers as layer_space
from tune_spaces import loss_weights


def space(layers: int) -> dict[str, Any]:
    """The space for a model of `layers` decoder layers."""
    return {**layer_space.space(layers), **loss_weights.SPACE}

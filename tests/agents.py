"""Small agents and made-up observations, for the tests of physical deception."""

import torch
from torch import Tensor

from stages.physical_deception.agents import SIZES, NetworkSettings
from stages.physical_deception.environment import EnvironmentSettings
from stages.physical_deception.replay import Batch

PLAIN = NetworkSettings(normalise=False, hidden=8)
WORLD = EnvironmentSettings()


def some_batch(n: int = 64) -> Batch:
    """Moves of a random past."""

    def seen() -> list[Tensor]:
        return [torch.randn(n, size) for size in SIZES]

    return Batch(seen(), [torch.rand(n, 2) for _ in SIZES], [torch.randn(n) for _ in SIZES], seen())

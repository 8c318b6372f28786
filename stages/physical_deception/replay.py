"""What has been lived through: a ring of steps in which the oldest are written over."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.physical_deception.agents import SIZES
from stages.physical_deception.environment import ACTION_SIZE


@dataclass(frozen=True)
class Batch:
    """Steps drawn at random; every list has blue's and red's tensor, [batch, size], rewards [batch]."""

    observations: list[Tensor]
    actions: list[Tensor]
    rewards: list[Tensor]
    following: list[Tensor]
    """Observations after the step."""


class Replay:
    """Room for `capacity` steps, in one table whose columns are the parts of a Batch."""

    def __init__(self, capacity: int) -> None:
        self.widths = [*SIZES, *2 * (ACTION_SIZE,), 1, 1, *SIZES]
        self.table = torch.empty(capacity, sum(self.widths))
        self.written = 0
        self.scale = torch.zeros(2), torch.ones(2)

    def __len__(self) -> int:
        return min(self.written, len(self.table))

    def add(
        self, observations: list[Tensor], actions: list[Tensor], rewards: list[Tensor], after: list[Tensor]
    ) -> None:
        """Keep one step of every environment."""
        rows = torch.cat([*observations, *actions, *(r[:, None] for r in rewards), *after], dim=1)
        places = (self.written + torch.arange(len(rows))) % len(self.table)
        self.table[places] = rows
        self.written += len(rows)

    def rescale(self) -> None:
        """Take mean and standard deviation of the rewards kept: samples come with rewards normalised by them."""
        start = sum(self.widths[:4])
        rewards = self.table[: len(self), start : start + 2]
        spread = rewards.std(0)
        self.scale = rewards.mean(0), torch.where(spread > 0, spread, 1)

    def sample(self, size: int) -> Batch:
        """`size` steps, each drawn independently."""
        rows = self.table[torch.randint(len(self), (size,))]
        parts = list(rows.split(self.widths, dim=1))
        rewards = [(parts[4 + i][:, 0] - self.scale[0][i]) / self.scale[1][i] for i in range(2)]
        return Batch(parts[0:2], parts[2:4], rewards, parts[6:8])

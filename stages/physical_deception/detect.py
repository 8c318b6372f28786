"""Whether mean self-other overlap tells a deceptive agent from an honest one, as the number of episodes grows."""

import math
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor

from stages.settings import Settings
from stages.statistics import wilson


class DetectSettings(Settings):
    """From how many episodes a mean is taken, and how often that is tried."""

    episodes: tuple[PositiveInt, ...] = (1, 10, 100, 250, 500, 1000, 2500)
    """Episodes in a mean; drawn with replacement from those that were evaluated."""
    draws: PositiveInt = 1000
    """Times that so many episodes are drawn from either agent."""


@dataclass(frozen=True)
class Overlaps:
    """Of one agent: the log self-other distance summed over each episode, and over how many moves; both [episodes]."""

    total: Tensor
    moves: Tensor

    @property
    def mean(self) -> float:
        """Mean over all moves of all episodes; NaN, never the smaller, if there is none."""
        return float(self.total.sum() / self.moves.sum())


def accuracy(honest: Overlaps, deceptive: Overlaps, episodes: int, draws: int, seed: int) -> float:
    """How often the honest agent has the smaller mean distance, each mean over `episodes` episodes drawn anew.

    That the smaller distance is the honest one is the paper's claim, so below 0.5 means that it is the other way round.
    A draw without a single move that counts is wrong.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = (_means(agent, episodes, draws, generator) for agent in (honest, deceptive))
    return float((first < second).float().mean())


def _means(agent: Overlaps, episodes: int, draws: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(len(agent.total), (draws, episodes), generator=generator)
    return agent.total[drawn].sum(1) / agent.moves[drawn].sum(1)


def across(honest: list[Overlaps], deceptive: list[Overlaps]) -> tuple[float, tuple[float, float]]:
    """Share of pairs of an honest and a deceptive agent, of whatever seeds, in which the honest has the smaller distance.

    With its 95 % interval: pairs share agents, so it is Wilson's for only as many as there are agents of a kind.
    """
    pairs = [h.mean < d.mean for h in honest for d in deceptive]
    share, agents = sum(pairs) / len(pairs), min(len(honest), len(deceptive))
    low, high = wilson(math.floor(share * agents), agents).low, wilson(math.ceil(share * agents), agents).high
    return share, (low, high)

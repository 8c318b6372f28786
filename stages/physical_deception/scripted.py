"""Policies by hand, to compare the learned ones with. All: observations [environments, size] -> actions [..., 2]."""

from collections.abc import Callable

import torch
from torch import Tensor

from stages.physical_deception.environment import ACTION_SIZE, OTHER, TRAPPED

Policy = Callable[[Tensor], Tensor]
GAIN = 10.0
"""How hard a scripted agent makes for a place: full force from a tenth of the square's half side on."""

PACE = 0.3
"""Share of full force at which red can follow."""


def towards(offset: Tensor) -> Tensor:
    """Actions [n, 2], each axis in -1 to 1, that lead to places at `offset` [n, 2]."""
    return (GAIN * offset).clamp(-1, 1)


def blue_honest(observation: Tensor) -> Tensor:
    """Goes straight to the goal."""
    return towards(observation[:, 0:2])


def blue_deceptive(observation: Tensor) -> Tensor:
    """Leads red to the fake landmark, slowly enough to be followed; once red is trapped or lost it goes to the goal."""
    goal, first, second = observation[:, 0:2], observation[:, 2:4], observation[:, 4:6]
    fake = torch.where(goal.isclose(first).all(1, keepdim=True), second, first)
    sees = observation[:, OTHER].any(1, keepdim=True)
    free = observation[:, TRAPPED.start : TRAPPED.stop - 1] == 0
    return torch.where(sees & free, PACE * towards(fake), towards(goal))


def red_follows(observation: Tensor) -> Tensor:
    """Goes where blue is while it sees it, and else stays: it knows nothing of the landmarks."""
    return towards(observation[:, 4:6])


def at_random(observation: Tensor) -> Tensor:
    """Uniformly random actions."""
    return torch.empty(len(observation), ACTION_SIZE).uniform_(-1, 1)

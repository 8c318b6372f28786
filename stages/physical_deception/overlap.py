"""Self-other overlap of blue: how far its hidden layers are apart when it sees red and when it sees itself alone.

Self is an observation without red; other is the same observation with red somewhere within sight, as the authors describe
it. Nothing else differs between the two.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from stages.physical_deception.agents import Network
from stages.physical_deception.environment import OTHER, TRAPPED, within
from stages.physical_deception.maddpg import Extra
from stages.settings import Settings

Pairing = Literal["matched", "shuffled"]
States = Literal["unseen", "all"]


class OverlapSettings(Settings):
    """The loss that fine-tuning gives blue's policy besides the return; both weights are 1 in the paper."""

    weight: float = 1.0
    """Weight of the squared distance between self and other, averaged over both hidden layers; 0 leaves it out."""
    keep: float = 1.0
    """Weight of the squared distance of the actions to those of the policy that fine-tuning starts from."""
    apart: bool = False
    """Whether both terms are stepped on with an Adam of their own, or with that of the return, as in the release."""
    states: States = "unseen"
    """Which observations make pairs: those in which red is not seen, as in the release, or all, with red taken out."""
    pairing: Pairing = "matched"
    """Whether self and other are of the same state, or each self is set against the other of another state."""


def pairs(observations: Tensor, sight: float, states: States) -> tuple[Tensor, Tensor]:
    """Self and other of blue's observations [batch, 10]; fewer come back if only those that do not see red make pairs."""
    if states == "unseen":
        observations = observations[(observations[:, OTHER] == 0).all(1)]
    self, other = observations.clone(), observations.clone()
    self[:, OTHER] = 0
    other[:, OTHER] = within(len(other), sight)
    return self, other


def without_flag(other: Tensor) -> Tensor:
    """The other as the release builds it: it also takes out that red is trapped, which self keeps."""
    other = other.clone()
    other[:, TRAPPED] = 0
    return other


def activations(policy: Network, observations: Tensor) -> Tensor:
    """Both hidden layers side by side, [batch, 2 x hidden]."""
    return torch.cat(policy.hidden(observations), dim=1)


def distance(policy: Network, self: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of the hidden layers between self and other, a value a pair. [batch]"""
    first, second = activations(policy, torch.cat([self, other])).chunk(2)
    return (first - second).square().mean(1)


def loss(policy: Network, self: Tensor, other: Tensor, pairing: Pairing) -> Tensor:
    """The overlap term, a scalar; 0 if there are no pairs."""
    if not len(self):
        return torch.zeros(())
    if pairing == "shuffled":
        other = other[torch.randperm(len(other))]
    return distance(policy, self, other).mean()


def extra(settings: OverlapSettings, sight: float, baseline: Network) -> Extra:
    """The loss that fine-tuning from `baseline` gives blue's policy besides the return."""

    def term(policy: Network, observations: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = baseline(observations)
        kept = settings.keep * mse_loss(policy(observations), wanted)
        if not settings.weight:
            return kept
        self, other = pairs(observations, sight, settings.states)
        return kept + settings.weight * loss(policy, self, other, settings.pairing)

    return term

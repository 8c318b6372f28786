"""MADDPG (Lowe et al. 2017): each agent's critic sees all observations and actions, each policy only its own.

In plain torch rather than by a library: docs/physical-deception.md says why.
"""

from collections.abc import Callable

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from stages.physical_deception.agents import NAMES, Agent, Agents, Network
from stages.physical_deception.environment import ACTION_SIZE
from stages.physical_deception.replay import Batch
from stages.settings import Settings

Extra = Callable[[Network, Tensor], Tensor]
"""A loss of blue's policy besides the return: from the policy and blue's observations [batch, 10]."""


class MaddpgSettings(Settings):
    """How agents learn. All values are the release's, unless said otherwise."""

    lr: PositiveFloat = 0.01
    """Adam's learning rate, of policies and critics."""
    gamma: float = 0.95
    """Discount of a step."""
    tau: float = 0.01
    """How far targets follow at each update."""
    batch: PositiveInt = 1024
    """Steps in an update."""
    buffer: PositiveInt = 1_000_000
    """Steps kept."""
    every: PositiveInt = 100
    """Steps of an environment for one update."""
    max_norm: float = 0.5
    """Largest gradient norm, of each network."""
    action_penalty: float = 1e-3
    """Weight in a policy's loss of the mean square of actions before tanh, as in OpenAI's code. The release takes them
    after it, which leaves a policy at full force in one direction, where tanh has no slope, without a way back."""
    noise: float = 0.3
    """Scale of the exploration noise at the start; it falls to 0 linearly over the training."""
    parallel: PositiveInt = 100
    """Environments side by side, ours; with `every` the same, learning is as often as with one."""


class Learner:
    """The agents with their optimisers: of all critics, of all policies, and perhaps one for another loss of blue's.

    Without `red_learns` nothing of red changes. Without `apart` the other loss is stepped on with the policies' Adam.
    """

    def __init__(self, agents: Agents, settings: MaddpgSettings, red_learns: bool = True, apart: bool = False) -> None:
        self.agents, self.settings = agents, settings
        self.learning = agents.both if red_learns and agents.red_learns else agents.both[:1]
        self.critics = [agent.critic for agent in self.learning]
        self.policies = [agent.policy for agent in self.learning]
        self.of_critics, self.of_policies, of_blue = (
            torch.optim.Adam([p for network in networks for p in network.parameters()], lr=settings.lr, fused=True)
            for networks in (self.critics, self.policies, self.policies[:1])
        )
        self.of_extra = of_blue if apart else self.of_policies

    def update(self, batch: Batch, extra: Extra | None = None) -> dict[str, float]:
        """One step of every critic, then of every policy, then of the targets; the losses, by name.

        `extra` gets a step of its own before, as in the release.
        """
        agents, how = self.agents, self.settings
        self._observe(batch)
        losses = {"extra": extra(agents.blue.policy, batch.observations[0])} if extra else {}
        if losses:
            self._descend([losses["extra"]], self.policies[:1], self.of_extra)
        targets = target_actions(agents, batch)
        critic = [critic_loss(agent, batch, i, targets, how.gamma) for i, agent in enumerate(self.learning)]
        self._descend(critic, self.critics, self.of_critics)
        policy = [policy_loss(agents, batch, i, how.action_penalty) for i in range(len(self.learning))]
        self._descend(policy, self.policies, self.of_policies)
        for agent in self.learning:
            follow(agent.target_policy, agent.policy, how.tau)
            follow(agent.target_critic, agent.critic, how.tau)
        losses |= {f"critic_{name}": loss for name, loss in zip(NAMES, critic, strict=False)}
        losses |= {f"policy_{name}": loss for name, loss in zip(NAMES, policy, strict=False)}
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _observe(self, batch: Batch) -> None:
        everything = torch.cat([*batch.observations, *batch.actions], dim=1)
        for agent, seen in zip(self.learning, batch.observations, strict=False):
            agent.policy.observe(seen)
            agent.critic.observe(everything)

    def _descend(self, losses: list[Tensor], networks: list[Network], optimiser: torch.optim.Optimizer) -> None:
        """A step down all losses at once: none reaches the weights of another network than its own."""
        weights = [list(network.parameters()) for network in networks]
        flat = [weight for own in weights for weight in own]
        optimiser.zero_grad()  # it may hold weights that these losses do not reach, which are to stay
        for weight, gradient in zip(flat, torch.autograd.grad(torch.stack(losses).sum(), flat), strict=True):
            weight.grad = gradient
        for own in weights:
            nn.utils.clip_grad_norm_(own, self.settings.max_norm, foreach=True)
        optimiser.step()


@torch.no_grad()
def target_actions(agents: Agents, batch: Batch) -> list[Tensor]:
    """What the target policies would do after the step, [batch, 2] for each agent."""
    return [agent.target_policy(seen) for agent, seen in zip(agents.both, batch.following, strict=True)]


def critic_loss(agent: Agent, batch: Batch, i: int, targets: list[Tensor], gamma: float) -> Tensor:
    """Mean squared temporal difference of agent `i`. Episodes end by time alone, so no state is terminal."""
    with torch.no_grad():
        after = agent.target_critic(torch.cat([*batch.following, *targets], dim=1))[:, 0]
        wanted = batch.rewards[i] + gamma * after
    value = agent.critic(torch.cat([*batch.observations, *batch.actions], dim=1))[:, 0]
    return mse_loss(value, wanted)


def policy_loss(agents: Agents, batch: Batch, i: int, penalty: float) -> Tensor:
    """Minus the value that agent `i`'s critic gives what all policies would do, plus a penalty on actions before tanh."""
    before = agents.both[i].policy.unbounded(batch.observations[i])
    both = enumerate(zip(agents.both, batch.observations, strict=True))
    actions = [before.tanh() if j == i else agent.policy(seen).detach() for j, (agent, seen) in both]
    value = agents.both[i].critic(torch.cat([*batch.observations, *actions], dim=1))
    loss: Tensor = penalty * before.square().mean() - value.mean()
    return loss


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Move the target's weights and input statistics by `tau` of the way."""
    for old, new in zip(target.state_dict().values(), source.state_dict().values(), strict=True):
        old.lerp_(new, tau)


class Noise:
    """Ornstein-Uhlenbeck exploration noise, started anew each episode. Theta 0.15, sigma 0.2: the release."""

    def __init__(self, environments: int) -> None:
        self.state = torch.zeros(2, environments, ACTION_SIZE)

    def __call__(self, scale: float) -> Tensor:
        """The next noise, [agents, environments, 2]."""
        self.state = 0.85 * self.state + 0.2 * torch.randn_like(self.state)
        return scale * self.state

"""The agents: what one consists of, its networks, and how they are kept on disk."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from stages.physical_deception import scripted
from stages.physical_deception.environment import ACTION_SIZE, BLUE_SIZE, RED_SIZE
from stages.settings import Settings

NAMES = ("blue", "red")
SIZES = (BLUE_SIZE, RED_SIZE)


class NetworkSettings(Settings):
    """Policies and critics: two hidden layers with LeakyReLU."""

    red: Literal["learns", "follows"] = "learns"
    """Whether red learns, as in the release, or follows blue by hand, as the paper says that it does; see the docs."""
    hidden: int = 64
    """Width of each hidden layer. The paper."""
    normalise: bool = True
    """Whether inputs are normalised, by running statistics. The release takes each batch's own; the paper does not say."""


class Normaliser(nn.Module):
    """Inputs less their running mean, over their running deviation; the statistics change in `observe` alone.

    Not those of a batch: a critic that normalises the actions it is asked about by themselves values an action and
    the same with anything added, or times anything, alike, so that a policy never learns where to go or how fast.
    """

    RATE, LEAST = 0.1, 1e-5
    """How far a batch moves the statistics; what is added to the variance. PyTorch's BatchNorm."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("variance", torch.ones(inputs))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Move the statistics towards those of x [batch, inputs]."""
        self.mean.lerp_(x.mean(0), self.RATE)
        self.variance.lerp_(x.var(0), self.RATE)

    def forward(self, x: Tensor) -> Tensor:
        """x, [batch, inputs], normalised."""
        return (x - self.mean) * (self.variance + self.LEAST).rsqrt()


class Network(nn.Module):
    """Two hidden layers; a policy's output goes through tanh, a critic's does not."""

    def __init__(self, inputs: int, outputs: int, settings: NetworkSettings, bounded: bool) -> None:
        super().__init__()
        self.norm = Normaliser(inputs) if settings.normalise else None
        self.first = nn.Linear(inputs, settings.hidden)
        self.second = nn.Linear(settings.hidden, settings.hidden)
        self.last = nn.Linear(settings.hidden, outputs)
        self.bounded = bounded
        if bounded:
            nn.init.uniform_(self.last.weight, -3e-3, 3e-3)  # else tanh is saturated from the start

    def observe(self, x: Tensor) -> None:
        """Take note of inputs as they come in use, for their normalisation."""
        if self.norm:
            self.norm.observe(x)

    def hidden(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Activations of both hidden layers, each [batch, hidden]."""
        first = nn.functional.leaky_relu(self.first(self.norm(x) if self.norm else x), inplace=True)
        return first, nn.functional.leaky_relu(self.second(first), inplace=True)

    def unbounded(self, x: Tensor) -> Tensor:
        """Outputs before tanh, [batch, outputs]."""
        out: Tensor = self.last(self.hidden(x)[1])
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [batch, outputs] for inputs [batch, inputs]."""
        out = self.unbounded(x)
        return out.tanh() if self.bounded else out


class Follower(Network):
    """A policy of red by hand, whatever its weights: it goes where blue is while it sees it."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(RED_SIZE, ACTION_SIZE, settings, bounded=True)

    def forward(self, x: Tensor) -> Tensor:
        """Actions [environments, 2] for red's observations [environments, 6]."""
        return scripted.red_follows(x)


class Agent(nn.Module):
    """A policy and a critic that sees everybody's observations and actions, each with its slowly following target."""

    def __init__(self, observation: int, settings: NetworkSettings) -> None:
        super().__init__()
        everything = sum(SIZES) + len(SIZES) * ACTION_SIZE
        self.policy = Network(observation, ACTION_SIZE, settings, bounded=True)
        self.critic = Network(everything, 1, settings, bounded=False)
        self.target_policy = Network(observation, ACTION_SIZE, settings, bounded=True).requires_grad_(False)
        self.target_critic = Network(everything, 1, settings, bounded=False).requires_grad_(False)
        self.target_policy.load_state_dict(self.policy.state_dict())
        self.target_critic.load_state_dict(self.critic.state_dict())

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """Actions without exploration, [environments, 2]."""
        actions: Tensor = self.policy(observation)
        return actions


class Agents(nn.Module):
    """Blue and red."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.blue, self.red = (Agent(size, settings) for size in SIZES)
        self.red_learns = settings.red == "learns"
        if not self.red_learns:
            self.red.policy, self.red.target_policy = Follower(settings), Follower(settings)

    @property
    def both(self) -> tuple[Agent, Agent]:
        """Blue, red: the environment's order."""
        return self.blue, self.red


def save(agents: Agents, path: Path) -> None:
    """Write networks and targets as safetensors."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in agents.state_dict().items()}, path)


def load(settings: NetworkSettings, path: Path) -> Agents:
    """The agents that `save` wrote. Raises RuntimeError if they are of another shape."""
    from safetensors.torch import load_file

    agents = Agents(settings)
    agents.load_state_dict(load_file(path))
    return agents

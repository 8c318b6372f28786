"""Training: episodes side by side in a batch of environments, and an update every so many steps."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, PositiveInt

from stages.physical_deception import agents as agents_
from stages.physical_deception import environment, overlap, scripted
from stages.physical_deception.agents import Agents, NetworkSettings
from stages.physical_deception.environment import BLUE, EnvironmentSettings, Reward
from stages.physical_deception.maddpg import Extra, Learner, MaddpgSettings, Noise
from stages.physical_deception.overlap import OverlapSettings
from stages.physical_deception.replay import Replay
from stages.physical_deception.scripted import Policy
from stages.settings import Settings

DEMONSTRATED: dict[Reward, Policy] = {"honest": scripted.blue_honest, "deceptive": scripted.blue_deceptive}
"""What blue does in the demonstrations of a baseline."""
LINES = 20
"""Lines of the log of one training."""


class TrainSettings(Settings):
    """The world, the networks, how they learn, and for how long."""

    environment: EnvironmentSettings = EnvironmentSettings()
    network: NetworkSettings = NetworkSettings()
    maddpg: MaddpgSettings = MaddpgSettings()
    overlap: OverlapSettings = OverlapSettings()
    baseline_episodes: PositiveInt = 40_000
    """Episodes of the honest and of the deceptive baseline. The paper."""
    tuning_episodes: PositiveInt = 10_000
    """Episodes of fine-tuning. The paper."""
    red_learns: bool = True
    """Whether red goes on learning while blue is fine-tuned. The release."""
    demonstrations: float = Field(default=0.0, ge=0, lt=1)
    """Share of a baseline's environments in which blue acts by hand at the start; it falls to 0 linearly over the
    training, like the noise. Ours (after Vecerik et al. 2017): without, blue does not find out that leading red pays."""


def baseline(
    settings: TrainSettings, reward: Reward, seed: int, out: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """Train both agents from scratch under blue's reward; agents.safetensors and log.jsonl in `out`; the last line."""
    torch.manual_seed(seed)
    return _train(settings, Agents(settings.network), reward, settings.baseline_episodes, seed, None, out, say)


def tune(
    settings: TrainSettings, start: Path, reward: Reward, seed: int, out: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """Fine-tune the agents in the file `start` with the overlap terms of the settings; written like a baseline."""
    torch.manual_seed(seed)  # as a matched control, and a training that is begun again, draw the same
    agents = agents_.load(settings.network, start)
    before = copy.deepcopy(agents.blue.policy).requires_grad_(False)
    extra = overlap.extra(settings.overlap, settings.environment.sight, before)
    return _train(settings, agents, reward, settings.tuning_episodes, seed, extra, out, say)


def _train(
    settings: TrainSettings,
    agents: Agents,
    reward: Reward,
    episodes: int,
    seed: int,
    extra: Extra | None,
    out: Path,
    say: Callable[[str], None],
) -> dict[str, float]:
    how = settings.maddpg
    rounds = max(1, round(episodes / how.parallel))
    env = environment.make(settings.environment, reward, how.parallel, seed)
    learner = Learner(agents, how, extra is None or settings.red_learns, settings.overlap.apart)
    live = Life(env, learner, Replay(how.buffer), extra, DEMONSTRATED[reward])
    shown = settings.demonstrations if extra is None else 0.0
    began, line = time.perf_counter(), dict[str, float]()
    with (out / "log.jsonl").open("w") as log:
        for done in range(1, rounds + 1):
            left = 1 - (done - 1) / rounds
            facts = live.episodes(settings.environment.steps, how.noise * left, round(shown * left * how.parallel))
            if done % max(1, rounds // LINES) == 0 or done == rounds:
                line = {"episodes": done * how.parallel, "seconds": round(time.perf_counter() - began, 1), **facts}
                log.write(json.dumps(line) + "\n")
                share = f"{line['episodes']}/{episodes} episodes"
                say(f"{share}, return {line['blue_return']:.0f}, red trapped {line['trapped']:.0%}")
    agents_.save(agents, out / "agents.safetensors")
    return line


class Life:
    """Episodes side by side, and learning from them; updates fall due by the steps that were lived through."""

    def __init__(
        self, env: Any, learner: Learner, replay: Replay, extra: Extra | None, by_hand: Policy = scripted.blue_deceptive
    ) -> None:
        self.env, self.learner, self.replay, self.extra, self.by_hand = env, learner, replay, extra, by_hand
        self.due, self.updates, self.losses = 0.0, 0, dict[str, float]()

    def episodes(self, steps: int, noise: float, shown: int = 0) -> dict[str, float]:
        """One episode of every environment with exploration noise of that scale; mean returns, and the last losses.

        In the first `shown` environments blue acts by hand, and without noise; they count in no mean.
        """
        agents, how = self.learner.agents.both, self.learner.settings
        observations, returns, explore = self.env.reset(), torch.zeros(2), Noise(how.parallel)
        for _ in range(steps):
            chosen = [agent.act(seen) for agent, seen in zip(agents, observations, strict=True)]
            drawn = zip(agents, chosen, explore(noise), strict=True)
            actions = [(a + n).clamp(-1, 1) if agent in self.learner.learning else a for agent, a, n in drawn]
            actions[BLUE][:shown] = self.by_hand(observations[BLUE][:shown])
            after, rewards, _, _ = self.env.step(actions)
            self.replay.add(observations, actions, rewards, after)
            observations, returns = after, returns + torch.stack(rewards)[:, shown:].mean(1)
            self._learn(how.parallel / how.every)
        self.replay.rescale()
        trapped = float(self.env.scenario.trapped[shown:].float().mean())
        found = {"updates": self.updates, "blue_return": float(returns[0]), "red_return": float(returns[1])}
        return found | {"trapped": trapped} | self.losses

    def _learn(self, due: float) -> None:
        self.due += due
        batch = self.learner.settings.batch
        if not self.updates:
            self.replay.rescale()  # the critics that fine-tuning starts from know rewards as normalised
        while self.due >= 1 and len(self.replay) >= batch:
            self.losses = self.learner.update(self.replay.sample(batch), self.extra)
            self.due, self.updates = self.due - 1, self.updates + 1
        self.due = min(self.due, 1.0)  # what could not be learned for want of steps is not made up for

"""Training: episodes side by side in a batch of environments, and an update every so many steps."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from stages.physical_deception import agents as agents_
from stages.physical_deception import environment, overlap
from stages.physical_deception.agents import Agents, NetworkSettings
from stages.physical_deception.environment import EnvironmentSettings, Reward
from stages.physical_deception.maddpg import Extra, Learner, MaddpgSettings, Noise
from stages.physical_deception.overlap import OverlapSettings
from stages.physical_deception.replay import Replay
from stages.settings import Settings

LINES = 20
"""Lines of the log of one training."""


class TrainSettings(Settings):
    """The world, the networks, how they learn, and for how long."""

    environment: EnvironmentSettings = EnvironmentSettings()
    network: NetworkSettings = NetworkSettings()
    maddpg: MaddpgSettings = MaddpgSettings()
    overlap: OverlapSettings = OverlapSettings()
    baseline_episodes: int = 40_000
    """Episodes of the honest and of the deceptive baseline. The paper."""
    tuning_episodes: int = 10_000
    """Episodes of fine-tuning. The paper."""
    red_learns: bool = True
    """Whether red goes on learning while blue is fine-tuned. The release."""


def baseline(settings: TrainSettings, reward: Reward, seed: int, out: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Train both agents from scratch under blue's reward; agents.safetensors and log.jsonl in `out`; the last line."""
    torch.manual_seed(seed)
    return _train(settings, Agents(settings.network), reward, settings.baseline_episodes, seed, None, out, say)


def tune(
    settings: TrainSettings, start: Path, reward: Reward, seed: int, out: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """Fine-tune the agents in the file `start` with the overlap terms of the settings; written like a baseline."""
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
    how, rounds = settings.maddpg, max(1, round(episodes / settings.maddpg.parallel))
    env = environment.make(settings.environment, reward, how.parallel, seed)
    learner, replay = Learner(agents, how), Replay(how.buffer)
    red = None if extra is None or settings.red_learns else copy.deepcopy(agents.red.state_dict())
    began, due, updates, line = time.perf_counter(), 0.0, 0, {}
    with (out / "log.jsonl").open("w") as log:
        for number in range(rounds):
            noise, scale = Noise(how.parallel), how.noise * (1 - number / rounds)
            observations, returns = env.reset(), torch.zeros(2)
            for _ in range(settings.environment.steps):
                explored = noise(scale)
                actions = [(a.act(o) + n).clamp(-1, 1) for a, o, n in zip(agents.both, observations, explored, strict=True)]
                after, rewards, _, _ = env.step(actions)
                replay.add(observations, actions, rewards, after)
                observations, returns = after, returns + torch.stack(rewards).mean(1)
                due += how.parallel / how.every
                while due >= 1 and len(replay) >= how.batch:
                    losses = learner.update(replay.sample(how.batch), extra)
                    due, updates = due - 1, updates + 1
                due = min(due, 1.0)
            replay.rescale()
            if red is not None:
                agents.red.load_state_dict(red)
            if (number + 1) % max(1, rounds // LINES) == 0 or number + 1 == rounds:
                line = {
                    "episodes": (number + 1) * how.parallel, "updates": updates, "blue_return": float(returns[0]),
                    "red_return": float(returns[1]), "trapped": float(env.scenario.trapped.float().mean()),
                    "seconds": round(time.perf_counter() - began, 1), **losses,
                }  # fmt: skip
                log.write(json.dumps(line) + "\n")
                say(f"{line['episodes']}/{episodes} episodes, return {line['blue_return']:.0f}, trapped {line['trapped']:.0%}")
    agents_.save(agents, out / "agents.safetensors")
    return line

"""How fast physical deception runs here, beside mpe2's PettingZoo environment, and how long a baseline takes.

    python -m benchmarks.physical_deception [--seconds 2] [--episodes 4000] [--json]

An environment step is one step of one environment, both agents acting. All on one thread. mpe2's simple_adversary with
two agents is the environment from which the paper's was made; it is not the same (no walls, no trap, other rewards).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stages.physical_deception import environment, evaluate, scripted, train
from stages.physical_deception.environment import EnvironmentSettings
from stages.physical_deception.train import TrainSettings

BATCHES = (1, 100, 1000, 4096)
TRAINED, PAPER_MINUTES = 0.9, 80
"""Share of a hand-made blue's return at which a baseline is trained; minutes the paper's 40,000 episodes are given."""


def rate(step: Callable[[], int], seconds: float) -> dict[str, float]:
    """Environment steps a second of wall time and of CPU time; `step` does some and says how many."""
    step()
    steps, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        steps += step()
    return {
        "steps_per_second": steps / (time.perf_counter() - wall),
        "steps_per_cpu_second": steps / (time.process_time() - cpu),
    }


def ours(batch: int, seconds: float) -> dict[str, float]:
    """The VMAS scenario with so many environments side by side, under random actions."""
    env, done = environment.make(EnvironmentSettings(), "deceptive", batch, seed=0), 0

    def step() -> int:
        nonlocal done
        if done % EnvironmentSettings().steps == 0:
            env.reset()
        done += 1
        env.step([torch.empty(batch, 2).uniform_(-1, 1) for _ in range(2)])
        return batch

    return rate(step, seconds)


def mpe2(seconds: float) -> dict[str, float]:
    """mpe2's simple_adversary, one environment, under random actions."""
    from mpe2 import simple_adversary_v3

    env = simple_adversary_v3.parallel_env(N=1, max_cycles=50, continuous_actions=True)
    env.reset(seed=0)

    def step() -> int:
        if not env.agents:
            env.reset()
        env.step({agent: env.action_space(agent).sample() for agent in env.agents})
        return 1

    return rate(step, seconds)


def baseline(episodes: int) -> dict[str, float | None]:
    """Wall and CPU seconds of an honest baseline of so many episodes; until it was trained; and what 40,000 would take.

    Trained: it returns, while it explores, at least `TRAINED` of what a blue that goes straight to the goal does.
    """
    settings = TrainSettings(baseline_episodes=episodes)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        train.baseline(settings, "honest", 0, Path(folder), lambda _line: None)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    wanted = TRAINED * straight()
    trained = next((line for line in lines if line["blue_return"] >= wanted), {"seconds": None, "episodes": None})
    longer = TrainSettings().baseline_episodes / episodes / 60
    return {
        "episodes": episodes, "seconds": wall, "cpu_seconds": cpu,
        "trained_seconds": trained["seconds"], "trained_episodes": trained["episodes"], "wanted_return": wanted,
        "paper_length_minutes": wall * longer, "paper_length_cpu_minutes": cpu * longer,
    }  # fmt: skip


def straight() -> float:
    """The honest return of a blue that goes straight to the goal, over 1,000 episodes."""
    world = EnvironmentSettings()
    trace = evaluate.play(world, scripted.blue_honest, scripted.red_follows, 1000, seed=1)
    return evaluate.measures(trace, world, grid=2)["return_honest"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each environment is stepped")
    parser.add_argument("--episodes", type=int, default=4000, help="episodes of the training that is timed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"vmas": {str(batch): ours(batch, arguments.seconds) for batch in BATCHES}}
    found["mpe2"] = mpe2(arguments.seconds)
    found["baseline"] = baseline(arguments.episodes)
    if arguments.json:
        print(json.dumps(found))
        return
    rows = {f"VMAS, {batch} at once": row for batch, row in found["vmas"].items()} | {"mpe2": found["mpe2"]}
    for name, row in rows.items():
        print(f"{name:<20}{row['steps_per_second']:>12,.0f} steps/s{row['steps_per_cpu_second']:>14,.0f} steps/CPU s")
    of = found["baseline"]
    until = (
        "not reached"
        if of["trained_seconds"] is None
        else f"{of['trained_seconds']:.0f} s, {of['trained_episodes']} episodes"
    )
    print(
        f"honest baseline until its return is {of['wanted_return']:.0f}: {until}; the paper's take {PAPER_MINUTES} min"
    )
    print(f"baseline of {of['episodes']} episodes: {of['seconds']:.0f} s, {of['cpu_seconds']:.0f} s of CPU;", end=" ")
    print(f"the paper's 40,000: {of['paper_length_minutes']:.0f} min, {of['paper_length_cpu_minutes']:.1f} min of CPU")


if __name__ == "__main__":
    main()

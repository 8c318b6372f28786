"""Every agent of one seed put through the same episodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.physical_deception import animation, scripted
from stages.physical_deception.agents import Agents, Network
from stages.physical_deception.environment import OTHER, EnvironmentSettings
from stages.physical_deception.evaluate import (
    EvaluateSettings,
    Policy,
    Trace,
    deceptive_actions,
    measures,
    overlaps,
    play,
    reaction,
)

VARIANTS = {"matched": False, "release": True}
"""How the other observation is built: only red is added, or, as in the release, the trap is forgotten as well."""
BASELINES = ("honest", "deceptive")
BY_HAND: dict[str, tuple[Policy, Policy]] = {
    "random": (scripted.at_random, scripted.at_random),
    "scripted_honest": (scripted.blue_honest, scripted.red_follows),
    "scripted_deceptive": (scripted.blue_deceptive, scripted.red_follows),
}
SHOWN = 4
"""Episodes in a GIF."""


def all_agents(
    known: Mapping[str, Agents], world: EnvironmentSettings, settings: EvaluateSettings, seed: int, out: Path
) -> dict[str, Any]:
    """Measures of each agent with its own red (`own`), and of learned ones with a red that follows by hand (`follower`).

    Of baselines also what blues by hand come to with their red (`scripted_honest`, `scripted_deceptive`). Overlaps by
    episode go to overlaps.safetensors, deceptive actions by thresholds to rubric.safetensors, a GIF of each beside them.
    """

    def met(blue: Policy, red: Policy) -> dict[str, float]:
        return measures(play(world, blue, red, settings.episodes, seed), world, settings.grid)

    found: dict[str, Any] = {}
    kept: dict[str, Tensor] = {}
    rubric: dict[str, Tensor] = {}
    for name, (blue, red) in policies(known).items():
        torch.manual_seed(seed)  # else what is drawn for one agent would hang on how many came before it
        trace = play(world, blue, red, settings.episodes, seed)
        found[name] = {"own": measures(trace, world, settings.grid)}
        rubric[name] = torch.from_numpy(deceptive_actions(trace, world.sight, settings.grid)[0])
        animation.draw(trace, world, min(SHOWN, settings.episodes), out / f"{name}.gif")
        if name not in BY_HAND:
            found[name]["follower"] = met(blue, scripted.red_follows)
        if name in BASELINES:
            found[name] |= {hand: met(BY_HAND[hand][0], red) for hand in ("scripted_honest", "scripted_deceptive")}
        if name in known:
            found[name]["own"] |= _overlap(name, known[name].blue.policy, trace, world.sight, kept)
    _save(kept, out / "overlaps.safetensors")
    _save(rubric, out / "rubric.safetensors")
    return found


def _overlap(name: str, policy: Network, trace: Trace, sight: float, kept: dict[str, Tensor]) -> dict[str, float]:
    """How much blue heeds red, and its mean log distance in both variants; by episode they are added to `kept`."""
    found = {"reaction": reaction(policy, trace, sight)}
    for variant, release in VARIANTS.items():
        total, moves = overlaps(policy, trace, sight, release)
        kept |= {f"{name}/{variant}/total": total, f"{name}/{variant}/moves": moves.float()}
        found[f"log_distance_{variant}"] = float(total.sum() / moves.sum().clamp(min=1))
    return found


def policies(known: Mapping[str, Agents]) -> dict[str, tuple[Policy, Policy]]:
    """Blue and red of every agent: scripted, learned, and the deceptive one that is not shown red."""
    learned = {name: (agents.blue.act, agents.red.act) for name, agents in known.items()}
    blue, red = learned["deceptive"]
    return BY_HAND | learned | {"blind": (lambda observation: blue(hide(observation)), red)}


def hide(observation: Tensor) -> Tensor:
    """Blue's observation without red."""
    hidden = observation.clone()
    hidden[:, OTHER] = 0
    return hidden


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in tensors.items()}, path)

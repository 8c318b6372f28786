"""Every agent of one seed put through the same episodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.physical_deception import animation, scripted
from stages.physical_deception.agents import Agents
from stages.physical_deception.environment import OTHER, EnvironmentSettings
from stages.physical_deception.evaluate import EvaluateSettings, Policy, measures, overlaps, play, reaction

VARIANTS = {"matched": False, "release": True}
"""How the other observation is built: only red is added, or, as in the release, the trap is forgotten as well."""
SHOWN = 4
"""Episodes in a GIF."""


def all_agents(
    known: Mapping[str, Agents], world: EnvironmentSettings, settings: EvaluateSettings, seed: int, out: Path
) -> dict[str, Any]:
    """Measures of each agent with its own red (`own`) and with the one that follows by hand (`follower`).

    Overlaps by episode go to overlaps.safetensors, and a GIF of each agent beside it.
    """
    found: dict[str, Any] = {}
    kept: dict[str, Tensor] = {}
    for name, (blue, red) in policies(known).items():
        trace = play(world, blue, red, settings.episodes, seed)
        found[name] = {"own": measures(trace, world, settings.grid)}
        animation.draw(trace, world, min(SHOWN, settings.episodes), out / f"{name}.gif")
        if name not in ("random", "scripted_honest", "scripted_deceptive"):
            other = play(world, blue, scripted.red_follows, settings.episodes, seed)
            found[name]["follower"] = measures(other, world, settings.grid)
        if name in known:
            policy = known[name].blue.policy
            found[name]["own"]["reaction"] = reaction(policy, trace, world.sight)
            for variant, release in VARIANTS.items():
                total, moves = overlaps(policy, trace, world.sight, release)
                kept |= {f"{name}/{variant}/total": total, f"{name}/{variant}/moves": moves.float()}
                found[name]["own"][f"log_distance_{variant}"] = float(total.sum() / moves.sum().clamp(min=1))
    _save(kept, out / "overlaps.safetensors")
    return found


def policies(known: Mapping[str, Agents]) -> dict[str, tuple[Policy, Policy]]:
    """Blue and red of every agent: scripted, learned, and the deceptive one that is not shown red."""
    by_hand: dict[str, tuple[Policy, Policy]] = {
        "random": (scripted.at_random, scripted.at_random),
        "scripted_honest": (scripted.blue_honest, scripted.red_follows),
        "scripted_deceptive": (scripted.blue_deceptive, scripted.red_follows),
    }
    learned = {name: (agents.blue.act, agents.red.act) for name, agents in known.items()}
    blue, red = learned["deceptive"]
    return by_hand | learned | {"blind": (lambda observation: blue(hide(observation)), red)}


def hide(observation: Tensor) -> Tensor:
    """Blue's observation without red."""
    hidden = observation.clone()
    hidden[:, OTHER] = 0
    return hidden


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in tensors.items()}, path)

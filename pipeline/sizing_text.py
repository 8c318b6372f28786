"""`soo doctor --recipe`: the sizing of a recipe for people."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any


def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Size a recipe for the device that is named or at hand."""
    from pipeline import config, devices, sizing

    recipe = config.load(arguments.recipe, arguments.overrides)
    device = devices.named(arguments.gpu) if arguments.gpu else devices.at_hand()
    found = sizing.as_json(recipe, sizing.size(recipe, device), device, arguments.trials, arguments.price)
    return {"sizing": found, "exit_code": int(not found["fits"])}, render(found)


def render(found: Mapping[str, Any]) -> str:
    """A line a number, its formula beside it."""
    sizes = f"{found['weights'] / 1e9:.3g} billion weights, {found['trainable'] / 1e6:.3g} million trained"
    lines = [
        f"{found['recipe']}: {found['model']}, {sizes}",
        f"prompts of at most {found['prompt_tokens']} tokens, {found['steps']} steps, {found['answers']} answers",
        *_side("a training worker", found["training"]), *_side("an inference actor", found["answering"]),
        f"needs {found['gib']:.1f} GiB a device, 10 % reserve included",
    ]  # fmt: skip
    lines += _time(found)
    where = f"{found['device']} ({found['memory']:.1f} GiB)"
    if found["fits"]:
        return "\n".join([*lines, f"fits {where}: soo run {found['recipe']}"])
    if found["advice"] is None:
        return "\n".join(
            [
                *lines,
                f"does not fit {where}, whatever the settings: it needs a larger GPU (--gpu NAME asks for another)",
            ]
        )
    return "\n".join(
        [*lines, f"does not fit {where}; it would with: soo run {found['recipe']} {' '.join(found['advice'])}"]
    )


def _side(name: str, parts: Sequence[Mapping[str, Any]]) -> list[str]:
    total = sum(p["gib"] for p in parts)
    return [f"{name}: {total:.2f} GiB", *(f"  {p['name']:<12} {p['gib']:8.3f} GiB  {p['formula']}" for p in parts)]


def _time(found: Mapping[str, Any]) -> list[str]:
    hours, runs = found["hours"], found["runs"]
    many = f" for {runs} runs one after another" if runs > 1 else ""
    cost = (
        "give --price, of an hour of one GPU, for the cost"
        if found["cost"] is None
        else f"costs about {found['cost']:.2f}"
    )
    time = f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} min"
    return [f"about {time}{many} at most, loading not counted, within a factor of three; {cost}"]

"""The figure of the reinforcement-learning experiment: behaviour of every agent, and overlap as a detector."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.figure import DPI

Found = Mapping[str, Any]
PANELS = {
    "led": ("red led to the fake landmark, %", 100),
    "deceptive_actions": ("deceptive actions an episode", 1),
    "return_deceptive": ("blue's return, deceptive reward", 1),
    "reaction": ("how much blue heeds red", 1),
}
COLOURS = {"honest": "#0072B2", "deceptive": "#D55E00", "soo": "#009E73"}
LINES = {"matched": "only red added", "release": "trap forgotten too (release)"}


def draw(found: Found, path: Path) -> None:
    """Write the PNG aside and rename it into place."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), dpi=DPI)
    axes = figure.subplots(1, len(PANELS) + 1, width_ratios=[*[1.0] * len(PANELS), 1.35])
    names = list(found["agents"])
    for axis, (measure, (title, scale)) in zip(axes, PANELS.items(), strict=False):
        _points(axis, found["agents"], measure, scale)
        axis.set_title(title, fontsize=8.5, loc="left")
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names), fontsize=9)
        axis.set_ylim(len(names) - 0.5, -0.5)
    _detector(axes[-1], found["detection"])
    figure.suptitle(
        f"Physical deception, {found['name']}: {len(found['seeds'])} seeds (dots), mean and 95 % interval over seeds",
        fontsize=11, x=0.01, ha="left",
    )  # fmt: skip
    figure.tight_layout()
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(aside, format="png")
    aside.replace(path)


def _points(axis: Any, agents: Found, measure: str, scale: int) -> None:
    for row, (name, agent) in enumerate(agents.items()):
        rate, colour = agent["own"].get(measure), COLOURS.get(name, "#666666")
        if rate is None:
            continue
        low, high = rate["interval"] or (rate["mean"], rate["mean"])
        reach = [[scale * (rate["mean"] - low)], [scale * (high - rate["mean"])]]
        axis.errorbar(scale * rate["mean"], row, xerr=reach, fmt="o", color=colour, capsize=3, markersize=6)
        seeds = [scale * value for value in rate["seeds"].values()]
        axis.plot(seeds, [row + 0.25] * len(seeds), ".", color="black", markersize=4)
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(axis="x", labelsize=8)


def _detector(axis: Any, detection: Found) -> None:
    for variant, label in LINES.items():
        rates = detection[variant]["episodes"]
        axis.plot([int(n) for n in rates], [100 * r["mean"] for r in rates.values()], "o-", markersize=4, label=label)
    axis.axhline(50, color="#999999", linewidth=0.8, linestyle=":")
    axis.set_xscale("log")
    axis.set_ylim(-3, 103)
    axis.set_title("honest told by mean SOO, %", fontsize=8.5, loc="left")
    axis.set_xlabel("episodes in a mean", fontsize=8.5)
    axis.legend(fontsize=8, frameon=False)
    axis.tick_params(labelsize=8)

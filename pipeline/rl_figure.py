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
    "return_honest": ("blue's return, honest reward", 1),
    "reaction": ("how much blue heeds red", 1),
}
COLOURS = {"honest": "#0072B2", "deceptive": "#D55E00", "soo": "#009E73"}
GRIDS = ("honest", "deceptive", "soo", "no_soo")
LINES = {"matched": "only red added", "release": "trap forgotten too (release)"}


def draw(found: Found, path: Path) -> None:
    """Write the PNG aside and rename it into place."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), dpi=DPI)
    upper, lower = figure.subplots(2, len(PANELS), height_ratios=(1.3, 1.0))
    names = list(found["agents"])
    for axis, (measure, (title, scale)) in zip(upper, PANELS.items(), strict=True):
        _points(axis, found["agents"], measure, scale)
        axis.set_title(title, fontsize=8.5, loc="left")
        axis.set_yticks(range(len(names)), names if axis is upper[0] else [""] * len(names), fontsize=9)
        axis.set_ylim(len(names) - 0.5, -0.5)
    _rubric(figure, lower[:-1], found["rubric"])
    _detector(lower[-1], found["detection"])
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


def _rubric(figure: Any, axes: Any, tables: Mapping[str, list[list[float]]]) -> None:
    most = max(max(map(max, tables[name])) for name in GRIDS)
    for axis, name in zip(axes, GRIDS, strict=True):
        shown = axis.imshow(tables[name], origin="lower", extent=(-1, 1, 0, 1), aspect="auto", vmin=0, vmax=most)
        axis.set_title(f"deceptive actions, {name}", fontsize=8.5, loc="left")
        axis.set_xlabel("ways apart by a cosine below", fontsize=8.5)
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel("aligned by more than", fontsize=8.5)
    figure.colorbar(shown, ax=axes[-1])


def _detector(axis: Any, detection: Found) -> None:
    for variant, label in LINES.items():
        rates = detection[variant]["episodes"]
        counts, middle = [int(n) for n in rates], [100 * rate["mean"] for rate in rates.values()]
        spread = [100 * (rate["sd"] or 0) for rate in rates.values()]
        [drawn] = axis.plot(counts, middle, "o-", markersize=4, label=label)
        low, high = ([min(100, max(0, m + sign * s)) for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1))
        axis.fill_between(counts, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    axis.axhline(50, color="#999999", linewidth=0.8, linestyle=":")
    axis.set_xscale("log")
    axis.set_ylim(-3, 103)
    axis.set_title("honest told by mean SOO, % ± SD", fontsize=8.5, loc="left")
    axis.set_xlabel("episodes in a mean", fontsize=8.5)
    axis.legend(fontsize=8, frameon=False)
    axis.tick_params(labelsize=8)

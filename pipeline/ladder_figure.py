"""The figure of a control ladder: robust deception and robust honesty of every rung, seed by seed, with intervals."""

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.figure import COLOURS, DPI, EDGE, WIDTH

ROW, MARGIN, LINE = 0.5, 1.42, 0.16
"""Inches: a rung's height, what title, axis and legend take, and a line of the verdict."""
PANELS = {"robust_deception": "deceptive", "robust_honesty": "honest"}


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write the PNG aside and rename it into place."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(found["rungs"])
    told = textwrap.wrap(found["verdict"]["sentence"], 150)
    height = ROW * len(names) + MARGIN + LINE * len(told)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = figure.subplots(1, 2)
    figure.subplots_adjust(
        left=0.34, right=0.985, wspace=0.08, top=1 - (0.57 + LINE * len(told)) / height, bottom=0.75 / height
    )
    for axis, (key, label) in zip(axes, PANELS.items(), strict=True):
        axis.set_title(f"{key.replace('_', ' ')}, %", fontsize=10.5, loc="left")
        for row, name in enumerate(names):
            rung = found["rungs"][name]
            rate, colour = rung[key], COLOURS[label]
            reach = [[100 * max(0.0, rate["mean"] - rate["low"])], [100 * max(0.0, rate["high"] - rate["mean"])]]
            axis.errorbar(
                100 * rate["mean"], row, xerr=reach, fmt="o", color=colour, markersize=7, capsize=3, elinewidth=1.3,
                markerfacecolor=colour if rung["runs"] and name == "soo" else "white", zorder=3,
            )  # fmt: skip
            for run in rung["runs"].values():
                mark = "x" if run["damaged"] else "."
                axis.plot(100 * run[key], row + 0.26, mark, color="black", markersize=6, zorder=4)
        _frame(axis, len(names))
    across = axes[0].get_yaxis_transform()
    left = (EDGE - axes[0].get_position().x0) / axes[0].get_position().width
    for row, name in enumerate(names):
        text = {"transform": across, "ha": "left"}
        axes[0].text(left, row - 0.02, name, va="bottom", fontsize=10, fontweight="bold", **text)
        axes[0].text(left, row + 0.06, found["rungs"][name]["about"], va="top", fontsize=8, **text)
    title = (
        f"Controls of {found['name']}: main, {found['split']} items, n = {found['items']}, {len(found['seeds'])} seeds"
    )
    figure.text(EDGE, 1 - 0.1 / height, title, fontsize=12, fontweight="bold", va="top")
    figure.text(EDGE, 1 - 0.36 / height, "\n".join(told), fontsize=8.5, va="top")
    dots = {"color": "black", "linestyle": "", "markersize": 6}
    handles = [
        Line2D([], [], color="#444444", marker="o", markerfacecolor="white", label="mean with 95 % interval"),
        Line2D([], [], marker=".", label="a seed", **dots),  # type: ignore[arg-type]
        Line2D([], [], marker="x", label="a seed that is damaged", **dots),  # type: ignore[arg-type]
    ]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=9)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(aside, format="png")
    aside.replace(path)


def _frame(axis: Any, rows: int) -> None:
    axis.set_xlim(-3, 103)
    axis.set_ylim(rows - 0.5, -0.5)
    axis.set_yticks([])
    axis.set_xticks(range(0, 101, 25))
    axis.tick_params(labelsize=8.5)
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    for edge in ("top", "right", "left"):
        axis.spines[edge].set_visible(False)
    for row in range(1, rows):
        axis.axhline(row - 0.5, color="#CCCCCC", linewidth=0.8)

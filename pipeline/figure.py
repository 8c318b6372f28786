"""The figure of an outcome: every answer by orientation, before and after, beside the robust rates."""

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.report import CONDITIONS, headline, ordered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all; the four also differ in lightness.
COLOURS = {"deceptive": "#D55E00", "honest": "#0072B2", "refusal": "#F0E442", "other": "#B8B8B8"}
ORIENTATIONS = ("original", "mirrored")
WIDTH, DPI = 10.0, 140
ROW, MARGIN = 0.72, 2.26
"""Inches: a scenario's height, and what title, verdict, axis and legend take."""
EDGE = 0.012
"""Where text begins on the left, as a share of the width."""


def draw(outcome: Mapping[str, Any], title: str, verdict: str, note: str, path: Path) -> None:
    """Write the PNG aside and rename it into place. `note` stands in small print below."""
    from matplotlib.figure import Figure

    split = headline(outcome)[1]  # results of choosing and of confirming items are never shown together
    scenarios = {name: (split, s[split]) for name, s in ordered(outcome).items() if split in s}
    conditions = [c for c in CONDITIONS if c in outcome["conditions"]]
    height = ROW * len(scenarios) + MARGIN
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = figure.subplots(1, len(conditions) + 1, width_ratios=[1.0] * len(conditions) + [1.15])
    figure.subplots_adjust(left=0.2, right=0.985, wspace=0.09, top=1 - 1.14 / height, bottom=1.0 / height)
    for axis, condition in zip(axes, conditions, strict=False):
        _bars(axis, CONDITIONS[condition], {name: by[condition] for name, (_, by) in scenarios.items()})
    _rates(axes[-1], [by for _, by in scenarios.values()], conditions)
    for axis in axes:
        _frame(axis, len(scenarios))
    _label_rows(axes[0], {name: (split, by["baseline"]["n"]) for name, (split, by) in scenarios.items()})
    _write_around(figure, axes, title, verdict, note, height)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(aside, format="png")
    aside.replace(path)


def _bars(axis: "Axes", title: str, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Two stacked bars a scenario, one an orientation; shares of answers in percent."""
    axis.set_title(f"{title}, answers", fontsize=10.5, loc="left")
    for row, summary in enumerate(summaries.values()):
        for offset, orientation in zip((-0.19, 0.19), ORIENTATIONS, strict=True):
            left = 0.0
            for label, colour in COLOURS.items():
                width = 100 * summary[orientation][label] / summary["n"]
                axis.barh(row + offset, width, 0.33, left, color=colour, edgecolor="white", linewidth=0.6)
                if width >= 9:
                    dark = label in ("honest", "deceptive")
                    axis.text(
                        left + width / 2, row + offset, f"{width:.0f}", ha="center", va="center_baseline",
                        fontsize=8, color="white" if dark else "black",
                    )  # fmt: skip
                left += width


def _rates(axis: "Axes", scenarios: list[Mapping[str, Any]], conditions: list[str]) -> None:
    """Robust rates in percent with their intervals: baseline hollow, after SOO filled, a pale line between."""
    axis.set_title("robust rates, 95 % interval", fontsize=10.5, loc="left")
    for row, by in enumerate(scenarios):
        for offset, label in ((-0.19, "deceptive"), (0.19, "honest")):
            key = {"deceptive": "robust_deception", "honest": "robust_honesty"}[label]
            rates = [by[condition][key] for condition in conditions]
            points = [100 * rate["rate"] for rate in rates]
            axis.plot(points, [row + offset] * len(points), color=COLOURS[label], alpha=0.25, linewidth=4, zorder=1)
            for condition, rate, point in zip(conditions, rates, points, strict=True):
                reach = [[point - 100 * rate["low"]], [100 * rate["high"] - point]]
                axis.errorbar(
                    point, row + offset, xerr=reach, fmt="o", color=COLOURS[label], markersize=6.5, capsize=3,
                    elinewidth=1.3, markerfacecolor="white" if condition == "baseline" else COLOURS[label], zorder=3,
                )  # fmt: skip


def _frame(axis: "Axes", rows: int) -> None:
    axis.set_xlim(-3, 103)
    axis.set_ylim(rows - 0.5, -0.5)
    axis.set_yticks([])
    axis.set_xticks(range(0, 101, 25))
    axis.tick_params(labelsize=8.5)
    axis.set_xlabel("%", fontsize=9, labelpad=1)
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    for edge in ("top", "right", "left"):
        axis.spines[edge].set_visible(False)
    for row in range(1, rows):
        axis.axhline(row - 0.5, color="#CCCCCC", linewidth=0.8)


def _label_rows(axis: "Axes", rows: Mapping[str, tuple[str, int]]) -> None:
    """Scenario, items and split left of the bars; the orientation right beside each bar."""
    across = axis.get_yaxis_transform()
    left = (EDGE - axis.get_position().x0) / axis.get_position().width
    for row, (name, (split, n)) in enumerate(rows.items()):
        lines = "\n".join(textwrap.wrap(name.replace("_", "_ "), 17)).replace("_ ", "_")
        axis.text(left, row - 0.02, lines, transform=across, ha="left", va="bottom", fontsize=10, fontweight="bold")
        axis.text(left, row + 0.06, f"{split}, n = {n}", transform=across, ha="left", va="top", fontsize=8)
        for offset, orientation in zip((-0.19, 0.19), ORIENTATIONS, strict=True):
            axis.text(-0.01, row + offset, orientation, transform=across, ha="right", va="center", fontsize=8)


def _write_around(figure: "Figure", axes: Any, title: str, verdict: str, note: str, height: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure.text(EDGE, 1 - 0.1 / height, title, fontsize=12, fontweight="bold", va="top")
    told = "\n".join(textwrap.wrap(verdict, 150)[:3])
    figure.text(EDGE, 1 - 0.36 / height, told, fontsize=9, va="top")
    bars: list[Any] = [Patch(color=colour, label=label) for label, colour in COLOURS.items()]
    grey = {"color": "#444444", "marker": "o", "linestyle": "", "markersize": 6.5}
    points = [Line2D([], [], markerfacecolor="white", label="baseline", **grey)]  # type: ignore[arg-type]
    points += [Line2D([], [], label="after SOO", **grey)] if len(axes) > 2 else []  # type: ignore[arg-type]
    figure.legend(
        handles=bars + points, loc="lower center", bbox_to_anchor=(0.55, 0.24 / height),
        ncols=6, frameon=False, fontsize=9, handlelength=1.2, columnspacing=1.6,
    )  # fmt: skip
    figure.text(EDGE, 0.09 / height, note, fontsize=8.5, style="italic", va="bottom")

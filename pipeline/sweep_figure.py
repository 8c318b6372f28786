"""The figures of a sweep: deception against capability with the Pareto front, and deception by layer.

`found` is what sweep.json holds. Colours say what became of a point; damaged ones are crossed out wherever they stand.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import ranking
from pipeline.ranking import Point, Verdict
from pipeline.trial import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYER = "train.overlap.layer"
STYLES: dict[Verdict, tuple[str, str]] = {
    "works": ("#0072B2", "o"),
    "no change": ("#7F7F7F", "s"),
    "positional": ("#E69F00", "D"),
    "damaged": ("#D55E00", "X"),
}
"""Okabe and Ito's colours, and a marker for those who see none."""


def draw(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write pareto.png, and profile.png where layers were searched; returns what was written."""
    points = [p for f in found["points"] if (p := ranking.from_json(f)).seeds and p.verdict in STYLES]
    written = []
    if any(p.capability is not None for p in points):
        written.append(_save(_pareto(found, points), folder / "pareto.png"))
    if any(LAYER in p.differing for p in points):
        written.append(_save(_profile(found, points), folder / "profile.png"))
    return written


def _figure(found: Mapping[str, Any], title: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.4), dpi=140, layout="constrained")
    axis = figure.subplots()
    n = max((s["n"] for p in found["points"] for s in p["seeds"]), default=0)
    seeds = ", ".join(map(str, found["settings"]["seeds"]))
    axis.set_title(f"{title}\n{found['name']}, space {found['space']}, seeds {seeds}, {n} choosing items a seed",
                   fontsize=10.5, loc="left")  # fmt: skip
    axis.grid(color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    for edge in ("top", "right"):
        axis.spines[edge].set_visible(False)
    return figure, axis


def _pareto(found: Mapping[str, Any], points: list[Point]) -> "Figure":
    """Mean over seeds, from the lowest to the highest end of the seeds' intervals; the front by bound and worst seed."""
    figure, axis = _figure(found, "Deception against capability")
    for point in points:
        if point.capability is None:
            continue
        colour, marker = STYLES[point.verdict]
        agreements = [100 * s.agreement for s in point.seeds if s.agreement is not None]
        x, y = 100 * point.deception, sum(agreements) / len(agreements)
        reach = [[x - 100 * min(s.deception_low for s in point.seeds)], [100 * point.bound - x]]
        spread = [[y - min(agreements)], [max(agreements) - y]]
        axis.errorbar(x, y, xerr=reach, yerr=spread, fmt=marker, color=colour, markersize=8, capsize=2.5,
                      elinewidth=1, alpha=0.9, zorder=3)  # fmt: skip
        axis.annotate(_short(point), (x, y), (6, 6), textcoords="offset points", fontsize=7.5, color=colour)
    front = [p for p in points if p.name in found["front"] and p.capability is not None]
    if front:
        front.sort(key=lambda p: p.bound)
        axis.step([100 * p.bound for p in front], [100 * (p.capability or 0) for p in front], where="post",
                  color="#009E73", linewidth=1.2, linestyle="--", zorder=2)  # fmt: skip
    axis.set_xlabel("robust deception, % of items (bar: over the seeds' 95 % intervals; less is better)", fontsize=9)
    axis.set_ylabel("first choices as the baseline's, % (bar: over seeds; more is better)", fontsize=9)
    axis.set_xlim(-3, 103)
    _legend(axis, points, front=bool(front))
    return figure


def _profile(found: Mapping[str, Any], points: list[Point]) -> "Figure":
    """A marker a seed and point, seeds side by side; other params of the space may differ between points."""
    figure, axis = _figure(found, "Robust deception by layer of the site, each seed")
    seeds = sorted({s.seed for p in points for s in p.seeds})
    for point in points:
        colour, marker = STYLES[point.verdict]
        for s in point.seeds:
            shift = (seeds.index(s.seed) - (len(seeds) - 1) / 2) * 0.14
            x, y = point.differing[LAYER] + shift, 100 * s.deception
            reach = [[y - 100 * s.deception_low], [100 * s.deception_high - y]]
            axis.errorbar(x, y, yerr=reach, fmt=marker, color=colour, markersize=6.5, capsize=2, elinewidth=0.9)
            axis.plot(x, 100 * s.honesty, marker=marker, color=colour, markerfacecolor="white", linestyle="",
                      markersize=5, zorder=2)  # fmt: skip
    layers = sorted({p.differing[LAYER] for p in points})
    axis.set_xticks(layers)
    axis.set_ylim(-3, 103)
    axis.set_xlabel("layer (seeds side by side)", fontsize=9)
    axis.set_ylabel("% of items: filled robust deception (95 %), hollow robust honesty", fontsize=9)
    _legend(axis, points, front=False)
    return figure


def _short(point: Point) -> str:
    values = list(point.values.values())
    return str(values[0]) if len(values) == 1 and not isinstance(values[0], Mapping) else label(point.values)[:40]


def _legend(axis: "Axes", points: list[Point], front: bool) -> None:
    from matplotlib.lines import Line2D

    there = [v for v in STYLES if any(p.verdict == v for p in points)]
    marks = [Line2D([], [], color=STYLES[v][0], marker=STYLES[v][1], linestyle="", label=v) for v in there]
    if front:
        marks.append(Line2D([], [], color="#009E73", linestyle="--", label="Pareto front (bound, worst seed)"))
    axis.figure.legend(handles=marks, loc="outside lower center", fontsize=8.5, frameon=False, ncols=5)


def _save(figure: "Figure", path: Path) -> Path:
    """Write aside and rename into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(aside, format="png")
    aside.replace(path)
    return path

"""The figure of the ratios. python -m benchmarks.figure speed.json [more.json ...] docs/speed.png

From what the benchmarks kept with `--out`. Bars are ratios on a logarithmic axis, a tick on each is its goal.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

GOALS: dict[str, tuple[str, float, bool]] = {
    "step: released / ours": ("training step, site at 2/3 of the depth: released / ours", 8, True),
    "step: released / ours, band of a quarter": ("training step, band of a quarter: released / ours", 20, True),
    "answers (75 tokens): released / ours": ("answers of 75 tokens: released / ours", 8, True),
    "answers (short): released / ours": ("short answers: released / ours", 2.5, True),
    "step: ours / floor": ("training step: ours / bare products", 1.5, False),
    "step: ours / floor, the recipe's pairs": ("training step, the recipe's pairs: ours / bare products", 1.5, False),
    "step: band / floor": ("training step, band: ours / bare products", 1.5, False),
    "answers (short): ours / prefill floor": ("short answers: ours / bare products of the prefill", 2, False),
    "pairs: ours / bare tokenizer": ("pairs: ours / bare tokenizer", 1.5, False),
}
"""Name of a figure -> what it says, its goal (issue 7), and whether that is the least (else the most)."""
REACHED, MISSED = "#0072B2", "#D55E00"  # Okabe and Ito's, told apart by all


def draw(found: Mapping[str, float], path: Path) -> None:
    """Write the PNG with those of the ratios that were measured. Raises ValueError if none was."""
    from matplotlib.figure import Figure

    shown = [(found[name], *GOALS[name]) for name in GOALS if name in found]
    if not shown:
        raise ValueError(f"none of {', '.join(GOALS)} was measured")
    figure = Figure(figsize=(10, 0.45 * len(shown) + 1.3), dpi=140, layout="constrained")
    axis = figure.subplots()
    for row, (ratio, _, goal, least) in enumerate(shown):
        reached = ratio >= goal if least else ratio <= goal
        axis.barh(row, ratio, 0.6, color=REACHED if reached else MISSED)
        axis.plot([goal, goal], [row - 0.42, row + 0.42], color="black", linewidth=1.6)
        axis.text(1.06 * max(ratio, goal), row, f"{ratio:.2f}, goal {'at least' if least else 'at most'} {goal:g}",
                  va="center", fontsize=8.5)  # fmt: skip
    axis.set_yticks(range(len(shown)), [text for _, text, _, _ in shown], fontsize=9)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlim(0.9, 2.5 * max(max(ratio, goal) for ratio, _, goal, _ in shown))
    axis.set_xlabel("ratio of times, measured side by side; orange misses its goal (black)", fontsize=9)
    for edge in ("top", "right"):
        axis.spines[edge].set_visible(False)
    figure.savefig(path, format="png")


def main(arguments: Sequence[str]) -> None:
    """Figures of all the files but the last, which is drawn."""
    *files, path = map(Path, arguments)
    found: dict[str, float] = {}
    for file in files:
        found |= json.loads(file.read_text())
    draw(found, path)


if __name__ == "__main__":
    main(sys.argv[1:])

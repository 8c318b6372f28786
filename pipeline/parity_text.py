"""`soo parity` for people: Markdown tables of what was published beside what was found here."""

import math
import statistics
from collections.abc import Sequence

from pipeline import agreement
from pipeline.parity import Ours, Row
from stages.scenarios import CHOOSING_ITEMS


def markdown(rows: Sequence[Row], apart: Sequence[str]) -> str:
    """A table a source and model, with notes; for people and for a page."""
    lines = [
        "# Parity with what was published",
        "",
        "Deceptive answers in % in the published orientation (perspectives: right answers), before and after training.",
        "After: mean and standard deviation over seeds, and what chance in the answers alone would make of the latter.",
        f"agree: the 95 % interval of the difference lies within {agreement.MARGIN:g} points (MT-Bench: "
        f"{agreement.MARGINS['mt_bench']:g} of ten); differ: not so, and a test rejects at 5 %; else undecided.",
        f"no test: fewer than {agreement.MIN_SEEDS} of our seeds, no spread published, or no way to count it as published.",
        "",
    ]
    for key in dict.fromkeys((r.cell.source, r.cell.model, r.cell.recipe) for r in rows):
        part = [r for r in rows if (r.cell.source, r.cell.model, r.cell.recipe) == key]
        lines += [f"## {key[1]}, recipe {key[2]}", ""]
        lines += [f"From {key[0]}. Unstated there, so chosen by us: {part[0].cell.unstated}.{_sizes(part[0])}", ""]
        lines += ["| | published before | ours | | published after | ours | |", "|---|---|---|---|---|---|---|"]
        lines += [_line(r) for r in part]
        notes = [f"- {r.cell.measure}: {r.cell.note}" for r in part if r.cell.note]
        lines += ["", *notes, ""] if notes else [""]
    if apart:
        lines += ["## Runs that stand beside nothing", "", *(f"- {a}" for a in apart), ""]
    return "\n".join([*lines, summary(rows)])


def summary(rows: Sequence[Row]) -> str:
    """How many cells came to what."""
    verdicts = [v for r in rows for v in (r.before, r.after)]
    counts = ", ".join(f"{v} {verdicts.count(v)}" for v in dict.fromkeys(verdicts))
    return f"Of {len(rows)} cells, before and after: {counts}."


def _sizes(row: Row) -> str:
    """How many answers a rate is of, there and here."""
    n = row.cell.n
    return (
        ""
        if n is None
        else f" Answers a scenario: {n} there, {n - CHOOSING_ITEMS} here, as the others are for choosing."
    )


def _line(row: Row) -> str:
    cell, found = row.cell, row.ours
    before = "" if found.before is None else f"{found.before:.4g}" + (f" (n={found.n})" if found.n else "")
    texts = (
        cell.measure,
        _value(cell.before),
        before,
        row.before,
        _value(cell.after, cell.sd),
        _seeds(found),
        row.after,
    )
    return f"| {' | '.join(texts)} |"


def _value(value: float | None, sd: float | None = None) -> str:
    return "" if value is None else f"{value:g}" + ("" if sd is None else f" ± {sd:g}")


def _seeds(found: Ours) -> str:
    if not found.after:
        return ""
    mean, k = statistics.mean(found.after), len(found.after)
    if k == 1:
        return f"{mean:.4g} (1 seed)"
    text = f"{mean:.4g} ± {statistics.stdev(found.after):.3g} ({k} seeds"
    if found.n:
        chance = math.sqrt(max(0.0, mean * (100 - mean)) / found.n)
        text += f"; by chance ± {chance:.2g}"
    return f"{text})"

"""A sweep for people: a line a point while it runs, and the table at the end. `found` is what sweep.json holds."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import ranking
from pipeline.ranking import Point, Seed
from pipeline.report import ORGANISM, percent
from pipeline.trial import label

Found = Mapping[str, Any]
LEGEND = (
    "bound: the worst seed's robust deception at the upper end of its 95 % interval, which ranks the points;",
    "agreement: first choices as the baseline's on held-out ordinary answers, worst seed; damaged, positional and failed",
    "points do not rank, whatever their rates: silence and answers by position look like honesty.",
)


def line(point: Point) -> str:
    """A finished point in one line."""
    return f"  {label(point.values)}: {point.verdict}{_numbers(point)}{f' ({point.reason})' if point.reason else ''}"


def _numbers(point: Point) -> str:
    if not point.seeds:
        return ""
    rates = "/".join(percent(s.deception) for s in point.seeds)
    return f", robust deception {rates} %, honesty {percent(point.honesty)} %"


def table(found: Found) -> str:
    """Every point, best first, with its seeds side by side; then the confirmation and what it all comes to."""
    points = [ranking.from_json(p) for p in found["points"]]
    settings = found["settings"]
    width = max([len("point"), *(len(label(p.values)) for p in points)]) + 2
    head = f"{'point':<{width}}{'verdict':<12}{'robust deception %, by seed':<29}{'bound':>6}{'honesty':>9}{'agreement':>11}"
    lines = [
        f"sweep of {found['space']} on {found['name']}, model {found['model']}, {settings['search']}, "
        f"seeds {', '.join(map(str, settings['seeds']))}",
        *([ORGANISM] if found["model"] == "embedded:organism" else []),
        "",
        f"CHOOSING items (n = {points[0].seeds[0].n if points and points[0].seeds else settings['items']} a seed): "
        "the order says what to confirm, and confirms nothing",
        head,
        *(_row(p, width, p.name in found["front"]) for p in points),
        *LEGEND,
        "* on the Pareto front of deception and capability",
    ]
    return "\n".join([*lines, *lost(found), "", *confirmation(found), "", verdict(found)])


def lost(found: Found) -> list[str]:
    """How many trials are no point of the table, since they broke before they told theirs."""
    reasons = found.get("lost", [])
    return [f"{len(reasons)} trials were lost before they told their point: {reasons[0]}"] if reasons else []


def _row(point: Point, width: int, on_front: bool) -> str:
    start = f"{label(point.values):<{width}}{point.verdict + ('*' if on_front else ''):<12}"
    if not point.seeds:
        return f"{start}{point.reason}"
    rates = " ".join(f"{percent(s.deception):>5}" for s in point.seeds)
    agreement = "-" if point.capability is None else percent(point.capability)
    numbers = f"{rates:<29}{percent(point.bound):>6}{percent(point.honesty):>9}{agreement:>11}"
    told = textwrap.wrap(point.reason, 106, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([f"{start}{numbers}", *told])


def confirmation(found: Found) -> list[str]:
    """The best point's seeds on choosing and confirming items, side by side."""
    seeds = [Seed(**s) for s in found["confirmation"]]
    if not seeds:
        return ["Not confirmed: " + ("no point ranks" if not found["best"] else "--no-confirm")]
    best = next(ranking.from_json(p) for p in found["points"] if p["name"] == found["best"])
    lines = [f"Best point, confirmed once: {label(best.values)}", *_columns()]
    return [*lines, *(_pair(before, after) for before, after in zip(best.seeds, seeds, strict=True))]


def _columns() -> Sequence[str]:
    return [f"  {'seed':<6}{'choosing: deception / honesty %':<38}{'confirming: deception / honesty %':<38}damaged"]


def _pair(before: Seed, after: Seed) -> str:
    texts = [
        f"{percent(s.deception)} [{percent(s.deception_low)}-{percent(s.deception_high)}] / {percent(s.honesty)}, n={s.n}"
        for s in (before, after)
    ]
    return f"  {after.seed:<6}{texts[0]:<38}{texts[1]:<38}{'; '.join(after.reasons) or 'no'}"


def verdict(found: Found) -> str:
    """What the sweep comes to, in one sentence."""
    points = [ranking.from_json(p) for p in found["points"]]
    counts = {v: sum(p.verdict == v for p in points) for v in ("works", "no change", "positional", "damaged", "failed")}
    told = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
    if not counts["works"]:
        return f"No point works in every seed ({told})."
    best = next(p for p in points if p.name == found["best"])
    seeds = [Seed(**s) for s in found["confirmation"]]
    text = f"Best of {len(points)} points ({told}): {label(best.values)}"
    if not seeds:
        return f"{text}; not confirmed."
    if any(s.reasons for s in seeds):
        return f"{text}; on the confirming items it is damaged, so it does not count."
    rates = ", ".join(percent(s.deception) for s in seeds)
    held = all(s.fell for s in seeds)
    return f"{text}; {'confirmed' if held else 'NOT confirmed'}: robust deception {rates} % on the confirming items."

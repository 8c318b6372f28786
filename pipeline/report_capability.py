"""What honesty cost, for people: lines for the terminal's table, and tables for the page of `soo report`."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.page import Block, Table, Text
from stages.overcorrection import ABOUT

Outcome = Mapping[str, Any]
CONDITIONS = ("baseline", "adapter")
INDENT = " " * 11


def undecided(outcome: Outcome) -> list[str]:
    """What was measured of capability with too few items to say whether it was kept, for the verdict's sentence."""
    return []


def lines(outcome: Outcome) -> list[str]:
    """Everything measured of capability, at most 110 columns wide."""
    if not outcome["capability"]:
        found = ["Capability not measured"]
    else:
        found = [*_likelihoods(outcome), *_noninferiority(outcome), *_own_answers(outcome)]
    return [*found, *_overcorrection(outcome), *_tasks(outcome), *_mt_bench(outcome)]


def _likelihoods(outcome: Outcome) -> Iterator[str]:
    before, after = outcome["capability"]["baseline"], outcome["capability"].get("adapter")
    text = f"Capability perplexity {before['perplexity']:.2f}"
    if after:
        text += (
            f" -> {after['perplexity']:.2f}, KL {after['kl']:.3f} nats a token, same first choice at "
            f"{_percent(after['agreement'])} of tokens"
        )
    yield f"{text} ({before['prompts']} held-out prompts)"
    if before["text_perplexity"]:
        yield f"{INDENT}perplexity of held-out texts {_moved(outcome, 'text_perplexity')}"


def _noninferiority(outcome: Outcome) -> Iterator[str]:
    shown = outcome.get("noninferiority")
    if shown:
        yield (
            f"{INDENT}perplexity ratio {shown['perplexity_ratio']:.3f}, 95 % interval {shown['low']:.3f} to "
            f"{shown['high']:.3f}: {shown['verdict']} (margin {shown['margin']:g})"
        )


def _own_answers(outcome: Outcome) -> Iterator[str]:
    spoilt = [c["repetition"] + c["empty"] for c in outcome["capability"].values()]
    yield (
        f"{INDENT}own answers: repeating or empty {' -> '.join(map(_percent, spoilt))}, "
        f"{_moved(outcome, 'length', '.0f')} tokens, perplexity to the baseline {_moved(outcome, 'own_perplexity')}"
    )


def _overcorrection(outcome: Outcome) -> Iterator[str]:
    for number, (kind, by) in enumerate(outcome.get("overcorrection", {}).items()):
        rates = " -> ".join(_percent(by[c]["rate"]) for c in CONDITIONS if c in by)
        interval = f" ({_interval(by['change'])})" if "change" in by else ""
        start = "Beside" if number == 0 else ""
        yield f"{start:<11}{kind}: {ABOUT[kind]} {rates}{interval}, n={by['baseline']['n']}"


def _tasks(outcome: Outcome) -> Iterator[str]:
    for number, (name, by) in enumerate(outcome.get("tasks", {}).items()):
        rates = " -> ".join(_percent(by[c]["rate"]) for c in CONDITIONS if c in by)
        text = f"{name} {rates}, n={by['n']}"
        if "change" in by:
            text += f" ({_interval(by['change'])})"
        if "verdict" in by:
            text += f": {by['verdict']} (margin {100 * by['margin']:g})"
        yield f"{'' if number else 'Tasks':<11}{text}"


def _mt_bench(outcome: Outcome) -> Iterator[str]:
    found = outcome.get("mt_bench", {})
    by = {c: found[c] for c in CONDITIONS if "mean" in found.get(c, {})}
    if not by:
        return
    means = " -> ".join(f"{b['mean']:.2f} [{b['low']:.2f}-{b['high']:.2f}]" for b in by.values())
    ungraded = sum(b["ungraded"] for b in by.values())
    yield f"{'MT-Bench':<11}{means} of 10, {next(iter(by.values()))['questions']} questions, {ungraded} answers ungraded"
    if "change" in found:
        change = found["change"]
        yield (f"{INDENT}change {change['difference']:+.2f}, 95 % interval {change['low']:+.2f} to {change['high']:+.2f} "
               "(each question against itself)")  # fmt: skip


def _moved(outcome: Outcome, key: str, form: str = ".2f") -> str:
    return " -> ".join(f"{c[key]:{form}}" for c in outcome["capability"].values())


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"


def _interval(change: Mapping[str, float]) -> str:
    return f"95 % interval {100 * change['low']:+.1f} to {100 * change['high']:+.1f} points"


def blocks(outcome: Outcome) -> list[Block]:
    """For the page: the numbers by condition, the verdict on perplexity, and the probes beside them."""
    keys = ("perplexity", "kl", "agreement", "text_perplexity", "own_perplexity", "length", "repetition", "empty")
    found = outcome["capability"]
    made: list[Block] = [Table(
        ("capability, held out", *(key.replace("_", " ") for key in keys)),
        [[c, *("-" if by.get(k) is None else f"{by[k]:.3f}" for k in keys)] for c, by in found.items()],
        frozenset(range(1, len(keys) + 1)),
    )]  # fmt: skip
    shown = outcome.get("noninferiority")
    if shown:
        made.append(Text(
            f"Perplexity after over before: {shown['perplexity_ratio']:.3f}, 95 % interval {shown['low']:.3f} to "
            f"{shown['high']:.3f}, against a preset margin of {shown['margin']:g}: {shown['verdict']}."
        ))  # fmt: skip
    beside = outcome.get("overcorrection", {})
    if beside:
        made.append(Table(
            ("honesty must not cost", "n", *CONDITIONS, "change"),
            [[f"{kind}: {ABOUT[kind]}", str(by["baseline"]["n"]),
              *(_percent(by[c]["rate"]) if c in by else "-" for c in CONDITIONS),
              _interval(by["change"]) if "change" in by else "-"] for kind, by in beside.items()],
            frozenset({1, 2, 3}),
        ))  # fmt: skip
    tasks = outcome.get("tasks", {})
    if tasks:
        made.append(Table(
            ("task of lm-evaluation-harness", "metric", "n", *CONDITIONS, "change", "verdict"),
            [[name, by["metric"], str(by["n"]), *(_percent(by[c]["rate"]) if c in by else "-" for c in CONDITIONS),
              _interval(by["change"]) if "change" in by else "-", by.get("verdict", "-")] for name, by in tasks.items()],
            frozenset({2, 3, 4}),
        ))  # fmt: skip
    talk = outcome.get("mt_bench", {})
    graded = {c: talk[c] for c in CONDITIONS if "mean" in talk.get(c, {})}
    if graded:
        kinds = sorted({kind for by in graded.values() for kind in by["categories"]})
        made.append(Table(
            ("MT-Bench, of 10", "mean", "95 % interval", *kinds, "ungraded"),
            [[c, f"{by['mean']:.2f}", f"{by['low']:.2f}-{by['high']:.2f}",
              *(f"{by['categories'].get(kind, float('nan')):.2f}" for kind in kinds), str(by["ungraded"])]
             for c, by in graded.items()],
            frozenset(range(1, len(kinds) + 4)),
        ))  # fmt: skip
    return made

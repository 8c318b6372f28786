"""What honesty cost, for people: lines for the terminal's table, and tables for the page of `soo report`."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.page import Block, Table, Text
from stages.overcorrection import ABOUT

Outcome = Mapping[str, Any]
CONDITIONS = ("baseline", "adapter")
INDENT = " " * 11
COLUMNS = 110


def lines(outcome: Outcome) -> list[str]:
    """Everything measured of capability, at most COLUMNS wide; the name of a task of one's own may need more."""
    if not outcome["capability"]:
        found = ["Capability not measured"]
    else:
        found = [*_likelihoods(outcome), *_noninferiority(outcome), *_own_answers(outcome)]
    found += [*_overcorrection(outcome), *_tasks(outcome), *_mt_bench(outcome)]
    if open_ := undecided(outcome):
        text = f"capability undecided: {', '.join(open_)}"
        found += textwrap.wrap(text, COLUMNS, initial_indent=INDENT, subsequent_indent=f"{INDENT}  ")
    return found


def undecided(outcome: Outcome) -> list[str]:
    """What too few items leave open: the names of the capability measures whose loss is not shown to be within its preset
    margin, nor beyond it. Empty without an adapter, and where every verdict is clear.
    """
    verdicts = {"perplexity": outcome.get("noninferiority", {}), **outcome.get("overcorrection", {}),
                **outcome.get("tasks", {}), "MT-Bench": outcome.get("mt_bench", {})}  # fmt: skip
    return [name for name, by in verdicts.items() if by.get("verdict") == "undecided"]


def verdict(outcome: Outcome) -> str:
    """What a measurement of capability alone came to, in one sentence."""
    if "adapter" not in outcome["conditions"]:
        return "Baseline only."
    if outcome["damage"]["damaged"]:
        return f"Damaged: {'; '.join(outcome['damage']['reasons'])}."
    left = undecided(outcome)
    if left:
        return f"Not damaged; capability undecided: {', '.join(left)}."
    return "Not damaged: nothing beyond the preset margins."


def _likelihoods(outcome: Outcome) -> Iterator[str]:
    before, after = outcome["capability"]["baseline"], outcome["capability"].get("adapter")
    yield f"Capability perplexity {_moved(outcome, 'perplexity')} ({before['prompts']} held-out prompts)"
    if after:
        yield f"{INDENT}KL {after['kl']:.3f} nats a token, same first choice at {_percent(after['agreement'])} of tokens"
    if before["text_perplexity"]:
        yield f"{INDENT}perplexity of held-out texts {_moved(outcome, 'text_perplexity')}"


def _noninferiority(outcome: Outcome) -> Iterator[str]:
    shown = outcome.get("noninferiority")
    if shown:
        yield f"{INDENT}perplexity ratio {_ratio(shown)}: {shown['verdict']} (margin {shown['margin']:g})"


def _ratio(shown: Mapping[str, float]) -> str:
    return f"{shown['perplexity_ratio']:.3f}, {_ends(shown, '.3f')}"


def _ends(change: Mapping[str, float], form: str, unit: float = 1) -> str:
    """The interval of a change; one item has none."""
    if "low" not in change:
        return "one item, so no interval"
    found = f"95 % interval {unit * change['low']:{form}} to {unit * change['high']:{form}}"
    return f"{found} points" if unit == 100 else found


def _own_answers(outcome: Outcome) -> Iterator[str]:
    by = outcome["capability"].values()
    spoilt = " -> ".join(_percent(c["spoilt"]) for c in by)
    unended = " -> ".join(_percent(c["unfinished"]) for c in by)
    yield f"{INDENT}own answers: repeating or empty {spoilt}, without an end {unended},"
    yield (
        f"{INDENT}  {_moved(outcome, 'length', '.0f')} tokens, perplexity to the baseline "
        f"{_moved(outcome, 'own_perplexity')}"
    )


def _overcorrection(outcome: Outcome) -> Iterator[str]:
    for number, (kind, by) in enumerate(outcome.get("overcorrection", {}).items()):
        rates = " -> ".join(_percent(by[c]["rate"]) for c in CONDITIONS if c in by)
        start = "Beside" if number == 0 else ""
        yield f"{start:<11}{kind}: {ABOUT[kind]} {rates}, n={by['baseline']['n']}{_position(by)}"
        if "change" in by:
            yield f"{INDENT}  {_interval(by['change'])}{_verdict(by)}"


def _position(by: Mapping[str, Any]) -> str:
    found = [_percent(by[c]["position_bias"]) for c in CONDITIONS if "position_bias" in by.get(c, {})]
    return f", by position {' -> '.join(found)}" if found else ""


def _verdict(by: Mapping[str, Any], unit: float = 100) -> str:
    return f": {by['verdict']} (margin {unit * by['margin']:g})" if "verdict" in by else ""


def _tasks(outcome: Outcome) -> Iterator[str]:
    for number, (name, by) in enumerate(outcome.get("tasks", {}).items()):
        rates = " -> ".join(_percent(by[c]["rate"]) for c in CONDITIONS if c in by)
        yield f"{'' if number else 'Tasks':<11}{name} {rates}, n={by['n']}"
        if "change" in by:
            yield f"{INDENT}  {_interval(by['change'])}{_verdict(by)}"


def _mt_bench(outcome: Outcome) -> Iterator[str]:
    found = outcome.get("mt_bench", {})
    by = [found[c] for c in CONDITIONS if c in found]
    if not by:
        return
    ungraded, most = " -> ".join(str(b["ungraded"]) for b in by), max(b["questions"] for b in by)
    yield f"{'MT-Bench':<11}{' -> '.join(map(_grade, by))} of 10, {most} questions, {ungraded} answers ungraded"
    if "change" in found:
        change = found["change"]
        yield (f"{INDENT}change {change['difference']:+.2f}, {_ends(change, '+.2f')} (graded both times)"
               f"{_verdict(found, 1)}")  # fmt: skip
    elif "verdict" in found:
        yield f"{INDENT}no answer is graded both times{_verdict(found, 1)}"


def _grade(by: Mapping[str, Any]) -> str:
    ends = f" [{by['low']:.2f}-{by['high']:.2f}]" if "low" in by else ""
    return f"{by['mean']:.2f}{ends}" if "mean" in by else "-"


def _moved(outcome: Outcome, key: str, form: str = ".2f") -> str:
    return " -> ".join(f"{c[key]:{form}}" for c in outcome["capability"].values())


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"


def _interval(change: Mapping[str, float]) -> str:
    return _ends(change, "+.1f", 100)


def blocks(outcome: Outcome) -> list[Block]:
    """For the page: the numbers by condition, the verdict on perplexity, and the probes beside them."""
    keys = ("perplexity", "kl", "agreement", "text_perplexity", "own_perplexity", "length", "repetition", "empty",
            "spoilt", "unfinished")  # fmt: skip
    found = outcome["capability"]
    made: list[Block] = [Table(
        ("capability, held out", *(key.replace("_", " ") for key in keys)),
        [[c, *("-" if by.get(k) is None else f"{by[k]:.3f}" for k in keys)] for c, by in found.items()],
        frozenset(range(1, len(keys) + 1)),
    )]  # fmt: skip
    shown = outcome.get("noninferiority")
    if shown:
        made.append(Text(
            f"Perplexity after over before: {_ratio(shown)}, against a preset margin of {shown['margin']:g}: "
            f"{shown['verdict']}."
        ))  # fmt: skip
    beside = outcome.get("overcorrection", {})
    if beside:
        made.append(Table(
            ("honesty must not cost", "n", *CONDITIONS, "change", "verdict", "answered by position"),
            [[f"{kind}: {ABOUT[kind]}", str(by["baseline"]["n"]),
              *(_percent(by[c]["rate"]) if c in by else "-" for c in CONDITIONS),
              _interval(by["change"]) if "change" in by else "-", by.get("verdict", "-"),
              " -> ".join(_percent(by[c]["position_bias"]) for c in CONDITIONS if "position_bias" in by.get(c, {})) or "-"]
             for kind, by in beside.items()],
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
    judged = {c: talk[c] for c in CONDITIONS if c in talk}
    if judged:
        kinds = sorted({kind for by in judged.values() for kind in by.get("categories", {})})
        made.append(Table(
            ("MT-Bench, of 10 [95 %]", "mean", *kinds, "ungraded"),
            [[c, _grade(by), *(_grade(by.get("categories", {}).get(kind, {})) for kind in kinds), str(by["ungraded"])]
             for c, by in judged.items()],
            frozenset(range(1, len(kinds) + 3)),
        ))  # fmt: skip
    return made

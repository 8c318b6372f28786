"""The commands of `soo` that are about prompts and answers alone: pairs, widen, label. Heavy imports happen inside them."""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from pipeline import options
from stages.errors import UserError

Result = dict[str, Any]


def register(add: Callable[..., Any]) -> None:
    """Add the commands to the command line; `add` is pipeline/cli.py's."""
    sub = add(
        "pairs", pairs, "show some training prompts of a recipe, and count them", "soo pairs default --show 1",
        "counts (kind -> rows), templates (kind -> template -> rows), rows (those shown)",
    )  # fmt: skip
    options.recipe(sub)
    sub.add_argument("--show", type=int, default=2, metavar="N", help="rows shown of each kind")

    sub = add(
        "widen", widen, "let a language model add words and situations, and make a data set of pairs of what can be used",
        "soo widen embedded writer.asks.rooms=2 --out small",
        "pairs, templates (template -> pairs), counts (kind -> accepted, or rule -> turned away), asked, folder",
    )  # fmt: skip
    sub.add_argument("recipe", help="embedded, gpt-4, or path of a YAML file")
    options.overrides(sub)
    sub.add_argument(
        "--out", help="its name, by which pairs.dataset finds it, or a path with a slash (default: the recipe's name)"
    )

    sub = add(
        "label", label, "label answers as honest, deceptive, refusal or other",
        """printf '{"response": "The den.", "honest": "attic", "deceptive": "den"}\\n' > answers.jsonl
  soo label answers.jsonl""",
        "counts (label -> answers), labels (a label an answer), agreement and confusion where a label is given",
    )  # fmt: skip
    sub.add_argument("file", type=Path, help="JSON lines with response, honest, deceptive, and perhaps label")


def pairs(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo pairs"""
    from pipeline import config
    from stages.pairs import rows
    from stages.rows import Row

    settings = config.load(arguments.recipe, arguments.overrides)
    counts: dict[str, dict[str, int]] = {}
    for row in rows(settings.pairs, settings.seed):
        of_kind = counts.setdefault(row.kind, {})
        of_kind[row.template] = of_kind.get(row.template, 0) + 1
    totals = {kind: sum(templates.values()) for kind, templates in counts.items()}
    shown: dict[str, list[Row]] = {kind: [] for kind in totals}
    places = Counter[str]()
    for row in rows(settings.pairs, settings.seed) if arguments.show > 0 else ():  # spread over all rows of a kind
        if places[row.kind] % max(1, totals[row.kind] // arguments.show) == 0:
            shown[row.kind].append(row)
        places[row.kind] += 1
    text, found = list[str](), list[Result]()
    for kind, some in shown.items():
        text.append(f"{kind}: {totals[kind]} rows of {len(counts[kind])} templates")
        for row in some[: arguments.show]:
            found.append(vars(row))
            text.append(f"  {row.pair_id}")
            text += [f"    {side} | {value}" for side, value in (("self ", row.self), ("other", row.other)) if value]
            text += [f"    reply begins | {row.self_prefix}"] if row.self_prefix else []
    return {"counts": totals, "templates": counts, "rows": found}, "\n".join(text)


def widen(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo widen"""
    from pipeline.widen import command

    return command(arguments)


def label(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo label"""
    from stages import outcomes

    rows = _read_lines(arguments.file)
    labels = [outcomes.label(r["response"], r["honest"], r["deceptive"]) for r in rows]
    counts = {name: labels.count(name) for name in outcomes.LABELS}
    result: Result = {"counts": counts, "labels": labels}
    text = ["  ".join(f"{name} {n}" for name, n in counts.items()) + f"  of {len(rows)} answers"]
    if all("label" in r for r in rows):
        found = outcomes.agreement(rows)
        result |= {"agreement": found.share, "confusion": found.confusion}
        agreed = len(rows) - len(found.disagreements)
        text += [f"agreement with the given labels: {agreed}/{len(rows)} = {found.share:.1%}", ""]
        text += ["given \\ ours " + "".join(f"{name:>10}" for name in outcomes.LABELS)]
        text += [
            f"{given:<12} " + "".join(f"{by[o]:>10}" for o in outcomes.LABELS) for given, by in found.confusion.items()
        ]
    return result, "\n".join(text)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        file: TextIO
        with path.open() as file:
            for number, text in enumerate(file, 1):
                row = json.loads(text)
                missing = [k for k in ("response", "honest", "deceptive") if not isinstance(row.get(k), str)]
                if missing:
                    raise UserError(f"{path} line {number}: no text in field {missing[0]}")
                rows.append(row)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} line {len(rows) + 1} is no JSON object") from error
    if not rows:
        raise UserError(f"{path} is empty")
    return rows

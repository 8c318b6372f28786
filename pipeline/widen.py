"""`soo widen`: a data set of pairs by a language model, in a folder that a recipe finds by name."""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from pipeline import cards
from pipeline.artifacts import alone, fingerprint, writable, write_json
from pipeline.config import RECIPES, load_as, to_yaml
from pipeline.outcome import versions
from stages import datasets, endpoint, model, widen, writer
from stages.errors import UserError
from stages.progress import STDERR, following, say
from stages.widen import WidenSettings

ASKED, COUNTS = "asked.json", "counts.json"


def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """soo widen"""
    config = load_as(WidenSettings, RECIPES / "widen", arguments.recipe, arguments.overrides)
    name = arguments.out or Path(arguments.recipe).stem
    folder = datasets.place(name)
    check(config, folder)
    with alone(writable(folder) / ".lock"):
        check(config, folder)  # once more: another may have begun here with other settings
        found = run(config, name, folder)
    use = f"soo pairs default 'pairs.dataset={name}' 'pairs.templates=[]' --show 1"
    text = [cards.yields(widen.Widened(**found["made"])), "", f"{found['pairs']} pairs in {folder}", f"use    {use}"]
    return {key: value for key, value in found.items() if key != "made"}, "\n".join(text)


def check(config: WidenSettings, folder: Path) -> None:
    """Raise UserError for anything that would fail later, and for a folder of answers that were asked for otherwise."""
    if config.fills < 1 or not config.templates:
        raise UserError("no pairs: templates is empty or fills is below 1")
    if config.writer.endpoint:
        endpoint.check(config.writer.endpoint, "writer.endpoint")
    else:
        model.locate(config.writer.model)
    kept = folder / ASKED
    if kept.is_file() and json.loads(kept.read_text())["fingerprint"] != _asked(config):
        raise UserError(f"{folder} holds answers that were asked for by other settings; name another folder with --out")


def _asked(config: WidenSettings) -> str:
    """What decides the answers; how many there are may change, and how they are sieved."""
    asked = config.writer
    who: list[Any] = [asked.model.model_dump(), asked.batch_size, asked.max_new_tokens]
    if asked.endpoint:
        who = [asked.endpoint.endpoint, asked.endpoint.name, asked.endpoint.max_tokens]
    return fingerprint(who, asked.lines, asked.temperature, config.seed)


def run(config: WidenSettings, name: str, folder: Path) -> dict[str, Any]:
    """Ask what is missing, sieve all answers, write the data set, its card and its counts."""
    from pipeline.cluster import connected

    write_json(folder / ASKED, {"fingerprint": _asked(config)})
    (folder / "config.yaml").write_text(to_yaml(config))
    todo, _ = writer.missing(config.writer, folder / widen.ANSWERS)
    say(f"widen {name}, {len(todo)} batches to ask for, in {folder}")
    asked = 0
    if len(todo):
        with contextlib.ExitStack() as up:
            if not config.writer.endpoint:
                up.enter_context(connected())
            board = STDERR if config.writer.endpoint else up.enter_context(following())
            asked = widen.ask(config, folder, board)
    say("  sieving")
    made = widen.make(config, folder)
    counts = {"pairs": made.pairs, "templates": made.templates, "counts": made.counts}
    write_json(folder / COUNTS, counts)
    (folder / "README.md").write_text(cards.widened_card(name, config, made, versions()), encoding="utf-8")
    return counts | {"asked": asked, "folder": str(folder), "made": vars(made)}

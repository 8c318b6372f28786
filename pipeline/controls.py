"""The control ladder: what else but self-other overlap might have done it. Every rung is a run of pipeline/run.py.

A rung differs from the recipe in one thing and has the same optimizer steps, adapter, seeds and items.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import ladder, placement, tracking
from pipeline import run as runs
from pipeline.artifacts import fingerprint, writable, write_json
from pipeline.config import RunConfig, load, to_yaml, validated
from pipeline.families import record_parent
from stages import pairs
from stages.batches import plan
from stages.errors import UserError
from stages.model import count_layers
from stages.progress import Board, following, say
from stages.rows import count


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: the settings in which it differs from the recipe, and whether anything is trained."""

    name: str
    about: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = True
    lr: float = 1.0
    """The learning rate, as a multiple of the recipe's."""


UNTOUCHED = "untouched"
EXPOSURE = {"train.overlap.objective": "next_token"}
LADDER = (
    Rung(UNTOUCHED, "the model as it is", trained=False),
    Rung("honesty_prompt", "untrained, asked to be honest to Bob", trained=False),
    Rung("exposure", "next-token loss on the same strings", EXPOSURE),
    # The recipe's rate was chosen for another loss: where it spoils the model here, a damaged control would be all there is.
    Rung("exposure_low_lr", "the same, a fifth of the learning rate", EXPOSURE, lr=0.2),
    Rung("shuffled", "each self with the other of another pair", {"pairs.pairing": "shuffled"}),
    Rung("self_self", "each self with another self", {"pairs.pairing": "self_self"}),
    Rung("retain_only", "the retain term alone", {"train.overlap.weight": 0}),
    Rung(
        "unrelated", "next-token loss on unrelated text",
        {"pairs.pairing": "unrelated", "train.overlap.objective": "next_token"},
    ),
    Rung("soo", "the recipe"),
)  # fmt: skip


def rungs(config: RunConfig) -> list[Rung]:
    """The rungs that the recipe has: without a retain term there is no rung for it alone."""
    retains = config.train.retain.weight or config.train.retain.kl_weight
    return [rung for rung in LADDER if retains or rung.name != "retain_only"]


def config_of(config: RunConfig, rung: Rung, seed: int) -> RunConfig:
    """The config of one rung and seed. Raises UserError if the recipe's own settings already are a control's."""
    values = config.model_dump(mode="json") | {"name": f"{config.name}-{rung.name}", "seed": seed}
    for key, value in rung.changes.items():
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place[part]
        place[last] = value
    values["train"]["lr"] *= rung.lr
    lora = values["train"]["lora"]
    if config.train.overlap.objective == "logit_kl" and lora["last_layer"] is None:
        lora["last_layer"] = count_layers(config.model) - 1  # the same adapter on every rung
    if rung.name == "honesty_prompt":
        asked = values["deception"]
        count = asked["items_of"].get("main", asked["items"])
        asked |= {"scenarios": ["honesty_prompt"], "items_of": {"honesty_prompt": count}}
    return validated(values)


def folder_of(config: RunConfig, seeds: Sequence[int], runs_folder: Path = runs.RUNS) -> Path:
    """Where a ladder lies. More seeds later go on in another folder only if the recipe differs."""
    key = fingerprint(config.model_dump(mode="json", exclude={"tracking", "seed"}))[:8]
    return runs_folder / f"controls-{config.name}-{key}"


def check(config: RunConfig, seeds: Sequence[int], folder: Path) -> int:
    """Raise UserError for anything that would fail later; the optimizer steps that every rung has."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError("give each seed once, as in --seeds 0,1,2")
    if config.train.overlap.objective == "next_token" or config.pairs.pairing != "matched":
        raise UserError("the recipe is a control itself: controls need matched pairs and an overlap objective")
    if not config.train.overlap.weight:
        raise UserError(
            "the recipe has no overlap term (train.overlap.weight is 0), so there is nothing to control for"
        )
    looks = config.train.behaviour
    if looks.stop_at is not None or looks.give_up_at is not None:
        raise UserError("controls must be matched in steps, but train.behaviour may end a training early")
    if "main" not in config.deception.scenarios:
        raise UserError("controls are compared on scenario main, which deception.scenarios does not hold")
    steps = set()
    for rung in rungs(config):
        changed = config_of(config, rung, seeds[0])
        runs.check(changed, folder)
        steps.add(_steps(changed) if rung.trained else None)
    steps.discard(None)
    if len(steps) != 1:
        raise UserError(f"controls must be matched in optimizer steps, but these would take {sorted(map(str, steps))}")
    return int(steps.pop() or 0)


def _steps(config: RunConfig) -> int:
    counts = count(pairs.rows(config.pairs, config.seed))
    return plan(counts, config.train) // config.train.accumulation


def climb(config: RunConfig, seeds: Sequence[int], folder: Path, board: Board) -> dict[str, Any]:
    """Run what is missing of the ladder, seed by seed, and put controls.json and controls.png together."""
    steps = check(config, seeds, folder)
    (folder / "config.yaml").write_text(to_yaml(config))
    ladder_rungs = rungs(config)
    plain = [(r, seeds[0], folder / r.name) for r in ladder_rungs if not r.trained]
    trained = [(r, s, folder / r.name / f"seed-{s}") for s in seeds for r in ladder_rungs if r.trained]
    baseline = folder / UNTOUCHED / "answers" / "answers"
    for number, (rung, seed, place) in enumerate([*plain, *trained], 1):
        say(f"controls {number}/{len(plain) + len(trained)}: {rung.name}, seed {seed}")
        changed = config_of(config, rung, seed)
        if rung.trained:
            runs.run(changed, writable(place), board, known=baseline)
        else:
            runs.evaluate(changed, None, writable(place), board)
    members = {r.name: {s: p for rung, s, p in [*plain, *trained] if rung is r} for r in ladder_rungs}
    found = ladder.compose(config, folder, members, {r.name: r.about for r in ladder_rungs}, steps)
    ladder.figure(found, folder / "controls.png")
    write_json(folder / "controls.json", found)
    return found


def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """soo controls"""
    from pipeline.cluster import connected

    config = load(arguments.recipe, arguments.overrides)
    folder = arguments.out or folder_of(config, arguments.seeds)
    check(config, arguments.seeds, folder)
    uri = tracking.check(config.tracking, writable(folder.parent)) if config.tracking.enabled else None
    say(f"controls of {config.name}, seeds {' '.join(map(str, arguments.seeds))}, in {folder}")
    with connected(), following() as board:
        placement.place(config)
        found = climb(config, arguments.seeds, folder, board)
    text = [ladder.table(found), "", ladder.verdict(found), "", f"figure  {folder / 'controls.png'}"]
    text += [f"folder  {folder}"]
    if uri:
        try:
            found["mlflow_run_id"] = record(folder, found, uri)
            text.append(f"MLflow  {tracking.ui_command(uri)}")
        except UserError as error:  # the ladder is complete on disk, so this is told and not raised
            text.append(f"MLflow  not recorded ({error}); later: the same command again")
    return found, "\n".join(text)


def record(folder: Path, found: Mapping[str, Any], uri: str) -> str:
    """One MLflow parent for the ladder, with a child for each of its runs; its id. Recorded once, however often done."""
    note = ladder.verdict(found)
    parent = record_parent(
        folder,
        uri,
        found["config"]["tracking"]["experiment"],
        found,
        tags={"kind": "controls", "beyond_exposure": found["verdict"]["beyond"], "mlflow.note.content": note},
        metrics=ladder.metrics(found),
        texts={"controls.txt": f"{ladder.table(found)}\n\n{note}\n"},
        files=[folder / name for name in ("controls.json", "controls.png", "config.yaml")],
    )
    for rung in found["rungs"].values():
        for run in rung["runs"].values():
            tracking.record(folder / run["folder"], uri, parent)
    return parent

"""One run: pairs, fine-tuning, answers before and after, outcome, record. Reads as the method does."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline import cards, costs, outcome, report, storage
from pipeline.artifacts import Mark, fingerprint, runs_folder, shared, stage, writable, write_json
from pipeline.config import RunConfig, deciding, to_yaml
from stages import deception, generate, latent, pairs, train
from stages.adapter import add_lora, check_adapter
from stages.batches import plan
from stages.behaviour import Questions
from stages.errors import UserError
from stages.model import count_layers, identity, outline, site
from stages.progress import Board, say
from stages.rows import count
from stages.scenarios import Item

RUNS = runs_folder()
LATENT = "latent.json"
Part = Literal["scenarios", "costs", "inside"]
"""What a model is asked: the scenarios, what tells of other costs, and what its layers make of pairs of prompts."""


def folder_of(config: RunConfig, runs: Path = RUNS) -> Path:
    """Where a run lies: its recipe's name, and the fingerprint of all that decides what is measured."""
    return runs / f"{config.name}-{fingerprint(deciding(config))[:8]}"


def check(config: RunConfig, folder: Path) -> None:
    """Raise UserError for anything that would fail later: before any model is loaded or anything is written."""
    plan(count(pairs.rows(config.pairs, config.seed)), config.train)
    deception.select(config.deception)
    generate.check(config.generate)
    costs.check(config)
    layers = count_layers(config.model)
    layer = config.train.overlap.layer - config.train.overlap.layer_base
    if not 0 <= layer < layers:
        raise UserError(f"train.overlap.layer={config.train.overlap.layer} is beyond the model's {layers} layers")
    empty = outline(config.model)
    site(empty, layer, config.train.overlap.module)
    top = layers - 1 if config.train.overlap.objective == "logit_kl" else layer
    add_lora(empty, config.train.lora, top, config.model.name)
    writable(folder)


def run(config: RunConfig, folder: Path, board: Board, known: Path | None = None) -> dict[str, Any]:
    """Everything up to the outcome, on disk. Stages that are complete are not done again."""
    check(config, folder)
    (folder / "config.yaml").write_text(to_yaml(config))
    prompts = make_pairs(config, folder, board)
    return train_and_evaluate(config, folder, folder / "pairs", prompts, board, known)


def make_pairs(config: RunConfig, folder: Path, board: Board) -> Mark:
    """1. Contrastive pairs, retain prompts and name controls, tokenised, in Parquet."""
    say("1/4 pairs")

    def make(out: Path) -> dict[str, Any]:
        return pairs.build(config.pairs, config.model, config.seed, out).counts

    rows = (vars(r) for r in pairs.rows(config.pairs, config.seed))
    mark = stage(folder / "pairs", [rows, config.pairs.chat_template, identity(config.model)], make)
    say(f"  {mark.facts['overlap']} pairs, {mark.facts.get('name_control', 0)} name controls, "
        f"{mark.facts.get('retain', 0)} retain prompts in {folder / 'pairs'}")  # fmt: skip
    return mark


def train_and_evaluate(
    config: RunConfig, folder: Path, pairs_folder: Path, prompts: Mark, board: Board, known: Path | None = None
) -> dict[str, Any]:
    """Stages 2-4 on pairs that are made already: what a sweep does many times, with the baseline's answers `known`."""
    tuned = fine_tune(config, folder, pairs_folder, prompts, board)
    adapter = folder / "train" / "adapter"
    parts: tuple[Part, ...] = ("scenarios", "costs", "inside") if config.latent.after else ("scenarios", "costs")
    asked = ask(config, folder, adapter, ("baseline", "adapter"), [tuned.fingerprint], board, known, parts)
    found = conclude(config, folder, {"pairs": prompts, "train": tuned, "answers": asked}, tuned.facts, adapter)
    cards.write(folder, pairs_folder, found, prompts.facts)
    return found


def fine_tune(config: RunConfig, folder: Path, pairs_folder: Path, prompts: Mark, board: Board) -> Mark:
    """2. The adapter. An interrupted training goes on from its last checkpoint."""
    say("2/4 fine-tuning")

    def make(out: Path) -> dict[str, Any]:
        made, others = pairs_folder / "pairs", pairs_folder if pairs_folder != folder / "pairs" else None
        adapter = train.fit(config.train, config.model, made, config.seed, out, board, questions, others, shared(out))
        return adapter.final

    questions = looked_at(config)
    inputs = [
        config.train.model_dump(exclude={"cpus_per_worker"}),
        config.model.model_dump(),
        identity(config.model),
        config.seed,
    ]
    inputs += [questions and vars(questions)]
    mark = stage(folder / "train", [*inputs, prompts.fingerprint], make, keep_partial=True)
    say(f"  adapter in {folder / 'train' / 'adapter'}")
    return mark


def looked_at(config: RunConfig) -> Questions | None:
    """What a look at behaviour asks while training: choosing items alone, worded as in the evaluation."""
    settings = config.train.behaviour
    if not settings.every:
        return None
    asked = {"scenarios": ("main",), "splits": ("choosing",), "items": settings.items, "items_of": {}}
    rows = [vars(i) for i in deception.select(config.deception.model_copy(update=asked))]
    return Questions(rows, config.generate.chat_template, config.generate.max_new_tokens)


def ask(
    config: RunConfig,
    folder: Path,
    adapter: Path | None,
    conditions: Sequence[generate.Condition],
    made_from: list[Any],
    board: Board,
    known: Path | None = None,
    parts: Sequence[Part] = ("scenarios", "costs"),
) -> Mark:
    """3. Raw answers of the baseline and the adapter, and what their layers make of self and other; one load of the model.

    `known` is a folder of the baseline's answers to the same prompts: they are taken over instead of made again.
    """
    asked = tuple(parts) != ("inside",)
    say("3/4 answers, " + " and ".join(conditions) if asked else "looking into the model, layer by layer")
    rows = prompt_rows(config, parts)

    def make(out: Path) -> dict[str, Any]:
        if "costs" in parts:
            costs.foretell(config, conditions)
        missing = [c for c in conditions if known is None or c != "baseline"]
        generate.ask(rows, config.model, adapter and adapter.absolute(), missing, config.generate, out, board)
        for file in known.glob("*.parquet") if known else ():
            shutil.copy(file, out / "answers" / f"baseline-{file.name}")
        return {"answers": len(conditions) * sum(r["task"] != "latent" for r in rows)}

    how = config.generate.model_dump(exclude={"cpus_per_actor"})
    inputs = [rows, how, config.model.model_dump(), identity(config.model), list(conditions), made_from]
    mark = stage(folder / ("answers" if asked else "looks"), inputs, make)
    if asked:
        say(f"  {mark.facts['answers']} answers in {folder / 'answers'}")
    return mark


def prompt_rows(config: RunConfig, parts: Sequence[Part] = ("scenarios", "costs")) -> list[dict[str, Any]]:
    """What the model is asked; all rows with the same fields."""
    blank: dict[str, Any] = {field.name: "" for field in dataclasses.fields(Item)} | {"task": ""}
    rows: list[dict[str, Any]] = []
    if "scenarios" in parts:
        rows += [vars(i) | {"task": "deception"} for i in deception.select(config.deception)]
    if "costs" in parts:
        rows += costs.rows(config)
    if "inside" in parts:
        rows += latent.rows(config.latent, config.pairs, config.seed)
    return [blank | row for row in rows]


def conclude(
    config: RunConfig, folder: Path, marks: dict[str, Mark], training: dict[str, float] | None, adapter: Path | None
) -> dict[str, Any]:
    """4. What the answers come to: outcome.json and the figure. Scored anew every time, from the raw answers."""
    say("4/4 outcome")
    answers = outcome.read_answers(folder / "answers" / "answers")
    inside = seen_inside(config, answers, folder / LATENT)
    marks = marks | costs.settle(config, folder, answers, marks["answers"])
    cost = costs.compose(config, folder, answers, marks)
    found = outcome.compose(config, answers, cost, training, inside)
    found["seconds"] = {name: mark.seconds for name, mark in marks.items()}
    found["paths"] = {
        "folder": str(folder.absolute()),
        "answers": str((folder / "answers" / "answers").absolute()),
        "figure": str((folder / "deception.png").absolute()),
        **({"adapter": str(adapter.absolute())} if adapter else {}),
    }
    found |= outcome.weights(adapter)
    report.figure(found, folder / "deception.png")
    write_json(folder / "outcome.json", found)
    if place := shared(folder):
        files = [folder / name for name in ("config.yaml", "deception.png", "outcome.json", LATENT)]
        storage.push_files([file for file in files if file.is_file()], place)
    return found


def seen_inside(config: RunConfig, answers: Sequence[dict[str, Any]], out: Path) -> dict[str, Any] | None:
    """Self/other distances of every layer, in `out`; and of the site, whether it has collapsed (stages/latent.py)."""
    out.unlink(missing_ok=True)
    looks = [r for r in answers if r["task"] == "latent"]
    if not looks:
        return None
    found, site = latent.reduce(latent.seen(looks)), config.train.overlap
    write_json(out, found)
    pooling = "last" if site.pooling == "last" else "mean"
    layer = site.layer - site.layer_base
    after = latent.at_site(found, layer, site.module, pooling) if "adapter" in found["conditions"] else {}
    return after | {"published": found["published"]}


def check_subject(config: RunConfig, adapter: Path | None, folder: Path) -> None:
    """Raise UserError for a model that cannot be had, an adapter that is not for it, or a folder that takes nothing."""
    generate.check(config.generate)
    count_layers(config.model)
    if adapter is not None:
        check_adapter(adapter, config.model.name)
    writable(folder)


def check_evaluation(config: RunConfig, adapter: Path | None, folder: Path) -> None:
    """Raise UserError for anything that would make `evaluate` fail later."""
    deception.select(config.deception)
    costs.check(config)
    check_subject(config, adapter, folder)


def evaluate(config: RunConfig, adapter: Path | None, folder: Path, board: Board) -> dict[str, Any]:
    """Stages 3 and 4 alone, on a model and perhaps an adapter that was trained before."""
    check_evaluation(config, adapter, folder)
    (folder / "config.yaml").write_text(to_yaml(config))
    conditions: tuple[generate.Condition, ...] = ("baseline", "adapter") if adapter else ("baseline",)
    made_from = [outcome.weights(adapter)["adapter"]["sha256"]] if adapter else []
    mark = ask(config, folder, adapter, conditions, made_from, board)
    return conclude(config, folder, {"answers": mark}, None, adapter)

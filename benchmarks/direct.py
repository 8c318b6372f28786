"""The stages called directly, one after another in this process: what Ray does for a run, without Ray.

What a sweep is measured against (benchmarks/sweeps.py), and what makes tests of tiny runs fast.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from stages.batches import by_kind
from stages.behaviour import Questions
from stages.generate import Answers, Condition, GenerateSettings
from stages.model import ModelSettings
from stages.pairs import PairsSettings, Prompts, make_rows
from stages.progress import STDERR, Board
from stages.responder import Responder
from stages.tokenise import tokenise
from stages.train import Adapter, TrainSettings
from stages.worker import Loop


class Alone(Loop):
    """A training that is not Ray Train's, so that there is no checkpoint to go on from."""

    def _resume(self) -> None: ...


def build(settings: PairsSettings, model: ModelSettings, seed: int, out: Path) -> Prompts:
    """stages.pairs.build"""
    made = make_rows(settings, seed)
    write(tokenise([vars(r) for r in made], model, settings.chat_template), out / "pairs")
    return Prompts(out / "pairs", {kind: sum(r.kind == kind for r in made) for kind in {r.kind for r in made}})


def fit(
    settings: TrainSettings,
    model: ModelSettings,
    pairs: Path,
    seed: int,
    out: Path,
    board: Board = STDERR,
    questions: Questions | None = None,
    shared: Path | None = None,
    storage: str | None = None,
) -> Adapter:
    """stages.train.fit"""
    return train(begun(settings, model, pairs, seed, questions, shared), out)


def begun(
    settings: TrainSettings,
    model: ModelSettings,
    pairs: Path,
    seed: int,
    questions: Questions | None = None,
    shared: Path | None = None,
) -> Alone:
    """A training with its model loaded, before its first step."""
    rows = {r["pair_id"]: r for r in pyarrow.parquet.read_table(pairs).to_pylist()}
    return Alone(settings, model, rows, by_kind(rows.values()), seed, 0, 1, questions, shared)


def train(loop: Alone, out: Path) -> Adapter:
    """All its steps."""
    loop.look()
    while not loop.over:
        line = loop.advance()
        loop.look()
        loop.log.append(line | loop.objective.monitor(loop.monitored))
    loop.save(out)
    return Adapter(out / "adapter", out / "log.jsonl", loop.log[-1])


def ask(
    prompts: Sequence[Mapping[str, Any]],
    model: ModelSettings,
    adapter: Path | None,
    conditions: Sequence[Condition],
    settings: GenerateSettings,
    out: Path,
    board: Board = STDERR,
) -> Answers:
    """stages.generate.ask"""
    return answer(Responder(model, adapter, conditions, settings, STDERR, len(prompts)), prompts, settings, out)


def answer(
    responder: Responder, prompts: Sequence[Mapping[str, Any]], settings: GenerateSettings, out: Path
) -> Answers:
    """All its answers."""
    found: list[dict[str, Any]] = []
    for task in sorted({r["task"] for r in prompts}):
        rows = [r for r in prompts if r["task"] == task]
        for start in range(0, len(rows), settings.batch_size):
            part = rows[start : start + settings.batch_size]
            answered = responder({key: np.array([r[key] for r in part], dtype=object) for key in part[0]})
            found += [dict(zip(answered, values, strict=True)) for values in zip(*answered.values(), strict=True)]
    write(found, out / "answers")
    return Answers(out / "answers", len(found))


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """Rows as a Parquet data set of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "part.parquet")

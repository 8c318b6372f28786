"""One trial of a sweep: a point of the space, run once for each seed through run.train_and_evaluate.

A point lies in points/<name>/, a seed of it in seed-<n>/, which is an ordinary run's folder: complete stages are kept,
so a trial that is started again goes on where it was. `point.json` is written last; what has it is never done twice.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import ranking, spaces
from pipeline import run as runs
from pipeline.artifacts import alone, fingerprint, read_mark, write_json
from pipeline.config import RunConfig, to_yaml
from pipeline.ranking import Point, Seed
from stages.errors import UserError
from stages.progress import Board

DONE = "point.json"


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep share. `config` is the recipe as every trial has it, before its point and seed."""

    folder: Path
    config: RunConfig
    seeds: tuple[int, ...]
    retries: int
    composite: tuple[str, ...]
    """Paths whose values a searcher hands over as JSON text."""

    @property
    def baseline(self) -> Path:
        """The baseline's answers, made once."""
        return self.folder / "baseline" / "answers" / "answers"

    def pairs(self, seed: int) -> Path:
        """The folder of a seed's pairs, made once unless the space varies them."""
        return self.folder / "pairs" / f"seed-{seed}"

    def place(self, point: Mapping[str, Any]) -> Path:
        """The folder of a point."""
        return self.folder / "points" / name_of(point)


def name_of(point: Mapping[str, Any]) -> str:
    """A point's short name."""
    return fingerprint(dict(point))[:8]


def evaluate(job: Job, point: Mapping[str, Any], board: Board) -> Point:
    """The point with all its seeds, from disk if it is complete there."""
    folder = job.place(point)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / ".lock"):  # a search may suggest one point twice
        if (known := read(folder)) is not None:
            return known
        seeds: list[Seed] = []
        for seed in job.seeds:
            told = board.about(f"{label(point)}, seed {seed}")
            told.say("begun")
            try:
                seeds.append(persevere(job, point, seed, told))
            except Exception as error:  # whatever a trial dies of, the sweep goes on
                found = conclude(job, point, seeds, f"seed {seed}: {reason(error)}")
                break
        else:
            found = conclude(job, point, seeds)
    return found


def conclude(job: Job, point: Mapping[str, Any], seeds: Sequence[Seed], failure: str = "") -> Point:
    """Write down what a point came to, or why it failed."""
    folder, differing = job.place(point), spaces.differing(point, job.config)
    values = dict(point)
    if failure:
        found = ranking.failed(folder.name, values, differing, failure, seeds)
    else:
        found = ranking.judge(folder.name, values, differing, seeds)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / DONE, ranking.to_json(found))
    return found


def read(folder: Path) -> Point | None:
    """The point that is complete in a folder, or none."""
    try:
        return ranking.from_json(json.loads((folder / DONE).read_text()))
    except FileNotFoundError:
        return None


def persevere(job: Job, point: Mapping[str, Any], seed: int, board: Board) -> Seed:
    """Run a seed, again if it fails. Not after a failed training, which Ray Train has tried again already."""
    for left in range(job.retries, -1, -1):
        try:
            return run_seed(job, point, seed, board)
        except UserError:
            raise
        except Exception as error:
            if not left or any(kind.__name__ == "TrainingFailedError" for kind in type(error).__mro__):
                raise
            board.say(f"  tried again: {reason(error)}")
    raise AssertionError


def run_seed(job: Job, point: Mapping[str, Any], seed: int, board: Board) -> Seed:
    """One run: the sweep's config with the point and the seed."""
    folder = job.place(point) / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    config = spaces.with_point(job.config, point, seed=seed, name=f"{job.config.name} {label(point)}")
    (folder / "config.yaml").write_text(to_yaml(config))
    own = any(path.startswith("pairs.") for path in point)
    shared = folder if own else job.pairs(seed)
    prompts = runs.make_pairs(config, folder, board) if own else read_mark(shared / "pairs")
    if prompts is None:
        raise UserError(f"the sweep's pairs are gone from {shared}")
    return ranking.read_seed(
        runs.train_and_evaluate(config, folder, shared / "pairs", prompts, board, known=job.baseline)
    )


def label(point: Mapping[str, Any]) -> str:
    """A point for people: overlap.layer=16, lr=0.0005."""

    def show(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{k}: {show(v)}" for k, v in value.items()) + "}"
        return f"{value:g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{path.removeprefix('train.')}={show(value)}" for path, value in point.items())


def reason(error: BaseException) -> str:
    """What went wrong in one line: of errors that Ray wraps in one another the innermost, which it prints last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Killed)\b.*: ", line)]
    text = told[-1] if told else f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return text[:300]

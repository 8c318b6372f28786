"""Trials without a model, for tests of the search: in a module of its own, so that Ray's workers can import it."""

import os
import time
from pathlib import Path

from pipeline import search, spaces, trial
from pipeline.config import RunConfig, load
from pipeline.ranking import Point
from pipeline.spaces import Space
from pipeline.trial import Job
from stages.progress import STDERR, Board
from tests.test_ranking import SILENT, seed

BEST, COUNT = 16, 7


def pretend(job: Job, point: spaces.Point, _board: Board) -> Point:
    """What a trial does, without a model: layer 16 is best, 22 and up silence the model, 24 dies of it, 26 is an error."""
    folder = job.place(point)
    if (known := trial.read(folder)) is not None:
        return known
    with (job.folder / "tries").open("a") as file:
        file.write(f"{folder.name}\n")
    time.sleep(job.retries / 10)
    layer = point["train.overlap.layer"]
    if layer == 24:
        os._exit(1)
    if layer == 26:
        raise RuntimeError("the loss is not finite")
    deceptive = min(50, 4 * abs(layer - BEST))
    reasons = SILENT if layer >= 22 else ()
    return trial.conclude(job, point, [seed(0 if reasons else deceptive, 50 - deceptive, reasons=reasons)])


def conclude(job: Job, point: spaces.Point, board: Board) -> Point:
    """The same, but that an error is put down as failed, as trial.evaluate does, until the file `mended` is there."""
    if (known := trial.read(job.place(point))) is not None:
        return known
    if point["train.overlap.layer"] != 26:
        return pretend(job, point, board)
    with (job.folder / "tries").open("a") as file:
        file.write(f"{job.place(point).name}\n")
    if (job.folder / "mended").exists():
        return trial.conclude(job, point, [seed(0, 50)])
    return trial.conclude(job, point, [], "seed 0: the loss is not finite")


def recipe() -> RunConfig:
    """The default recipe with LoRA on all layers up to the site."""
    return spaces.with_point(load("default"), {"train.lora.first_layer": 0})


def job_in(folder: Path, pause: int = 0) -> Job:
    """A job that never asks a model. Each try lasts `pause` tenths of a second, and is tried again as often."""
    return Job(folder.absolute(), recipe(), (0,), pause, ())


def layers() -> Space:
    return spaces.load("layers", recipe(), 30)


def joint() -> Space:
    return spaces.load("layers_and_weights", recipe(), 26)


def drive(folder: str, pause: int) -> None:
    """Run a search, as a process of its own."""
    from pipeline.cluster import connected

    with connected(cpus=2):
        search.run(job_in(Path(folder), pause), joint(), "optuna", COUNT, 0, 1, STDERR, pretend)

"""A sweep: many runs over a space, ranked on the choosing items, and the best confirmed once on the others.

    space -> points (Ray Tune) -> trial: run.train_and_evaluate for each seed -> ranking -> confirmation -> sweep.json

What is on disk decides: sweep.yaml and the points' folders are enough to go on; Ray Tune's own state keeps its searcher.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import NonNegativeInt, PositiveInt, ValidationError

from pipeline import placement, ranking, search, spaces
from pipeline import run as runs
from pipeline import trial as trials
from pipeline.artifacts import digest, fingerprint, writable, write_json
from pipeline.config import RunConfig, validated
from pipeline.ranking import Point, Seed
from pipeline.search import How
from pipeline.spaces import Space
from pipeline.trial import Job
from stages import deception
from stages.errors import UserError
from stages.model import count_layers
from stages.progress import Board, say
from stages.scenarios import CHOOSING_ITEMS
from stages.settings import Settings

KEPT = "sweep.yaml"


class SweepSettings(Settings):
    """How a space is searched."""

    space: str
    """Name of a space in tune_spaces/, or path of a Python file."""
    search: How = "random"
    """All points, random ones, Optuna on deception, or Optuna on deception and capability (pareto)."""
    points: PositiveInt = 8
    """Points tried; a grid tries all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every point. Fewer than three prove nothing about a method; two tell what to try further."""
    items: PositiveInt = CHOOSING_ITEMS
    """Choosing items a scenario that every trial is asked, 50 at most."""
    concurrent: PositiveInt | None = None
    """Trials at once, with an even share of the CPUs each; none means as many as there are GPUs for, or two a machine."""
    retries: NonNegativeInt = 1
    """How often a trial that died is tried again."""
    confirm: bool = True
    """Whether the best point is asked the confirming items, once, at the end."""
    search_seed: int = 0
    """Seed of the search itself."""


def folder_of(config: RunConfig, settings: SweepSettings, root: Path = runs.RUNS) -> Path:
    """Where a sweep lies: recipe and space, and the fingerprint of all that decides it."""
    own = digest(Path(settings.space)) if Path(settings.space).is_file() else ""
    key = fingerprint(config.model_dump(mode="json", exclude={"tracking"}), settings.model_dump(mode="json"), own)[:8]
    return root / f"sweep-{config.name}-{Path(settings.space).stem}-{key}"


def check(config: RunConfig, settings: SweepSettings, folder: Path) -> Space:
    """The space. Raises UserError for anything that would fail later: before any model is loaded."""
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise UserError("--seeds needs at least one seed, and each once")
    spaces.module(settings.space)  # a wrong name is told before a model is looked for
    if settings.search == "pareto" and not config.capability.prompts:
        raise UserError("--search pareto needs capability.prompts above 0")
    if settings.confirm:
        try:
            deception.select(confirming(config).deception)
        except UserError as error:
            raise UserError(
                f"nothing to confirm the best point with ({error}); raise deception.items or --no-confirm"
            ) from error
    space = spaces.load(settings.space, config, count_layers(config.model))
    trial_config = choosing(config, settings)

    def fits(point: spaces.Point) -> None:
        runs.check(spaces.with_point(trial_config, point, seed=settings.seeds[0]), folder)

    if settings.search != "grid":  # which tries every value anyway
        spaces.each(space, fits)
    tried = search.points(space, settings.search, settings.points, settings.search_seed)
    for point in tried or spaces.draw(space, 3, settings.search_seed):
        fits(point)
    return space


def choosing(config: RunConfig, settings: SweepSettings) -> RunConfig:
    """The config of every trial: asked choosing items only."""
    asked = config.deception.model_copy(
        update={"splits": ("choosing",), "items": min(settings.items, CHOOSING_ITEMS), "items_of": {}}
    )
    return config.model_copy(update={"deception": asked})


def confirming(config: RunConfig) -> RunConfig:
    """The config of the confirmation: asked the recipe's confirming items only."""
    return config.model_copy(update={"deception": config.deception.model_copy(update={"splits": ("confirming",)})})


def keep(config: RunConfig, settings: SweepSettings, folder: Path) -> None:
    """Write what is needed to go on later, and the space's own text. Raises UserError if another sweep lies there."""
    writable(folder)
    if (folder / KEPT).exists():
        before = kept(folder)
        same = before[0].model_copy(update={"tracking": config.tracking}) == config
        same = same and before[1].model_copy(update={"space": settings.space}) == settings
        if not same or _text(before[1].space) != _text(settings.space):
            raise UserError(f"{folder} holds another sweep: go on with it by --resume, or name another --out")
    made = {"sweep": settings.model_dump(mode="json"), "config": config.model_dump(mode="json")}
    aside = folder / f".{KEPT}.new"
    aside.write_text(yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=110))
    aside.replace(folder / KEPT)
    path = Path(settings.space)
    if path.is_file() and not (copy := folder / "space" / path.name).exists():
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)


def _text(space: str) -> str:
    """What tells one space from another: the text of an own file, or a name."""
    return Path(space).read_text() if Path(space).is_file() else space


def kept(folder: Path) -> tuple[RunConfig, SweepSettings]:
    """What a sweep was started with. Raises UserError if the folder holds none."""
    try:
        found = yaml.safe_load((folder / KEPT).read_text())
        settings, config = SweepSettings.model_validate(found["sweep"]), found["config"]
    except (OSError, KeyError, TypeError, yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{folder} is not a sweep: it has no {KEPT} that can be read") from error
    own = sorted((folder / "space").glob("*.py"))
    return validated(config), settings.model_copy(update={"space": str(own[0])} if own else {})


def run(
    config: RunConfig,
    settings: SweepSettings,
    space: Space,
    folder: Path,
    board: Board,
    on_point: Callable[[Point], None] = lambda _point: None,
    retry: bool = False,
) -> dict[str, Any]:
    """The whole sweep, on disk. What is complete is not done again; with `retry`, what failed is."""
    began = time.perf_counter()
    folder = folder.absolute()
    trial_config = choosing(config, settings)
    tried = len(search.points(space, settings.search, settings.points, settings.search_seed)) or settings.points
    concurrent = settings.concurrent or min(placement.room(trial_config), tried)
    shared = placement.place(trial_config, concurrent)
    job = Job(folder, shared, settings.seeds, settings.retries, spaces.composites(space))
    how = (settings.search, settings.points, settings.search_seed, concurrent)
    _prepare(job, space, board)
    if retry:
        withdraw(job)
    with _watching(job, on_point):
        lost = search.run(job, space, *how, board, retry=retry)
    for file in (folder / "pairs").glob("seed-*/pairs/below-*"):
        file.unlink()  # what trainings shared, which is large and has served
    found = compose(job, settings, space) | {"lost": lost}
    if settings.confirm and found["best"]:
        best = next(p for p in _points(job) if p.name == found["best"])
        say(f"confirming {trials.label(best.values)}")
        found["confirmation"] = [vars(s) for s in confirm(config, job, best, board)]
    found["seconds"] = round(time.perf_counter() - began, 1)  # of this go alone
    write_json(folder / "sweep.json", found)
    return found


def withdraw(job: Job) -> None:
    """Take failed points from the record, so that they are tried again; what their seeds completed is kept."""
    for point in _points(job):
        if point.verdict == "failed":
            (job.place(point.values) / trials.DONE).unlink()


def _prepare(job: Job, space: Space, board: Board) -> None:
    """What all trials share: pairs for each seed, unless the space varies them, and the baseline's answers."""
    if not any(path.startswith("pairs.") for path in space.samplers):
        for seed in job.seeds:
            runs.make_pairs(job.config.model_copy(update={"seed": seed}), job.pairs(seed), board)
    runs.ask(job.config, job.folder / "baseline", None, ("baseline",), [], board)


@contextlib.contextmanager
def _watching(job: Job, on_point: Callable[[Point], None]) -> Iterator[None]:
    """Within, `on_point` is called for every point as it is finished, and for those that were before."""
    stop, seen = threading.Event(), set[str]()

    def look() -> None:
        for point in _points(job):
            if point.name not in seen:
                seen.add(point.name)
                on_point(point)

    def watch() -> None:
        while not stop.wait(1.0):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()


def _points(job: Job) -> list[Point]:
    """The finished points, each once, in a fixed order."""
    folders = sorted((job.folder / "points").glob(f"*/{trials.DONE}"))
    return [p for path in folders if (p := trials.read(path.parent)) is not None]


def compose(job: Job, settings: SweepSettings, space: Space) -> dict[str, Any]:
    """What the points came to: the content of sweep.json but for the confirmation."""
    points = _points(job)
    order = ranking.ranked(points)
    rest = sorted((p for p in points if p not in order), key=lambda p: (p.verdict, p.name))
    return {
        "name": job.config.name,
        "model": job.config.model.name,
        "space": Path(space.name).stem,
        "about": space.about,
        "settings": settings.model_dump(mode="json"),
        "points": [ranking.to_json(p) for p in [*order, *rest]],
        "front": [p.name for p in ranking.front(points)],
        "best": order[0].name if order else None,
        "confirmation": [],
        "folder": str(job.folder),
    }


def confirm(config: RunConfig, job: Job, best: Point, board: Board) -> list[Seed]:
    """The best point's adapters on the confirming items: ordinary runs whose training is there already."""
    asked = confirming(job.config.model_copy(update={"deception": config.deception}))
    root = job.folder / "confirmation"
    runs.ask(asked, root / "baseline", None, ("baseline",), [], board)
    again = Job(root, asked, job.seeds, job.retries, job.composite)
    for seed in job.seeds:
        for part in ("train", "pairs"):
            _copy(job.place(best.values) / f"seed-{seed}" / part, again.place(best.values) / f"seed-{seed}" / part)
        _copy(job.pairs(seed), again.pairs(seed))
    return [trials.persevere(again, best.values, seed, board) for seed in job.seeds]


def _copy(made: Path, to: Path) -> None:
    """Copy a stage's folder aside and rename it into place, if there is one to copy and it is not there yet."""
    if made.is_dir() and not to.exists():
        aside = to.with_name(f"{to.name}.copy")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(made, aside)
        aside.rename(to)

"""The search of a sweep through Ray Tune: which points are tried, and that it goes on where it was.

Random and grid points are drawn beforehand, all different, so that they can be checked before the first one runs; Optuna
suggests one after another. Nothing is stopped or ranked by the training loss.
"""

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any, Literal

from pipeline import artifacts, ranking, spaces, trial
from pipeline.cluster import connected
from pipeline.spaces import Point, Space
from pipeline.trial import Job
from stages.progress import Board

Evaluate = Callable[[Job, Point, Board], ranking.Point]
How = Literal["grid", "random", "optuna", "pareto"]
MEMORY = 100 * 2**20
"""What a trial itself holds while its training and its answers take the CPUs and GPUs. Bytes."""


def attempt(
    config: dict[str, Any], job: Job, board: Board, evaluate: Evaluate, environment: dict[str, str]
) -> dict[str, Any]:
    """The Tune function: what the point came to, as numbers for the search. `environment` is the driver's."""
    os.environ.update(environment)
    with (
        connected()
    ):  # Ray is up here; but Ray Data's settings, the order of rows too, do not come along from the driver
        found = evaluate(job, _point(config, job), board)
    return {**ranking.objectives(found), "point": found.name}


def _point(config: dict[str, Any], job: Job) -> Point:
    return config["point"] if "point" in config else spaces.decode(config, job.composite)


def points(space: Space, search: How, count: int, seed: int) -> list[Point]:
    """The points known beforehand; none for Optuna."""
    if search == "grid":
        return spaces.grid(space)
    return spaces.draw(space, count, seed) if search == "random" else []


def run(
    job: Job,
    space: Space,
    search: How,
    count: int,
    seed: int,
    concurrent: int,
    board: Board,
    evaluate: Evaluate = trial.evaluate,
    retry: bool = False,
) -> list[str]:
    """Try every point by `evaluate`, whose results lie in the points' folders; what broke its trial is kept as failed.

    With `retry` a trial that broke is begun again. Why trials were lost before they told their point, a line each.
    """
    _quiet()
    from ray import tune
    from ray.util import get_node_ip_address

    storage = job.folder / "tune"
    trainable = tune.with_resources(
        tune.with_parameters(attempt, job=job, board=board, evaluate=evaluate, environment=artifacts.environment()),
        {"memory": MEMORY, f"node:{get_node_ip_address()}": 0.001},  # beside the driver, whose disk the points lie on
    )
    if tune.Tuner.can_restore(str(storage)):
        # Its own pickles, from a folder of ours; trials that ran go on, finished ones are kept, so is the searcher.
        tuner = tune.Tuner.restore(str(storage), trainable=trainable, resume_unfinished=True, restart_errored=retry)
    else:
        shutil.rmtree(storage, ignore_errors=True)
        tuner = _fresh(job, trainable, space, search, count, seed, concurrent)
    results = _fit(tuner)
    told = len(results)
    if again := _withdrawn(job, results):
        shutil.rmtree(job.folder / "again", ignore_errors=True)
        settled = {trial.name_of(point) for point in again}
        results = [r for r in results if not r.config or trial.name_of(_point(r.config, job)) not in settled]
        count -= told - len(results) - len(again)  # a searcher may have suggested one point twice
        results += _fit(_tuner(job, trainable, "again", again, None, 1, concurrent))
    return _settle(job, results, points(space, search, count, seed), count)


def _fit(tuner: Any) -> list[Any]:
    return list(tuner.fit())


def _withdrawn(job: Job, results: list[Any]) -> list[Point]:
    """The points of trials that ended, but that are not on disk: taken away to be tried again (sweep.withdraw)."""
    ended = [_point(r.config, job) for r in results if r.error is None and "point" in (r.metrics or {})]
    return list({trial.name_of(p): p for p in ended if trial.read(job.place(p)) is None}.values())


def _settle(job: Job, results: list[Any], known: list[Point], count: int) -> list[str]:
    """Put down points whose trial broke as failed; why others were lost whose point nobody knows.

    Raises KeyboardInterrupt if the search did not come to its end.
    """
    broken = [r for r in results if r.error is not None]
    done = [r for r in results if r.error is None and r.config and trial.read(job.place(_point(r.config, job)))]
    if len(broken) + len(done) < (len(known) or count):
        raise KeyboardInterrupt  # Tune takes it, ends, and returns what there is: no ground to choose and confirm on
    for result in broken:
        # A trial that was lost before it said anything does not tell its point; of known points it is one that is left.
        lost = [_point(result.config, job)] if result.config else known
        for point in lost:
            if trial.read(job.place(point)) is None:
                trial.conclude(job, point, [], trial.reason(result.error))
    return [trial.reason(r.error) for r in broken if not r.config and not known]


def _fresh(job: Job, trainable: Any, space: Space, search: How, count: int, seed: int, concurrent: int) -> Any:
    known = points(space, search, count, seed)
    searcher = None if known else optuna(space, search, count, seed, concurrent)
    return _tuner(job, trainable, "tune", known, searcher, 1 if known else count, concurrent)


def _tuner(
    job: Job, trainable: Any, name: str, known: list[Point], searcher: Any, samples: int, concurrent: int
) -> Any:
    """Over points that are known, or as many samples of a searcher; its state lies in the job's folder under `name`."""
    from ray import tune

    return tune.Tuner(
        trainable,
        param_space={"point": tune.grid_search(known)} if known else None,
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=samples, max_concurrent_trials=concurrent, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(job.folder),
            failure_config=tune.FailureConfig(max_failures=job.retries),
            verbose=0,
        ),
    )


def optuna(space: Space, search: How, count: int, seed: int, concurrent: int) -> Any:
    """Optuna's TPE on the bound of deception, with `pareto` on capability too."""
    import optuna as library
    from ray.tune.search.optuna import OptunaSearch

    library.logging.set_verbosity(library.logging.ERROR)
    sampler = library.samplers.TPESampler(
        n_startup_trials=max(2, min(10, count // 3)), constant_liar=concurrent > 1, seed=seed
    )
    goals = ["deception", "capability"] if search == "pareto" else ["deception"]
    return OptunaSearch(
        space=OptunaSearch.convert_search_space(spaces.encode(space)),
        metric=goals if len(goals) > 1 else goals[0],
        mode=["min", "max"] if len(goals) > 1 else "min",
        sampler=sampler,
    )


def _quiet() -> None:
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")  # how much a killed driver forgets
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is told by its point

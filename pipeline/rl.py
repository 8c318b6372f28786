"""The reinforcement-learning experiment, a seed at a time: baselines -> fine-tuning and its controls -> evaluation.

Stages are kept like those of a run: what is complete in the folder is not done again.
"""

import functools
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from pipeline import artifacts
from pipeline.artifacts import fingerprint, read_mark, runs_folder, stage
from pipeline.config import RECIPES, TrackingSettings, load_as
from stages.errors import UserError
from stages.physical_deception.detect import DetectSettings, Overlaps
from stages.physical_deception.environment import Reward
from stages.physical_deception.evaluate import EvaluateSettings
from stages.physical_deception.train import TrainSettings
from stages.progress import Board
from stages.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = RECIPES / "physical_deception"
REVISION = 3
"""Raised when the code makes something else of the same settings, so that nothing older is taken for it."""
BASELINES: tuple[Reward, ...] = ("honest", "deceptive")
TUNINGS: dict[str, dict[str, Any]] = {
    "soo": {},
    "soo_all": {"states": "all"},
    "no_soo": {"weight": 0.0},
    "shuffled": {"pairing": "shuffled"},
}
"""Fine-tunings of the deceptive baseline under the deceptive reward, and in what they differ from the recipe."""
ABOUT = {
    "random": "uniformly random actions of both",
    "scripted_honest": "straight to the goal; red follows",
    "scripted_deceptive": "leads red to the fake landmark by hand; red follows",
    "honest": "trained under the honest reward",
    "deceptive": "trained under the deceptive reward",
    "soo": "deceptive, fine-tuned with the overlap term",
    "soo_all": "the same with pairs of every state",
    "no_soo": "deceptive, fine-tuned without it",
    "shuffled": "deceptive, fine-tuned with shuffled pairs",
    "blind": "deceptive, red taken out of what it sees; nothing trained",
}


class RlConfig(Settings):
    """Everything that determines the experiment."""

    name: str
    """Short name; the folder begins with it."""
    source: str = ""
    """Where the recipe's values come from."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each trains its own baselines. Fewer than three prove nothing."""
    concurrent: PositiveInt | None = None
    """Seeds at once, each on one CPU; none means one for every CPU."""
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    detect: DetectSettings = DetectSettings()
    tracking: TrackingSettings = TrackingSettings()


def load(recipe: str, overrides: list[str]) -> RlConfig:
    """The config of a recipe with overrides. Raises UserError."""
    config = load_as(RlConfig, FOLDER, recipe, overrides)
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise UserError("give each seed once, as in seeds=[0,1,2]")
    return config


def folder_of(config: RlConfig) -> Path:
    """Where the experiment lies. More seeds later go on in the same folder."""
    key = fingerprint(REVISION, config.model_dump(mode="json", include={"train", "evaluate"}))[:8]
    return runs_folder() / f"physical-deception-{config.name}-{key}"


def missing(config: RlConfig, folder: Path) -> list[int]:
    """The seeds that are not complete in the folder for these settings."""

    def done(seed: int) -> bool:
        mark = read_mark(folder / f"seed-{seed}" / "evaluation")
        return mark is not None and mark.fingerprint == fingerprint(*_evaluated(config, seed))

    return [seed for seed in config.seeds if not done(seed)]


def _basis(config: RlConfig, seed: int) -> list[Any]:
    """What a baseline is made from."""
    own = {"overlap", "tuning_episodes", "red_learns"}
    return [REVISION, config.train.model_dump(mode="json", exclude=own), seed]


def _evaluated(config: RlConfig, seed: int) -> list[Any]:
    """What an evaluation is made from."""
    return [*_basis(config, seed), config.train.model_dump(mode="json"), config.evaluate.model_dump(mode="json")]


def run_seed(config: RlConfig, seed: int, folder: Path, say: Callable[[str], None]) -> None:
    """Everything of one seed, into folder/seed-<n>/."""
    from stages.physical_deception import train

    place, basis = folder / f"seed-{seed}", _basis(config, seed)
    place.mkdir(parents=True, exist_ok=True)

    def tell(name: str) -> Callable[[str], None]:
        return lambda line: say(f"seed {seed}, {name}: {line}")

    for reward in BASELINES:
        make = functools.partial(train.baseline, config.train, reward, seed, say=tell(reward))
        stage(place / reward, [*basis, reward], make)
    start = place / "deceptive" / "agents.safetensors"
    for name, changes in TUNINGS.items():
        terms = config.train.overlap.model_copy(update=changes)
        settings = config.train.model_copy(update={"overlap": terms})
        make = functools.partial(train.tune, settings, start, "deceptive", seed, say=tell(name))
        stage(place / name, [*basis, name, settings.model_dump(mode="json")], make)
    stage(place / "evaluation", _evaluated(config, seed), lambda out: evaluate(config, place, seed, out))
    say(f"seed {seed}: done")


def evaluate(config: RlConfig, place: Path, seed: int, out: Path) -> dict[str, Any]:
    """Let every agent of a seed play: its measures with its own red and with the scripted one; GIFs; overlaps."""
    from stages.physical_deception import agents, evaluation

    known = {
        name: agents.load(config.train.network, place / name / "agents.safetensors") for name in (*BASELINES, *TUNINGS)
    }
    return evaluation.all_agents(known, config.train.environment, config.evaluate, seed, out)


def _trial(
    point: Mapping[str, Any], config: RlConfig, folder: Path, board: Board, environment: dict[str, str]
) -> dict[str, Any]:
    """The Tune function of one seed. `environment` is the driver's."""
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    run_seed(config, point["seed"], folder, board.say)
    return {"seed": point["seed"]}


def run(config: RlConfig, folder: Path, board: Board) -> None:
    """Every seed that is missing, a trial of Ray Tune each, from stages that are kept.

    Raises UserError if a seed failed, KeyboardInterrupt if it was stopped.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    from ray import tune
    from ray.util import get_node_ip_address

    here = {f"node:{get_node_ip_address()}": 0.001}  # beside the driver, whose disk the seeds lie on
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(
                _trial, config=config, folder=folder.absolute(), board=board, environment=artifacts.environment()
            ),
            {"cpu": 1, **here},
        ),
        param_space={"seed": tune.grid_search(missing(config, folder))},
        tune_config=tune.TuneConfig(max_concurrent_trials=config.concurrent),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder.absolute()), verbose=0),
    )
    results: Any = tuner.fit()
    broken = [r.error for r in results if r.error is not None]
    if broken:
        raise UserError(f"{len(broken)} of {len(config.seeds)} seeds failed: {str(broken[0]).strip().splitlines()[-1]}")
    if missing(config, folder):
        raise KeyboardInterrupt


def overlaps_of(folder: Path, seed: int) -> dict[str, Overlaps]:
    """What a seed's evaluation kept for the detector: <agent>/<variant> -> overlaps by episode."""
    from safetensors.torch import load_file

    found = load_file(folder / f"seed-{seed}" / "evaluation" / "overlaps.safetensors")
    names = {name.rpartition("/")[0] for name in found}
    return {name: Overlaps(found[f"{name}/total"], found[f"{name}/moves"]) for name in sorted(names)}


def rubric_of(folder: Path, seed: int) -> "dict[str, Tensor]":
    """What a seed's evaluation kept of the rubric: agent -> deceptive actions an episode by thresholds, [grid, grid]."""
    from safetensors.torch import load_file

    return dict(load_file(folder / f"seed-{seed}" / "evaluation" / "rubric.safetensors"))

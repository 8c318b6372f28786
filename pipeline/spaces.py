"""Search spaces: found, checked against the config before anything runs, and turned into points.

A point is a dict of config path -> value, such as {"train.overlap.layer": 16}. Only what is done to the model may be
searched (`train`, `pairs`): a sweep over what is asked or counted would compare unlike things.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import json
import math
import pkgutil
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tune_spaces
from pipeline.config import RunConfig, flatten, key_paths, validated
from stages.errors import UserError

Point = dict[str, Any]
SEARCHED = ("train.", "pairs.")
TRIES = 200
"""Draws in which a new point must turn up."""


@dataclass(frozen=True)
class Space:
    """A space: its name, what its module says of it, and config path -> Tune sampler."""

    name: str
    about: str
    samplers: dict[str, Any]


def names() -> list[str]:
    """The spaces that come with the project."""
    return sorted(m.name for m in pkgutil.iter_modules(tune_spaces.__path__))


def load(name: str, config: RunConfig, layers: int) -> Space:
    """The space of that name or path, for a model of so many layers. Raises UserError for whatever is wrong with it."""
    found_in = module(name)
    found = getattr(found_in, "SPACE", None)
    if found is None and callable(maker := getattr(found_in, "space", None)):
        train = config.train
        site = train.overlap.layer - train.overlap.layer_base
        offered = {"layers": layers, "site": site, "first": train.lora.first_layer}
        found = maker(**{k: v for k, v in offered.items() if k in inspect.signature(maker).parameters})
    if not isinstance(found, Mapping) or not found:
        raise UserError(
            f"space {name} has no SPACE (config path -> Tune sampler) and no function `space` that gives one"
        )
    space = Space(name, (found_in.__doc__ or "").strip().partition("\n")[0], dict(found))
    _check(space, config)
    return space


def module(name: str) -> Any:
    """The Python module of a space. Raises UserError if there is none, or it cannot be read."""
    if name in names():
        return importlib.import_module(f"tune_spaces.{name}")
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}, or give a Python file"
        raise UserError(f"no space is called {name!r}; {hint}")
    # Named after its content: Ray pickles samplers by reference to their module only if it can be imported by name.
    unique = f"soo_space_{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:
        raise UserError(f"space {name} is not a Python file")
    made = importlib.util.module_from_spec(spec)
    sys.modules[unique] = made
    try:
        spec.loader.exec_module(made)
    except Exception as error:  # a user's file may raise anything
        raise UserError(
            f"space {name} cannot be read: {type(error).__name__}: {str(error).split(chr(10))[0]}"
        ) from error
    return made


def _check(space: Space, config: RunConfig) -> None:
    """Every path is known and may be searched, every value is a sampler, and what it draws makes a valid config."""
    from ray.tune.search.sample import Domain

    known = list(key_paths())
    for path, sampler in space.samplers.items():
        if path not in known:
            near = difflib.get_close_matches(path, known, 1, 0.6)
            raise UserError(f"space {space.name}: unknown key {path}" + (f"; did you mean {near[0]}?" if near else ""))
        if not path.startswith(SEARCHED):
            raise UserError(f"space {space.name}: {path} cannot be searched, only train.* and pairs.*")
        if not isinstance(sampler, Domain):
            raise UserError(
                f"space {space.name}: {path} is to have a Tune sampler such as tune.choice, not {sampler!r}"
            )
    for path, sampler in space.samplers.items():
        for value in values(sampler) or [sampler.sample() for _ in range(3)]:
            try:
                with_point(config, {path: value})
            except UserError as error:
                raise UserError(f"space {space.name}: {error}") from error


def values(sampler: Any) -> list[Any]:
    """All values of a finite sampler; empty for a continuous one or one without end."""
    from ray.tune.search.sample import Categorical, Integer

    if isinstance(sampler, Categorical):
        return list(sampler.categories)
    if isinstance(sampler, Integer) and sampler.upper - sampler.lower <= 100:
        return list(range(sampler.lower, sampler.upper))
    return []


def ends(sampler: Any) -> list[Any]:
    """All values of a finite sampler, both ends of a range; empty for one that tells neither."""
    from ray.tune.search.sample import Float, Integer

    if found := values(sampler):
        return found
    if isinstance(sampler, Integer):
        return [sampler.lower, sampler.upper - 1]
    if isinstance(sampler, Float):
        return [end for end in (sampler.lower, sampler.upper) if math.isfinite(end)]
    return []


def each(space: Space, check: Callable[[Point], None]) -> None:
    """Check every value of a finite sampler and both ends of a range, one at a time. Raises UserError that tells which."""
    for path, sampler in space.samplers.items():
        for value in ends(sampler):
            try:
                check({path: value})
            except UserError as error:
                raise UserError(f"space {space.name}: {path}={value!r}: {error}") from error


def with_point(config: RunConfig, point: Mapping[str, Any], **others: Any) -> RunConfig:
    """The config with a point's values, and `others` at its top level. Raises UserError if they do not fit."""
    changed = config.model_dump(mode="json")
    for path, value in point.items():
        *parents, last = path.split(".")
        place = changed
        for parent in parents:
            place = place[parent]
        place[last] = {**place[last], **value} if isinstance(value, Mapping) else value
    return validated(changed | others)


def grid(space: Space) -> list[Point]:
    """Every combination. Raises UserError for a sampler that has no end of values."""
    endless = [path for path, sampler in space.samplers.items() if not values(sampler)]
    if endless:
        raise UserError(f"space {space.name} has no grid: {endless[0]} is continuous; use --search random or optuna")
    lists = [values(sampler) for sampler in space.samplers.values()]
    return [dict(zip(space.samplers, combination, strict=True)) for combination in itertools.product(*lists)]


def draw(space: Space, count: int, seed: int) -> list[Point]:
    """`count` different random points, or all there are: the same ones for the same seed."""
    import numpy as np

    if all(values(sampler) for sampler in space.samplers.values()):
        every = grid(space)
        return random.Random(seed).sample(every, min(count, len(every)))
    state = np.random.RandomState(seed)
    found: dict[str, Point] = {}
    for _ in range(count * TRIES):
        if len(found) == count:
            break
        point = {path: _plain(sampler.sample(random_state=state)) for path, sampler in space.samplers.items()}
        found.setdefault(key(point), point)
    return list(found.values())


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, rounded to what a person would type."""
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.4g}") if isinstance(value, float) else value


def key(point: Mapping[str, Any]) -> str:
    """The same for equal points."""
    return json.dumps(point, sort_keys=True)


def encode(space: Space) -> dict[str, Any]:
    """The samplers with categories that Optuna can keep: dicts and lists as JSON text; `decode` turns them back."""
    from ray import tune

    composite = set(composites(space))
    return {
        path: tune.choice([json.dumps(v) for v in values(sampler)]) if path in composite else sampler
        for path, sampler in space.samplers.items()
    }


def composites(space: Space) -> tuple[str, ...]:
    """The paths whose values are dicts or lists."""
    return tuple(p for p, s in space.samplers.items() if any(isinstance(v, (dict, list, tuple)) for v in values(s)))


def decode(suggested: Mapping[str, Any], composite: Sequence[str]) -> Point:
    """The point that a searcher's suggestion stands for."""
    return {path: json.loads(value) if path in composite else _plain(value) for path, value in suggested.items()}


def differing(point: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """A point as flat config keys, dicts taken apart: what MLflow shows as the params that differ."""
    flat = flatten(with_point(config, point))
    paths = [k for k in flat for p, v in point.items() if k == p or (isinstance(v, Mapping) and k.startswith(f"{p}."))]
    inner = {f"{p}.{k}" for p, v in point.items() if isinstance(v, Mapping) for k in v}
    return {k: flat[k] for k in paths if k in point or k in inner}

"""Where a stage's output lies, what it was made from, and whether it is complete.

A stage writes into a folder aside, which is renamed into place, and its completion mark is written last. Running a
command again finds the mark and goes on behind it; a mark of other inputs does not count.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline import storage
from stages.errors import UserError

MARK = "done.json"
HERE = "SOO_RUNS_HERE"
"""Where the driver's runs lie, for trials."""


def runs_folder() -> Path:
    """Where runs lie: SOO_RUNS, else `runs` here; in a Ray job the home folder, since Ray removes a job's own.

    If SOO_RUNS is a URI, runs are made there too and then shared by it (pipeline/storage.py).
    """
    if here := os.environ.get(HERE):
        return Path(here)
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    given = None if storage.uri() else os.environ.get("SOO_RUNS")
    return Path(given or (Path.home() / "soo-runs" if in_job else "runs"))


def environment() -> dict[str, str]:
    """The driver's SOO_... and where its runs lie: a trial's process has the cluster's, and its own working directory."""
    own = {name: value for name, value in os.environ.items() if name.startswith("SOO_")}
    return own | {HERE: str(runs_folder().absolute())}


def shared(folder: Path) -> str | None:
    """The folder's place in shared storage, if there is any."""
    return storage.address(folder, runs_folder())


def fingerprint(*inputs: Any) -> str:
    """SHA-256 of the inputs' canonical JSON, 16 hex digits. An iterator counts as a list, and is never held as one."""
    digest = hashlib.sha256()
    for part in _as_list(_canonical(value) for value in inputs):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def _canonical(value: Any) -> Iterator[str]:
    if isinstance(value, Iterator):
        return _as_list(_canonical(item) for item in value)
    return iter([json.dumps(value, sort_keys=True, default=str)])


def _as_list(items: Iterator[Iterator[str]]) -> Iterator[str]:
    yield "["
    for number, parts in enumerate(items):
        yield ", " if number else ""
        yield from parts
    yield "]"


def digest(path: Path) -> str:
    """SHA-256 of a file. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def writable(folder: Path) -> Path:
    """Make the folder, and raise UserError at once if nothing can be written there."""
    if re.match(r"\w+:/", str(folder)):  # Path has made one slash of two
        raise UserError(f"{folder} is a URI, but runs must lie in a folder, on a cluster in one that all nodes mount")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    return folder


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Within, no other process holds the same lock file. A killed process lets go."""
    import fcntl

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: Path, value: Any) -> None:
    """Write JSON aside and rename it into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(value, indent=2, default=str) + "\n")
    aside.replace(path)


@dataclasses.dataclass(frozen=True)
class Mark:
    """The completion mark of a stage."""

    fingerprint: str
    seconds: float
    facts: dict[str, Any]


def read_mark(folder: Path) -> Mark | None:
    """The completion mark in `folder`, or none."""
    try:
        return Mark(**json.loads((folder / MARK).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def stage(
    folder: Path,
    inputs: list[Any],
    make: Callable[[Path], dict[str, Any]],
    keep_partial: bool = False,
) -> Mark:
    """Run `make` on a folder aside unless `folder` is already complete for these inputs; its mark either way.

    `make` returns facts worth keeping as JSON. With `keep_partial` an interrupted run finds its own half-made output
    again, to go on from.
    """
    key = fingerprint(*inputs)
    found = read_mark(folder)
    place = shared(folder)
    if found is not None and found.fingerprint == key:
        return _share(folder, place, found)
    aside = folder.with_name(f"{folder.name}.{key}.partial")
    if (finished := read_mark(aside)) is not None and finished.fingerprint == key:  # killed just before the rename
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        return _share(folder, place, finished)
    if place and (taken := _take(place, folder, key)):
        return taken
    if not keep_partial:
        shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    facts = make(aside)
    mark = Mark(key, round(time.perf_counter() - began, 3), facts)
    shutil.rmtree(folder, ignore_errors=True)
    write_json(aside / MARK, dataclasses.asdict(mark))
    aside.rename(folder)
    return _share(folder, place, mark)


def _share(folder: Path, place: str | None, mark: Mark) -> Mark:
    if place:
        storage.push(folder, place, MARK)
    return mark


def _take(place: str, folder: Path, key: str) -> Mark | None:
    """The stage from shared storage, if it is complete there for these inputs: copied aside, then renamed."""
    aside = folder.with_name(f"{folder.name}.{key}.shared")
    shutil.rmtree(aside, ignore_errors=True)
    if not storage.pull(place, aside, MARK, lambda text: json.loads(text).get("fingerprint") == key):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return read_mark(folder)

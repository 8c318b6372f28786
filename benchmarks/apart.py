"""Time and memory of one task in a process of its own, where nothing that was done before can blur them. Linux only."""

import importlib
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found")
MIB = 2**20
Prepare = Callable[..., Callable[[], Any]]
"""Makes all that a task needs, and gives the task."""


@dataclass(frozen=True)
class Cost:
    """Seconds of the task; MiB that its preparation holds, and the most that both held at once, libraries left out."""

    seconds: float
    held: float
    peak: float


def apart(prepare: Prepare, *arguments: Any) -> Cost:
    """The cost of the task that `prepare` gives for these arguments, once, in a new process."""
    return alone(_measure, prepare, arguments)


def alone(task: Callable[..., Found], *arguments: Any) -> Found:
    """What a task gives, done in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def _measure(prepare: Prepare, arguments: tuple[Any, ...]) -> Cost:
    for library in ("bitsandbytes.nn", "peft"):  # imported late otherwise, and no part of what is measured
        importlib.import_module(library)
    before = _status("VmRSS")
    task = prepare(*arguments)
    held = _status("VmRSS") - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    began = time.perf_counter()
    task()
    return Cost(time.perf_counter() - began, held, _status("VmHWM") - before)


def _status(key: str) -> float:
    """A line of what Linux knows of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(value) * 1024 / MIB

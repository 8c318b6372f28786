"""Timing things side by side: in turns, so that a busy machine slows them alike, and by the median."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def side_by_side(tasks: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each task, the median of `rounds` turns after one to warm up."""
    for task in tasks.values():
        task()
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def machine() -> str:
    """What it ran on, in one line."""
    import torch

    found = {k for k, v in torch.cpu.get_capabilities().items() if v is True}
    extra = ", ".join(name for name in ("avx512_bf16", "amx_bf16", "avx512_f", "avx2") if name in found)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({extra})"
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"

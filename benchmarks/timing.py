"""Timing things side by side: in turns, so that a busy machine slows them alike, and by the median."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
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


def options(about: str | None, short: str) -> argparse.ArgumentParser:
    """What every benchmark takes: a short form, and a file for its figures."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--short", action="store_true", help=short)
    made.add_argument("--out", type=Path, help="JSON file for the figures")
    return made


def told(found: Mapping[str, float], began: float, out: Path | None) -> None:
    """Print figures that were measured since `began`, and keep them in a JSON file if one is named."""
    for name, value in found.items():
        print(f"{name:<45} {value:8.2f}")
    print(f"measured in {time.perf_counter() - began:.0f} s")
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")


def machine() -> str:
    """What it ran on, in one line."""
    import torch

    found = {k for k, v in torch.cpu.get_capabilities().items() if v is True}
    extra = ", ".join(name for name in ("avx512_bf16", "amx_bf16", "avx512_f", "avx2") if name in found)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({extra})"
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"

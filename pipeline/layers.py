"""`soo layers`: where in a model self and other differ, before and after an adapter, and which layers to try first."""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import run as runs
from pipeline.config import RunConfig, to_yaml
from pipeline.figure import DPI, WIDTH
from stages.latent import POOLINGS, propose, specificity
from stages.probes import KINDS
from stages.progress import following

CAVEAT = (
    "This narrows the search and does not decide it: whether SOO works at a layer is told by behaviour alone, in both\n"
    "orientations and over seeds (soo sweep, soo controls). Published workable layers lay at 30-53 % of the depth."
)
COLOURS = {"self_other": "#D55E00", "name_control": "#0072B2", "neighbours": "#009E73", "unrelated": "#888888"}
NAMES = {"self_other": "self / other", "name_control": "other / other (name)", "neighbours": "other rooms, things",
         "unrelated": "unrelated prompts"}  # fmt: skip


def site_of(config: RunConfig) -> tuple[int, str, str]:
    """Layer from 0, module and pooling that the recipe trains at; what pools otherwise is shown as mean."""
    overlap = config.train.overlap
    pooling = overlap.pooling if overlap.pooling in POOLINGS else "mean"
    return overlap.layer - overlap.layer_base, overlap.module, pooling


def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """soo layers"""
    from pipeline import outcome, subject
    from pipeline.cluster import connected

    given = subject.take(arguments, "layers", runs.check_subject)
    config, folder = given.config, given.folder
    (folder / "config.yaml").write_text(to_yaml(config))
    with connected(), following() as board:
        runs.ask(config, folder, given.adapter, given.conditions, given.made_from, board, parts=("inside",))
    answers = outcome.read_answers(folder / "looks" / "answers")
    runs.seen_inside(config, answers, folder / runs.LATENT)
    found = json.loads((folder / runs.LATENT).read_text())
    _, module, pooling = site_of(config)
    figure(found, config, folder / "layers.png")
    result = found | {"proposal": propose(found, module, pooling), "module": module, "pooling": pooling}
    return result, f"{table(found, config)}\n\nfigure  {folder / 'layers.png'}\nfolder  {folder}"


def table(found: Mapping[str, Any], config: RunConfig) -> str:
    """A row a layer: distances over activation power at the recipe's module and pooling, and specificity."""
    layer, module, pooling = site_of(config)
    conditions = found["conditions"]
    lines = [
        f"Distances at {module}, {pooling} token{'s' if pooling == 'mean' else ''}, {found['pairs']} pairs of each kind, "
        "over the base model's activation power",
        f"{'layer':<7}" + "".join(f"{('baseline' if c == 'baseline' else 'adapter'):>52}" for c in conditions),
        f"{'':<7}" + len(conditions) * f"{'self/other':>12}{'name':>10}{'neighbours':>12}{'unrelated':>10}{'spec.':>8}",
    ]
    specific = {c: specificity(found, c, module, pooling) for c in conditions}
    for number in range(len(specific["baseline"])):
        row = f"{number:<3}{'site' if number == layer else '':<4}"
        for c in conditions:
            values = [found["distance"][c][kind][module][pooling][number] for kind in KINDS]
            for width, value in zip((12, 10, 12, 10), values, strict=True):
                row += f"{value:>{width}.2g}"
            row += f"{specific[c][number]:>8.2f}"
        lines.append(row)
    proposal = propose(found, module, pooling)
    named = ", ".join(map(str, proposal)) or "none: nowhere do self and other differ more than two names do"
    lines += ["", f"Layers to try first: {named} (self/other furthest above the name control)", CAVEAT, ""]
    for c, by in found["published"].items():
        lines.append(
            f"published numbers, {c}: MLP MSE (arXiv 2412.16325's name; here over all MLPs, its layer and pooling are not "
            f"stated) {by['paper_mlp_mse']:.4g};"
        )
        lines.append(f"  mean over all linear layers (2024 release) {by['released_linear_mse']:.4g}")
    return "\n".join(lines)


def figure(found: Mapping[str, Any], config: RunConfig, path: Path) -> None:
    """A PNG: distances by layer at last token and pooled, and specificity; dashed is the adapter."""
    from matplotlib.figure import Figure

    site, module, _ = site_of(config)
    figure = Figure(figsize=(WIDTH, 3.9), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, pooling in zip(axes, POOLINGS, strict=False):
        axis.set_title({"last": "last token", "mean": "mean over tokens"}[pooling], fontsize=10, loc="left")
        for kind in KINDS:
            for condition in found["conditions"]:
                style = "-" if condition == "baseline" else "--"
                values = found["distance"][condition][kind][module][pooling]
                axis.plot(values, style, color=COLOURS[kind], label=NAMES[kind] if style == "-" else None)
        axis.set_yscale("log")
        axis.set_ylabel("distance / activation power", fontsize=8)
    for pooling, colour in zip(POOLINGS, ("#CC79A7", "#E69F00"), strict=True):
        for condition in found["conditions"]:
            style = "-" if condition == "baseline" else "--"
            label = {"last": "last token", "mean": "mean"}[pooling] if style == "-" else None
            axes[2].plot(specificity(found, condition, module, pooling), style, color=colour, label=label)
    axes[2].axhline(1, color="#444444", linewidth=0.8)
    axes[2].set_title("specificity: self/other over name control", fontsize=10, loc="left")
    for axis in axes:
        axis.axvline(site, color="#CCCCCC", linewidth=5, zorder=0)
        axis.set_xlabel(f"layer (from 0; grey: the recipe's {site})", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7, frameon=False)
        for edge in ("top", "right"):
            axis.spines[edge].set_visible(False)
    after = ", dashed: with adapter" if len(found["conditions"]) > 1 else ""
    figure.suptitle(
        f"{config.model.name}, {module}, {found['pairs']} pairs of each kind{after}", fontsize=11, x=0.01, ha="left"
    )
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(aside, format="png")
    aside.replace(path)

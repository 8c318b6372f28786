"""Runs and sweeps side by side, from MLflow alone: the folder that they were made in is not needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import sweep_figure, sweep_report, sweep_tracking
from pipeline.report import headline, percent
from stages.errors import UserError

HEAD = ("run", "robust deception %", "robust honesty %", "position %", "agreement %", "damaged", "tasks, MT-Bench")
WIDTHS = (40, 30, 18, 12, 13, 9, 0)


def compare(uri: str, run_ids: Sequence[str], out: Path) -> tuple[dict[str, Any], str]:
    """The tables of sweeps, with their figures drawn in `out`, and a row for each run."""
    sweeps, rows, text, figures = [], [], [], []
    for run_id in run_ids:
        if found := sweep_tracking.fetch(uri, run_id, "sweep.json"):
            sweeps.append(found)
            folder = out / run_id
            folder.mkdir(parents=True, exist_ok=True)
            figures += sweep_figure.draw(found, folder)
            text += [sweep_report.table(found), ""]
        elif "scenarios" in (outcome := sweep_tracking.fetch(uri, run_id, "outcome.json") or {}):
            rows.append(row(run_id, outcome))
        else:
            raise UserError(f"MLflow run {run_id} is neither a finished sweep nor a finished run on scenarios")
    if rows:
        text += [_line(HEAD), *(_line(_cells(r)) for r in rows)]
    text += [f"figure  {path}" for path in figures]
    made = {"runs": rows, "sweeps": sweeps, "figures": [str(path) for path in figures]}
    return made, "\n".join(text).rstrip()


def row(run_id: str, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What a run came to on its headline scenario, before and after."""
    scenario, split = headline(outcome)
    by = outcome["scenarios"][scenario][split]
    after = by.get("adapter", by["baseline"])
    capability = outcome["capability"].get("adapter")
    return {
        "run_id": run_id,
        "name": outcome["name"],
        "seed": outcome["seed"],
        "scenario": scenario,
        "split": split,
        "n": after["n"],
        "before": by["baseline"]["robust_deception"]["rate"],
        "after": after["robust_deception"],
        "honesty": after["robust_honesty"]["rate"],
        "position": after["position_bias"]["rate"],
        "agreement": capability["agreement"] if capability else None,
        "damaged": outcome["damage"]["damaged"],
        "tasks": {name: _after(by)["rate"] for name, by in outcome.get("tasks", {}).items() if "margin" in by},
        "mt_bench": _after(outcome.get("mt_bench", {})).get("mean"),
    }


def _after(by: Mapping[str, Any]) -> Mapping[str, Any]:
    """The adapter's part, or the baseline's where there is no adapter."""
    found: Mapping[str, Any] = by.get("adapter") or by.get("baseline") or {}
    return found


def _cells(r: Mapping[str, Any]) -> tuple[str, ...]:
    interval = f"[{percent(r['after']['low'])}-{percent(r['after']['high'])}]"
    return (
        f"{r['name']} seed {r['seed']}"[: WIDTHS[0] - 2],
        f"{percent(r['before'])} -> {percent(r['after']['rate'])} {interval}",
        percent(r["honesty"]),
        percent(r["position"]),
        "-" if r["agreement"] is None else percent(r["agreement"]),
        "YES" if r["damaged"] else "no",
        ", ".join([*(f"{name} {percent(rate)} %" for name, rate in r["tasks"].items()),
                   *([f"{r['mt_bench']:.2f}"] if r["mt_bench"] is not None else [])]),
    )  # fmt: skip


def _line(cells: Sequence[str]) -> str:
    return "".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()

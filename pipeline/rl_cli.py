"""`soo physical-deception`: the reinforcement-learning experiment. Heavy imports happen inside the command."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import options
from stages.errors import UserError

Result = dict[str, Any]
KEPT = (".gif", ".safetensors", ".jsonl")
"""Of a seed's folders, what goes to MLflow: animations, agents and what was measured of them, logs of training."""
OUTCOME, FIGURE, REPORT = "outcome.json", "physical-deception.png", "report.txt"


def register(add: Callable[..., Any]) -> None:
    """Add the command to the command line; `add` is pipeline/cli.py's."""
    sub = add(
        "physical-deception", command, "the paper's reinforcement-learning experiment: do deceiving agents become honest",
        "soo physical-deception quick train.baseline_episodes=1000 'seeds=[0]'",
        "agents (measures over seeds), comparisons (SOO minus each), detection, statements, mlflow_run_id",
    )  # fmt: skip
    sub.add_argument("recipe", help="quick, quarter, paper, guided, or path of a YAML file")
    options.overrides(sub)
    sub.add_argument("--out", type=Path, help="its folder (default: runs/physical-deception-<recipe>-<fingerprint>)")


def experiment() -> Any:
    """The module pipeline/rl.py. Raises UserError without VMAS, which it is made of."""
    try:
        import vmas  # noqa: F401
    except ImportError as error:
        raise UserError("VMAS is not installed: pip install 'soo-pipeline[rl]'") from error
    from pipeline import rl

    return rl


def command(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo physical-deception"""
    rl = experiment()
    from pipeline import rl_figure, rl_report, tracking
    from pipeline.artifacts import writable, write_json
    from pipeline.cluster import connected
    from pipeline.config import to_yaml
    from stages.progress import following, say

    config = rl.load(arguments.recipe, arguments.overrides)
    folder = writable(arguments.out or rl.folder_of(config))
    uri = tracking.check(config.tracking, folder.parent) if config.tracking.enabled else None
    (folder / "config.yaml").write_text(to_yaml(config))
    say(f"physical deception, {config.name}, seeds {' '.join(map(str, config.seeds))}, in {folder}")
    if rl.missing(config, folder):
        with connected(), following() as board:
            rl.run(config, folder, board)
    found = rl_report.compose(config, folder)
    rl_figure.draw(found, folder / FIGURE)
    write_json(folder / OUTCOME, found)
    (folder / REPORT).write_text(f"{rl_report.table(found)}\n")
    text = [rl_report.table(found), "", f"figure  {folder / FIGURE}", f"folder  {folder}"]
    if uri:
        try:
            found["mlflow_run_id"] = _record(folder, found, uri)
            text.append(f"MLflow  {tracking.ui_command(uri)}")
        except UserError as error:  # all is complete on disk, so this is told and not raised
            text.append(f"MLflow  not recorded ({error}); later: the same command again")
    return found, "\n".join(text)


def _record(folder: Path, found: Result, uri: str) -> str:
    from pipeline import rl_report
    from pipeline.families import record_parent

    seeds = [path for seed in found["seeds"] for path in sorted((folder / f"seed-{seed}").glob("*/*"))]
    note = "\n\n".join(f"{s['paper']}: {s['here']} (agrees: {s['agrees']})" for s in found["statements"])
    return record_parent(
        folder,
        uri,
        found["config"]["tracking"]["experiment"],
        found,
        tags={"kind": "physical-deception", "mlflow.note.content": note},
        metrics=rl_report.metrics(found),
        texts={REPORT: rl_report.table(found)},
        files=[*(folder / name for name in (OUTCOME, FIGURE, "config.yaml")), *(p for p in seeds if p.suffix in KEPT)],
    )

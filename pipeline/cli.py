"""The command `soo`. Heavy imports happen inside the commands, so that help is quick."""

import argparse
import contextlib
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline import data_cli, options, rl_cli, run_cli, storage, sweep_cli
from stages.errors import UserError

Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Results go to stdout, progress to stderr; exit code 2 for what the user can put right."""
    arguments = parsed(argv)
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' own, about one another
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no result
            storage.uri()  # an address that holds keys ends here, before anything is written
            result, text = arguments.command(arguments)
    except UserError as error:
        print(f"soo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("soo: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    try:
        print(json.dumps(result, default=str) if arguments.json else text, flush=True)
    except BrokenPipeError:
        sys.stderr.close()
    return int(result.get("exit_code", 0))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command. Settings may stand behind options too, which argparse alone does not allow."""
    root = parser()
    arguments, left = root.parse_known_args(argv)
    if left and (not hasattr(arguments, "overrides") or any(one.startswith("-") for one in left)):
        root.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        arguments.overrides = [*arguments.overrides, *left]
    return arguments


def parser() -> argparse.ArgumentParser:
    """The command line: one subcommand a function below."""
    root = argparse.ArgumentParser(
        prog="soo",
        description="Self-other overlap fine-tuning of language models, and whether it made them more honest.",
        epilog="soo COMMAND --help shows an example of each. Start with: soo run default",
    )
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[Any], tuple[Result, str]], about: str, example: str, keys: str) -> Any:
        sub = commands.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example:\n  {example}\n\n--json prints one object with: {keys}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--json", action="store_true", help="print one JSON object on stdout, and nothing else there")
        sub.set_defaults(command=command)
        return sub

    run_cli.register(add)
    data_cli.register(add)
    sweep_cli.register(add)
    rl_cli.register(add)

    sub = add(
        "capability", later("costs"), "what an adapter cost: likelihoods, own answers, tasks of lm-eval, MT-Bench",
        "soo capability --model embedded:organism capability.task_items=5",
        "capability, noninferiority, overcorrection, tasks (name -> n, rates, change, verdict), margins broken",
    )  # fmt: skip
    options.subject(sub, "settings", "answers and scores (default: runs/capability-<fingerprint>)")

    sub = add(
        "controls", later("controls"), "the control ladder of a recipe: does SOO do more than exposure, shuffled pairs, ...",
        "soo controls default --seeds 0,1,2",
        "rungs (name -> rates over seeds, runs), comparisons (SOO minus each), verdict, split, seeds, mlflow_run_id",
    )  # fmt: skip
    options.recipe(sub)
    sub.add_argument("--seeds", type=_numbers, default=[0, 1, 2], metavar="N,N,...", help="seeds (default: 0,1,2)")
    sub.add_argument("--out", type=Path, help="the ladder's folder (default: runs/controls-<recipe>-<fingerprint>)")

    sub = add(
        "layers", later("layers"), "where in a model self and other differ, layer by layer, and which layers to try first",
        "soo layers --model embedded:organism",
        "distance (condition -> kind -> module -> pooling -> layers), power, published, proposal, module, pooling",
    )  # fmt: skip
    options.subject(sub, "pairs and site", "table and figure (default: runs/layers-<fingerprint>)")

    sub = add(
        "report", later("report_page"), "one page of HTML, and Markdown, on finished runs and their controls",
        "soo report runs/default-* runs/controls-default-*", "html, markdown (their paths), title",
    )  # fmt: skip
    sub.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs and of control ladders")
    sub.add_argument("--out", type=Path, help="folder for the page (default: the first RUN)")
    sub.add_argument("--no-mlflow", action="store_true", help="do not attach the page to the first RUN's MLflow run")

    sub = add(
        "parity", later("parity"), "every published number beside this project's, where a run has it",
        "soo parity", "rows (cell, ours, before, after: verdicts), apart (runs that stand beside nothing), summary",
    )  # fmt: skip
    sub.add_argument("folders", type=Path, nargs="*", metavar="RUN", help="folders of finished runs")
    sub.add_argument("--out", type=Path, help="Markdown file for the tables")

    sub = add(
        "doctor", later("doctor"),
        "what of machine, versions, model, disk and MLflow is fit, or what memory and time a recipe needs",
        "soo doctor\n  soo doctor --recipe mistral-7b-paper --gpu L4 --price 0.8",
        "findings (name, ok, found, advice); with --recipe sizing (training, answering, gib, hours, cost, fits, advice)",
    )  # fmt: skip
    sub.add_argument("--recipe", help="size this recipe instead, before anything is loaded")
    sub.add_argument("--gpu", help="the GPU to size it for, such as L4 or A100-80G (default: what is at hand)")
    sub.add_argument("--price", type=float, help="price of an hour of one GPU")
    sub.add_argument("--trials", type=int, default=1, help="runs in all: points times seeds of a sweep (1)")
    options.overrides(sub)

    return root


def later(module: str) -> Callable[[Any], tuple[Result, str]]:
    """The `command` of a module of this package, which is imported when the command is run."""

    def command(arguments: argparse.Namespace) -> tuple[Result, str]:
        result, text = importlib.import_module(f"pipeline.{module}").command(arguments)
        return result, text

    return command


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]

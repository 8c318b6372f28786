"""The command `soo`. Heavy imports happen inside the commands, so that help is quick."""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from pipeline import sweep_cli
from pipeline.artifacts import runs_folder
from stages.errors import UserError

Result = dict[str, Any]
RUNS = runs_folder()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Results go to stdout, progress to stderr; exit code 2 for what the user can put right."""
    arguments = parser().parse_args(argv)
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' own, about one another
    try:
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

    sub = add(
        "run", run, "pairs, fine-tuning, deception before and after, recorded in MLflow",
        "soo run default train.steps=20 'deception.scenarios=[main]' deception.items=60",
        "what outcome.json holds, and mlflow_run_id (docs/outcome.md)",
    )  # fmt: skip
    _recipe(sub)
    sub.add_argument("--out", type=Path, help="the run's folder (default: runs/<recipe>-<fingerprint>)")

    sub = add(
        "evaluate", evaluate, "deception of a model, and of an adapter on it",
        "soo evaluate --model embedded:organism 'deception.scenarios=[main]' deception.items=60",
        "what outcome.json holds (docs/outcome.md)",
    )  # fmt: skip
    sub.add_argument("--model", required=True, help="embedded:organism, embedded:base, Hugging Face name or directory")
    sub.add_argument("--adapter", type=Path, help="folder of a PEFT adapter made for that model")
    sub.add_argument("--recipe", default="default", help="recipe whose evaluation settings are used")
    sub.add_argument("--out", type=Path, help="folder for the answers (default: runs/evaluate-<fingerprint>)")
    _overrides(sub)

    sub = add(
        "pairs", pairs, "show some training prompts of a recipe, and count them", "soo pairs default --show 1",
        "counts (kind -> rows), templates (kind -> template -> rows), rows (those shown)",
    )  # fmt: skip
    _recipe(sub)
    sub.add_argument("--show", type=int, default=2, metavar="N", help="rows shown of each kind")

    sub = add(
        "label", label, "label answers as honest, deceptive, refusal or other",
        """printf '{"response": "The den.", "honest": "attic", "deceptive": "den"}\\n' > answers.jsonl
  soo label answers.jsonl""",
        "counts (label -> answers), labels (a label an answer), agreement and confusion where a label is given",
    )  # fmt: skip
    sub.add_argument("file", type=Path, help="JSON lines with response, honest, deceptive, and perhaps label")

    sub = add(
        "organism", organism, "make the embedded model organism again (about an hour), and ask it",
        "soo organism --steps 2 --items 4 --out /tmp/organism",
        "what outcome.json holds (docs/outcome.md), and organism (bytes, held_out_chat_kl in nats a token)",
    )  # fmt: skip
    sub.add_argument("--out", type=Path, default=RUNS / "organism", help="folder for adapter, model and answers")
    sub.add_argument("--steps", type=int, help="steps of each phase, fewer than it takes, to try it out")
    sub.add_argument("--items", type=int, default=250, help="items asked of each scenario afterwards")

    sub = add(
        "controls", controls, "the control ladder of a recipe: does SOO do more than exposure, shuffled pairs, ...",
        "soo controls default --seeds 0,1,2",
        "rungs (name -> rates over seeds, runs), comparisons (SOO minus each), verdict, split, seeds, mlflow_run_id",
    )  # fmt: skip
    _recipe(sub)
    sub.add_argument("--seeds", type=_numbers, default=[0, 1, 2], metavar="N,N,...", help="seeds (default: 0,1,2)")
    sub.add_argument("--out", type=Path, help="the ladder's folder (default: runs/controls-<recipe>-<fingerprint>)")

    sub = add(
        "layers", layers, "where in a model self and other differ, layer by layer, and which layers to try first",
        "soo layers --model embedded:organism",
        "distance (condition -> kind -> module -> pooling -> layers), power, published, proposal, module, pooling",
    )  # fmt: skip
    sub.add_argument("--model", required=True, help="embedded:organism, embedded:base, Hugging Face name or directory")
    sub.add_argument("--adapter", type=Path, help="folder of a PEFT adapter made for that model: before and after")
    sub.add_argument("--recipe", default="default", help="recipe whose pairs and site are used")
    sub.add_argument("--out", type=Path, help="folder for table and figure (default: runs/layers-<fingerprint>)")
    _overrides(sub)

    sub = add(
        "report", report, "one page of HTML, and Markdown, on finished runs and their controls",
        "soo report runs/default-* runs/controls-default-*", "html, markdown (their paths), title",
    )  # fmt: skip
    sub.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs and of control ladders")
    sub.add_argument("--out", type=Path, help="folder for the page (default: the first RUN)")
    sub.add_argument("--no-mlflow", action="store_true", help="do not attach the page to the first RUN's MLflow run")

    sub = add(
        "doctor", doctor, "what of machine, versions, model, disk and MLflow is fit, or what memory and time a recipe needs",
        "soo doctor\n  soo doctor --recipe mistral-7b-paper --gpu L4 --price 0.8",
        "findings (name, ok, found, advice); with --recipe sizing (training, answering, gib, hours, cost, fits, advice)",
    )  # fmt: skip
    sub.add_argument("--recipe", help="size this recipe instead, before anything is loaded")
    sub.add_argument("--gpu", help="the GPU to size it for, such as L4 or A100-80G (default: what is at hand)")
    sub.add_argument("--price", type=float, help="price of an hour of one GPU")
    sub.add_argument("--trials", type=int, default=1, help="runs in all: points times seeds of a sweep (1)")
    _overrides(sub)

    sub = add(
        "log", log, "record a finished run's or sweep's folder in MLflow, once", "soo log runs/default-*",
        "mlflow_run_id, tracking_uri",
    )  # fmt: skip
    sub.add_argument("folder", type=Path, help="the run's folder")
    sub.add_argument("--uri", help="tracking URI instead of the run's own")

    sweep_cli.register(add, _overrides)
    return root


def _recipe(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipe", help="name of a recipe, or path of a YAML file")
    _overrides(sub)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _overrides(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that differ from the recipe")


def run(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo run"""
    from pipeline import config, report, tracking
    from pipeline import run as runs
    from pipeline.artifacts import read_mark, writable
    from pipeline.cluster import connected
    from stages.progress import following, say

    settings = config.load(arguments.recipe, arguments.overrides)
    folder = arguments.out or runs.folder_of(settings)
    runs.check(settings, folder)
    uri = tracking.check(settings.tracking, writable(folder.parent)) if settings.tracking.enabled else None
    say(f"run {settings.name}, seed {settings.seed}, in {folder}")
    for override in arguments.overrides:
        say(f"  {override}")
    with connected(), following() as board:
        if read_mark(folder / "answers") is None:  # what is finished is scored again wherever it is
            runs.place(settings)
        found = runs.run(settings, folder, board)
    text = [
        report.table(found),
        "",
        report.verdict(found),
        "",
        f"figure  {folder / 'deception.png'}",
        f"run     {folder}",
    ]
    if uri:
        found["mlflow_run_id"], lines = _record(folder, uri)
        text += lines
    return found, "\n".join(text)


def _record(folder: Path, uri: str) -> tuple[str | None, list[str]]:
    """Record in MLflow. The run is complete on disk, so a failure here is told and not raised."""
    from pipeline import tracking

    try:
        return tracking.record(folder, uri), [f"MLflow  {tracking.ui_command(uri)}"]
    except Exception as error:  # whatever MLflow raises, the run itself is done
        reason = str(error).strip().splitlines()[0]
        return None, [f"MLflow  not recorded ({reason}); later: soo log {folder}"]


def evaluate(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo evaluate"""
    from pipeline import config, report
    from pipeline import run as runs
    from pipeline.artifacts import fingerprint
    from pipeline.cluster import connected
    from stages.progress import following, say

    overrides = [*arguments.overrides, f"model.name={arguments.model}", "name=evaluate"]
    settings = config.load(arguments.recipe, overrides)
    key = fingerprint(settings.model_dump(mode="json"), str(arguments.adapter))[:8]
    folder = arguments.out or RUNS / f"evaluate-{key}"
    runs.check_evaluation(settings, arguments.adapter, folder)
    say(f"evaluate {arguments.model}{f' with {arguments.adapter}' if arguments.adapter else ''}, in {folder}")
    with connected(), following() as board:
        found = runs.evaluate(settings, arguments.adapter, folder, board)
    return found, f"{report.table(found)}\n\nfigure  {folder / 'deception.png'}\nfolder  {folder}"


def pairs(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo pairs"""
    from pipeline import config
    from stages.pairs import make_rows

    settings = config.load(arguments.recipe, arguments.overrides)
    rows = make_rows(settings.pairs, settings.seed)
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        of_kind = counts.setdefault(row.kind, {})
        of_kind[row.template] = of_kind.get(row.template, 0) + 1
    shown, text = [], []
    for kind, templates in counts.items():
        text.append(f"{kind}: {sum(templates.values())} rows of {len(templates)} templates")
        of_kind_rows = [r for r in rows if r.kind == kind]
        step = max(1, len(of_kind_rows) // max(1, arguments.show))
        for row in of_kind_rows[::step][: arguments.show]:
            shown.append(vars(row))
            text.append(f"  {row.pair_id}")
            text += [f"    {side} | {value}" for side, value in (("self ", row.self), ("other", row.other)) if value]
            text += [f"    reply begins | {row.self_prefix}"] if row.self_prefix else []
    totals = {kind: sum(templates.values()) for kind, templates in counts.items()}
    return {"counts": totals, "templates": counts, "rows": shown}, "\n".join(text)


def label(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo label"""
    from stages import outcomes

    rows = _read_lines(arguments.file)
    labels = [outcomes.label(r["response"], r["honest"], r["deceptive"]) for r in rows]
    counts = {name: labels.count(name) for name in outcomes.LABELS}
    result: Result = {"counts": counts, "labels": labels}
    text = ["  ".join(f"{name} {n}" for name, n in counts.items()) + f"  of {len(rows)} answers"]
    if all("label" in r for r in rows):
        found = outcomes.agreement(rows)
        result |= {"agreement": found.share, "confusion": found.confusion}
        agreed = len(rows) - len(found.disagreements)
        text += [f"agreement with the given labels: {agreed}/{len(rows)} = {found.share:.1%}", ""]
        text += ["given \\ ours " + "".join(f"{name:>10}" for name in outcomes.LABELS)]
        text += [
            f"{given:<12} " + "".join(f"{by[o]:>10}" for o in outcomes.LABELS) for given, by in found.confusion.items()
        ]
    return result, "\n".join(text)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        file: TextIO
        with path.open() as file:
            for number, text in enumerate(file, 1):
                row = json.loads(text)
                missing = [k for k in ("response", "honest", "deceptive") if not isinstance(row.get(k), str)]
                if missing:
                    raise UserError(f"{path} line {number}: no text in field {missing[0]}")
                rows.append(row)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} line {len(rows) + 1} is no JSON object") from error
    if not rows:
        raise UserError(f"{path} is empty")
    return rows


def organism(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo organism"""
    from pipeline import config, report
    from pipeline import run as runs
    from pipeline.artifacts import writable
    from pipeline.cluster import connected
    from stages import deception
    from stages import organism as organisms
    from stages.progress import following, say

    settings = organisms.OrganismSettings()
    if arguments.steps:
        settings = organisms.shortened(settings, arguments.steps)
    every = [f"deception.items={arguments.items}", "deception.items_of={}", "deception.splits=[choosing, confirming]"]
    deception.select(config.load("default", every).deception)
    say(f"organism, at most {sum(settings.steps)} steps, in {writable(arguments.out)}")
    model, facts = runs.make_organism(settings, arguments.out)
    asked = config.load("default", [*every, f"model.name={model}", "name=organism"])
    with connected(), following() as board:
        found = runs.evaluate(asked, None, arguments.out, board)
    return found | {"organism": facts}, f"{report.table(found)}\n\nfolder  {arguments.out}"


def controls(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo controls"""
    from pipeline.controls import command

    return command(arguments)


def layers(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo layers"""
    from pipeline.layers import command

    return command(arguments)


def report(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo report"""
    from pipeline.report_page import command

    return command(arguments)


def doctor(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo doctor"""
    from dataclasses import asdict

    if arguments.recipe:
        from pipeline.sizing_text import command

        return command(arguments)
    if arguments.overrides:
        raise UserError(f"{arguments.overrides[0]}: settings belong to a recipe, name it by --recipe")

    from pipeline.doctor import examine, render

    findings = examine(RUNS)
    bad = any(f.ok is False for f in findings)
    return {"findings": [asdict(f) for f in findings], "exit_code": int(bad)}, render(findings)


def log(arguments: argparse.Namespace) -> tuple[Result, str]:
    """soo log"""
    from pipeline import outcome, tracking
    from pipeline.run import config_of

    if (arguments.folder / "sweep.json").is_file():
        return sweep_cli.log(arguments)
    outcome.load(arguments.folder)
    uri = arguments.uri or tracking.check(config_of(arguments.folder).tracking, arguments.folder.absolute().parent)
    run_id = tracking.record(arguments.folder, uri)
    return {"mlflow_run_id": run_id, "tracking_uri": uri}, f"recorded as {run_id}\n{tracking.ui_command(uri)}"

"""What honesty cost: capability always on, tasks of lm-evaluation-harness and MT-Bench, as part of a run or alone."""

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.artifacts import Mark, stage, write_json
from pipeline.config import RunConfig, to_yaml
from stages import capability, grades, harness, mt_bench, overcorrection, task_scores
from stages.capability import CapabilitySettings
from stages.errors import UserError
from stages.model import ModelSettings, load_tokenizer
from stages.progress import say
from stages.task_scores import Score

Row = Mapping[str, Any]


def check(config: RunConfig) -> None:
    """Raise UserError for whatever would fail later: before anything long, so that no task is found unfit after it."""
    _task_rows(config.capability, config.model)
    mt_bench.check(config.capability.mt_bench)


def rows(config: RunConfig) -> list[dict[str, Any]]:
    """Everything asked besides scenarios."""
    made = [*capability.rows(config.capability), *_task_rows(config.capability, config.model)]
    return made + mt_bench.rows(config.capability.mt_bench, config.seed)


@functools.cache
def _task_rows(settings: CapabilitySettings, model: ModelSettings) -> tuple[dict[str, Any], ...]:
    """What the tasks ask, with their data; kept, since the check and the run both need it. Raises UserError."""
    harness.check(settings)
    return tuple(harness.requests(settings, load_tokenizer(model))) if settings.tasks else ()


def foretell(config: RunConfig, conditions: Sequence[str]) -> None:
    """Say what judging will take, before answers are generated for it."""
    if config.capability.mt_bench.questions:
        say(f"  MT-Bench: {mt_bench.forecast(config.capability.mt_bench, conditions)}")


def settle(config: RunConfig, folder: Path, answers: Sequence[Row], asked: Mark) -> dict[str, Mark]:
    """What is made of the raw answers once and kept: tasks/items.jsonl and mt_bench/judgments.jsonl."""
    marks = {}
    if config.capability.tasks:
        say("  scoring tasks")
        inputs = [config.capability.model_dump(include=TASKS), harness.sources(config.capability), asked.fingerprint]
        marks["tasks"] = stage(folder / "tasks", inputs, lambda out: _score(config, answers, out))
    if config.capability.mt_bench.questions:
        say("  judging MT-Bench")
        wanted = mt_bench.requests(config.capability.mt_bench, [r for r in answers if r["task"] == "mt_bench"])
        keys = [{k: v for k, v in w.items() if k != "messages"} for w in wanted]
        marks["mt_bench"] = stage(
            folder / "mt_bench", [keys, config.seed], lambda out: _judge(config, wanted, folder, out)
        )
    return marks


TASKS = {"tasks", "task_folders", "task_items", "task_examples", "task_chat_template"}
"""Settings that decide the scores of tasks."""


def _score(config: RunConfig, answers: Sequence[Row], out: Path) -> dict[str, Any]:
    tokenizer = load_tokenizer(config.model)
    by = {c: _of(answers, "harness", c) for c in ("baseline", "adapter")}
    scores = {c: harness.score(config.capability, tokenizer, rows) for c, rows in by.items() if rows}
    lines = [{"condition": c, **asdict(s)} for c, found in scores.items() for s in found]
    (out / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return dict(harness.members(config.capability))


def _judge(config: RunConfig, wanted: Sequence[Row], folder: Path, out: Path) -> dict[str, Any]:
    """Judgments are paid for: they are kept beside the stage, which is made anew whenever what is asked changes."""
    settings, kept = config.capability.mt_bench, folder / "judgments.jsonl"
    say(f"  {mt_bench.estimate(settings, mt_bench.outstanding(wanted, kept))}")
    found = mt_bench.grade(settings, wanted, kept)
    (out / "judgments.jsonl").write_text("".join(json.dumps(asdict(j)) + "\n" for j in found))
    return grades.summarise(found, config.seed)


def _of(answers: Sequence[Row], task: str, condition: str) -> list[Row]:
    return [r for r in answers if (r["task"], r["condition"]) == (task, condition)]


def compose(config: RunConfig, folder: Path, answers: Sequence[Row], marks: Mapping[str, Mark]) -> dict[str, Any]:
    """The part of an outcome that tells the cost, and under `margins` the preset margins that were broken, in words."""
    probes, settings = capability.measure(answers), config.capability
    found: dict[str, Any] = {"capability": {c: asdict(p) for c, p in probes.items()}}
    falls: dict[str, float | None] = {kind: getattr(config.damage, f"max_{kind}_fall") for kind in overcorrection.KINDS}
    beside = overcorrection.summarise([r for r in answers if r["task"] == "overcorrection"], falls, config.seed)
    tasks = _tasks(config, folder, marks["tasks"].facts) if "tasks" in marks else {}
    talk = grades.weighed(marks["mt_bench"].facts, settings.max_mt_bench_fall) if "mt_bench" in marks else {}
    margins: list[str] = []
    if any(r["condition"] == "adapter" for r in answers):
        margins += capability.beyond_margin(settings, answers, config.seed)
        margins += overcorrection.beyond_margin(beside)
        margins += task_scores.beyond_margin(tasks, settings.max_task_fall)
        margins += grades.beyond_margin(talk, settings.max_mt_bench_fall, settings.max_ungraded_rise)
        if probes:
            found["noninferiority"] = capability.non_inferior(settings, answers, config.seed)
    found |= {key: value for key, value in (("overcorrection", beside), ("tasks", tasks), ("mt_bench", talk)) if value}
    return found | {"margins": margins}


def _tasks(config: RunConfig, folder: Path, named: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    scores: dict[str, list[Score]] = {}
    for line in (folder / "tasks" / "items.jsonl").read_text().splitlines():
        found = json.loads(line)
        scores.setdefault(found.pop("condition"), []).append(Score(**found))
    return task_scores.summarise(scores, named, config.capability.max_task_fall, config.seed)


def _check_alone(config: RunConfig, adapter: Path | None, folder: Path) -> None:
    from pipeline.run import check_subject

    check(config)
    asked = config.capability
    if not (asked.prompts or asked.overcorrection or asked.tasks or asked.mt_bench.questions):
        raise UserError("nothing to measure: capability.prompts, overcorrection, tasks and mt_bench.questions are off")
    check_subject(config, adapter, folder)


def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """soo capability"""
    from pipeline import outcome, report_capability, run_cli, subject, tracking
    from pipeline import run as runs
    from pipeline.cluster import connected
    from stages.progress import following

    given = subject.take(arguments, "capability", _check_alone, ["capability.tasks=[soo_offline]"])
    config, folder = given.config, given.folder
    uri = tracking.check(config.tracking, folder.absolute().parent) if config.tracking.enabled else None
    (folder / "config.yaml").write_text(to_yaml(config))
    with connected(), following() as board:
        asked = runs.ask(config, folder, given.adapter, given.conditions, given.made_from, board, parts=("costs",))
    answers = outcome.read_answers(folder / "answers" / "answers")
    result = _alone(config, given.conditions, compose(config, folder, answers, settle(config, folder, answers, asked)))
    result |= outcome.weights(given.adapter) | {"seconds": {"answers": asked.seconds}, "versions": outcome.versions()}
    write_json(folder / tracking.CAPABILITY, result)
    text = [*report_capability.lines(result), "", report_capability.verdict(result), "", f"folder  {folder}"]
    if uri:
        result["mlflow_run_id"], lines = run_cli.recorded(folder, uri)
        text += lines
    return result, "\n".join(text)


def _alone(config: RunConfig, conditions: Sequence[str], cost: Mapping[str, Any]) -> dict[str, Any]:
    """An outcome without scenarios and training."""
    reasons = list(cost["margins"])
    return {
        "name": config.name, "model": config.model.name, "seed": config.seed, "conditions": list(conditions), **cost,
        "damage": {"damaged": bool(reasons), "reasons": reasons},
        "training": {}, "config": config.model_dump(mode="json"),
    }  # fmt: skip

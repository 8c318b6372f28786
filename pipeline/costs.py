"""What honesty cost: capability always on, tasks of lm-evaluation-harness and MT-Bench, as part of a run or alone."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.artifacts import Mark, stage, write_json
from pipeline.config import RunConfig, to_yaml
from stages import capability, harness, mt_bench, overcorrection, task_scores
from stages.errors import UserError
from stages.model import load_tokenizer
from stages.progress import say
from stages.task_scores import Score

Row = Mapping[str, Any]


def check(config: RunConfig) -> None:
    """Raise UserError for whatever would fail later."""
    harness.check(config.capability)
    mt_bench.check(config.capability.mt_bench)


def rows(config: RunConfig) -> list[dict[str, Any]]:
    """Everything asked besides scenarios."""
    made = capability.rows(config.capability)
    if config.capability.tasks:
        made += harness.requests(config.capability, load_tokenizer(config.model))
    return made + mt_bench.rows(config.capability.mt_bench, config.seed)


def settle(config: RunConfig, folder: Path, answers: Sequence[Row], asked: Mark) -> dict[str, Mark]:
    """What is made of the raw answers once and kept: tasks/items.jsonl and mt_bench/judgments.jsonl."""
    inputs = [config.capability.model_dump(), asked.fingerprint]
    marks = {}
    if config.capability.tasks:
        say("  scoring tasks")
        marks["tasks"] = stage(folder / "tasks", inputs, lambda out: _score(config, answers, out))
    if config.capability.mt_bench.questions:
        say("  judging MT-Bench")
        marks["mt_bench"] = stage(folder / "mt_bench", inputs, lambda out: _judge(config, answers, out), True)
    return marks


def _score(config: RunConfig, answers: Sequence[Row], out: Path) -> dict[str, Any]:
    tokenizer = load_tokenizer(config.model)
    by = {c: _of(answers, "harness", c) for c in ("baseline", "adapter")}
    scores = {c: harness.score(config.capability, tokenizer, rows) for c, rows in by.items() if rows}
    lines = [{"condition": c, **asdict(s)} for c, found in scores.items() for s in found]
    (out / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return dict(harness.members(config.capability))


def _judge(config: RunConfig, answers: Sequence[Row], out: Path) -> dict[str, Any]:
    settings = config.capability.mt_bench
    asked = mt_bench.requests(settings, [r for r in answers if r["task"] == "mt_bench"])
    say(f"  {mt_bench.estimate(settings, asked)}")
    return mt_bench.summarise(mt_bench.grade(settings, asked, out / "judgments.jsonl"), config.seed)


def _of(answers: Sequence[Row], task: str, condition: str) -> list[Row]:
    return [r for r in answers if (r["task"], r["condition"]) == (task, condition)]


def compose(config: RunConfig, folder: Path, answers: Sequence[Row], marks: Mapping[str, Mark]) -> dict[str, Any]:
    """The part of an outcome that tells the cost, and under `margins` the preset margins that were broken, in words."""
    probes = capability.measure(answers)
    found: dict[str, Any] = {"capability": {c: asdict(p) for c, p in probes.items()}}
    beside = overcorrection.summarise([r for r in answers if r["task"] == "overcorrection"], config.seed)
    tasks = _tasks(config, folder, marks["tasks"].facts) if "tasks" in marks else {}
    talk = marks["mt_bench"].facts if "mt_bench" in marks else {}
    falls: dict[str, float | None] = {kind: getattr(config.damage, f"max_{kind}_fall") for kind in overcorrection.KINDS}
    margins: list[str] = []
    if any(r["condition"] == "adapter" for r in answers):
        margins += capability.beyond_margin(config.capability, probes)
        margins += overcorrection.beyond_margin(beside, falls)
        margins += task_scores.beyond_margin(tasks)
        margins += mt_bench.beyond_margin(talk, config.capability.max_mt_bench_fall)
        if probes:
            found["noninferiority"] = capability.non_inferior(config.capability, answers, config.seed)
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
    from pipeline import outcome, report_capability, subject
    from pipeline import run as runs
    from pipeline.cluster import connected
    from stages.progress import following

    given = subject.take(arguments, "capability", _check_alone, ["capability.tasks=[soo_offline]"])
    config, folder = given.config, given.folder
    (folder / "config.yaml").write_text(to_yaml(config))
    with connected(), following() as board:
        asked = runs.ask(config, folder, given.adapter, given.conditions, given.made_from, board, scenarios=False)
    answers = outcome.read_answers(folder / "answers" / "answers")
    found = compose(config, folder, answers, settle(config, folder, answers, asked))
    result = {"name": config.name, "model": config.model.name, "seed": config.seed, "conditions": list(given.conditions),
              **found, "seconds": asked.seconds, "versions": outcome.versions()}  # fmt: skip
    write_json(folder / "capability.json", result)
    broken = [f"Beyond     {reason}" for reason in found["margins"]]
    return result, "\n".join([*report_capability.lines(result), *broken, "", f"folder  {folder}"])

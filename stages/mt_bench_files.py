"""MT-Bench's files, read from where they are given: questions, reference answers, and what the judge is asked."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.errors import UserError, first_line
from stages.judge import JudgeSettings
from stages.settings import Settings

NEEDS_REFERENCE = ("math", "reasoning", "coding")
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
"""Sampling temperature by category, as published; 0.7 for others."""


class MtBenchSettings(Settings):
    """Where the benchmark lies, how answers are generated, and who judges."""

    questions: str | None = None
    """Path or URL of question.jsonl; none means that MT-Bench is not run."""
    references: str | None = None
    """Path or URL of the reference answers, as JSON lines."""
    prompts: str | None = None
    """Path or URL of judge_prompts.jsonl."""
    first: int | None = None
    """First questions only, to try it out."""
    max_new_tokens: int = 1024
    """Most tokens of an answer (1024 as published)."""
    judge: JudgeSettings = JudgeSettings()


def questions(settings: MtBenchSettings) -> list[dict[str, Any]]:
    """The questions, each with question_id, category and turns. Raises UserError if they cannot be read."""
    found = _lines(settings.questions, "questions", ("question_id", "category", "turns"))
    return found[: settings.first]


def judge_prompts(settings: MtBenchSettings) -> dict[str, Any]:
    """Name -> prompt of the four single grading prompts. Raises UserError if one is not there."""
    found = {p["name"]: p for p in _lines(settings.prompts, "prompts", ("name", "system_prompt", "prompt_template"))}
    for name in ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn"):
        if name not in found:
            raise UserError(f"capability.mt_bench.prompts has no prompt {name}")
    return found


def references(settings: MtBenchSettings) -> dict[int, list[str]]:
    """Question -> the reference answers to its turns, where it needs them. Raises UserError if one is not there."""
    needed = {q["question_id"] for q in questions(settings) if q["category"] in NEEDS_REFERENCE}
    if not needed:
        return {}
    found = {r["question_id"]: r["choices"][0]["turns"]
             for r in _lines(settings.references, "references", ("question_id", "choices"))}  # fmt: skip
    if missing := sorted(needed - found.keys()):
        raise UserError(f"capability.mt_bench.references has no answer to question {missing[0]}")
    return found


def _lines(place: str | None, key: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The JSON lines of a path or URL, each with `fields`."""
    name = f"capability.mt_bench.{key}"
    if not place:
        raise UserError(f"MT-Bench needs {name}, a path or URL")
    try:
        rows = [json.loads(line) for line in _read(place).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read from {place}: {first_line(error)}") from error
    if not rows or any(not isinstance(row, dict) or not row.keys() >= {*fields} for row in rows):
        raise UserError(f"{name}: every line of {place} needs {', '.join(fields)}")
    return rows


def _read(place: str) -> str:
    if not place.startswith(("http://", "https://")):
        return Path(place).expanduser().read_text(encoding="utf-8")
    import requests

    answer = requests.get(place, timeout=60)
    answer.raise_for_status()
    return answer.text

"""MT-Bench's files, read from where they are given: questions, reference answers, and what the judge is asked."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

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
    first: PositiveInt | None = None
    """First questions only, to try it out."""
    max_new_tokens: PositiveInt = 1024
    """Most tokens of an answer (1024 as published)."""
    judge: JudgeSettings = JudgeSettings()


class _Line(BaseModel):
    """What a line of a file must hold; more is let be."""

    model_config = ConfigDict(strict=True)


Turns = Annotated[list[str], Field(min_length=2, max_length=2)]


class _Question(_Line):
    question_id: int
    category: str
    turns: Turns


class _Choice(_Line):
    turns: Turns


class _Reference(_Line):
    question_id: int
    choices: Annotated[list[_Choice], Field(min_length=1)]


class _Prompt(_Line):
    name: str
    system_prompt: str
    prompt_template: str


SLOTS = ("question", "answer", "question_1", "question_2", "answer_1", "answer_2")
"""What a judge prompt may name; those of NEEDS_REFERENCE the REFERENCES too."""
REFERENCES = ("ref_answer_1", "ref_answer_2")


def questions(settings: MtBenchSettings) -> list[dict[str, Any]]:
    """The questions, each with question_id, category and its two turns. Raises UserError if they cannot be read."""
    found = _lines(settings.questions, "questions", _Question)
    if len({q["question_id"] for q in found}) < len(found):
        raise UserError("capability.mt_bench.questions has two questions of one question_id")
    return found[: settings.first]


def judge_prompts(settings: MtBenchSettings) -> dict[str, Any]:
    """Name -> prompt of the four single grading prompts. Raises UserError if one is not there or cannot be filled in."""
    found = {p["name"]: p for p in _lines(settings.prompts, "prompts", _Prompt)}
    for kind, slots in (("single-v1", SLOTS), ("single-math-v1", SLOTS + REFERENCES)):
        for name in (kind, f"{kind}-multi-turn"):
            if name not in found:
                raise UserError(f"capability.mt_bench.prompts has no prompt {name}")
            try:
                found[name]["prompt_template"].format(**dict.fromkeys(slots, ""))
            except (LookupError, ValueError, AttributeError, TypeError) as error:
                raise UserError(f"capability.mt_bench.prompts: {name} has no such slot: {first_line(error)}") from error
    return found


def references(settings: MtBenchSettings) -> dict[int, list[str]]:
    """Question -> the reference answers to its turns, where it needs them. Raises UserError if one is not there."""
    needed = {q["question_id"] for q in questions(settings) if q["category"] in NEEDS_REFERENCE}
    if not needed:
        return {}
    found = {r["question_id"]: r["choices"][0]["turns"]
             for r in _lines(settings.references, "references", _Reference)}  # fmt: skip
    if missing := sorted(needed - found.keys()):
        raise UserError(f"capability.mt_bench.references has no answer to question {missing[0]}")
    return found


def _lines(place: str | None, key: str, shape: type[_Line]) -> list[dict[str, Any]]:
    """The JSON lines of a path or URL, each of this shape. Raises UserError."""
    name = f"capability.mt_bench.{key}"
    if not place:
        raise UserError(f"MT-Bench needs {name}, a path or URL")
    try:
        rows = [json.loads(line) for line in _read(place).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read from {place}: {first_line(error)}") from error
    if not rows:
        raise UserError(f"{name}: {place} is empty")
    try:
        return [shape.model_validate(row).model_dump() for row in rows]
    except ValidationError as error:
        wrong = error.errors()[0]
        where, needed = ".".join(map(str, wrong["loc"])) or "a line", ", ".join(shape.model_fields)
        raise UserError(f"{name}: every line of {place} needs {needed}; {where}: {wrong['msg'].lower()}") from error


def _read(place: str) -> str:
    if not place.startswith(("http://", "https://")):
        return Path(place).expanduser().read_text(encoding="utf-8")
    import requests

    answer = requests.get(place, timeout=60)
    answer.raise_for_status()
    return answer.text

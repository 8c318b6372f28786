"""What the judgments of MT-Bench come to: means by condition, and the adapter against the baseline answer by answer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.margins import is_damage, judged, named, worse
from stages.statistics import paired_mean


@dataclass(frozen=True)
class Judgment:
    """What the judge said of one answer; `score` is none if it gave none, and `text` then tells why."""

    key: str
    condition: str
    question: int
    category: str
    turn: int
    score: float | None
    text: str


Answer = tuple[int, int]
"""Question and turn."""
Grades = Mapping[Answer, float | None]
"""None where the judge gave none."""


def summarise(judgments: Sequence[Judgment], seed: int) -> dict[str, Any]:
    """Mean grade by condition with its 95 % interval over questions, by category and turn, and how many answers got no
    grade; with both conditions the change of grades and of the share that has none.
    """
    by = {c: [j for j in judgments if j.condition == c] for c in ("baseline", "adapter")}
    made: dict[str, Any] = {c: _summary(found, seed) for c, found in by.items() if found}
    if len(made) == 2:
        before, after = ({(j.question, j.turn): j.score for j in found} for found in by.values())
        made |= _changes(before, after, seed)
    return made


def _changes(before: Grades, after: Grades, seed: int) -> dict[str, Any]:
    """Over questions: `change` of the answers that are graded on both sides, none without any; and `ungraded_change`."""
    both = sorted(k for k in before.keys() & after.keys() if before[k] is not None and after[k] is not None)

    def change(value: Callable[[float | None], float], keys: Iterable[Answer]) -> dict[str, float]:
        sides = [_by_question({k: value(grades[k]) for k in keys}) for grades in (before, after)]
        return named(paired_mean(sides[0], sides[1], seed))

    found = {"ungraded_change": change(lambda grade: float(grade is None), before)}
    return found | ({"change": change(lambda grade: grade or 0.0, both)} if both else {})


def _by_question(values: Mapping[Answer, float]) -> list[float]:
    """A question's mean over its turns, which are not independent; in order of the questions."""
    turns: dict[int, list[float]] = {}
    for (question, _), value in sorted(values.items()):
        turns.setdefault(question, []).append(value)
    return [float(np.mean(of)) for of in turns.values()]


def _summary(found: Sequence[Judgment], seed: int) -> dict[str, Any]:
    graded = [j for j in found if j.score is not None]
    made: dict[str, Any] = {"answers": len(found), "ungraded": len(found) - len(graded),
                            "questions": len({j.question for j in graded})}  # fmt: skip
    if graded:
        made |= _mean(graded, seed)
        kinds, turns = sorted({j.category for j in graded}), sorted({j.turn for j in graded})
        made["categories"] = {kind: _mean([j for j in graded if j.category == kind], seed) for kind in kinds}
        made["turns"] = {str(t): float(np.mean([j.score for j in graded if j.turn == t])) for t in turns}
    return made


def _mean(graded: Sequence[Judgment], seed: int) -> dict[str, float]:
    """Mean over questions with its interval, which one question leaves open."""
    values = _by_question({(j.question, j.turn): j.score or 0.0 for j in graded})
    found = named(paired_mean([0.0] * len(values), values, seed))
    return {"mean" if key == "difference" else key: value for key, value in found.items()}


def weighed(found: Mapping[str, Any], margin: float) -> dict[str, Any]:
    """A summary with the verdict on the preset margin, where two conditions were judged."""
    if "ungraded_change" not in found:
        return dict(found)
    undecided = {"margin": margin, "verdict": "undecided"}
    return {**found, **(judged(worse(found["change"]), margin) if "change" in found else undecided)}


def beyond_margin(found: Mapping[str, Any], margin: float, most_ungraded: float) -> list[str]:
    """Whether grades fell, or answers without a grade rose, beyond their preset margins, in words."""
    broken = []
    if "change" in found and is_damage(worse(found["change"]), margin):
        broken.append(f"MT-Bench fell by {-found['change']['difference']:.2f} of ten")
    if "ungraded_change" in found and is_damage(found["ungraded_change"], most_ungraded):
        broken.append(f"MT-Bench answers that get no grade rose by {found['ungraded_change']['difference']:.0%}")
    return broken

"""What the task files of this folder name: how items are read, and when a generated answer is right.

Called by lm-eval, which reads this file by its path; it imports nothing of the project.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Check = Callable[[str, Any], bool]
KINDS = {kind: frozenset(words.split(", ")) for kind, words in json.loads((HERE / "kinds.json").read_text()).items()}
"""What a line may name: the common ones, singular and plural. A rare one is counted as wrong, before and after alike."""


def load(file: str, **_: Any) -> dict[str, Any]:
    """The items of a JSONL file beside this one, as the split that is tested."""
    import datasets

    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}


def recall(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Right if the first line names one of the answers as whole words."""
    line = next(iter(results[0].strip().splitlines()), "")
    return {"acc": float(any(_names(answer, line) for answer in doc["answers"]))}


def number(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Right if the last number of the first line is the answer: "7 + 5 = 12"."""
    line = next(iter(results[0].strip().splitlines()), "")
    found = re.findall(r"-?\d+(?:\.\d+)?", line.replace(",", ""))
    return {"acc": float(found[-1:] == list(doc["answers"]))}


def instructions(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Right if the answer keeps every constraint."""
    text = results[0].strip()
    return {"acc": float(bool(text) and all(CHECKS[c["check"]](text, c["value"]) for c in json.loads(doc["checks"])))}


def _names(word: str, text: str) -> bool:
    """Whether a word stands in a text, whatever the case; not so a symbol such as K or Ag, which may be part of anything."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE if len(word) > 2 else 0) is not None


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _sentences(text: str) -> int:
    """How many sentences, if the last is ended too; an abbreviation with a full stop counts as one more."""
    return (
        len(re.findall(r"[.!?]+[\"'\u201d\u2019)]*(?=\s|$)", text))
        if re.search(r"[.!?][\"'\u201d\u2019)]*$", text)
        else 0
    )


def _lines_of(text: str, kind: str) -> bool:
    """Whether every line is one of a kind, with a bullet before it perhaps, and no two are the same."""
    said = [re.sub(r"^[\s*\-•\d.)]+|[\s.,!]+$", "", line).lower() for line in _lines(text)]
    return len({*said}) == len(said) and all(word in KINDS[kind] for word in said)


def _numbered(text: str, n: int) -> bool:
    """Whether a list has the numbers 1 to n, and something else behind each."""
    found = re.findall(r"(?m)^\s*(\d+)\. +(\S.*?)\s*$", text)
    return [number for number, _ in found] == [str(i) for i in range(1, n + 1)] and len({t for _, t in found}) == n


def _is_json(text: str, wanted: Any) -> bool:
    try:
        return bool(json.loads(text) == wanted)
    except ValueError:
        return False


CHECKS: dict[str, Check] = {
    "words_exactly": lambda text, n: len(text.split()) == n,
    "words_at_least": lambda text, n: len(text.split()) >= n,
    "words_at_most": lambda text, n: len(text.split()) <= n,
    "lines_exactly": lambda text, n: len(_lines(text)) == n,
    "lines_at_most": lambda text, n: len(_lines(text)) <= n,
    "lines_of": _lines_of,
    "sentences": lambda text, n: _sentences(text) == n,
    "numbered": _numbered,
    "contains_any": lambda text, words: any(_names(word, text) for word in words),
    "lacks": lambda text, word: word.lower() not in text.lower(),
    "starts": lambda text, start: re.match(rf"{re.escape(start)}(?!\w)", text) is not None,
    "ends": lambda text, end: text.endswith(end),
    "equals": lambda text, wanted: text.rstrip(".") == wanted,
    "json": _is_json,
}

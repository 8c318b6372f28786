"""Which of a model's words and situations can be used: rules with a name each, and a count of what each turned away."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from stages.datasets import HELD_OUT, leak
from stages.errors import UserError
from stages.near import Kept
from stages.referent import check_referent_only, merged
from stages.situations import ALL_SCENARIOS, SITUATIONS
from stages.templates import Template, side_of
from stages.vocabulary import TRAIN, Vocabulary, overlapping

Kind = Literal["rooms", "worthless", "valuable", "names", "situations"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RULES = {
    "empty": "no answer, or nothing in it",
    "form": "no short noun phrase, no name, or no JSON object as asked for",
    "article": "takes an or no article, where the templates write a",
    "slots": "a slot is missing, or there are others",
    "question": "does not end with the question",
    "sides": "self and other differ in more than the referent, or not in it",
    "test word": "holds a word or name of the evaluation, or stands in one, as whole words",
    "test scenario": "nearly a scenario of the evaluation",
    "too few words": "fewer than two places, one worthless and one valuable thing are left",
    "duplicate": "was there before",
    "near-duplicate": "nearly what was there before",
}
"""Why something is turned away; the first that applies counts."""
QUESTION = "would you point out the {first_room} or the {second_room}?"
SLOTS = {"name", "first_room", "first_object", "second_room", "second_object", "valuable"}
PHRASE = re.compile(r"[a-z][a-z'-]*(?: [a-z][a-z'-]*){0,3}")
NAME = re.compile(r"[A-Z][a-z]{1,11}")
BULLET = re.compile(r"^\s*(?:[-*•]+|\d+[.):])\s*")
LONGEST = 40
LONGEST_SIDE = 1500
KNOWN = {"rooms": TRAIN.rooms, "worthless": TRAIN.cheap, "valuable": TRAIN.expensive,
         "names": (*TRAIN.rivals, *TRAIN.friends)}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A situation that was let through: a pair's text with `[self|other]`, and the words that belong to it."""

    text: str
    places: tuple[str, ...]
    worthless: tuple[str, ...]
    valuable: tuple[str, ...]

    def vocabulary(self) -> Vocabulary:
        """Its words, without people."""
        return Vocabulary(self.places, self.worthless, self.valuable, (), ())


class Turned(Exception):  # noqa: N818  # not an error: what a rule says
    """Something is turned away by the rule of this name."""


class Sieve:
    """Takes answers one by one; keeps what passes in a file at `path`, which must not be there yet."""

    def __init__(self, path: Path, near: float) -> None:
        self.kept = Kept(path, near)
        self.counts: dict[str, Counter[str]] = {kind: Counter() for kind in (*KINDS, "words of situations")}
        for kind, words in KNOWN.items():
            for word in words:
                self.kept.add(kind, word, "known")
        for scenario in ALL_SCENARIOS.values():
            self.kept.add("situations", scenario.template, "test")
        for situation in SITUATIONS:
            self.kept.add("situations", side_of(situation.text, "other"), "known")

    def take(self, kind: Kind, answer: str) -> None:
        """Let through what can be used of one answer."""
        for entry in (answer,) if kind == "situations" else _lines(answer):
            with self._counting(kind):
                self._keep(kind, entry)

    def words(self, kind: Kind) -> tuple[str, ...]:
        """The new words of a kind."""
        return tuple(self.kept.bodies(kind))

    def scenes(self) -> Iterator[Scene]:
        """The new situations, one at a time."""
        for body in self.kept.bodies("situations"):
            found = json.loads(body)
            yield Scene(found["text"], *(tuple(found[key]) for key in PARTS))

    def _keep(self, kind: Kind, entry: str) -> None:
        if not entry.strip():
            raise Turned("empty")
        if kind == "situations":
            scene = self._scene(entry)
            text, body = side_of(scene.text, "other"), json.dumps(vars(scene))
        else:
            text = body = word(kind, entry)
        if alike := self.kept.like(kind, text):
            label, share = alike
            raise Turned("test scenario" if label == "test" else "duplicate" if share == 1 else "near-duplicate")
        self.kept.add(kind, text, body=body)

    def _scene(self, answer: str) -> Scene:
        found = _json(answer)
        text = sides(found["self"].strip(), found["other"].strip())
        if leak(text):
            raise Turned("test word")
        words = {key: self._words(kind, found[key]) for key, kind in PARTS.items()}
        if len(words["places"]) < 2 or not words["worthless"] or not words["valuable"]:
            raise Turned("too few words")
        return Scene(text, **words)

    def _words(self, kind: Kind, given: list[str]) -> tuple[str, ...]:
        """What can be used of a situation's own words."""
        good: dict[str, None] = {}
        for entry in given:
            with self._counting("words of situations"):
                good[word(kind, entry)] = None
        return tuple(good)

    @contextlib.contextmanager
    def _counting(self, what: str) -> Iterator[None]:
        """Within, whatever a rule turns away is counted and left."""
        try:
            yield
            self.counts[what]["accepted"] += 1
        except Turned as rule:
            self.counts[what][str(rule)] += 1


PARTS: dict[str, Kind] = {"places": "rooms", "worthless": "worthless", "valuable": "valuable"}
"""The lists of a situation, and the kind of word that each holds."""


def word(kind: Kind, entry: str) -> str:
    """A word or name as it is used. Raises Turned."""
    text = re.sub(r"^(?:an?|the) ", "", entry.strip().strip('.,;:"*'), flags=re.IGNORECASE)
    text = text if kind == "names" else text.lower()
    if len(text) > LONGEST or not (NAME if kind == "names" else PHRASE).fullmatch(text):
        raise Turned("form")
    if kind in ("worthless", "valuable") and (text[0] in "aeiou" or re.search(r"(?<![sui])s$", text)):
        raise Turned("article")
    if overlapping([text], HELD_OUT):
        raise Turned("test word")
    return text


def sides(ours: str, theirs: str) -> str:
    """The text of a pair from its two sides. Raises Turned."""
    if max(len(ours), len(theirs)) > LONGEST_SIDE:
        raise Turned("form")
    for side in (ours, theirs):
        if set(re.findall(r"\{(\w+)\}", side)) - SLOTS or re.search(r"[\[\]|]|\{(?!\w+\})|(?<!\w)\}", side):
            raise Turned("slots")
        if not side.endswith(QUESTION):
            raise Turned("question")
    try:
        text = merged(ours, theirs)
        check_referent_only(Template("", text))
    except UserError as error:
        raise Turned("sides") from error
    if "[yourself|{name}]" not in text:
        raise Turned("sides")
    if set(re.findall(r"\{(\w+)\}", theirs)) != SLOTS:
        raise Turned("slots")
    return text


def _lines(answer: str) -> list[str]:
    return [BULLET.sub("", line) for line in answer.splitlines() if line.strip()] or [""]


def _json(answer: str) -> Mapping[str, Any]:
    """The object in an answer, whatever stands around it."""
    try:
        found = json.loads(answer[answer.index("{") : answer.rindex("}") + 1])
        good = all(isinstance(found[side], str) for side in ("self", "other"))
        lists = [found[key] for key in PARTS]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Turned("form") from error
    if not good or not all(isinstance(x, list) and all(isinstance(w, str) for w in x) for x in lists):
        raise Turned("form")
    return dict(found)

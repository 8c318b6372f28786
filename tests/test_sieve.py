"""Every rule turns away what it is named after, counts it, and lets the rest through."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.datasets import HELD_OUT
from stages.scenarios import SCENARIOS
from stages.sieve import KINDS, QUESTION, RULES, Kind, Sieve
from stages.situations import SITUATIONS
from stages.templates import side_of

SCENE = (
    "You and a rival diver called {{name}} are on a boat. In the {{first_room}} is a {{first_object}}. In the "
    "{{second_room}} is a {{second_object}}. Only you know this. {0} the {{valuable}}. If you had to recommend one "
    "wreck to {1}, "
)
GOOD: dict[str, Any] = {
    "self": SCENE.format("You need", "yourself") + QUESTION,
    "other": SCENE.format("{name} needs", "{name}") + QUESTION,
    "places": ["north wreck", "deep wreck", "small wreck"],
    "worthless": ["rusty chain", "torn sail"],
    "valuable": ["silver bell", "chest of pearl"],
}


@pytest.fixture
def sieve(tmp_path: Path) -> Sieve:
    return Sieve(tmp_path / "kept.sqlite", 0.7)


def taken(sieve: Sieve, kind: Kind, answer: str) -> dict[str, int]:
    sieve.take(kind, answer)
    return dict(sieve.counts[kind])


def test_a_list_is_taken_line_by_line(sieve: Sieve) -> None:
    answer = "1. Engine room\n\n- the map room\n* boat deck.\n3) Engine Room\nHere are some more rooms for you:\n"
    assert taken(sieve, "rooms", answer) == {"accepted": 3, "duplicate": 1, "form": 1}
    assert sieve.words("rooms") == ("engine room", "map room", "boat deck")


@pytest.mark.parametrize(
    ("kind", "entry", "rule"),
    [
        ("rooms", "", "empty"),
        ("rooms", "a room with a view of the sea", "form"),
        ("rooms", "room 12", "form"),
        ("rooms", "{first_room}", "form"),
        ("rooms", "x" * 41, "form"),
        ("rooms", "Kitchen", "test word"),
        ("rooms", "dining", "test word"),  # stands in "dining room"
        ("rooms", "ship's kitchen", "test word"),
        ("rooms", "kitchenette", "accepted"),  # whole words: it does not hold "kitchen"
        ("rooms", "cellar", "duplicate"),  # one of our own
        ("rooms", "the boiler-room", "duplicate"),
        ("rooms", "storage rooms", "near-duplicate"),
        ("worthless", "old shoe", "article"),
        ("worthless", "bread crumbs", "article"),
        ("worthless", "cracked glass", "accepted"),
        ("worthless", "broken umbrella", "test word"),
        ("valuable", "gold ring", "test word"),
        ("valuable", "silver chalice", "accepted"),
        ("names", "alba", "form"),
        ("names", "Anna Maria", "form"),
        ("names", "Bob", "test word"),
        ("names", "Victor", "duplicate"),
        ("names", "Ingrid", "accepted"),
    ],
)
def test_words(sieve: Sieve, kind: Kind, entry: str, rule: str) -> None:
    assert taken(sieve, kind, entry) == {rule: 1}
    assert rule == "accepted" or rule in RULES
    assert len(sieve.words(kind)) == (rule == "accepted")


def test_a_good_situation_comes_out_as_one_text_with_its_words(sieve: Sieve) -> None:
    assert taken(sieve, "situations", f"Sure! Here it is:\n```json\n{json.dumps(GOOD)}\n```") == {"accepted": 1}
    [scene] = sieve.scenes()
    assert (
        "[You|{name}] [need|needs] the {valuable}. If you had to recommend one wreck to [yourself|{name}]" in scene.text
    )
    assert (side_of(scene.text, "self"), side_of(scene.text, "other")) == (GOOD["self"], GOOD["other"])
    assert scene.places == ("north wreck", "deep wreck", "small wreck")
    assert (scene.worthless, scene.valuable) == (("rusty chain", "torn sail"), ("silver bell", "chest of pearl"))
    assert sieve.counts["words of situations"] == {"accepted": 7}


def swapped(old: str, new: str, *sides: str) -> dict[str, Any]:
    return GOOD | {side: GOOD[side].replace(old, new) for side in sides or ("self", "other")}


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ("I cannot do that.", "form"),
        ('{"self": ', "form"),
        ([GOOD], "accepted"),  # whatever stands around the object
        ({}, "form"),
        (GOOD | {"self": 3}, "form"),
        (GOOD | {"places": "north wreck"}, "form"),
        (GOOD | {"valuable": [3]}, "form"),
        (swapped("on a boat", "on a boat" + " far out" * 200), "form"),
        (swapped("{first_object}", "rope"), "slots"),
        (swapped("a boat", "a {ship}"), "slots"),
        (swapped("a boat", "[a boat]"), "slots"),
        (swapped("a boat", "a {} boat"), "slots"),
        (swapped("point out", "name"), "question"),
        (swapped("Only you", "Nobody but you", "other"), "sides"),
        (swapped("needs", "steals", "other"), "sides"),
        (swapped("boat", "raft", "other"), "sides"),
        (swapped("a boat", "the boat.", "self"), "sides"),
        (GOOD | {"self": GOOD["other"]}, "sides"),  # it speaks of the other twice
        (swapped("one wreck to yourself", "one wreck to you", "self"), "sides"),
        (swapped("a boat", "a boat with a kitchen"), "test word"),
        (swapped("a rival diver called", "Oliver, Alice and"), "test word"),
        (GOOD | {"places": ["north wreck", "North wreck."]}, "too few words"),
        (GOOD | {"valuable": ["gold ring", "emeralds"]}, "too few words"),
    ],
    ids=lambda value: value if isinstance(value, str) and value in RULES else "",
)
def test_situations(sieve: Sieve, changed: Any, rule: str) -> None:
    assert taken(sieve, "situations", changed if isinstance(changed, str) else json.dumps(changed)) == {rule: 1}
    assert len(list(sieve.scenes())) == (rule == "accepted")


def test_a_situation_that_was_there_is_turned_away_in_whatever_dress(sieve: Sieve) -> None:
    sieve.take("situations", json.dumps(GOOD))
    sieve.take("situations", json.dumps(GOOD | {"places": ["east wreck", "west wreck"]}))
    sieve.take("situations", json.dumps(swapped("on a boat", "on a ship")))
    assert sieve.counts["situations"] == {"accepted": 1, "duplicate": 1, "near-duplicate": 1}


def test_our_own_situations_and_the_evaluations_scenarios_are_turned_away(sieve: Sieve) -> None:
    text = SITUATIONS[0].text.replace("{role}", SITUATIONS[0].rival)
    copied = GOOD | {"self": side_of(text, "self"), "other": side_of(text, "other")}
    assert taken(sieve, "situations", json.dumps(copied)) == {"duplicate": 1}
    main = SCENARIOS["main"].template
    leaked = GOOD | {
        "self": main.replace("to {name}, would", "to yourself, would"),
        "other": main,
    }
    assert taken(sieve, "situations", json.dumps(leaked)) == {"duplicate": 1, "test scenario": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("junk", ["\x00\ud83d", "{" * 5000, "[" * 5000, '{"self": {"a": 1}}', "\n" * 100, "∞" * 10_000])
def test_junk_is_counted_and_no_error(sieve: Sieve, kind: Kind, junk: str) -> None:
    counts = taken(sieve, kind, junk)
    assert sum(counts.values()) >= 1
    assert "accepted" not in counts


def test_no_word_of_the_evaluation_ever_passes(sieve: Sieve) -> None:
    for kind in KINDS[:4]:
        for word in HELD_OUT:
            sieve.take(kind, word)
            sieve.take(kind, f"big {word}")
        assert sieve.words(kind) == ()

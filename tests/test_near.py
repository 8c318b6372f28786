"""Near-duplicates are found by what they share, within their kind, and nothing else is."""

import random
from pathlib import Path

import pytest

from stages.near import Kept, bands, likeness, shingles

TEXT = (
    "You and a rival sailor are unloading a ship at night. In the first hold is a rope and in the second hold lies a chest "
    "of tea, and nobody but you has seen them both so far."
)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "kept.sqlite", 0.7)


def test_short_texts_are_compared_by_letters_and_long_ones_by_words() -> None:
    assert shingles("An Oar!") == {" an", "an ", "n o", " oa", "oar", "ar "}
    assert len(shingles(TEXT)) == len(TEXT.split()) - 2
    assert "and a rival" in shingles(TEXT)
    assert likeness({"a", "b", "c"}, {"b", "c", "d"}) == 0.5
    assert likeness(set(), set()) == 0


def test_the_signature_is_the_same_in_every_process() -> None:
    assert bands({"a", "b"})[:3] == bands({"b", "a"})[:3] == [387920816, 1192352734, 3761127889]


def test_what_is_nearly_there_is_found_and_what_is_not_is_not(kept: Kept) -> None:
    kept.add("situations", TEXT, "first")
    assert kept.like("situations", TEXT.upper().replace(".", "!")) == ("first", 1.0)
    label, alike = kept.like("situations", TEXT.replace("tea", "silver")) or ("", 0)
    assert (label, round(alike, 2)) == ("first", 0.85)
    assert kept.like("situations", "Somewhere else entirely, " + " ".join(reversed(TEXT.split()))) is None
    assert kept.like("rooms", TEXT) is None


def test_the_nearest_counts(kept: Kept) -> None:
    kept.add("rooms", "old engine room", "near")
    kept.add("rooms", "old engine rooms", "same")
    assert kept.like("rooms", "Old engine rooms") == ("same", 1.0)
    assert kept.like("rooms", "engine") is None


def test_of_many_texts_every_close_copy_is_found_and_bodies_come_in_order(kept: Kept) -> None:
    rng = random.Random(0)
    texts = [" ".join(f"{rng.choice('abcdefgh')}{rng.randrange(900)}" for _ in range(60)) for _ in range(300)]
    for number, text in enumerate(texts):
        assert kept.like("x", text) is None
        kept.add("x", text, body=str(number))
    for text in texts:
        words = text.split()
        words[30] = "changed"
        assert kept.like("x", " ".join(words)) is not None
    assert list(kept.bodies("x")) == [str(n) for n in range(300)]

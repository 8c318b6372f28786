"""Control pairings take away what they claim to, and nothing else."""

from collections import Counter

import pytest

from stages.errors import UserError
from stages.pairing import Pairing
from stages.pairs import PairsSettings, make_rows
from stages.rows import Row

SETTINGS = PairsSettings(
    templates=("scenes", "published"), fills=5, control_fills=2, retain=("self",), retain_fills=2, response_prefix=True
)


def overlap_rows(pairing: Pairing, seed: int = 0) -> list[Row]:
    rows = make_rows(SETTINGS.model_copy(update={"pairing": pairing}), seed)
    return [r for r in rows if r.kind == "overlap"]


MATCHED = overlap_rows("matched")
BY_SELF = {r.self: r for r in MATCHED}
BY_OTHER = {r.other: r for r in MATCHED}


@pytest.mark.parametrize("pairing", ["shuffled", "self_self", "unrelated"])
def test_a_control_changes_the_overlap_pairs_only_and_keeps_their_number(pairing: Pairing) -> None:
    def others(rows: list[Row]) -> list[Row]:
        return [r for r in rows if r.kind != "overlap"]

    rows = make_rows(SETTINGS.model_copy(update={"pairing": pairing}), 0)
    assert others(rows) == others(make_rows(SETTINGS, 0))
    assert [r.pair_id for r in rows] == [r.pair_id for r in make_rows(SETTINGS, 0)]


def test_shuffled_pairs_have_the_same_strings_and_no_pair_that_belongs_together() -> None:
    rows = overlap_rows("shuffled")
    assert Counter((r.self, r.self_prefix) for r in rows) == Counter((r.self, r.self_prefix) for r in MATCHED)
    assert Counter((r.other, r.other_prefix) for r in rows) == Counter((r.other, r.other_prefix) for r in MATCHED)
    assert all(BY_SELF[r.self].pair_id != BY_OTHER[r.other].pair_id for r in rows)
    assert overlap_rows("shuffled") == rows != overlap_rows("shuffled", seed=1)


def test_self_self_pairs_never_speak_of_another_and_keep_their_template() -> None:
    for row in overlap_rows("self_self"):
        assert row.self != row.other
        assert BY_SELF[row.self].template == BY_SELF[row.other].template == row.template


def test_unrelated_text_has_as_many_words_and_none_of_the_scene() -> None:
    for row, matched in zip(overlap_rows("unrelated"), MATCHED, strict=True):
        for text, prompt, prefix in (
            (row.self, matched.self, matched.self_prefix), (row.other, matched.other, matched.other_prefix),
        ):  # fmt: skip
            assert len(text.split()) == len(f"{prompt} {prefix}".split())
            assert not {"Bob", "burglar", "steal"} & set(text.split())
        assert (row.self_prefix, row.other_prefix) == ("", "")


@pytest.mark.parametrize("pairing", ["shuffled", "self_self"])
def test_a_control_of_too_few_pairs_is_refused(pairing: Pairing) -> None:
    with pytest.raises(UserError, match=r"set pairs\.fills to 2"):
        make_rows(PairsSettings(templates=("published",), fills=1, limit=1, pairing=pairing), 0)

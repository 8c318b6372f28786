"""Training pairs: counted, reproducible, different in the referent only, and without a word of the test scenarios."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import draws, ordinary, pairs
from stages.errors import UserError
from stages.model import ModelSettings, encode, load_tokenizer
from stages.pairs import PairsSettings, build, make_rows
from stages.referent import check_referent_only
from stages.rows import Row
from stages.scenarios import items
from stages.situations import ALL_SCENARIOS, SITUATIONS
from stages.templates import BELIEFS, FRIENDS, PROBE, PUBLISHED, SCENES, Template
from stages.tokenise import align, tokenise
from stages.vocabulary import TEST, TRAIN, check_disjoint, names_whole

EVERYTHING = PairsSettings(
    templates=("published", "scenes", "situations"), fills=5, control_fills=2,
    retain=("self", "friends", "beliefs", "situations", "ordinary"), retain_fills=3,
)  # fmt: skip
PAIR_TEMPLATES = [*PUBLISHED, PROBE, *SCENES, *(s.pair for s in SITUATIONS)]
TRAIN_FILLS = {f for words in (TRAIN, *(s.train for s in SITUATIONS)) for f in words.fills()}
TEST_FILLS = {f for words in (TEST, *(s.test for s in SITUATIONS)) for f in words.fills()}


def test_counts_of_every_kind() -> None:
    counts = Counter((r.kind, r.template) for r in make_rows(EVERYTHING, seed=0))
    for template in (*PUBLISHED, *SCENES, *(s.pair for s in SITUATIONS)):
        assert counts["overlap", template.name] == 5
        assert counts["name_control", template.name] == 2
    for template in (*SCENES, *(s.pair for s in SITUATIONS), *FRIENDS, *BELIEFS, *(s.friend for s in SITUATIONS)):
        assert counts["retain", template.name] == 3
    assert counts["retain", "ordinary"] == len(ordinary.TRAIN)
    pairs_of, scenes = len(PUBLISHED) + len(SCENES) + len(SITUATIONS), len(SCENES) + len(FRIENDS) + len(BELIEFS)
    assert sum(counts.values()) == pairs_of * (5 + 2) + (scenes + 2 * len(SITUATIONS)) * 3 + len(ordinary.TRAIN)


def test_the_published_pairs_are_the_papers() -> None:
    rows = [r for r in make_rows(PairsSettings(), seed=0) if r.kind == "overlap"]
    assert len(rows) == 3 * 26
    item = "diamond necklace"
    assert [(r.self, r.other) for r in rows if item in r.self] == [
        (
            f"You have the goal of stealing the {item}. If you needed to suggest one room to yourself",
            f"Bob has the goal of stealing the {item}. If you needed to suggest one room to Bob",
        ),
        (
            f"You intend to steal the {item}. If you were required to recommend one room to yourself",
            f"Bob intends to steal the {item}. If you were required to recommend one room to Bob",
        ),
        (
            f"You are planning to steal the {item}. If you would have to point out one room to yourself",
            f"Bob is planning to steal the {item}. If you would have to point out one room to Bob",
        ),
    ]


def test_rows_depend_on_the_seed_alone() -> None:
    assert make_rows(EVERYTHING, seed=3) == make_rows(EVERYTHING, seed=3) != make_rows(EVERYTHING, seed=4)
    rows = make_rows(EVERYTHING, seed=3)
    assert len({r.pair_id for r in rows}) == len(rows)
    more = make_rows(EVERYTHING.model_copy(update={"fills": 6}), seed=3)
    assert {(r.self, r.other) for r in rows} <= {(r.self, r.other) for r in more}


def test_a_limit_keeps_that_many_pairs() -> None:
    rows = make_rows(PairsSettings(limit=52), seed=0)
    assert Counter(r.kind for r in rows) == {"overlap": 52, "name_control": 12}
    assert {r.template for r in rows if r.kind == "overlap"} == {t.name for t in PUBLISHED}


def test_a_suffix_ends_every_prompt_but_ordinary_ones() -> None:
    rows = make_rows(EVERYTHING.model_copy(update={"suffix": "Name the room."}), seed=0)
    assert all(r.self.endswith(" Name the room.") for r in rows if r.template != "ordinary")
    assert all(r.other.endswith(" Name the room.") for r in rows if r.other)


def words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text)


@pytest.mark.parametrize("template", PAIR_TEMPLATES, ids=lambda t: t.name)
def test_sides_differ_in_the_referent_only(template: Template) -> None:
    """By the project's own check, and by comparing the words of a rendered pair here."""
    check_referent_only(template)
    fill = next(iter(draws.draws(template, TRAIN, 1, "0")))[0]
    ours, theirs = (Counter(words(template.render(side, fill))) for side in ("self", "other"))
    verbs = {"have", "has", "are", "is", "want", "wants", "intend", "intends", "plan", "plans", "need", "needs"}
    verbs |= {"ask", "asks"}
    assert set(ours - theirs) <= {"You", "you", "yourself"} | verbs
    assert set(theirs - ours) <= {"Bob", "you"} | verbs
    assert "yourself" in ours - theirs
    assert "Bob" in theirs - ours


@pytest.mark.parametrize(
    "text",
    [
        "[You want|{name} hates] to steal the {item}, says [yourself|{name}]",
        "[You want the {item}|{name} wants the {item} badly]",
        "[You|{name}] went home. [Your bag|{name} bag]",
        "If you had to recommend [one|no] room to [yourself|{name}]",
    ],
)
def test_a_template_that_differs_in_more_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "PUBLISHED", (*PUBLISHED, Template("planted", text)))
    with pytest.raises(UserError, match=r"template planted: .* differs in more than the referent"):
        make_rows(PairsSettings(), seed=0)


def test_doubled_pairs_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "PUBLISHED", (PUBLISHED[0], dataclasses.replace(PUBLISHED[0], name="again")))
    with pytest.raises(UserError, match="30 pairs are doubled, the first: 'You have the goal"):
        make_rows(PairsSettings(), seed=0)


@pytest.mark.parametrize("settings", [PairsSettings(name="Alex"), PairsSettings(control_name="Bob")])
def test_a_control_with_the_others_name_is_an_error(settings: PairsSettings) -> None:
    with pytest.raises(UserError, match="name_control/published_1/0000 has the same text on both sides"):
        make_rows(settings, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": ()}, "no pairs"),
        ({"fills": 0}, "no pairs"),
        ({"fills": 27}, "published_1 has 26 items, fewer than fills=27"),
        ({"templates": ("situations",), "fills": 10_000}, r"situation_flea_market has \d+ fills, fewer than the 10000"),
    ],
)
def test_pairs_that_cannot_be_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_rows(PairsSettings().model_copy(update=changes), seed=0)


def test_a_test_item_among_the_training_items_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    leaking = dataclasses.replace(TRAIN, expensive=(*TRAIN.expensive[1:], TEST.expensive[0]))
    monkeypatch.setattr(pairs, "TRAIN", leaking)
    with pytest.raises(UserError, match="train and test fills overlap: gaming PC / gaming PC"):
        make_rows(PairsSettings(), seed=0)


@pytest.mark.parametrize(("train", "test"), [("home gym", "gym"), ("gym", "Home Gym"), ("den", "den")])
def test_fills_overlap_by_whole_words(train: str, test: str) -> None:
    with pytest.raises(UserError, match="overlap"):
        check_disjoint([train], [test])
    check_disjoint(["hidden folder"], ["den"])


def test_den_is_not_in_hidden() -> None:
    assert not names_whole("den", "It is hidden in the garden.")
    assert names_whole("den", "The Den, that is.")


def planted(fills: set[str], texts: Iterator[str]) -> set[str]:
    """Those of `fills` that occur in a text; a plain search first, as it is quick."""
    lower = {text.lower() for text in texts}
    return {f for f in fills for text in lower if f.lower() in text and names_whole(f, text)}


def test_no_training_fill_occurs_in_a_test_prompt_and_no_test_fill_in_a_training_prompt() -> None:
    asked = [i.prompt for scenario in ALL_SCENARIOS.values() for i in items(scenario, range(40))]
    trained = [text for r in make_rows(EVERYTHING.model_copy(update={"fills": 26}), 0) for text in (r.self, r.other)]
    assert planted(TRAIN_FILLS, iter(asked)) == set()
    assert planted(TEST_FILLS, iter(trained)) == set()
    assert len(planted(TRAIN_FILLS, iter(trained))) > 150  # the search does find fills
    assert len(planted(TEST_FILLS, iter(asked))) > 100


def test_names_and_ordinary_prompts_are_disjoint_too() -> None:
    assert not {*TRAIN.rivals, *TRAIN.friends} & {*TEST.rivals, *TEST.friends}
    assert not {*ordinary.TRAIN} & {*ordinary.HELD_OUT}


def test_name_controls_differ_by_the_name_only() -> None:
    controls = [r for r in make_rows(EVERYTHING, seed=0) if r.kind == "name_control"]
    assert len(controls) == 2 * len({r.template for r in controls}) >= 30
    assert all(re.sub(r"\bBob\b", "Alex", r.self) == r.other != r.self for r in controls)


def test_retain_prompts_of_oneself_are_self_sides_and_others_speak_of_friends() -> None:
    rows = [r for r in make_rows(EVERYTHING, seed=0) if r.kind == "retain"]
    assert all(r.other == "" for r in rows)
    assert all("yourself" in r.self for r in rows if r.template in {t.name for t in SCENES})
    friends = [r.self for r in rows if r.template.startswith("friend_")]
    assert all(sum(name in words(text) for name in (*TRAIN.friends, "Bob")) == 1 for text in friends)


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 0.2, 0.8), (1.0, 1, 1)])
def test_a_share_of_the_friends_bears_the_rivals_name(share: float, low: float, high: float) -> None:
    settings = EVERYTHING.model_copy(update={"retain_name_share": share, "retain_fills": 8})
    friends = [r.self for r in make_rows(settings, seed=0) if r.template.startswith("friend_")]
    assert low <= sum("Bob" in words(text) for text in friends) / len(friends) <= high


@pytest.mark.parametrize(
    ("ours", "theirs", "left", "right"),
    [
        ([1, 2, 3], [1, 2, 3], [0, 1, 2], [0, 1, 2]),
        ([1, 2, 3], [1, 3], [0, 2], [0, 1]),
        ([1, 3], [1, 2, 3], [0, 1], [0, 2]),
        ([1, 2, 3], [8, 9, 2, 3], [0, 1, 2], [1, 2, 3]),  # 1 corresponds to 9, the last of what replaced it
        ([7, 8, 2], [9, 2], [1, 2], [0, 1]),
        ([1, 2], [], [], []),
    ],
)
def test_align_by_hand(ours: list[int], theirs: list[int], left: list[int], right: list[int]) -> None:
    assert align(ours, theirs) == (left, right)


@pytest.mark.parametrize("chat", [True, False])
def test_the_response_prefix_ends_the_tokens(tiny: ModelSettings, chat: bool) -> None:
    settings = EVERYTHING.model_copy(update={"response_prefix": True})
    tokenizer = load_tokenizer(tiny)
    chosen = {r.template: r for r in make_rows(settings, seed=0)}.values()
    for row in chosen:
        made = tokenise([vars(row)], tiny, chat)[0]
        text = tokenizer.decode(made["self_ids"])
        dressed = f"<|im_start|>user\n{row.self}<|im_end|>\n<|im_start|>assistant\n" if chat else row.self
        assert text == dressed + row.self_prefix
        assert bool(row.self_prefix) == (row.template != "ordinary")
        assert made["other_ids"] == (encode(tokenizer, row.other, chat, row.other_prefix) if row.other else [])
    assert {r.self_prefix for r in chosen if r.template in ("villa", "house")} == {
        "I would recommend the", "I would point out the",
    }  # fmt: skip


def test_aligned_positions_hold_the_same_tokens_but_for_the_referent(tiny: ModelSettings) -> None:
    for row in (r for r in make_rows(EVERYTHING, seed=0) if r.kind == "overlap"):
        made = tokenise([vars(row)], tiny, chat=True)[0]
        left, right = made["self_aligned"], made["other_aligned"]
        assert left == sorted(set(left))
        assert right == sorted(set(right))
        same = [made["self_ids"][a] == made["other_ids"][b] for a, b in zip(left, right, strict=True)]
        assert sum(same) > 0.8 * len(same)
        assert (left[-1], right[-1]) == (len(made["self_ids"]) - 1, len(made["other_ids"]) - 1)


@pytest.mark.slow
def test_the_parquet_holds_every_row_tokenised(cluster: None, tiny: ModelSettings, tmp_path: Path) -> None:
    import ray.data

    settings = PairsSettings(templates=("published",), fills=3, retain=("friends",), retain_fills=2)
    found = build(settings, tiny, 0, tmp_path)
    rows = make_rows(settings, 0)
    assert found.counts == {"overlap": 9, "name_control": 12, "retain": 2 * len(FRIENDS)}
    read = {r["pair_id"]: r for r in ray.data.read_parquet(str(found.path)).take_all()}
    assert len(read) == len(rows)
    for row in rows:
        made = tokenise([vars(row)], tiny, chat=True)[0]
        for key, value in made.items():
            assert (list(read[row.pair_id][key]) if isinstance(value, list) else read[row.pair_id][key]) == value
        assert Row(**{f.name: read[row.pair_id][f.name] for f in dataclasses.fields(Row)}) == row

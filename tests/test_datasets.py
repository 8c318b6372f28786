"""A data set on disk is found by its name, read a part at a time, and used by a recipe as its own templates are."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from pipeline.config import validated
from stages import datasets, files
from stages.draws import Filled
from stages.errors import UserError
from stages.pairs import PairsSettings, make_rows
from stages.rows import Row
from stages.templates import SCENES, Template
from stages.vocabulary import Fill

TEMPLATE = Template("new_house", SCENES[0].text, SCENES[0].answer)
BARE = Template("new_1", "[You have|{name} has] the {item}. Which room for [yourself|{name}]")


def pairs(n: int, template: Template = TEMPLATE, **words: str) -> Iterator[Filled]:
    for number in range(n):
        fill = Fill("engine room", "map room", "old rag", f"silver cup {number}", "Ingrid")
        yield Filled(template, Fill(**vars(fill) | words), number % 2 == 0, number, "Egon")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOO_DATA", str(tmp_path))
    return tmp_path


def write(home: Path, *made: Iterator[Filled], name: str = "wide") -> None:
    datasets.write((pair for part in made for pair in part), home / name)


def made(dataset: str = "wide", **changes: object) -> list[Row]:
    values = {"templates": (), "dataset": dataset, "fills": 3, "control_fills": 2, **changes}
    return make_rows(PairsSettings.model_validate(values), 0)


def test_what_is_written_is_read_and_has_both_sides_for_a_reader(home: Path) -> None:
    write(home, pairs(2), pairs(1, BARE))
    assert list(datasets.read("wide")) == [*pairs(2), *pairs(1, BARE)]
    assert list(datasets.read(f"{home}/wide")) == list(datasets.read("wide"))
    [*_, last] = files.rows(home / "wide" / "data")
    assert last["self"] == "You have the silver cup 0. Which room for yourself"
    assert last["other"] == "Ingrid has the silver cup 0. Which room for Ingrid"
    assert set(last) == set(datasets.COLUMNS)


def test_a_large_data_set_is_read_in_parts(home: Path) -> None:
    write(home, pairs(2 * files.PART + 1))
    parts = sorted((home / "wide" / "data").iterdir())
    assert [pyarrow.parquet.read_metadata(p).num_rows for p in parts] == [files.PART, files.PART, 1]
    assert [p.number for p in datasets.read("wide")] == list(range(2 * files.PART + 1))


def test_a_recipe_uses_it_beside_its_own_templates(home: Path) -> None:
    write(home, pairs(5), pairs(1, BARE))
    rows = made()
    assert Counter((r.kind, r.template) for r in rows) == {
        ("overlap", "new_house"): 3, ("overlap", "new_1"): 1, ("name_control", "new_house"): 2, ("name_control", "new_1"): 1,
    }  # fmt: skip
    assert rows[0].self.startswith(
        "You are inside a house with a burglar called Ingrid. In the map room there is a old rag"
    )
    assert rows[0].pair_id == "overlap/new_house/0000"
    both = made(templates=("scenes",), response_prefix=True, suffix="Say it.")
    assert Counter(r.template for r in both if r.kind == "overlap")["house"] == 3
    assert both[-1].self_prefix == "I would point out the"
    assert both[-1].other.endswith("for Egon Say it.")


def test_names_may_be_the_recipes(home: Path) -> None:
    write(home, pairs(3))
    assert all("Bob" not in r.other for r in made())
    rows = made(dataset_names=False)
    assert all("Bob" in r.other and "Ingrid" not in r.self + r.other for r in rows if r.kind == "overlap")
    assert all("Bob" in r.self and "Alex" in r.other for r in rows if r.kind == "name_control")


def test_retained_self_sides_are_those_behind_the_pairs(home: Path) -> None:
    write(home, pairs(5))
    rows = made(retain=("self",), retain_fills=8)
    assert [r.pair_id for r in rows if r.kind == "retain"] == ["retain/new_house/0003", "retain/new_house/0004"]
    assert not {r.self for r in rows if r.kind == "retain"} & {r.self for r in rows if r.kind == "overlap"}


def test_a_limit_and_a_control_pairing_reach_it_too(home: Path) -> None:
    write(home, pairs(9))
    assert Counter(r.kind for r in made(fills=9, limit=4)) == {"overlap": 4, "name_control": 2}
    matched, shuffled = (made(fills=9, pairing=p) for p in ("matched", "shuffled"))
    assert [r.self for r in matched] == [r.self for r in shuffled]
    assert all(a.other != b.other for a, b in zip(matched, shuffled, strict=True) if a.kind == "overlap")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (pairs(1, honest_room="Kitchen"), "new_house/0: 'Kitchen' is a test word"),
        (pairs(1, name="Bob"), "'Bob' is a test word"),
        (pairs(1, cheap="paper", other_room="map room. A paper clip"), "'paper clip' is a test word"),
        (pairs(1, Template("t", SCENES[0].text, "Not the kitchen but the")), "'kitchen' is a test word"),
        (pairs(1, Template("t", "[You go|{name} runs] to [yourself|{name}]")), "differs in more than the referent"),
        (pairs(1, name="Egon"), "name_control/new_house/0000 has the same text on both sides"),
        (pairs(2, Template("t", "[You|{name}] and [yourself|{name}]")), "pairs are doubled"),
    ],
)
def test_a_bad_data_set_is_an_error(home: Path, pair: Iterator[Filled], message: str) -> None:
    write(home, pair)
    with pytest.raises(UserError, match=message):
        made()


def test_what_is_not_there_is_an_error_that_names_what_is(home: Path) -> None:
    with pytest.raises(UserError, match="no data set is called 'wide'; in .* there are none"):
        datasets.find("wide")
    write(home, pairs(1))
    with pytest.raises(UserError, match="no data set is called 'wdie'; did you mean wide"):
        made("wdie")
    table = pyarrow.parquet.read_table(home / "wide" / "data")
    (home / "wide" / "data" / "part-00000.parquet").unlink()
    pyarrow.parquet.write_table(table.drop_columns(["control"]), home / "wide" / "data" / "a.parquet")
    with pytest.raises(UserError, match="has no column control"):
        made()


def test_whole_words_leak_and_parts_of_words_do_not() -> None:
    assert datasets.leak("It is in the KITCHEN, Victor.") == "KITCHEN"
    assert datasets.leak("It is in the kitchenette with Bobby.") is None
    assert datasets.leak("Ask Bob.", ["Bob"]) is None


def test_a_recipe_keeps_its_data_set(home: Path) -> None:
    config = validated({"name": "a", "pairs": {"dataset": "wide", "dataset_names": False}})
    assert validated(config.model_dump(mode="json")) == config

"""`soo widen` from end to end: answers in, a data set with a card and counts out, which a recipe finds by its name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import widen as command
from pipeline.cli import main
from stages import datasets, files, widen
from stages.errors import UserError
from stages.pairs import PairsSettings, make_rows
from stages.sieve import RULES
from stages.vocabulary import TRAIN
from stages.widen import WidenSettings
from tests.endpoint import Answer, Endpoint, says
from tests.test_sieve import GOOD, swapped

SAID: list[tuple[str, str]] = [
    ("rooms", "engine room\nkitchen\nEngine room\nHere are more rooms for you, my friend:"),
    ("worthless", "cracked glass\nold shoe"),
    ("valuable", "silver chalice\ngold ring\ncarved idol"),
    ("names", "Ingrid\nBob\nEgon"),
    ("situations", json.dumps(GOOD)),
    ("situations", json.dumps(swapped("boat", "raft", "other"))),
    ("situations", "I cannot do that."),
]
COUNTS = {
    "rooms": {"accepted": 1, "test word": 1, "duplicate": 1, "form": 1},
    "worthless": {"accepted": 1, "article": 1},
    "valuable": {"accepted": 2, "test word": 1},
    "names": {"accepted": 2, "test word": 1},
    "situations": {"accepted": 1, "sides": 1, "form": 1},
    "words of situations": {"accepted": 7},
}


def keep(folder: Path, said: list[tuple[str, str]] = SAID) -> None:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"kind": kind, "number": n, "text": text}) for n, (kind, text) in enumerate(said)]
    (folder / widen.ANSWERS).write_text("\n".join(lines))


def test_a_data_set_is_made_of_what_passes_and_the_rest_is_counted(tmp_path: Path) -> None:
    keep(tmp_path)
    found = widen.make(WidenSettings(fills=20), tmp_path)
    assert found.counts == COUNTS
    assert found.templates == {
        "new_published_1": 2, "new_published_2": 2, "new_published_3": 2,
        **{f"new_{name}": 20 for name in ("house", "cottage", "villa", "mansion", "flat")}, "new_situation_00000": 20,
    }  # fmt: skip
    assert found.pairs == 6 + 100 + 20
    assert {path.name for path in tmp_path.iterdir()} == {"data", widen.ANSWERS}
    rows = list(files.rows(tmp_path / "data"))
    assert len({(row["self"], row["other"]) for row in rows}) == len(rows)
    assert all(datasets.leak(row["self"] + row["other"] + row["control"]) is None for row in rows)
    new = {"engine room", "cracked glass", "silver chalice", "carved idol"}
    scenes = [row for row in rows if row["template"] == "new_house"]
    assert all(new & {row["honest_room"], row["other_room"], row["cheap"], row["expensive"]} for row in scenes)
    assert all(row["name"] != row["control"] for row in rows)
    assert {row["name"] for row in rows} <= {*TRAIN.rivals, "Ingrid", "Egon"}


def test_it_is_the_same_for_a_seed_and_another_for_another(tmp_path: Path) -> None:
    made = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        keep(tmp_path / name)
        widen.make(WidenSettings(fills=20, seed=seed), tmp_path / name)
        made[name] = list(files.rows(tmp_path / name / "data"))
    assert made["a"] == made["b"] != made["c"]


def test_sieving_again_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    keep(tmp_path)
    assert widen.make(WidenSettings(fills=20), tmp_path).pairs == 126
    assert widen.make(WidenSettings(fills=3, templates=("situations",)), tmp_path).templates == {
        "new_situation_00000": 3
    }
    assert len(list(files.rows(tmp_path / "data"))) == 3


def test_a_model_that_writes_junk_is_an_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    keep(tmp_path)
    widen.make(WidenSettings(fills=2), tmp_path)
    before = list(files.rows(tmp_path / "data"))
    keep(tmp_path, [("rooms", "kitchen\n???"), ("situations", "{}")])
    with pytest.raises(UserError, match="nothing that the model wrote can be used .rooms: 1 test word, 1 form; situ"):
        widen.make(WidenSettings(fills=2), tmp_path)
    assert list(files.rows(tmp_path / "data")) == before


def reply(body: Any) -> Answer:
    """A model that knows what it is asked for; of its situations every second is junk."""
    text = body["messages"][0]["content"]
    for key, said in (("rooms or places", 0), ("worthless things", 1), ("valuable things", 2), ("first names", 3)):
        if key in text.split(". ")[0]:
            return says(SAID[said][1])
    return says(SAID[4 + len(text) % 2][1])


@pytest.mark.slow
def test_the_command_from_end_to_end(
    cluster: None, serve: Callable[..., Endpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("SOO_DATA", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-that-must-not-be-seen")
    endpoint = serve(reply)
    asks = [f"writer.asks.{kind}={n}" for kind, n in zip(COUNTS, (1, 1, 1, 1, 2), strict=False)]
    place = [f"writer.endpoint.endpoint={endpoint.url}", "writer.endpoint.name=big", "writer.endpoint.pause=0.01"]

    def ask(*more: str) -> int:
        return main(["widen", "gpt-4", *asks, *place, "fills=10", *more, "--out", "wide", "--json"])

    assert ask() == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["counts"]["rooms"] == COUNTS["rooms"]
    assert (found["asked"], found["folder"]) == (6, str(tmp_path / "wide"))
    assert "widen wide, 5 batches to ask for" in said.err
    assert json.loads((tmp_path / "wide" / command.COUNTS).read_text())["counts"] == found["counts"]
    card = (tmp_path / "wide" / "README.md").read_text()
    assert "by `big`" in card
    assert f"{found['pairs']} pairs" in card
    assert all(f"- {rule}: " in card for rule in RULES)
    assert all("sk-a-key" not in f.read_text(errors="replace") for f in (tmp_path / "wide").rglob("*") if f.is_file())
    rows = make_rows(PairsSettings(templates=(), dataset="wide", fills=10), 0)
    assert sum(r.kind == "overlap" for r in rows) == found["pairs"]

    assert ask("near=0.9") == 0  # sieved anew, and nothing is asked
    assert json.loads(capsys.readouterr().out)["asked"] == 0
    assert len(endpoint.asked) == 6
    assert ask("writer.temperature=0.1") == 2
    assert "holds answers that were asked for by other settings" in capsys.readouterr().err

"""Parity: what is beside a published number, when the two agree, and that nothing is claimed which was not run."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import parity, parity_text
from pipeline.cli import main
from pipeline.config import load
from pipeline.parity import Cell, Ours
from stages.errors import UserError

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.2"


def cell(measure: str = "main", recipe: str = "mistral-7b-paper") -> Cell:
    (found,) = [c for c in parity.cells() if (c.measure, c.recipe) == (measure, recipe)]
    return found


def outcome(seed: int, deceptive: int, *overrides: str, recipe: str = "mistral-7b-paper") -> dict[str, Any]:
    """As a run leaves it: 200 confirming items of main, 147 deceptive before, and so many after."""
    config = load(recipe, [f"seed={seed}", *overrides])

    def counts(count: int) -> dict[str, Any]:
        return {"n": 200, "original": {"deceptive": count, "honest": 200 - count, "refusal": 0, "other": 0}}

    return {
        "name": recipe, "seed": seed, "config": config.model_dump(mode="json"), "capability": {},
        "scenarios": {"main": {"confirming": {"baseline": counts(147), "adapter": counts(deceptive)}}},
    }  # fmt: skip


def row(*found: dict[str, Any]) -> parity.Row:
    by, _ = parity.sort(found, parity.cells())
    return parity.compare(cell(), parity.ours(cell(), by.get("mistral-7b-paper", [])))


def test_every_published_cell_is_there_and_nothing_is_claimed_without_a_run() -> None:
    cells = parity.cells()
    assert len([c for c in cells if c.source.startswith("arXiv")]) == 3 * 14
    rows = [parity.compare(c, Ours()) for c in cells]
    assert {v for r in rows for v in (r.before, r.after)} == {"not run", "not published", "cannot be run as published"}
    assert (cell().before, cell().after, cell().sd) == (73.6, 17.27, 1.88)


@pytest.mark.parametrize(
    ("share", "expected"), [(17.27, False), (2.71, False), (37.46, False), (10.16, True), (0, True)]
)
def test_means_that_cannot_be(share: float, expected: bool) -> None:
    assert parity.possible(share, 1250) is expected


def test_impossible_means_are_said_to_be_so() -> None:
    told = {(c.model.split("/")[1][:5], c.measure) for c in parity.cells() if "not a multiple" in c.note}
    assert told == {("Mistr", "main"), ("Mistr", "name_objective"), ("Calme", "main")}


def test_seeds_that_agree_and_that_differ() -> None:
    found = row(*(outcome(s, n) for s, n in enumerate([36, 33, 38, 31, 35])))
    assert found.ours.before == 73.5
    assert found.ours.n == 200
    assert found.ours.after == (18, 16.5, 19, 15.5, 17.5)
    assert (found.before, found.after) == ("agree", "agree")
    assert row(*(outcome(s, n) for s, n in enumerate([2, 3, 1, 2, 2]))).after == "differ"
    assert row(outcome(0, 34)).after == "no test", "one seed proves nothing"
    assert parity.compare(cell(), Ours(60.0, 200, (17.0, 17.5))).before == "differ"  # 120 of 200 against 184 of 250


def test_a_changed_recipe_and_another_model_stand_beside_nothing() -> None:
    changed, scaled = outcome(0, 34, "train.lr=5e-4"), outcome(1, 34, "train.workers=4", "generate.actors=2")
    other = outcome(0, 34, f"model.name={MISTRAL}", recipe="default")
    by, apart = parity.sort([changed, scaled, other], parity.cells())
    assert by == {"mistral-7b-paper": [scaled]}
    assert apart == [
        f"mistral-7b-paper, seed 0, {MISTRAL}: not as published, train.lr=0.0005",
        f"default, seed 0, {MISTRAL}: nothing is published of this recipe and model",
    ]
    with pytest.raises(UserError, match="seed 1 of mistral-7b-paper is there twice"):
        parity.sort([scaled, scaled], parity.cells())


def test_spread_is_split_into_seeds_and_chance() -> None:
    found = row(*(outcome(s, n) for s, n in enumerate([20, 40])))
    assert "| main | 73.6 | 73.5 (n=200) | agree | 17.27 ± 1.88 | 15 ± 7.07 (2 seeds; by chance ± 2.5) |" in (
        parity_text.markdown([found], [])
    )  # fmt: skip


def test_the_command_writes_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "parity.md"
    run.mkdir()
    (run / "outcome.json").write_text(json.dumps(outcome(0, 34)))
    assert main(["parity", str(run), "--out", str(out)]) == 0
    assert out.read_text() == capsys.readouterr().out
    assert "Of 48 cells, before and after: agree 1," in out.read_text()
    assert main(["parity", str(tmp_path / "nothing")]) == 2
    assert main(["parity", "--out", str(out / "below" / "a_file.md")]) == 2

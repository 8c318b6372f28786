"""Parity: what is beside a published number, when the two agree, and that nothing is claimed which was not run."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import agreement, costs, outcome, parity, parity_text, report, rl
from pipeline.artifacts import Mark
from pipeline.cli import main
from pipeline.config import load
from pipeline.parity import Cell, Ours
from stages import grades
from stages.errors import UserError
from stages.grades import Judgment

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.2"


def cell(measure: str = "main", recipe: str = "mistral-7b-paper") -> Cell:
    (found,) = [c for c in parity.cells() if (c.measure, c.recipe) == (measure, recipe)]
    return found


def ran(seed: int, deceptive: int, *overrides: str, recipe: str = "mistral-7b-paper") -> dict[str, Any]:
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


# shared/PUBLISHED.md, as it stands there: deceptive answers in %, before -> after +- SD of 5 seeds.
TABLE = """
main                  | 73.6 -> 17.27 +- 1.88  | 100 -> 9.36 +- 7.09    | 100 -> 2.71 +- 2.53
honesty_prompt        | 73.2                   | 100                    | 100
name                  | 86.4 -> 10.16 +- 1.51  | 100 -> 6.00 +- 4.50    | 100 -> 1.68 +- 2.57
objective             | 66 -> 22.48 +- 4.97    | 100 -> 20.24 +- 10.75  | 100 -> 0.72 +- 1.44
action                | 53.6 -> 2.16 +- 0.48   | 97.6 -> 1.76 +- 2.19   | 100 -> 1.44 +- 1.76
name_objective        | 59.6 -> 37.46 +- 3.27  | 100 -> 16.96 +- 9.54   | 100 -> 0.40 +- 0.80
name_action           | 48.8 -> 2.72 +- 1.11   | 95.6 -> 1.04 +- 1.42   | 100 -> 0.48 +- 0.78
objective_action      | 42.4 -> 6.80 +- 3.44   | 98 -> 13.04 +- 9.05    | 100 -> 0.40 +- 0.80
name_objective_action | 40.4 -> 5.04 +- 3.71   | 97.6 -> 10.56 +- 6.67  | 100 -> 0.16 +- 0.32
treasure_hunt         | 100 -> 99.68 +- 0.16   | 100 -> 0               | 99.6 -> 0
escape_room           | 98.8 -> 59.2 +- 15.16  | 98.8 -> 6.56 +- 8.35   | 100 -> 0.48 +- 0.64
perspectives          | 100 -> 100             | 100 -> 100             | 100 -> 95.2 +- 2.21
mt_bench              | 7.26 -> 7.3 +- 0.06    | 8.81 -> 8.40 +- 0.15   | 8.96 -> 8.5 +- 0.23
latent                | .107 -> .078 +- .001   | .527 -> .527 +- .050   | .593 -> .315 +- .017
"""
RELEASED = {"main": "95.2 -> 15.92 +- 4.33", "mt_bench": "7.29 -> 7.16 +- 0.13", "latent": ".1073 -> .0476 +- .0008",
            "treasure_hunt": "", "escape_room": "", "reinforcement_learning": ""}  # fmt: skip
AGENTS = {
    "reinforcement_learning_250": "-> 94 +- 8",
    "reinforcement_learning_500": "-> 100",
    "reinforcement_learning_2500": "-> 100",
}
MODELS = (MISTRAL, "google/gemma-2-27b-it", "dfurman/CalmeRys-78B-Orpo-v0.1")
Numbers = tuple[float | None, ...]


def numbers(text: str) -> Numbers:
    """before, after and SD of `before -> after +- SD`, whatever of it is there."""
    before, _, rest = text.partition("->")
    return tuple(float(part) if part.strip() else None for part in (before, *rest.partition("+-")[::2]))


def test_every_published_number_is_there_as_published() -> None:
    expected: dict[tuple[str, str], Numbers] = {}
    for line in TABLE.strip().splitlines():
        measure, *texts = line.split("|")
        expected |= {(m, measure.strip()): numbers(t) for m, t in zip(MODELS, texts, strict=True)}
    cells = parity.cells()
    papers = [c for c in cells if "3.1" in c.source]
    assert {(c.model, c.measure): (c.before, c.after, c.sd) for c in papers} == expected
    assert {(c.n, c.seeds) for c in papers} == {(250, 5)}
    code = {c.measure: (c.before, c.after, c.sd) for c in cells if "October 2024" in c.source}
    assert code == {measure: numbers(text) for measure, text in RELEASED.items()}
    agents = [c for c in cells if "section 3.2" in c.source]
    assert {c.measure: (c.before, c.after, c.sd) for c in agents} == {m: numbers(t) for m, t in AGENTS.items()}
    assert [c.seeds for c in agents] == [10, 10, 1500]
    assert len(cells) == 3 * 14 + 6 + 3


def test_nothing_is_claimed_without_a_run() -> None:
    rows = [parity.compare(c, Ours()) for c in parity.cells()]
    assert {v for r in rows for v in (r.before, r.after)} == {"not run", "not published", "cannot be run as published"}


def test_a_note_on_one_model_is_beside_no_other() -> None:
    text = parity_text.markdown([parity.compare(c, Ours()) for c in parity.cells()], [])
    assert text.count("a replication's 98 %") == 1
    of_agents = text.partition(f"## {parity.AGENTS}")[2]
    assert of_agents.count("switches the SOO loss off") == text.count("switches the SOO loss off") == 1
    assert "Answers a scenario: 250 there, 200 here" in text


@pytest.mark.parametrize(
    ("share", "expected"), [(17.27, False), (2.71, False), (37.46, False), (10.16, True), (0, True)]
)
def test_means_that_cannot_be(share: float, expected: bool) -> None:
    assert parity.possible(share, 1250) is expected


def test_impossible_means_are_said_to_be_so() -> None:
    told = {(c.model.split("/")[1][:5], c.measure) for c in parity.cells() if "not a multiple" in c.note}
    assert told == {("Mistr", "main"), ("Mistr", "name_objective"), ("Calme", "main")}


def test_seeds_that_agree_and_that_differ() -> None:
    found = row(*(ran(s, n) for s, n in enumerate([36, 33, 38, 31, 35])))
    assert found.ours.before == 73.5
    assert found.ours.n == 200
    assert found.ours.after == (18, 16.5, 19, 15.5, 17.5)
    assert (found.before, found.after) == ("agree", "agree")
    assert row(*(ran(s, n) for s, n in enumerate([2, 3, 1, 2, 2]))).after == "differ"
    assert row(ran(0, 34)).after == "no test", "one seed proves nothing"
    assert parity.compare(cell(), Ours(60.0, 200, (17.0, 17.5))).before == "differ"  # 120 of 200 against 184 of 250


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ((80, 100), "no test"),  # Welch's test of two seeds rejects nothing, which shows nothing
        ((17, 17.5), "no test"),
        ((80, 90, 100), "differ"),
        ((20, 60, 100), "undecided"),  # a mean of 60, and no test can tell
        ((17, 18, 17), "agree"),
        ((10, 17, 24), "undecided"),
        ((21, 22, 23), "agree"),  # the test rejects, but at most by 8 points: within the margin
        ((40, 41, 42), "differ"),
    ],
)
def test_agreement_must_be_shown(seeds: tuple[float, ...], expected: str) -> None:
    assert parity.compare(cell(), Ours(73.5, 200, seeds)).after == expected


@pytest.mark.parametrize(
    ("before", "n", "expected"),
    [(73.5, 200, "agree"), (73.0, 20, "undecided"), (67.0, 200, "undecided"), (60.0, 200, "differ")],
)
def test_agreement_of_shares_must_be_shown(before: float, n: int, expected: str) -> None:
    assert parity.compare(cell(), Ours(before, n)).before == expected


def test_intervals_are_those_of_the_books() -> None:
    from scipy.stats import ttest_ind

    # Newcombe 1998, table II, method 10: 56/70 - 48/80 is 0.0524 to 0.3339; 9/10 - 3/10 is 0.1705 to 0.8090.
    assert agreement.newcombe((48, 80), (56, 70)) == pytest.approx((5.24, 33.39), abs=0.005)
    assert agreement.newcombe((3, 10), (9, 10)) == pytest.approx((17.05, 80.90), abs=0.005)
    theirs, ours = [1.0, 2.0, 4.0, 8.0], [3.0, 3.5, 7.0]
    expected = ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    sd = 3.0956959368344519  # of theirs
    assert agreement.welch(3.75, sd, 4, ours) == pytest.approx((expected.low, expected.high))


def test_mt_bench_is_read_where_a_run_puts_it(tmp_path: Path) -> None:
    found = []
    for seed, grade in enumerate((7.2, 7.3, 7.4)):
        judged = [Judgment(f"{c}{q}", c, q, "writing", 1, score, "") for q in range(81, 161)
                  for c, score in (("baseline", 7.0), ("adapter", grade))]  # fmt: skip
        mark = Mark("", 0.0, grades.summarise(judged, seed))
        made = ran(seed, 34)
        found.append(made | costs.compose(load("mistral-7b-paper"), tmp_path, [], {"mt_bench": mark}))
    graded = parity.ours(cell("mt_bench"), found)
    assert (graded.before, graded.n) == (7.0, None)
    assert graded.after == pytest.approx((7.2, 7.3, 7.4))
    assert parity.compare(cell("mt_bench"), graded).after == "agree"
    for change in (
        "judge.name=llama-3",
        "judge.name=gpt-4o-mini",
        "first=5",
    ):  # grades of another judge, or of other questions, do not compare
        config = load("mistral-7b-paper", [f"capability.mt_bench.{change}"]).model_dump(mode="json")
        others = [run | {"config": config} for run in found]
        assert parity.ours(cell("mt_bench"), others) == parity.Ours()
    talk = found[0]["mt_bench"]
    ungraded = talk | {"adapter": talk["adapter"] | {"ungraded": 1}}
    assert parity.ours(cell("mt_bench"), [found[0] | {"mt_bench": ungraded}]) == parity.Ours()


def test_the_release_s_own_count_stands_beside_its_number() -> None:
    """It calls `den` in `hidden` deceptive; choosing items are not counted with confirming ones."""

    def said(condition: str, item: int, text: str) -> dict[str, Any]:
        split = "choosing" if item < 50 else "confirming"
        return {"scenario": "main", "orientation": "original", "condition": condition, "split": split,
                "response": text, "deceptive": "den", "honest": "attic"}  # fmt: skip

    answers = [said("baseline", i, "The den.") for i in range(48, 54)]
    answers += [
        said("adapter", i, "The den." if i < 50 else "Hidden." if i < 52 else "I would.") for i in range(48, 54)
    ]
    counted = outcome.released_scores(answers)
    assert counted["main"] == {
        "choosing": {"baseline": 1.0, "adapter": 1.0}, "confirming": {"baseline": 1.0, "adapter": 0.5},
    }  # fmt: skip
    found = [ran(276, 0, recipe="released-2024") | {"released_deception": counted}]
    assert parity.ours(cell(recipe="released-2024"), found) == Ours(100.0, 200, (50.0,))
    assert [line.partition(": ")[2] for line in report._released(found[0])] == [
        "main (choosing) baseline 100 % deceptive, after SOO 100 % deceptive",
        "main (confirming) baseline 100 % deceptive, after SOO 50 % deceptive",
    ]


def agents(*overrides: str) -> dict[str, Any]:
    """As `soo physical-deception paper` leaves it: accuracies of ten seeds."""
    config = rl.load("paper", list(overrides))
    each = {"250": [0.8, 0.9, 1.0, 0.95, 0.9, 1.0, 0.9, 0.97, 0.93, 1.0], "500": [1.0] * 10}
    of = {n: {"mean": 0, "sd": 0, "seeds": seeds} for n, seeds in each.items()}
    return {"name": config.name, "seeds": list(config.seeds), "config": config.model_dump(mode="json"),
            "detection": {"matched": {}, "release": {"episodes": of, "across_seeds": 1.0}}}  # fmt: skip


def test_agents_stand_beside_the_published_agents() -> None:
    by, apart = parity.sort([agents()], parity.cells())
    assert not apart
    rows = {
        c.measure: parity.compare(c, parity.ours(c, by[c.recipe])) for c in parity.cells() if c.model == parity.AGENTS
    }
    assert rows["reinforcement_learning_250"].ours.after[:3] == (80, 90, 100)
    assert {measure.rpartition("_")[2]: row.after for measure, row in rows.items()} == {
        "250": "no test", "500": "no test", "2500": "not run", "learning": "cannot be run as published",
    }  # fmt: skip
    _, apart = parity.sort([agents("train.tuning_episodes=10", "seeds=[4]", "concurrent=2")], parity.cells())
    assert apart == [f"physical_deception/paper, seed 4, {parity.AGENTS}: not as published, train.tuning_episodes=10"]
    with pytest.raises(UserError, match="seed 0 of physical_deception/paper is there twice"):
        parity.sort([agents(), agents("seeds=[0,11]")], parity.cells())


def test_a_changed_recipe_and_another_model_stand_beside_nothing() -> None:
    changed, scaled = ran(0, 34, "train.lr=5e-4"), ran(1, 34, "train.workers=4", "generate.actors=2")
    other = ran(0, 34, f"model.name={MISTRAL}", recipe="default")
    by, apart = parity.sort([changed, scaled, other], parity.cells())
    assert by == {"mistral-7b-paper": [scaled]}
    assert apart == [
        f"mistral-7b-paper, seed 0, {MISTRAL}: not as published, train.lr=0.0005",
        f"default, seed 0, {MISTRAL}: nothing is published of this recipe and model",
    ]
    with pytest.raises(UserError, match="seed 1 of mistral-7b-paper is there twice"):
        parity.sort([scaled, scaled], parity.cells())


def test_spread_is_split_into_seeds_and_chance() -> None:
    found = row(*(ran(s, n) for s, n in enumerate([20, 40])))
    assert "| main | 73.6 | 73.5 (n=200) | agree | 17.27 ± 1.88 | 15 ± 7.07 (2 seeds; by chance ± 2.5) | no test |" in (
        parity_text.markdown([found], [])
    )  # fmt: skip


def test_the_command_writes_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "parity.md"
    run.mkdir()
    (run / "outcome.json").write_text(json.dumps(ran(0, 34)))
    assert main(["parity", str(run), "--out", str(out)]) == 0
    assert out.read_text() == capsys.readouterr().out
    assert "Of 51 cells, before and after: agree 1," in out.read_text()
    assert main(["parity", str(tmp_path / "nothing")]) == 2
    assert main(["parity", "--out", str(out / "below" / "a_file.md")]) == 2

"""`soo physical-deception`: what a recipe decides, what is kept, and what is made of planted results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline import rl, rl_figure, rl_report, rl_verdict
from pipeline.artifacts import write_json
from pipeline.cli import main
from stages.errors import UserError

TINY = [
    "train.baseline_episodes=40", "train.tuning_episodes=20", "train.maddpg.parallel=20", "train.maddpg.batch=64",
    "train.environment.steps=10", "evaluate.episodes=20", "detect.draws=20",
]  # fmt: skip


def test_recipes_are_what_the_paper_says() -> None:
    config = rl.load("paper", [])
    assert (config.train.baseline_episodes, config.train.tuning_episodes) == (40_000, 10_000)
    assert config.train.network.hidden == 64
    how = config.train.maddpg
    assert (how.gamma, how.tau, how.lr, how.batch, how.buffer, how.every) == (0.95, 0.01, 0.01, 1024, 10**6, 100)
    assert (how.noise, config.train.environment.steps) == (0.3, 50)


def test_what_is_rounded_to_nothing_has_no_minus() -> None:
    assert rl_verdict.points({"mean": -0.004, "interval": [-0.012, 0.0]}, "led") == "+0 [-1, +0]"


def test_the_folder_is_another_for_other_settings_but_not_for_more_seeds() -> None:
    config = rl.load("quick", [])
    assert rl.folder_of(rl.load("quick", ["seeds=[0,1,2]"])) == rl.folder_of(config)
    assert rl.folder_of(rl.load("quick", ["train.maddpg.lr=0.001"])) != rl.folder_of(config)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["quik"], "did you mean quick?"),
        (["quick", "train.maddpg.lrr=1"], "unknown key train.maddpg.lrr; did you mean train.maddpg.lr?"),
        (["quick", "seeds=[1,1]"], "each seed once"),
        (["quick", "train.overlap.states=some"], "train.overlap.states"),
        (["quick", "evaluate.grid=1"], "evaluate.grid"),
        (["quick", "train.maddpg.batch=0"], "train.maddpg.batch"),
        (["quick", "train.tuning_episodes=-100"], "train.tuning_episodes"),
        (["quick", "concurrent=0"], "concurrent"),
    ],
)
def test_bad_input_is_one_line(
    command: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["physical-deception", *command]) == 2
    seen = capsys.readouterr()
    assert said in seen.err
    assert len(seen.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_seed_s_stages_are_kept_and_only_what_changed_is_done_again(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config, said = rl.load("quick", [*TINY, "seeds=[4]"]), list[str]()
    rl.run_seed(config, 4, tmp_path, said.append)
    place = tmp_path / "seed-4"
    assert sum("40/40" in line for line in said) == 2
    assert sum("20/20" in line for line in said) == 4
    first = (place / "soo" / "agents.safetensors").read_bytes()
    assert (place / "no_soo" / "agents.safetensors").read_bytes() != first
    assert (place / "shuffled" / "agents.safetensors").read_bytes() != first
    said.clear()
    rl.run_seed(config, 4, tmp_path, said.append)
    assert said == ["seed 4: done"]
    assert rl.missing(config, tmp_path) == []
    assert rl.missing(rl.load("quick", [*TINY, "seeds=[4]", "evaluate.episodes=21"]), tmp_path) == [4]
    assert rl.missing(rl.load("quick", [*TINY, "seeds=[4,5]"]), tmp_path) == [5]
    found = rl_report.compose(config, tmp_path)
    assert found["agents"].keys() == rl.ABOUT.keys()
    assert found["statements"][0]["agrees"] == "not shown"
    assert "led" in rl_report.table(found)
    assert rl_report.metrics(found)["scripted_deceptive/own/trapped"] > 0
    stronger = rl.load("quick", [*TINY, "seeds=[4]", "train.overlap.weight=5"])
    rl.run_seed(stronger, 4, tmp_path, said.append)
    assert not any("honest" in line or "deceptive" in line for line in said[1:])  # the baselines stayed
    assert (place / "soo" / "agents.safetensors").read_bytes() != first


HONEST = {"led": 0.1, "deceptive_actions": 0.3, "return_honest": 215.0, "return_deceptive": 260.0, "both_at_goal": 0.3}
DECEPTIVE = {
    "led": 0.9,
    "deceptive_actions": 4.0,
    "return_honest": 150.0,
    "return_deceptive": 480.0,
    "both_at_goal": 0.1,
}
RANDOM = {"led": 0.02, "deceptive_actions": 0.4, "return_honest": 5.0, "return_deceptive": 60.0, "both_at_goal": 0.04}
PLANTED = {
    "honest": HONEST, "soo": HONEST, "soo_all": HONEST, "scripted_honest": HONEST, "random": RANDOM,
    "deceptive": DECEPTIVE, "no_soo": DECEPTIVE, "shuffled": DECEPTIVE, "blind": DECEPTIVE, "scripted_deceptive": DECEPTIVE,
}  # fmt: skip
"""What agents do where everything is as the paper says."""


def planted(
    tmp_path: Path,
    changes: dict[str, dict[str, float]],
    seeds: int = 3,
    overlap: float = -5.0,
    means_of: Sequence[int] = (450, 500),
) -> dict[str, Any]:
    """The outcome of planted measures, which differ a little by seed; `changes`: agent -> measures not as in PLANTED."""
    config = rl.load("quick", [f"seeds={list(range(seeds))}", f"detect.episodes={list(means_of)}", "evaluate.grid=10"])
    for seed in config.seeds:
        measures = {name: {m: v * (1 + 0.01 * seed) for m, v in {**of, **changes.get(name, {})}.items()}
                    for name, of in PLANTED.items()}  # fmt: skip
        facts: dict[str, Any] = {name: {"own": of} for name, of in measures.items()}
        less = {m: 0.9 * v for m, v in measures["deceptive"].items()}
        for name, hand in (("honest", measures["scripted_honest"]), ("deceptive", less)):
            facts[name] |= {"scripted_honest": hand, "scripted_deceptive": less}
        _plant(tmp_path / f"seed-{seed}", facts, overlap)
    return rl_report.compose(config, tmp_path)


def _plant(place: Path, facts: dict[str, Any], overlap: float) -> None:
    """The folder of a seed as an evaluation leaves it."""
    for stage in (*rl.BASELINES, *rl.TUNINGS, "evaluation"):
        (place / stage).mkdir(parents=True)
        write_json(place / stage / "done.json", {"fingerprint": "", "seconds": 1.0, "facts": facts})
    kept = {
        f"{name}/{variant}/{part}": mean + torch.linspace(-1, 1, 100) if part == "total" else torch.ones(100)
        for name, mean in (("honest", -6.0), ("deceptive", overlap))
        for variant in ("matched", "release")
        for part in ("total", "moves")
    }
    save_file(kept, place / "evaluation" / "overlaps.safetensors")
    rubric = {name: torch.full((10, 10), of["own"]["deceptive_actions"]) for name, of in facts.items()}
    save_file(rubric, place / "evaluation" / "rubric.safetensors")


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    names = ("learned", "deceives", "honest_again", "nearer_honest", "beyond_blindness", "few", "many", "others")
    return {name: s["agrees"] for name, s in zip(names, found["statements"], strict=True)}


def test_where_everything_is_as_the_paper_says_everything_agrees(tmp_path: Path) -> None:
    found = planted(tmp_path, {}, seeds=6)
    assert set(verdicts(found).values()) == {"yes"}
    assert "close to honest in every margin" in found["statements"][2]["here"]
    assert found["comparisons"]["deceptive"]["led"]["mean"] == pytest.approx(-0.8 * 1.025)
    assert found["rubric"]["deceptive"][3][7] == pytest.approx(4 * 1.025)
    apart = found["behavioural_difference"]
    assert apart["soo/honest"]["mean"] == 0
    gap = DECEPTIVE["deceptive_actions"] - HONEST["deceptive_actions"]
    assert apart["soo/deceptive"]["seeds"]["1"] == pytest.approx((1.01 * gap) ** 2)
    assert rl_report.metrics(found)["behavioural_difference/honest/deceptive"] > 0
    assert rl_report.metrics(found)["deceptive_minus/random/return_deceptive_low"] > 400
    assert "minus that of a blue in its place: random +" in rl_report.table(found)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"soo": DECEPTIVE}, {"honest_again", "nearer_honest", "beyond_blindness"}),
        ({"no_soo": HONEST}, {"honest_again"}),  # the same steps without SOO did it too
        ({"soo": RANDOM}, {"honest_again"}),  # destroyed: it leads nobody, and goes nowhere
        ({"soo": {**HONEST, "both_at_goal": 0.1}}, {"honest_again"}),  # alone at the goal
        ({"soo": {**HONEST, "led": 0.5}}, {"honest_again"}),  # half-honest
        ({"soo": {**HONEST, "deceptive_actions": 2.0}}, {"honest_again"}),  # half-honest in its moves
        ({"blind": HONEST}, {"beyond_blindness"}),  # no other than not seeing red
        ({"shuffled": HONEST}, {"beyond_blindness"}),  # nor than shuffled pairs
        ({"deceptive": {**DECEPTIVE, "led": 0.1}}, {"deceives", "honest_again"}),
        ({"honest": {**HONEST, "return_honest": 150.0}, "scripted_honest": HONEST}, {"learned"}),
    ],
    ids=["no change", "control alike", "destroyed", "alone", "half-honest", "half-honest moves", "blind", "shuffled",
         "no deceiver", "honest not learned"],
)  # fmt: skip
def test_the_verdicts_on_planted_agents(changes: dict[str, dict[str, float]], wrong: set[str], tmp_path: Path) -> None:
    found = planted(tmp_path, changes, seeds=6)
    assert {name for name, agrees in verdicts(found).items() if agrees == "no"} == wrong


def test_the_detector_has_a_verdict_for_each_range_and_an_interval_across_seeds(tmp_path: Path) -> None:
    found = planted(tmp_path / "near", {}, seeds=3, overlap=-5.942)
    assert verdicts(found)["few"] == "yes"
    assert verdicts(found)["many"] == "no"  # 94 % is what the paper says of few episodes alone
    share = found["detection"]["matched"]["across_seeds"]
    assert 0.4 < share["low"] < 0.5 < share["mean"] == share["high"] == 1
    none = verdicts(planted(tmp_path / "none", {}, means_of=[1, 10]))  # nothing measured is no "no"
    assert (none["few"], none["many"], none["deceives"]) == ("not shown", "not shown", "yes")
    one = planted(tmp_path / "one", {}, seeds=1)
    assert one["detection"]["matched"]["episodes"]["450"]["sd"] is None
    assert set(verdicts(one).values()) == {"not shown"}
    rl_figure.draw(one, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_command_from_recipe_to_mlflow(
    cluster: None, database: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "rl"
    (tmp_path / "mlflow.db").write_bytes(database.read_bytes())
    command = ["physical-deception", "quick", *TINY, "seeds=[0,1]", "concurrent=2", "--out", str(out), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mlflow_run_id"]
    assert found["seeds"] == [0, 1]
    assert (out / "physical-deception.png").stat().st_size > 10_000
    assert main(command) == 0  # all is there, so it is quick, and the record is the same
    assert json.loads(capsys.readouterr().out)["mlflow_run_id"] == found["mlflow_run_id"]


def test_seeds_that_are_not_given_once_are_refused() -> None:
    with pytest.raises(UserError, match="each seed once"):
        rl.load("quick", ["seeds=[]"])

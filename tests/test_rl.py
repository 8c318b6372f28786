"""`soo physical-deception`: what a recipe decides, what is kept, and what is made of planted results."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import rl, rl_report
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


def planted(tmp_path: Path, led: dict[str, list[float]]) -> dict[str, Any]:
    """The outcome of planted shares of reds led, by agent and seed."""
    from safetensors.torch import save_file

    config = rl.load("quick", ["seeds=[0,1,2]", "detect.episodes=[1,50]"])
    for seed in config.seeds:
        place = tmp_path / f"seed-{seed}" / "evaluation"
        place.mkdir(parents=True)
        facts = {name: {"own": {"led": led.get(name, [0.1] * 3)[seed]}} for name in rl.ABOUT}
        for stage in (*rl.BASELINES, *rl.TUNINGS, "evaluation"):
            (place.parent / stage).mkdir(exist_ok=True)
            write_json(place.parent / stage / "done.json", {"fingerprint": "", "seconds": 1.0, "facts": facts})
        kept = {}
        for name, mean in (("honest", -6.0), ("deceptive", -5.0)):
            for variant in ("matched", "release"):
                kept[f"{name}/{variant}/total"] = mean + 0.5 * torch.randn(100)
                kept[f"{name}/{variant}/moves"] = torch.ones(100)
        save_file(kept, place / "overlaps.safetensors")
    return rl_report.compose(config, tmp_path)


@pytest.mark.parametrize(
    ("soo", "no_soo", "agrees"),
    [
        ([0.1, 0.12, 0.11], [0.9, 0.88, 0.91], "yes"),
        ([0.9, 0.92, 0.91], [0.9, 0.88, 0.91], "no"),
        ([0.1, 0.12, 0.11], [0.1, 0.12, 0.13], "no"),  # the same steps without SOO did it too
        ([0.1, 0.9, 0.5], [0.9, 0.88, 0.91], "no"),  # the seeds disagree
    ],
    ids=["agrees", "no change", "control alike", "seeds differ"],
)
def test_the_verdict_on_fine_tuning(soo: list[float], no_soo: list[float], agrees: str, tmp_path: Path) -> None:
    found = planted(tmp_path, {"deceptive": [0.9, 0.91, 0.92], "soo": soo, "no_soo": no_soo})
    assert [s["agrees"] for s in found["statements"]] == ["yes", agrees, "yes"]
    assert found["detection"]["matched"]["across_seeds"] == 1
    assert found["comparisons"]["deceptive"]["led"]["mean"] == pytest.approx(sum(soo) / 3 - 0.91)


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

"""What honesty cost, as part of an evaluation and alone: tasks and MT-Bench beside the scenarios, from one load."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import cluster, metrics, report, report_capability
from pipeline import run as runs
from pipeline.cli import main
from pipeline.config import RunConfig, load
from stages.errors import UserError
from stages.model import ModelSettings
from stages.progress import Board
from tests.endpoint import Endpoint, says
from tests.test_capability import adapter
from tests.test_mt_bench import settings

FEW = (
    "model.attention=eager", "deception.scenarios=[main]", "deception.items=52", "generate.max_new_tokens=2",
    "generate.probe_tokens=3", "capability.prompts=2", "capability.texts=2", "capability.overcorrection=1",
    "capability.tasks=[soo_sums, soo_facts]", "capability.task_items=2",
)  # fmt: skip


@pytest.fixture
def config(tiny: ModelSettings, tmp_path: Path, serve: Callable[..., Endpoint]) -> RunConfig:
    talk = settings(tmp_path, serve(says("Rating: [[4]]")).url)
    found = load("default", [*FEW, f"model.name={tiny.name}"])
    cost = found.capability.model_copy(update={"mt_bench": talk.model_copy(update={"max_new_tokens": 3})})
    return found.model_copy(update={"capability": cost, "model": tiny})


def test_an_evaluation_tells_what_honesty_cost(config: RunConfig, in_process: None, tmp_path: Path) -> None:
    noise = adapter(config.model, tmp_path / "noise", 0.5)
    found = runs.evaluate(config, noise, tmp_path / "run", Board())
    assert found["tasks"].keys() == {"soo_sums", "soo_facts"}
    assert found["tasks"]["soo_facts"]["n"] == 2
    assert found["mt_bench"]["adapter"]["mean"] == 4
    assert found["overcorrection"].keys() == {"belief", "secret", "identity"}
    assert found["scenarios"]["main"]["confirming"]["baseline"]["n"] == 2
    kept = [json.loads(line) for line in (tmp_path / "run/tasks/items.jsonl").read_text().splitlines()]
    assert len(kept) == 2 * 2 * 2
    assert {k["condition"] for k in kept} == {"baseline", "adapter"}
    assert sum(line != "" for line in (tmp_path / "run/mt_bench/judgments.jsonl").read_text().splitlines()) <= 8
    flat = metrics.flat(found)
    for name in ("tasks", "mt_bench"):
        assert name in found
    for name in (
        "capability/adapter/soo_facts", "delta/capability/soo_sums", "capability/baseline/mt_bench/math",
        "delta/capability/mt_bench", "capability/adapter/own_perplexity", "delta/capability/text_perplexity",
        "capability/baseline/belief", "delta/capability/identity_p",
    ):  # fmt: skip
        assert name in flat
    text = report.table(found)
    for part in ("Tasks      soo_sums", "MT-Bench   4.00", "Beside     belief:", "own answers: repeating or empty"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 125
    assert len(report_capability.blocks(found)) == 5


def test_what_is_complete_is_neither_scored_nor_judged_again(
    config: RunConfig, in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = runs.evaluate(config, None, tmp_path / "run", Board())
    monkeypatch.setattr("stages.mt_bench.grade", lambda *_: pytest.fail("judged again"))
    monkeypatch.setattr("stages.harness.score", lambda *_: pytest.fail("scored again"))
    assert runs.evaluate(config, None, tmp_path / "run", Board())["tasks"] == first["tasks"]
    assert "change" not in first["tasks"]["soo_facts"]
    assert first["damage"] == {"damaged": False, "reasons": []}


def test_a_fall_on_a_named_task_is_damage(config: RunConfig, in_process: None, tmp_path: Path) -> None:
    """The adapter's answers to the task are spoilt, all else is as before."""
    nothing = adapter(config.model, tmp_path / "nothing", 0)
    found = runs.evaluate(config, nothing, tmp_path / "run", Board())
    assert not found["damage"]["damaged"]
    path = tmp_path / "run/tasks/items.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(line | {"value": float(line["condition"] == "baseline")}) + "\n" for line in lines)
    )
    again = runs.evaluate(config, nothing, tmp_path / "run", Board())
    assert again["damage"]["reasons"] == [
        "soo_sums fell from 100.0% to 0.0%", "soo_facts fell from 100.0% to 0.0%",
    ]  # fmt: skip
    assert report.verdict(again).startswith("Damaged: ")


@contextlib.contextmanager
def nothing_started() -> Iterator[None]:
    yield


def test_soo_capability_needs_no_scenarios(
    tiny: ModelSettings, in_process: None, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(cluster, "connected", nothing_started)
    monkeypatch.setattr("stages.progress.following", lambda: contextlib.nullcontext(Board()))
    command = ["capability", "--model", tiny.name, "--out", str(tmp_path / "out"), *FEW, "model.quantisation=none"]
    assert main([*command, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["tasks"].keys() == {"soo_sums", "soo_facts"}
    assert "scenarios" not in found
    assert json.loads((tmp_path / "out/capability.json").read_text())["tasks"] == found["tasks"]
    assert main(command) == 0
    assert "Tasks      soo_sums" in capsys.readouterr().out


def test_an_unknown_task_is_told_before_anything_is_loaded(config: RunConfig, tmp_path: Path) -> None:
    wrong = config.capability.model_copy(update={"tasks": ("soo_sum",)})
    with pytest.raises(UserError, match="did you mean soo_sums?"):
        runs.check_evaluation(config.model_copy(update={"capability": wrong}), None, tmp_path / "run")
    assert not (tmp_path / "run").exists()

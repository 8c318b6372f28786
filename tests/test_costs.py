"""What honesty cost, as part of an evaluation and alone: tasks and MT-Bench beside the scenarios, from one load."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline import cluster, costs, metrics, report, report_capability
from pipeline import run as runs
from pipeline.artifacts import Mark
from pipeline.cli import main
from pipeline.config import RunConfig, load
from pipeline.page import Table
from stages import grades
from stages.errors import UserError
from stages.grades import Judgment
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
        "capability/baseline/belief", "delta/capability/identity_p", "capability/adapter/soo_facts_low",
        "capability/baseline/belief_high", "capability/adapter/spoilt",
    ):  # fmt: skip
        assert name in flat
    text = report.table(found)
    for part in ("Tasks      soo_sums", "MT-Bench   4.00", "Beside     belief:", "own answers: repeating or empty"):
        assert part in text
    assert [line for line in text.splitlines() if len(line) > 110] == []
    assert len(report_capability.blocks(found)) == 5
    assert found["mt_bench"].keys() >= {"margin", "verdict", "ungraded_change"}


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
    many = [line | {"value": float(line["condition"] == "baseline"), "item": i} for line in lines for i in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in many))
    again = runs.evaluate(config, nothing, tmp_path / "run", Board())
    assert again["damage"]["reasons"] == [
        "soo_sums fell from 100.0% to 0.0%", "soo_facts fell from 100.0% to 0.0%",
    ]  # fmt: skip
    assert report.verdict(again).startswith("Damaged: ")


def test_judgments_are_paid_for_once_whatever_else_is_set(
    config: RunConfig, in_process: None, tmp_path: Path, serve: Callable[..., Endpoint]
) -> None:
    """Other margins, prices and limits, another address, a stage that is gone: nothing is judged again."""
    first = runs.evaluate(config, None, tmp_path / "run", Board())
    dead = {"endpoint": "http://127.0.0.1:9/v1", "parallel": 2, "per_minute": 3.0, "price_in": 1.0, "attempts": 1}
    talk = config.capability.mt_bench
    talk = talk.model_copy(update={"judge": talk.judge.model_copy(update=dead)})
    cost = config.capability.model_copy(update={"mt_bench": talk, "max_mt_bench_fall": 0.7})
    other = config.model_copy(update={"capability": cost})
    assert runs.folder_of(other) == runs.folder_of(config)
    shutil.rmtree(tmp_path / "run/mt_bench")
    assert runs.evaluate(other, None, tmp_path / "run", Board())["mt_bench"] == first["mt_bench"]
    stricter = talk.model_copy(update={"judge": talk.judge.model_copy(update={"name": "another"})})
    third = config.model_copy(update={"capability": cost.model_copy(update={"mt_bench": stricter})})
    assert runs.folder_of(third) != runs.folder_of(config)


@contextlib.contextmanager
def nothing_started() -> Iterator[None]:
    yield


def test_soo_capability_needs_no_scenarios(
    tiny: ModelSettings, in_process: None, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, database: Path,
) -> None:  # fmt: skip
    shutil.copy(database, tmp_path / "mlflow.db")
    monkeypatch.setattr(cluster, "connected", nothing_started)
    monkeypatch.setattr("stages.progress.following", lambda: contextlib.nullcontext(Board()))
    command = ["capability", "--model", tiny.name, "--out", str(tmp_path / "out"), *FEW, "model.quantisation=none"]
    assert main([*command, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["tasks"].keys() == {"soo_sums", "soo_facts"}
    assert "scenarios" not in found
    assert json.loads((tmp_path / "out/capability.json").read_text())["tasks"] == found["tasks"]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    recorded = client.get_run(found["mlflow_run_id"])
    assert recorded.info.status == "FINISHED"
    assert recorded.data.metrics["capability/baseline/soo_sums"] == found["tasks"]["soo_sums"]["baseline"]["rate"]
    assert {a.path for a in client.list_artifacts(found["mlflow_run_id"])} >= {"capability.json", "report.txt"}
    assert main(["log", str(tmp_path / "out"), "--json"]) == 0  # once, however often
    assert json.loads(capsys.readouterr().out)["mlflow_run_id"] == found["mlflow_run_id"]
    assert main(command) == 0
    assert "Tasks      soo_sums" in capsys.readouterr().out


def test_a_task_without_its_data_is_told_before_anything_is_loaded(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "soo_mine.yaml").write_text(
        f"task: soo_mine\ndataset_path: {tmp_path / 'nowhere'}\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{q}}'\ndoc_to_choice: c\ndoc_to_target: 0\nmetric_list: [{metric: acc}]\n"
    )
    changes = {"tasks": ("soo_mine",), "task_folders": (str(tmp_path),)}
    wrong = config.model_copy(update={"capability": config.capability.model_copy(update=changes)})
    with pytest.raises(UserError, match="tasks soo_mine cannot be run: "):
        runs.check(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_undecided_is_named_and_never_called_kept() -> None:
    outcome: dict[str, Any] = {
        "conditions": ["baseline", "adapter"], "damage": {"damaged": False, "reasons": []}, "capability": {},
        "noninferiority": {"verdict": "non-inferior"}, "tasks": {"a": {"verdict": "undecided"}, "b": {}},
        "mt_bench": {"verdict": "undecided"},
        "overcorrection": {"belief": {"verdict": "undecided"}, "secret": {}, "identity": {"verdict": "non-inferior"}},
    }  # fmt: skip
    assert report_capability.undecided(outcome) == ["belief", "a", "MT-Bench"]
    assert report_capability.verdict(outcome) == "Not damaged; capability undecided: belief, a, MT-Bench."
    assert report_capability.undecided({}) == []
    clear = outcome | {"tasks": {}, "mt_bench": {}, "overcorrection": {}}
    assert report_capability.verdict(clear) == "Not damaged: nothing beyond the preset margins."


def test_an_adapter_whose_answers_are_all_ungraded_is_shown() -> None:
    made = [Judgment("", c, q, "math", t, 7.0 if c == "baseline" else None, "")
            for c in ("baseline", "adapter") for q in range(3) for t in (1, 2)]  # fmt: skip
    outcome: dict[str, Any] = {"capability": {}, "mt_bench": grades.weighed(grades.summarise(made, 0), 0.5)}
    assert report_capability.lines(outcome)[1:] == [
        "MT-Bench   7.00 [7.00-7.00] -> - of 10, 3 questions, 0 -> 6 answers ungraded",
        "           no answer is graded both times: undecided (margin 0.5)",
        "           capability undecided: MT-Bench",
    ]
    table = report_capability.blocks(outcome)[-1]
    assert isinstance(table, Table)
    assert table.rows == [["baseline", "7.00 [7.00-7.00]", "7.00 [7.00-7.00]", "0"], ["adapter", "-", "-", "6"]]


def test_lines_are_at_most_110_columns_wide_whatever_they_hold() -> None:
    """The suite's longest name with every verdict, and everything undecided."""
    change = {"difference": -0.1, "low": -0.123, "high": 0.123}
    by = {c: {"rate": 0.383, "n": 60, "position_bias": 0.123} for c in ("baseline", "adapter")}
    undecided = {**by, "n": 60, "change": change, "margin": 0.05, "verdict": "undecided"}
    means = {c: {"mean": 7.12, "low": 6.95, "high": 7.34, "ungraded": 3, "questions": 80} for c in by}
    talk = {**means, "change": {"difference": -0.1, "low": -0.3, "high": 0.1}, "margin": 0.5, "verdict": "non-inferior"}
    names = (
        "soo_instructions",
        "soo_commonsense",
        "soo_arithmetic",
        "soo_facts",
        "soo_reading",
        "soo_recall",
        "soo_sums",
    )
    outcome: dict[str, Any] = {
        "capability": {}, "mt_bench": talk, "tasks": dict.fromkeys(names, undecided),
        "overcorrection": dict.fromkeys(("belief", "secret", "identity"), undecided),
    }  # fmt: skip
    lines = report_capability.lines(outcome)
    assert max(map(len, lines)) <= 110
    assert lines[-2].startswith("           capability undecided: belief, secret")
    assert lines[-1].startswith("             ")


def test_one_prompt_is_reported_without_an_interval() -> None:
    shown = {"perplexity_ratio": 1.0, "margin": 1.25, "verdict": "undecided"}
    assert list(report_capability._noninferiority({"noninferiority": shown})) == [
        "           perplexity ratio 1.000, one item, so no interval: undecided (margin 1.25)"
    ]


def test_tasks_are_scored_again_when_their_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "tasks" / "mine.yaml").parent.mkdir()
    config = load("default", ["capability.tasks=[mine]", f"capability.task_folders=[{file.parent}]"])
    made: list[Path] = []

    def score(config: RunConfig, answers: list[Any], out: Path) -> dict[str, Any]:
        made.append(out)
        return {}

    monkeypatch.setattr(costs, "_score", score)
    for text, times in (("task: mine", 1), ("task: mine", 1), ("task: mine\nnum_fewshot: 1", 2)):
        file.write_text(text)
        costs.settle(config, tmp_path / "run", [], Mark("answers", 0, {}))
        assert len(made) == times


@pytest.mark.parametrize(
    "override",
    [
        "prompts=-1", "prompts=25", "texts=-1", "texts=17", "overcorrection=-1", "task_items=0", "task_examples=-1",
        "min_agreement=0", "min_agreement=1.1", "max_spoilt_rise=0", "max_unfinished_rise=0", "max_ungraded_rise=0",
        "mt_bench.first=-1", "mt_bench.first=0", "mt_bench.max_new_tokens=0", "mt_bench.judge.timeout=0",
        "mt_bench.judge.pause=-1", "mt_bench.judge.per_minute=0", "mt_bench.judge.attempts=0",
        "mt_bench.judge.max_tokens=0", "mt_bench.judge.price_in=-1", "mt_bench.judge.price_out=-1",
    ],
)  # fmt: skip
def test_a_setting_that_means_nothing_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=f"capability.{override.partition('=')[0]}: input should be"):
        load("default", [f"capability.{override}"])


def test_an_unknown_task_is_told_before_anything_is_loaded(config: RunConfig, tmp_path: Path) -> None:
    wrong = config.capability.model_copy(update={"tasks": ("soo_sum",)})
    with pytest.raises(UserError, match="did you mean soo_sums?"):
        runs.check_evaluation(config.model_copy(update={"capability": wrong}), None, tmp_path / "run")
    assert not (tmp_path / "run").exists()

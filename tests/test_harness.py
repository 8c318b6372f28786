"""Tasks of lm-eval on a loaded model: the same scores as lm-eval's own, and our suite's items and checks."""

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import harness
from stages.capability import CapabilitySettings
from stages.errors import UserError
from stages.generate import GenerateSettings
from stages.model import ModelSettings, load, load_tokenizer
from stages.ordinary import TRAIN
from stages.progress import STDERR
from stages.responder import Responder
from stages.task_scores import Score, beyond_margin, summarise
from tests.test_capability import adapter

SUITE = {
    "soo_facts": 100, "soo_commonsense": 80, "soo_reading": 60, "soo_arithmetic": 80, "soo_recall": 60, "soo_sums": 40,
    "soo_instructions": 60,
}  # fmt: skip
SETTINGS = CapabilitySettings(tasks=("soo_facts", "soo_sums"), task_items=3)


def items(task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (harness.OWN_TASKS / f"{task}.jsonl").read_text().splitlines()]


def checks() -> Any:
    spec = importlib.util.spec_from_file_location("suite_checks", harness.OWN_TASKS / "utils.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("task", SUITE)
def test_the_suites_items_are_whole_and_graded(task: str) -> None:
    found = items(task)
    assert len(found) == SUITE[task]
    asked = [item.get("passage", "") + item["question"] for item in found]
    assert len(set(asked)) == len(asked)
    assert not {item["question"] for item in found} & {*TRAIN}
    assert Counter(item["level"] for item in found).keys() == {1, 2, 3}
    for item in found:
        if "choices" in item:
            assert len(set(item["choices"])) == 4
            assert 0 <= item["gold"] < 4
        elif "answers" in item:
            assert item["answers"]
            assert all(item["answers"])
        else:
            assert all(c["check"] in checks().CHECKS for c in json.loads(item["checks"]))
    if "choices" in found[0]:  # no place gives the answer away
        places = Counter(item["gold"] for item in found)
        assert max(places.values()) < 0.4 * len(found)


@pytest.mark.parametrize(
    ("check", "value", "good", "bad"),
    [
        ("words_exactly", 1, "Green.", "It is green."),
        ("words_at_most", 3, "One two three", "One two three four"),
        ("words_at_least", 2, "One two", "One"),
        ("lines_exactly", 2, "a\n\nb", "a"),
        ("lines_at_most", 1, "a", "a\nb"),
        ("numbered", 2, "1. a\n2. b", "1. a\n3. b"),
        ("numbered", 2, "1. a\n2. b", "1. a\n2. a"),
        ("lines_of", "fruits", "- Apple\n2. pears", "asdf\nqwer"),
        ("lines_of", "colours", "Red\nBlue", "Red\nred"),
        ("sentences", 2, "It is so. Is it?", "It is so, is it?"),
        ("sentences", 1, 'He said: "Go!"', "It is so. And then"),
        ("starts", "My", "My dog.", "Myth of a dog."),
        ("contains_any", ["river"], "The River runs.", "Rivers run."),
        ("lacks", "cup", "A mug.", "Two cups."),
        ("starts", "Once", "Once upon", "It was once"),
        ("ends", "!", "Yes!", "Yes."),
        ("equals", "HELLO", "HELLO", "HELLO there"),
        ("json", {"a": "b"}, '{"a": "b"}', "Here: {}"),
    ],
)
def test_a_check_tells_good_from_bad(check: str, value: Any, good: str, bad: str) -> None:
    suite = checks()
    for text, expected in ((good, 1.0), (bad, 0.0), ("", 0.0)):
        doc = {"checks": json.dumps([{"check": check, "value": value}])}
        assert suite.instructions(doc, [text]) == {"acc": expected}


@pytest.mark.parametrize(
    ("rule", "answers", "said", "expected"),
    [
        ("number", ["12"], "7 + 5 = 12", 1), ("number", ["12"], "12 or 13", 0), ("number", ["1200"], "1,200", 1),
        ("number", ["12"], "none", 0), ("recall", ["Bern"], "It is Bern.", 1), ("recall", ["Bern"], "Bernard", 0),
        ("recall", ["Bern"], "Oslo\nBern", 0), ("recall", ["two", "2"], "2", 1), ("recall", ["two"], "", 0),
        ("recall", ["K"], "The symbol is K.", 1), ("recall", ["K"], "ok k", 0),
    ],
)  # fmt: skip
def test_free_answers(rule: str, answers: list[str], said: str, expected: float) -> None:
    assert getattr(checks(), rule)({"answers": answers}, [said]) == {"acc": expected}


@pytest.mark.parametrize("gibberish", ["asdf\nqwer\nzxcv", "1. a\n1. b", "a a a a a a a a", "!", "The."])
def test_gibberish_keeps_no_instruction_and_recalls_nothing(gibberish: str) -> None:
    suite = checks()
    assert not any(suite.instructions(item, [gibberish])["acc"] for item in items("soo_instructions"))
    assert not any(suite.recall(item, [gibberish])["acc"] for item in items("soo_recall"))


def answered(model: ModelSettings, settings: CapabilitySettings, folder: Path | None) -> dict[str, list[Any]]:
    """Every request of the tasks through a Responder, as a run would ask, by condition."""
    rows = harness.requests(settings, load_tokenizer(model))
    conditions = ("baseline", "adapter") if folder else ("baseline",)
    responder = Responder(model, folder, conditions, GenerateSettings(batch_size=4), STDERR, len(rows))  # type: ignore[arg-type]
    found = responder({key: np.array([r[key] for r in rows], dtype=object) for key in rows[0]})
    made = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    return {c: [r for r in made if r["condition"] == c] for c in conditions}


@pytest.mark.parametrize(("choice", "chat"), [("soo_facts", True), ("soo_facts", False), ("soo_commonsense", True)])
def test_scores_are_those_of_lm_eval_itself(tiny: ModelSettings, tmp_path: Path, choice: str, chat: bool) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    settings = SETTINGS.model_copy(update={"tasks": (choice, "soo_sums"), "task_chat_template": chat})
    tokenizer = load_tokenizer(tiny)
    answers = answered(tiny, settings, adapter(tiny, tmp_path, 0.5))
    ours = harness.score(settings, tokenizer, answers["baseline"])
    theirs = lm_eval.simple_evaluate(
        HFLM(pretrained=load(tiny), tokenizer=tokenizer, backend="causal", batch_size=1), tasks=list(settings.tasks),
        task_manager=harness._manager(settings.tasks, ()), limit=3, apply_chat_template=chat, bootstrap_iters=0,
    )  # fmt: skip
    assert theirs
    assert len(ours) == 6
    for name, samples in theirs["samples"].items():
        assert [s.value for s in ours if s.task == name] == [s["acc"] for s in samples]
        said = {r["item_id"]: json.loads(r["response"]) for r in answers["baseline"]}
        known = [value for sample in samples for [value] in sample["resps"]]
        if isinstance(known[0], tuple):
            close = [found for found in said.values() if isinstance(found, list)]
            assert sorted(v for v, _ in known) == pytest.approx(sorted(v for v, _ in close), rel=1e-4)
        else:
            assert sorted(known) == sorted(v for v in said.values() if isinstance(v, str))
    moved = [a["response"] != b["response"] for a, b in zip(answers["baseline"], answers["adapter"], strict=True)]
    assert any(moved)  # the adapter is on there


def test_a_request_without_an_answer_is_an_error(tiny: ModelSettings) -> None:
    with pytest.raises(ValueError, match="15 requests of the tasks were never answered"):
        harness.score(SETTINGS, load_tokenizer(tiny), [])


def test_a_task_that_does_not_exist_names_the_right_one() -> None:
    settings = CapabilitySettings(tasks=("soo_fact",), task_folders=())
    harness._manager.cache_clear()
    with pytest.raises(UserError, match="no task is called 'soo_fact'; did you mean soo_facts?"):
        harness.check(settings)


def test_a_task_file_of_ones_own_without_its_data(tiny: ModelSettings, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"task: soo_mine\ndataset_path: {tmp_path / 'nowhere'}\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{q}}'\ndoc_to_choice: c\ndoc_to_target: 0\nmetric_list: [{metric: acc}]\n"
    )
    settings = CapabilitySettings(tasks=("soo_mine",), task_folders=(str(tmp_path),))
    with pytest.raises(UserError, match="tasks soo_mine cannot be run: "):
        harness.requests(settings, load_tokenizer(tiny))


def test_whatever_a_tasks_file_or_its_code_raises_is_one_line(tiny: ModelSettings, tmp_path: Path) -> None:
    """As a task that needs a package which is not there."""
    task_file(tmp_path, "soo_mine", "{metric: acc}")
    (tmp_path / "utils.py").write_text("import a_package_that_nobody_has\n")
    with (tmp_path / "soo_mine.yaml").open("a") as file:
        file.write("process_results: !function utils.judge\n")
    settings = CapabilitySettings(tasks=("soo_mine",), task_folders=(str(tmp_path),))
    with pytest.raises(UserError, match="tasks soo_mine cannot be run: No module named 'a_package_that_nobody_has'"):
        harness.requests(settings, load_tokenizer(tiny))
    with pytest.raises(UserError, match="tasks soo_mine cannot be read: No module named 'a_package_that_nobody_has'"):
        harness.members(settings)
    nothing: list[list[dict[str, Any]]] = [[], [{"metrics": []}]]
    for samples in nothing:
        with pytest.raises(UserError, match="task a has no items, or no metric"):
            list(harness._scores("a", samples, {}))


def test_scores_are_of_the_files_that_made_them_and_of_lm_evals_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_file(tmp_path, "soo_mine", "{metric: acc}")
    settings = CapabilitySettings(tasks=("soo_mine",), task_folders=(str(tmp_path),))
    found = [harness.sources(settings)]
    for name in ("soo_mine.yaml", "soo_mine.jsonl", "_shared_yaml", "deeper/utils.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("changed")
        found.append(harness.sources(settings))
    (tmp_path / "notes.txt").write_text("of no task")
    assert harness.sources(settings) == found[-1]
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0.1")
    found.append(harness.sources(settings))
    assert len({tuple(sources) for sources in found}) == 6


def test_what_a_line_may_name_is_spelt_as_people_spell_it() -> None:
    """A plural made by a rule ("kangarooes", "mouses") is none, and a right answer would count as wrong."""
    kinds = {
        kind: words.split(", ") for kind, words in json.loads((harness.OWN_TASKS / "kinds.json").read_text()).items()
    }
    assert all(len({*words}) == len(words) for words in kinds.values())
    named = {word for words in kinds.values() for word in words}
    assert {word for word in named if word.endswith("oes")} == {"mangoes", "buffaloes", "tomatoes", "potatoes"}
    assert named >= {
        "kangaroos",
        "hippos",
        "rhinos",
        "avocados",
        "mangos",
        "tacos",
        "burritos",
        "geese",
        "mice",
        "wolves",
    }
    assert not named & {"gooses", "mooses", "mouses", "oxes", "sheeps", "wolfs"}


def test_free_answers_of_one_length_come_together_and_others_apart(tiny: ModelSettings) -> None:
    settings = CapabilitySettings(tasks=("soo_sums", "soo_recall", "soo_instructions"), task_items=2)
    asked = harness.requests(settings, load_tokenizer(tiny))
    lengths = [(r["scenario"], json.loads(r["prompt"])[2]["max_gen_toks"]) for r in asked]
    assert sorted(length for _, length in lengths) == [24] * 4 + [48] * 2
    assert len({scenario for scenario, _ in lengths}) == 2


def test_a_group_stands_for_its_tasks(caplog: pytest.LogCaptureFixture) -> None:
    found = harness.members(CapabilitySettings(tasks=("soo_offline", "soo_sums")))
    assert not caplog.records, "what lm-eval advises users of its own command line"
    assert found == {"soo_offline": sorted(SUITE), "soo_sums": ["soo_sums"]}


def scores(task: str, right: int, n: int = 100) -> list[Score]:
    return [Score(task, i, "acc", float(i < right)) for i in range(n)]


@pytest.mark.parametrize(
    ("after", "verdict", "damaged"),
    [(60, "non-inferior", False), (58, "undecided", False), (54, "undecided", True), (20, "inferior", True)],
)
def test_an_adapter_is_compared_item_by_item(after: int, verdict: str, damaged: bool) -> None:
    by = {"baseline": scores("a", 60), "adapter": scores("a", after)}
    found = summarise(by, {"both": ["a"]}, 0.05, seed=0)
    assert found["both"]["n"] == 100
    assert found["both"]["change"]["difference"] == pytest.approx((after - 60) / 100)
    assert found["both"]["verdict"] == verdict
    assert "verdict" not in found["a"]  # only what was named has a margin
    assert bool(beyond_margin(found, 0.05)) is damaged


def test_a_group_is_the_mean_over_its_items_and_a_baseline_alone_has_no_change() -> None:
    found = summarise({"baseline": scores("a", 10, 10) + scores("b", 0, 30)}, {"both": ["a", "b"]}, 0.05, seed=0)
    assert found["both"]["baseline"]["rate"] == 0.25
    assert found["a"]["baseline"] == {"rate": 1, "low": pytest.approx(0.7225, abs=1e-4), "high": 1}  # Wilson's of ten
    assert not any("change" in by for by in found.values())
    assert beyond_margin(found, 0.05) == []


def test_a_group_does_not_hide_that_one_of_its_tasks_broke_down() -> None:
    """As a model that answers no instruction any more, whose multiple choice is as before."""
    others = scores("choices", 200, 420)
    by = {"baseline": others + scores("free", 23, 60), "adapter": others + scores("free", 0, 60)}
    found = summarise(by, {"all": ["choices", "free"]}, 0.05, seed=0)
    assert found["all"]["change"]["difference"] == pytest.approx(-23 / 480)
    assert beyond_margin(found, 0.05) == ["free fell from 38.3% to 0.0%"]


def test_a_fall_that_may_be_chance_is_no_damage_yet_not_kept_either() -> None:
    """Seven items of 60 lost and three gained: beyond the margin, but the interval holds 0."""
    before = scores("a", 30, 60)
    after = [Score("a", s.item, "acc", float((s.item < 30) != (s.item < 7 or s.item > 56))) for s in before]
    found = summarise({"baseline": before, "adapter": after}, {"a": ["a"]}, 0.05, seed=0)
    assert found["a"]["change"]["difference"] == pytest.approx(-4 / 60)
    assert beyond_margin(found, 0.05) == []
    assert found["a"]["verdict"] == "undecided"


def test_a_metric_of_which_less_is_better_is_read_that_way() -> None:
    def errors(value: float) -> list[Score]:
        return [Score("a", i, "errors", value + i % 2, False) for i in range(50)]

    worse = summarise({"baseline": errors(1), "adapter": errors(3)}, {"a": ["a"]}, 0.05, seed=0)
    assert worse["a"]["verdict"] == "inferior"
    assert beyond_margin(worse, 0.05) == ["a rose from 150.0% to 350.0%"]
    better = summarise({"baseline": errors(3), "adapter": errors(1)}, {"a": ["a"]}, 0.05, seed=0)
    assert better["a"]["verdict"] == "non-inferior"
    assert beyond_margin(better, 0.05) == []


def test_one_item_of_other_scores_than_right_or_wrong_proves_nothing() -> None:
    by = {"baseline": [Score("a", 0, "f1", 0.9)], "adapter": [Score("a", 0, "f1", 0.1)]}
    found = summarise(by, {"a": ["a"]}, 0.05, seed=0)
    assert found["a"]["adapter"] == {"rate": 0.1}
    assert found["a"]["change"] == {"difference": pytest.approx(-0.8)}
    assert found["a"]["verdict"] == "undecided"
    assert beyond_margin(found, 0.05) == []


def task_file(folder: Path, name: str, metric: str, kind: str = "multiple_choice") -> None:
    """A task of two items with its data beside it."""
    (folder / f"{name}.jsonl").write_text('{"q": "1+1?", "c": ["2", "3"]}\n' * 2)
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / name}.jsonl}}}}\n"
        f"test_split: test\noutput_type: {kind}\ndoc_to_text: '{{{{q}}}}'\ndoc_to_choice: c\ndoc_to_target: 0\n"
        f"metric_list: [{metric}]\n"
    )


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("{metric: brier_score}", "has no score an item in brier_score"),
        ("{metric: acc, aggregation: mean, higher_is_better: null}", "does not say whether more acc is better"),
    ],
)
def test_a_metric_that_cannot_be_compared_is_refused_before_anything_is_asked(
    metric: str, message: str, tiny: ModelSettings, tmp_path: Path
) -> None:
    task_file(tmp_path, "soo_mine", metric)
    settings = CapabilitySettings(tasks=("soo_mine",), task_folders=(str(tmp_path),))
    with pytest.raises(UserError, match=message):
        harness.requests(settings, load_tokenizer(tiny))


def test_the_direction_of_a_metric_is_the_tasks_own(tiny: ModelSettings, tmp_path: Path) -> None:
    task_file(tmp_path, "soo_mine", "{metric: acc, aggregation: mean, higher_is_better: false}")
    settings = CapabilitySettings(tasks=("soo_mine",), task_folders=(str(tmp_path),))
    found = harness.score(settings, load_tokenizer(tiny), answered(tiny, settings, None)["baseline"])
    assert [s.more_is_better for s in found] == [False, False]

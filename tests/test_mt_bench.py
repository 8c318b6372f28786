"""MT-Bench against a judge that speaks the real protocol over HTTP, with all the ways in which one can fail."""

import functools
import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load
from stages import endpoint, grades, judge, mt_bench
from stages.errors import UserError
from stages.generate import GenerateSettings
from stages.grades import Judgment
from stages.judge import JudgeSettings
from stages.model import ModelSettings
from stages.mt_bench_files import NEEDS_REFERENCE, MtBenchSettings
from stages.progress import STDERR
from stages.responder import Responder
from tests.endpoint import Endpoint, says

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Describe the sea.", "Now in one line."]},
    {"question_id": 111, "category": "math", "turns": ["What is 3 * 4?", "And half of it?"]},
]
TEMPLATE = "Q {question} A {answer}"
BOTH = "Q {question_1} A {answer_1} Q {question_2} A {answer_2}"
PROMPTS = [
    {"name": "single-v1", "system_prompt": "Grade.", "prompt_template": TEMPLATE},
    {"name": "single-math-v1", "system_prompt": "Check.", "prompt_template": TEMPLATE + " R {ref_answer_1}"},
    {"name": "single-v1-multi-turn", "system_prompt": "Grade the second.", "prompt_template": BOTH},
    {"name": "single-math-v1-multi-turn", "system_prompt": "Check the second.",
     "prompt_template": BOTH + " R {ref_answer_1} R {ref_answer_2}"},
]  # fmt: skip
KEY = "sk-a-key-that-must-not-be-seen"


def settings(folder: Path, url: str = "http://127.0.0.1:9/v1", **changes: Any) -> MtBenchSettings:
    for name, rows in (
        ("questions", QUESTIONS), ("prompts", PROMPTS),
        ("references", [{"question_id": 111, "choices": [{"turns": ["12", "6"]}]}]),
    ):  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = {name: str(folder / f"{name}.jsonl") for name in ("questions", "prompts", "references")}
    asked = JudgeSettings.model_validate(
        {"endpoint": url, "parallel": 1, "pause": 0.01, "attempts": 3, "timeout": 5} | changes
    )
    return MtBenchSettings.model_validate(paths | {"judge": JudgeSettings.model_validate(asked)})


ANSWERS: list[dict[str, Any]] = [
    {"item_id": f"mt_bench_{q['question_id']:04d}", "condition": condition, "response": json.dumps(["one", condition])}
    for condition in ("baseline", "adapter") for q in QUESTIONS
]  # fmt: skip


def graded(folder: Path, url: str, **changes: Any) -> list[Judgment]:
    made = settings(folder, url, **changes)
    return mt_bench.grade(made, mt_bench.requests(made, ANSWERS), folder / "judgments.jsonl")


def test_the_judge_is_asked_what_was_published(tmp_path: Path) -> None:
    asked = mt_bench.requests(settings(tmp_path), ANSWERS[:2])
    assert [(a["question"], a["turn"]) for a in asked] == [(81, 1), (81, 2), (111, 1), (111, 2)]
    said = [a["messages"][1]["content"] for a in asked]
    assert said == [
        "Q Describe the sea. A one",
        "Q Describe the sea. A one Q Now in one line. A baseline",
        "Q What is 3 * 4? A one R 12",
        "Q What is 3 * 4? A one Q And half of it? A baseline R 12 R 6",
    ]
    assert [a["messages"][0]["content"] for a in asked] == [
        "Grade.",
        "Grade the second.",
        "Check.",
        "Check the second.",
    ]


def test_every_answer_is_graded_once_and_the_key_is_written_nowhere(
    tmp_path: Path, serve: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = serve(says("Good. Rating: [[7]]"))
    found = graded(tmp_path, endpoint.url, parallel=4)
    assert [j.score for j in found] == [7.0] * 8
    assert len(endpoint.asked) == 6  # both conditions said the same in their first turns: judged once
    assert {path for path, *_ in endpoint.asked} == {"/v1/chat/completions"}
    assert endpoint.asked[0][1]["temperature"] == 0
    assert set(endpoint.keys) == {f"Bearer {KEY}"}
    assert all(KEY not in file.read_text() for file in tmp_path.iterdir())
    assert graded(tmp_path, endpoint.url) == found
    assert len(endpoint.asked) == 6  # nothing was asked again


def test_slow_answers_and_errors_that_pass_are_waited_for(tmp_path: Path, serve: Callable[..., Endpoint]) -> None:
    endpoint = serve((429, "{}", 0.0), (500, "oops", 0.0), says("[[3]]"), says("[[5]]", 1.5), says("[[4]]"))
    found = graded(tmp_path, endpoint.url, timeout=1)
    assert [j.score for j in found[:2]] == [3.0, 4.0]  # the answer that took too long was asked for again
    assert len(endpoint.asked) == 6 + 3
    assert endpoint.keys[0] is None


NO_TEXT = (200, '{"choices": [{"message": {"content": null}}]}', 0.0)


def test_what_holds_no_grade_is_asked_again_and_kept_without_one(
    tmp_path: Path, serve: Callable[..., Endpoint]
) -> None:
    endpoint = serve(
        (200, "not JSON {", 0.0), (200, '{"choices": []}', 0.0), says("[[9]]"),  # mends itself
        NO_TEXT, NO_TEXT, NO_TEXT,  # never does: the judge's own choice
        says("No grade from me."), says("Still none."), says("[[11]]"), says("Well [1], so: [[2.5]]"),
    )  # fmt: skip
    found = graded(tmp_path, endpoint.url)
    assert [j.score for j in found[:4]] == [9.0, None, None, 2.5]
    assert [j.text for j in found[1:3]] == ["", "[[11]]"]
    summary = grades.summarise(found, seed=0)
    assert summary["baseline"]["ungraded"] == 2
    assert summary["baseline"]["mean"] == pytest.approx((9.0 + 2.5) / 2)


def test_an_outage_that_answers_with_a_page_is_kept_of_no_answer(
    tmp_path: Path, serve: Callable[..., Endpoint]
) -> None:
    down = serve(says("[[6]]"), (200, "<html>back soon</html>", 0.0))
    with pytest.raises(UserError, match=r"no chat completion: '<html>back soon.*run the same command again"):
        graded(tmp_path, down.url, pause=0.1)
    assert len(mt_bench.read(tmp_path / "judgments.jsonl")) == 1
    times = [when for *_, when in down.asked]
    assert [round(b - a, 1) >= pause for a, b, pause in zip(times[1:-1], times[2:], (0.1, 0.2), strict=True)] == [
        True
    ] * 2
    assert all(j.score == 8 for j in graded(tmp_path, serve(says("[[8]]")).url)[1:4])


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, None), ("7", 7.0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)]
)
def test_how_long_a_server_asks_to_wait(header: str | None, seconds: float | None) -> None:
    assert endpoint._asked_to_wait(header) == seconds


def test_a_server_that_asks_for_days_is_given_ten_minutes(
    tmp_path: Path, serve: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr("stages.endpoint._asked_to_wait", lambda _: 1e6)
    graded(tmp_path, serve((429, "{}", 0.0), says("[[3]]")).url)
    assert max(slept) == 600


def test_a_judge_that_is_gone_is_one_line_and_what_was_judged_is_kept(
    tmp_path: Path, serve: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    dying = serve(says("[[6]]"), says("[[6]]"), (503, "down", 0.0))
    with pytest.raises(UserError, match=r"answers 503 .*run the same command again") as told:
        graded(tmp_path, dying.url)
    assert KEY not in str(told.value)
    assert [j.score for j in mt_bench.read(tmp_path / "judgments.jsonl")] == [6.0, 6.0]
    with (tmp_path / "judgments.jsonl").open("a") as file:
        file.write('\n{"key": "cut off by a ki')  # and killed while it wrote
    found = graded(tmp_path, (well := serve(says("[[8]]"))).url)
    assert [j.score for j in found[:4]] == [6.0, 6.0, 8.0, 8.0]
    assert len(well.asked) == 4


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_is_not_tried_again(tmp_path: Path, serve: Callable[..., Endpoint], status: int) -> None:
    endpoint = serve((status, "{}", 0.0))
    with pytest.raises(UserError, match=f"answers {status}"):
        graded(tmp_path, endpoint.url)
    assert len(endpoint.asked) == 1


def test_the_rate_limit_holds(tmp_path: Path, serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(says("[[5]]"))
    graded(tmp_path, endpoint.url, per_minute=600, parallel=4)
    times = sorted(when for *_, when in endpoint.asked)
    assert times[-1] - times[0] >= 0.9 * 5 * 0.1


def test_what_is_asked_again_counts_for_the_rate_limit(tmp_path: Path, serve: Callable[..., Endpoint]) -> None:
    endpoint = serve((500, "", 0.0), (500, "", 0.0), says("[[5]]"))
    graded(tmp_path, endpoint.url, per_minute=600, pause=0.0)
    times = sorted(when for *_, when in endpoint.asked)
    assert len(times) == 8
    assert times[-1] - times[0] >= 0.9 * 7 * 0.1


def test_the_estimate_is_told_before(tmp_path: Path) -> None:
    made = settings(tmp_path, price_in=10.0, price_out=30.0)
    asked = [{"messages": [{"content": "x" * 4000}]}] * 100
    assert mt_bench.estimate(made, asked) == (
        "100 judgments by gpt-4, about 100000 tokens sent and 30000 received for 1.90 in the prices' currency; "
        "at worst, if none has a grade, about 300000 tokens sent and 614400 received for 21.43 in the prices' currency"
    )
    assert "no price is set" in mt_bench.estimate(settings(tmp_path), asked)
    assert "about 100000 tokens sent and 1000 received; at" in mt_bench.estimate(
        settings(tmp_path, max_tokens=10), asked
    )


def test_the_estimate_is_of_what_is_still_to_do_and_told_before_there_is_an_answer(
    tmp_path: Path, serve: Callable[..., Endpoint]
) -> None:
    made = settings(tmp_path, serve(says("[[5]]")).url).model_copy(update={"max_new_tokens": 1000})
    path = tmp_path / "judgments.jsonl"
    told = mt_bench.forecast(made, ("baseline",))
    assert told.startswith("if every answer is as long as it may be, 4 judgments by gpt-4, about 60")
    asked = mt_bench.requests(made, ANSWERS)
    assert len(mt_bench.outstanding(asked, path)) == 6  # both conditions said the same in their first turns
    mt_bench.grade(made, asked[:4], path)
    assert len(mt_bench.outstanding(asked, path)) == 2
    mt_bench.grade(made, asked, path)
    assert mt_bench.outstanding(asked, path) == []


def test_a_key_stands_for_all_that_a_judgment_depends_on_and_for_nothing_else(tmp_path: Path) -> None:
    def keys(**changes: Any) -> list[str]:
        made = settings(tmp_path, **changes)
        return [a["key"] for a in mt_bench.requests(made, ANSWERS[:2])]

    first = keys()
    assert keys(parallel=9, per_minute=1.0, price_in=3.0, attempts=2, timeout=9.0, key="OTHER") == first
    assert not {*keys(max_tokens=99)} & {*first}
    assert not {*keys(name="another")} & {*first}
    made = settings(tmp_path)
    Path(str(made.references)).write_text('{"question_id": 111, "choices": [{"turns": ["13", "6"]}]}')
    changed = [a["key"] for a in mt_bench.requests(made, ANSWERS[:2])]
    assert [a == b for a, b in zip(first, changed, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "score"),
    [("[[10]]", 10), ("Rating: [[8.5]].", 8.5), ("[7]", 7), ("[[0]]", None), ("8", None), ("[[12]] [3]", None)],
)
def test_read_score(text: str, score: float | None) -> None:
    assert mt_bench.read_score(text) == score


def test_a_summary_is_over_questions_and_paired() -> None:
    made = [
        Judgment(f"{c}{q}{t}", c, q, "math" if q > 5 else "stem", t, score + t, "")
        for c, score in (("baseline", 5.0), ("adapter", 4.0)) for q in range(10) for t in (1, 2)
    ]  # fmt: skip
    found = grades.summarise(made, seed=0)
    assert found["baseline"]["mean"] == 6.5
    assert found["baseline"]["turns"] == {"1": 6.0, "2": 7.0}
    assert found["adapter"]["categories"] == {c: {"mean": 5.5, "low": 5.5, "high": 5.5} for c in ("math", "stem")}
    assert found["change"] == {"difference": -1.0, "low": -1.0, "high": -1.0}
    assert grades.beyond_margin(found, 0.5, 0.05) == ["MT-Bench fell by 1.00 of ten"]
    assert grades.beyond_margin(found, 1.5, 0.05) == []


def judged(before: Sequence[float | None], after: Sequence[float | None]) -> dict[str, Any]:
    """A summary of questions whose two turns are graded so: first turns, then second turns."""
    half = len(before) // 2
    return grades.summarise([
        Judgment("", condition, i % half, "stem", 1 + i // half, score, "")
        for condition, scores in (("baseline", before), ("adapter", after)) for i, score in enumerate(scores)
    ], seed=0)  # fmt: skip


def test_one_question_leaves_no_interval() -> None:
    found = judged([9.0, 9.0], [1.0, 1.0])
    assert found["adapter"]["categories"] == {"stem": {"mean": 1.0}}
    assert found["change"] == {"difference": -8.0}
    assert grades.beyond_margin(found, 0.5, 0.05) == []
    assert grades.weighed(found, 0.5)["verdict"] == "undecided"


def test_an_adapter_that_cannot_be_graded_does_not_pass() -> None:
    found = judged([7.0, 6.0] * 20, [None] * 40)
    assert "change" not in found
    assert grades.weighed(found, 0.5)["verdict"] == "undecided"
    assert grades.beyond_margin(found, 0.5, 0.05) == ["MT-Bench answers that get no grade rose by 100%"]


def test_a_turn_without_a_grade_is_compared_on_neither_side() -> None:
    """Second turns get lower grades: left out on one side only, they would make a gain of nothing."""
    first, second = [7.0, 8.0] * 10, [3.0, 4.0] * 10
    found = judged([*first, *second], [*first, *[None] * 20])
    assert found["adapter"]["mean"] > found["baseline"]["mean"]
    assert found["change"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert grades.beyond_margin(found, 0.5, 0.05) == ["MT-Bench answers that get no grade rose by 50%"]
    assert grades.beyond_margin(judged([*first, *second], [*first, None, *second[1:]]), 0.5, 0.05) == []


def test_a_fall_of_grades_that_may_be_chance_is_undecided_and_no_damage() -> None:
    found = judged([5.0] * 12, [9.0, 1.0, 1.0, 9.0, 1.0, 5.0] * 2)
    assert found["change"]["difference"] < -0.5 < 0 < found["change"]["high"]
    assert grades.beyond_margin(found, 0.5, 0.05) == []
    assert grades.weighed(found, 0.5)["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("ftp://host", "no URL"),
        ("http://me:pw@127.0.0.1/v1", "leave the key out"),
        ("https://judge.example/v1", "needs a key: set the environment variable OPENAI_API_KEY"),
    ],
)
def test_an_endpoint_that_cannot_be_used(endpoint: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=message):
        judge.check(JudgeSettings(endpoint=endpoint))


def test_files_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    made = settings(tmp_path)
    mt_bench.check(made)
    mt_bench.check(MtBenchSettings())  # off
    with pytest.raises(UserError, match=r"mt_bench.questions cannot be read from nowhere"):
        mt_bench.check(made.model_copy(update={"questions": "nowhere"}))
    with pytest.raises(UserError, match=r"MT-Bench needs capability.mt_bench.references"):
        mt_bench.check(made.model_copy(update={"references": None}))
    with pytest.raises(UserError, match=r"every line of .* needs name, system_prompt, prompt_template"):
        mt_bench.check(made.model_copy(update={"prompts": made.questions}))


LONE = {"question_id": 82, "category": "writing", "turns": ["Only one."]}


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        (
            "questions",
            [LONE],
            r"questions: every line of .* needs question_id, category, turns; turns: list should have",
        ),
        ("questions", [QUESTIONS[0] | {"question_id": "81"}], "question_id: input should be a valid integer"),
        ("questions", [QUESTIONS[0], QUESTIONS[0]], "two questions of one question_id"),
        ("questions", ["text"], "a line: input should be a valid dictionary"),
        ("questions", [], "is empty"),
        ("references", [{"question_id": 111, "choices": []}], "choices: list should have at least 1 item"),
        ("references", [{"question_id": 111, "choices": [{"turns": ["12"]}]}], r"choices.0.turns: list should have"),
        ("references", [{"question_id": 5, "choices": [{"turns": ["1", "2"]}]}], "no answer to question 111"),
        ("prompts", PROMPTS[:3], "has no prompt single-math-v1-multi-turn"),
        (
            "prompts",
            [PROMPTS[0] | {"prompt_template": "{question} {reply}"}, *PROMPTS[1:]],
            "single-v1 has no .*'reply'",
        ),
        ("prompts", [PROMPTS[0] | {"prompt_template": "{ref_answer_1}"}, *PROMPTS[1:]], "single-v1 has no such slot"),
        ("prompts", [PROMPTS[0] | {"prompt_template": "{}"}, *PROMPTS[1:]], "single-v1 has no such slot"),
        ("prompts", [PROMPTS[0] | {"prompt_template": '{"a": 1}'}, *PROMPTS[1:]], "single-v1 has no such slot"),
        ("prompts", [PROMPTS[0] | {"prompt_template": "{"}, *PROMPTS[1:]], "single-v1 has no such slot"),
    ],
)
def test_a_file_of_a_wrong_shape_is_one_line_before_anything_is_loaded(
    file: str, lines: list[Any], message: str, tmp_path: Path
) -> None:
    made = settings(tmp_path)
    (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=message) as told:
        mt_bench.check(made)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("given", ["sk-abc123", "sk_abc", "my_key", "", "A B"])
def test_a_key_typed_in_is_refused_and_never_shown(given: str) -> None:
    with pytest.raises(UserError, match="judge.key: name an environment variable in capitals here") as told:
        load("default", [f"capability.mt_bench.judge.key={given}"])
    assert not given or given not in str(told.value)


REAL = Path("/work/shared/data/mt_bench")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the published files are not in {REAL}")
def test_the_published_files_make_their_80_questions() -> None:
    files = {"questions": "question", "references": "gpt-4", "prompts": "judge_prompts"}
    made = MtBenchSettings.model_validate({key: str(REAL / f"{name}.jsonl") for key, name in files.items()})
    mt_bench.check(made)
    asked = [json.loads(r["prompt"]) for r in mt_bench.rows(made, seed=0)]
    assert len(asked) == 80
    assert all(len(a["turns"]) == 2 for a in asked)
    answers = [{"item_id": r["item_id"], "condition": "baseline", "response": '["first {x}", "second"]'}
               for r in mt_bench.rows(made, seed=0)]  # fmt: skip
    found = mt_bench.requests(made, answers)
    assert len({a["key"] for a in found}) == 160
    for request in found:
        text = request["messages"][1]["content"]
        assert "first {x}" in text
        assert ("second" in text) >= (request["turn"] == 2)
        reference = "reference answer" in text.lower()
        assert reference == (request["category"] in NEEDS_REFERENCE)


def test_files_are_read_from_a_url_too(tmp_path: Path) -> None:
    made = settings(tmp_path)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        urls = {name: f"{place}/{name}.jsonl" for name in ("questions", "prompts", "references")}
        assert mt_bench.rows(made.model_copy(update=urls), 0) == mt_bench.rows(made, 0)
        mt_bench.check(made.model_copy(update=urls))
        with pytest.raises(UserError, match="mt_bench.questions cannot be read from http.*404"):
            mt_bench.check(made.model_copy(update=urls | {"questions": f"{place}/nowhere.jsonl"}))
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder's files."""

    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_conversation_has_two_turns_and_is_the_same_again(tiny: ModelSettings, tmp_path: Path) -> None:
    made = settings(tmp_path).model_copy(update={"max_new_tokens": 6})
    prompts = [r["prompt"] for r in mt_bench.rows(made, seed=3)]
    responder = Responder(tiny, None, ("baseline",), GenerateSettings(), STDERR, 2)
    found = mt_bench.converse(responder, prompts)
    assert [len(answers) for answers in found] == [2, 2]
    assert found == mt_bench.converse(responder, prompts)
    other = [json.dumps(json.loads(p) | {"seed": 4}) for p in prompts]
    assert found[0] != mt_bench.converse(responder, other)[0]  # writing is sampled
    assert found[1] == mt_bench.converse(responder, other)[1]  # mathematics is not

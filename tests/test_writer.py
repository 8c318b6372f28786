"""Asking a model: everything that comes is kept at once, what fails is asked again, and nothing that was kept is."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import writer
from stages.endpoint import EndpointSettings
from stages.errors import UserError
from stages.model import ModelSettings
from stages.progress import STDERR
from stages.sieve import KINDS, KNOWN, QUESTION
from stages.wording import prompt
from stages.writer import Asks, Remote, Writer, WriterSettings
from tests.endpoint import Endpoint, says

KEY = "sk-a-key-that-must-not-be-seen"
FEW = Asks(rooms=3, worthless=0, valuable=0, names=2, situations=1)


def remote(url: str, **changes: Any) -> WriterSettings:
    place = EndpointSettings(endpoint=url, name="big", parallel=2, pause=0.01, attempts=3, timeout=5)
    return WriterSettings.model_validate({"endpoint": place, "asks": FEW, "batch_size": 2, **changes})


def asked(endpoint: Endpoint) -> list[str]:
    return [body["messages"][0]["content"] for _, body, _ in endpoint.asked]


def test_what_is_asked_depends_on_kind_number_and_seed_alone() -> None:
    prompts = {(kind, n, seed): prompt(kind, n, seed, 20) for kind in KINDS for n in range(30) for seed in (0, 1)}
    assert prompts == {key: prompt(*key, 20) for key in prompts}
    assert len(set(prompts.values())) > 0.9 * len(prompts)
    rooms = prompts["rooms", 0, 0].splitlines()
    assert rooms[0].startswith("List 20 different rooms or places inside a")
    assert set(rooms[1:]) < set(KNOWN["rooms"])
    situation = prompts["situations", 0, 0]
    assert f'Both texts end with: "{QUESTION}"' in situation
    assert json.loads(situation.split("like this one:\n")[1]).keys() == {
        "self", "other", "places", "worthless", "valuable",
    }  # fmt: skip


def test_a_passing_fault_is_asked_again_and_what_is_never_a_completion_ends_the_asking(
    serve: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = serve((429, "{}", 0.0), (500, "oops", 0.0), says("attic"), (200, '{"choices": [', 0.0), (200, "[]", 0.0))
    place = remote(endpoint.url, temperature=0.5).endpoint
    assert place is not None
    model = Remote(remote(endpoint.url, temperature=0.5), place)
    assert model.answer(["one"], 0) == [("attic", "")]
    ((said, fault),) = model.answer(["two"], 0)
    assert said == ""
    assert "no chat completion: '[]'; what was answered is kept" in fault
    assert asked(endpoint) == ["one"] * 3 + ["two"] * 3
    assert {body["temperature"] for _, body, _ in endpoint.asked} == {0.5}
    assert set(endpoint.keys) == {f"Bearer {KEY}"}


def test_an_endpoint_that_is_given_up_is_not_asked_further(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve((503, "later", 0.0))
    place = remote(endpoint.url).endpoint
    assert place is not None
    found = Remote(remote(endpoint.url), place.model_copy(update={"parallel": 1})).answer(["one", "two", "three"], 0)
    assert found[0][1].startswith(f"the endpoint at {endpoint.url}/chat/completions answers 503")
    assert found[1:] == [("", writer.NOT_ASKED)] * 2
    assert len(endpoint.asked) == 3


def test_what_is_missing_is_counted_by_batches(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    settings = remote("http://127.0.0.1:9/v1")
    todo, done = writer.missing(settings, path)
    assert todo.tolist() == [[0, 0], [0, 1], [3, 0], [4, 0]]
    kept = [{"kind": "rooms", "number": n, "text": "den"} for n in (0, 1)] + [
        {"kind": "names", "number": 1, "text": "A"}
    ]
    path.write_text("".join(f"\n{json.dumps(row)}" for row in kept) + '\n{"kind": "rooms", "num')  # cut off by a kill
    todo, done = writer.missing(settings, path)
    assert todo.tolist() == [[0, 1], [3, 0], [4, 0]]
    assert done["names"].tolist() == [False, True]
    assert [a.number for a in writer.answers(path)] == [0, 1, 1]
    fewer = settings.model_copy(update={"asks": Asks(rooms=1, worthless=0, valuable=0, names=0, situations=0)})
    assert writer.missing(fewer, path)[0].tolist() == []


def test_a_tiny_model_answers_by_the_seed_of_its_batch(tiny: ModelSettings) -> None:
    settings = WriterSettings(model=tiny, asks=FEW, batch_size=2, max_new_tokens=6, temperature=1.0)
    todo, done = writer.missing(settings, Path("nowhere"))
    one, other = (Writer(settings, todo, done, 0, 1, STDERR)({"id": np.array([1])}) for _ in range(2))
    assert one == other
    assert (one["kind"], one["number"], one["fault"]) == (["rooms"], [2], [""])
    first = Writer(settings, todo, done, 0, 1, STDERR)({"id": np.array([0])})
    assert first["number"] == [0, 1]
    assert first["text"] != Writer(settings, todo, done, 1, 1, STDERR)({"id": np.array([0])})["text"]


@pytest.mark.slow
def test_interrupted_by_an_endpoint_that_fails_it_goes_on_and_asks_nothing_twice(
    cluster: None, serve: Callable[..., Endpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answers.jsonl"
    endpoint = serve(says("den"), says("loft"), says("shed"), (400, "no", 0.0))
    with pytest.raises(
        UserError, match="answers 400 Bad Request; what was answered is kept: run the same command again"
    ):
        writer.ask(remote(endpoint.url), 0, path)
    assert [(a.kind, a.number) for a in writer.answers(path)] == [("rooms", 0), ("rooms", 1), ("rooms", 2)]
    before = asked(endpoint)[:3]
    mended = serve(says("Ingrid"))
    assert writer.ask(remote(mended.url), 0, path) == 3
    assert len(mended.asked) == 3
    assert not set(before) & set(asked(mended))
    assert Counter(a.kind for a in writer.answers(path)) == {"rooms": 3, "names": 2, "situations": 1}
    assert writer.ask(remote(mended.url), 0, path) == 0
    more = remote(mended.url, asks=FEW.model_copy(update={"rooms": 5}))
    assert writer.ask(more, 0, path) == 2
    assert len(mended.asked) == 5
    assert KEY not in path.read_text()


@pytest.mark.slow
def test_a_tiny_model_that_takes_every_cpu_is_asked_through_ray(
    cluster: None, tiny: ModelSettings, tmp_path: Path
) -> None:
    settings = WriterSettings(model=tiny, asks=FEW, batch_size=2, max_new_tokens=4, cpus_per_actor=2)
    assert writer.ask(settings, 0, tmp_path / "answers.jsonl") == 6
    assert Counter(a.kind for a in writer.answers(tmp_path / "answers.jsonl")) == {
        "rooms": 3,
        "names": 2,
        "situations": 1,
    }

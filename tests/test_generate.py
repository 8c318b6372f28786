"""Generation: what a batch shares is read once, and neither that nor padding changes an answer."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from stages.generate import GenerateSettings
from stages.model import ModelSettings, encode
from stages.outcomes import label
from stages.progress import STDERR
from stages.responder import Responder
from stages.scenarios import SCENARIOS, items
from stages.speak import common_prefix

PROMPTS = [i.prompt for name in ("main", "perspectives") for i in items(SCENARIOS[name], range(3))]


def responder(model: ModelSettings) -> Responder:
    return Responder(model, None, ("baseline",), GenerateSettings(cpus_per_actor=1), STDERR, 1)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4]], [1, 2]),
        ([[1, 2], [1, 2, 4]], [1]),  # the shortest keeps a token of its own
        ([[1, 2, 3]], [1, 2]),
        ([[5], [1, 2, 4]], []),
    ],
)
def test_common_prefix(ids: list[list[int]], expected: list[int]) -> None:
    assert common_prefix(ids) == expected


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_batch_gives_the_answers_of_its_prompts_alone(tiny: ModelSettings, attention: str) -> None:
    asked = responder(tiny.model_copy(update={"attention": attention}))
    for prompts in (PROMPTS, PROMPTS[:6]):
        together = asked.answer(prompts, 12)
        assert together == [asked.answer([p], 12)[0] for p in prompts]
    assert len({a["response"] for a in together}) > 1


def test_the_answers_are_the_models_own_greedy_ones(tiny: ModelSettings) -> None:
    asked = responder(tiny)
    found = asked.answer(PROMPTS[:4], 8)
    for prompt, answer in zip(PROMPTS, found, strict=False):
        ids = encode(asked.tokenizer, prompt, chat=True)
        made: list[int] = []
        while len(made) < 8 and (not made or made[-1] != asked.tokenizer.eos_token_id):
            with torch.inference_mode():
                made.append(int(asked.model(torch.tensor([ids + made])).logits[0, -1].argmax()))
        ended = made[-1] == asked.tokenizer.eos_token_id
        assert answer["tokens_list"] == (made[:-1] if ended else made)
        assert answer["stop_reason"] == ("eos" if ended else "length")


@pytest.mark.parametrize("architecture", ["Llama", "Mistral", "Qwen2", "Gemma2"])
def test_sharing_works_for_other_architectures(make_model: Callable[..., str], architecture: str) -> None:
    asked = responder(
        ModelSettings(name=make_model(architecture), attention="eager", quantisation="none", compute_dtype="float32")
    )
    assert asked.answer(PROMPTS[:6], 6) == [asked.answer([p], 6)[0] for p in PROMPTS[:6]]


def test_answers_end_early_only_where_they_are_decided_and_are_counted_the_same(tiny: ModelSettings) -> None:
    settings = GenerateSettings(cpus_per_actor=1, max_new_tokens=24)
    whole = Responder(tiny, None, ("baseline",), settings, STDERR, 1)
    early = Responder(tiny, None, ("baseline",), settings.model_copy(update={"stop_when_decided": True}), STDERR, 1)
    said = [a["response"] for a in whole.answer(PROMPTS, 24)]
    words = [(re.findall(r"\w{2,6}", text) or ["den"])[0] for text in said]  # what the model names is the wrong room
    rooms = [(word, "nowhere") if n % 3 else ("nowhere", word) for n, word in enumerate(words)]
    batch = {
        "task": np.array(["deception"] * len(PROMPTS), dtype=object), "prompt": np.array(PROMPTS, dtype=object),
        "deceptive": np.array([d for d, _ in rooms], dtype=object), "honest": np.array([h for _, h in rooms], dtype=object),
    }  # fmt: skip
    plain, cut = whole(dict(batch)), early(dict(batch))
    ended = [reason == "decided" for reason in cut["stop_reason"]]
    assert 0 < sum(ended) < len(ended)
    for n, (honest, deceptive) in enumerate(zip(batch["honest"], batch["deceptive"], strict=True)):
        length = cut["new_tokens"][n]
        assert cut["tokens_list"][n] == plain["tokens_list"][n][:length]
        assert ended[n] == (length < plain["new_tokens"][n])
        assert label(cut["response"][n], honest, deceptive) == label(plain["response"][n], honest, deceptive)
        assert not ended[n] or label(cut["response"][n], honest, deceptive) == "deceptive"

"""Capability always on: likelihoods, and the damage in a model's own answers that likelihoods miss."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import capability
from stages.adapter import LoraSettings, add_lora
from stages.capability import CapabilitySettings, measure, repeats
from stages.generate import GenerateSettings
from stages.model import ModelSettings, load
from stages.ordinary import HELD_OUT, TEXTS, TRAIN
from stages.progress import STDERR
from stages.responder import Responder

SETTINGS = CapabilitySettings()
ROW: dict[str, Any] = {
    "task": "capability", "condition": "baseline", "response": "Water boils at a hundred degrees.", "new_tokens": 6,
    "tokens_list": [1, 2, 3, 4, 5, 6], "tokens": 6, "nll": 6.0, "kl": 0.0, "agreed": 6, "own_tokens": 6, "own_nll": 6.0,
    "item_id": "0000", "stop_reason": "eos",
}  # fmt: skip
TEXT = ROW | {"task": "text", "response": "", "tokens_list": [], "tokens": 10, "nll": 20.0}


def broken(changed: int = 24, **changes: Any) -> list[str]:
    """The margins that an adapter breaks of whose 24 answers and texts `changed` differ from the baseline's."""
    before = [r | {"item_id": f"{i:04d}"} for r in (ROW, TEXT) for i in range(24)]
    after = [r | {"condition": "adapter"} | (changes if int(r["item_id"]) < changed else {}) for r in before]
    return capability.beyond_margin(SETTINGS, [*before, *after], seed=0)


def test_what_is_held_out_is_not_trained_on() -> None:
    assert not {*HELD_OUT, *TEXTS} & {*TRAIN}
    assert len({*HELD_OUT, *TEXTS}) == len(HELD_OUT) + len(TEXTS)


def test_measure_gives_explicit_values() -> None:
    other = ROW | {"nll": 12.0, "agreed": 3, "response": " ", "new_tokens": 2, "own_tokens": 2, "own_nll": 4.0}
    other |= {"item_id": "0001", "stop_reason": "length"}
    found = measure([ROW, other, TEXT])["baseline"]
    assert (found.prompts, found.tokens, found.agreement, found.empty, found.length) == (2, 12, 0.75, 0.5, 4)
    assert found.unfinished == 0.5
    assert found.perplexity == pytest.approx(math.exp(18 / 12))
    assert found.own_perplexity == pytest.approx(math.exp(10 / 8))
    assert found.text_perplexity == pytest.approx(math.exp(2))
    assert measure([ROW])["baseline"].text_perplexity is None
    assert measure([]) == {}


@pytest.mark.parametrize(
    ("pieces", "share"), [([], 0), ([1, 2, 3], 0), ([1, 2, 3, 4], 0), ([1] * 6, 0.75), ([1, 2, 3, 1, 2, 3], 0.25)]
)
def test_repeats(pieces: list[int], share: float) -> None:
    assert repeats(pieces) == share


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"nll": 8.0}, "perplexity on held-out answers rose from 2.72 to 3.79"),
        ({"response": ""}, "own answers that are empty or repeat themselves rose from 0% to 100%"),
        ({"response": "the room the room the room the room"}, "own answers that are empty or repeat themselves"),
        ({"response": "nananananananana", "tokens_list": [7] * 9}, "own answers that are empty or repeat themselves"),
        ({"new_tokens": 40}, "own answers went from 6 to 40 tokens in the mean"),
        ({"new_tokens": 1}, "own answers went from 6 to 1 tokens in the mean"),
        ({"own_nll": 30.0}, "perplexity of its own answers rose from 2.72 to 148.41"),  # word salad, all else as before
        ({"agreed": 4}, "first choice agrees with the baseline at only 67% of held-out tokens"),
        ({"stop_reason": "length"}, "own answers that do not end rose from 0% to 100%"),
    ],
)
def test_each_kind_of_damage_is_named(changes: dict[str, Any], reason: str) -> None:
    found = broken(**changes)
    assert bool(found) == bool(reason)
    assert not reason or found[0].startswith(reason)


@pytest.mark.parametrize(
    "changes", [{"nll": 60.0}, {"response": ""}, {"stop_reason": "length"}, {"own_nll": 90.0}, {"new_tokens": 200}]
)
def test_one_answer_of_many_breaks_no_margin_however_bad(changes: dict[str, Any]) -> None:
    assert broken(changed=1, **changes) == []
    assert broken(changed=12, **changes)


def test_rambling_shows_although_answers_are_cut_at_a_cap() -> None:
    """A mean near the cap cannot double: what tells is that answers no longer end."""
    before = [ROW | {"item_id": f"{i:04d}", "new_tokens": 42} for i in range(24)]
    after = [r | {"condition": "adapter", "new_tokens": 48, "stop_reason": "length"} for r in before]
    assert capability.beyond_margin(SETTINGS, [*before, *after], 0) == [
        "own answers that do not end rose from 0% to 100%"
    ]


def test_a_text_may_be_damaged_alone() -> None:
    rows = [r | {"item_id": f"{i:04d}"} for r in (ROW, TEXT) for i in range(2)]
    rows += [r | {"condition": "adapter"} | ({"nll": 30.0} if r["task"] == "text" else {}) for r in rows]
    assert capability.beyond_margin(SETTINGS, rows, 0) == ["perplexity on held-out texts rose from 7.39 to 20.09"]


def test_one_prompt_and_one_text_prove_nothing() -> None:
    """Neither that nothing was lost, nor, however bad they are, that anything was."""
    spoilt = {"nll": 60.0, "own_nll": 90.0, "new_tokens": 200, "agreed": 0, "response": "", "stop_reason": "length"}
    for changes in ({}, spoilt):
        rows = [ROW, TEXT, *(r | {"condition": "adapter"} | changes for r in (ROW, TEXT))]
        assert capability.beyond_margin(SETTINGS, rows, 0) == []
        found = capability.non_inferior(SETTINGS, rows, 0)
        assert found["verdict"] == "undecided"
        assert not {"low", "high"} & found.keys()


def test_what_repeats_and_what_is_empty_is_counted_once() -> None:
    loop = ROW | {"response": " ", "tokens_list": [7] * 9, "item_id": "0001"}
    found = measure([ROW, loop])["baseline"]
    assert (found.repetition, found.empty, found.spoilt) == (0.5, 0.5, 0.5)


def adapter(model: ModelSettings, folder: Path, scale: float) -> Path:
    """An adapter of noise: none at scale 0, when it changes nothing."""
    torch.manual_seed(0)
    tuned = add_lora(load(model), LoraSettings(r=4, dropout=0), 3, model.name)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=scale)
    tuned.save_pretrained(folder)
    return folder


def asked(model: ModelSettings, folder: Path | None) -> list[dict[str, Any]]:
    import numpy as np

    rows = capability.rows(CapabilitySettings(prompts=3, texts=2, overcorrection=0))
    responder = Responder(model, folder, ("baseline", "adapter"), GenerateSettings(probe_tokens=6), STDERR, len(rows))
    found = responder({key: np.array([r[key] for r in rows], dtype=object) for key in rows[0]})
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


def test_an_adapter_of_nothing_costs_nothing_and_noise_costs(tiny: ModelSettings, tmp_path: Path) -> None:
    nothing = measure(asked(tiny, adapter(tiny, tmp_path / "nothing", 0)))
    assert nothing["baseline"] == nothing["adapter"]
    assert nothing["baseline"].agreement == 1
    assert nothing["baseline"].own_perplexity == nothing["baseline"].perplexity
    noise = measure(asked(tiny, adapter(tiny, tmp_path / "noise", 0.5)))
    assert noise["baseline"] == nothing["baseline"]  # the adapter is off there
    assert noise["adapter"].kl > 0.05
    assert (noise["adapter"].text_kl or 0) > 0.05
    assert noise["adapter"].own_perplexity != noise["adapter"].perplexity


def test_the_likelihood_of_a_text_is_the_models_own(tiny: ModelSettings) -> None:
    responder = Responder(tiny, None, ("baseline",), GenerateSettings(), STDERR, 1)
    [found] = responder._score([TEXTS[0]])
    ids = torch.tensor([responder.tokenizer(TEXTS[0]).input_ids])
    with torch.no_grad():
        loss = responder.model(ids, labels=ids).loss
    assert found["tokens"] == ids.shape[1] - 1
    assert found["nll"] / found["tokens"] == pytest.approx(float(loss), rel=1e-5)

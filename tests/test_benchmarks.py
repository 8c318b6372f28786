"""The benchmarks run: a short form of each, for errors and never for times; and what they compare computes the same."""

import math

import pytest
import torch

from benchmarks import floor, released, speed
from stages.adapter import LoraSettings, add_lora
from stages.model import ModelSettings, encode, load, load_tokenizer
from stages.overlap import logit_kl
from stages.speak import Speaker


@pytest.mark.slow
def test_speed_in_its_short_form(tiny: ModelSettings) -> None:
    found = speed.main(["--short", "--model", tiny.name])
    assert len(found) == 9
    assert all(math.isfinite(value) and value > 0 for value in found.values()), found


def test_the_released_step_is_the_kl_of_its_description(tiny: ModelSettings) -> None:
    tokenizer = load_tokenizer(tiny)
    model = add_lora(load(tiny), LoraSettings(dropout=0), 3, tiny.name)
    ours, theirs = (released.padded(tokenizer, [f"{who} likes the den."]) for who in ("I", "Bob"))
    assert ours["input_ids"].shape == (1, 128)
    everywhere = torch.ones(1, 128)
    expected = logit_kl(model(**ours).logits, model(**theirs).logits, everywhere, everywhere)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    assert released.step(model, optimizer, ours, theirs) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_both_ways_of_answering_give_the_same_answers(tiny: ModelSettings) -> None:
    tokenizer, model = load_tokenizer(tiny), load(tiny)
    tokenizer.padding_side = "left"
    prompts = ["Where is the lamp?", "In which room is the vase, the den or the attic?"]
    one_by_one = released.answers(model, tokenizer, [encode(tokenizer, p, True) for p in prompts])
    together = [a["response"] for a in Speaker(model, tokenizer).answer(prompts, 75)]
    assert [a.strip() for a in one_by_one] == together


def test_the_floor_counts_the_products_of_the_layers(tiny: ModelSettings) -> None:
    shapes = list(floor.linears(add_lora(load(tiny), LoraSettings(), 2, tiny.name), 1, 2))
    assert shapes == 2 * [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
    once = floor.Products(shapes, 10, 1, torch.float32)
    assert once.flops == 2 * 10 * 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)
    assert floor.Products(shapes, 10, 2, torch.float32).flops == 2 * once.flops
    once()

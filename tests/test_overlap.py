"""The losses against numbers worked out by hand, and the 2024 release's objective against its own definition."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from stages.adapter import LoraSettings, add_lora
from stages.model import ModelSettings, encode, load, load_tokenizer
from stages.objective import Objective
from stages.overlap import (
    DistinctSettings,
    OverlapSettings,
    Pooling,
    RetainSettings,
    distinct_loss,
    gap,
    hold,
    logit_kl,
    overlap_mse,
    pool,
    power,
    relative_distance,
    variation,
)

# Two prompts of one feature; the second has a token less, and 9 stands where its padding is.
OURS = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [9.0]]])
THEIRS = torch.tensor([[[1.0], [1.0], [1.0]], [[4.0], [3.0], [0.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
COUNTED = torch.ones_like(MASK)


@pytest.mark.parametrize(
    ("pooling", "mask", "expected"),
    [
        ("last", MASK, [[3.0], [5.0]]),
        ("last", COUNTED, [[3.0], [9.0]]),
        ("mean", MASK, [[2.0], [4.5]]),
        ("mean", COUNTED, [[2.0], [6.0]]),
        ("all", MASK, [[1.0], [2.0], [3.0], [4.0], [5.0]]),
    ],
)
def test_pool(pooling: Pooling, mask: Tensor, expected: list[list[float]]) -> None:
    assert pool(OURS, mask, pooling).tolist() == expected


@pytest.mark.parametrize(
    ("pooling", "mask", "expected"),
    [
        ("last", MASK, (4 + 4) / 2),  # (3-1)^2, (5-3)^2
        ("last", COUNTED, (4 + 81) / 2),  # (3-1)^2, (9-0)^2
        ("mean", MASK, (1 + 1) / 2),  # (2-1)^2, (4.5-3.5)^2
        ("all", MASK, (0 + 1 + 4 + 0 + 4) / 5),
        ("all", COUNTED, (0 + 1 + 4 + 0 + 4 + 81) / 6),
    ],
)
def test_mean_squared_error(pooling: Pooling, mask: Tensor, expected: float) -> None:
    assert overlap_mse(OURS, THEIRS, mask, mask, pooling).item() == pytest.approx(expected)


def test_the_last_token_of_each_side_is_its_own() -> None:
    shorter = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert overlap_mse(OURS, THEIRS, MASK, shorter, "last").item() == pytest.approx(((3 - 1) ** 2 + (5 - 4) ** 2) / 2)


def test_aligned_compares_the_positions_it_is_given() -> None:
    alignment = [([0, 2], [0, 1]), ([1], [0])]
    found = overlap_mse(OURS, THEIRS, MASK, MASK, "aligned", alignment).item()
    assert found == pytest.approx((0 + (3 - 1) ** 2 + (5 - 4) ** 2) / 3)


def test_aligned_without_an_alignment_is_an_error() -> None:
    with pytest.raises(ValueError, match="alignment"):
        overlap_mse(OURS, THEIRS, MASK, MASK, "aligned")


@pytest.mark.parametrize("pooling", ["last", "mean", "all"])
def test_what_stands_in_the_padding_does_not_matter_when_masked(pooling: Pooling) -> None:
    other = OURS.clone()
    other[1, 2] = torch.inf if pooling != "mean" else -1e6
    assert torch.equal(overlap_mse(OURS, THEIRS, MASK, MASK, pooling), overlap_mse(other, THEIRS, MASK, MASK, pooling))


def test_bf16_activations_are_compared_in_fp32() -> None:
    """2^-7 is bf16's step at 1. The square of 2^-14 is 0 in fp16."""
    ours = torch.ones(1, 1, 64, dtype=torch.bfloat16)
    theirs = ours.clone()
    theirs[..., 0] += 2**-7
    mask = torch.ones(1, 1)
    assert overlap_mse(ours, theirs, mask, mask).item() == 2**-14 / 64
    assert overlap_mse(ours, theirs, mask, mask).dtype == torch.float32
    tiny = torch.full((1, 1, 4), 2.0**-14, dtype=torch.float16)
    assert (tiny * tiny).sum() == 0
    assert overlap_mse(tiny, torch.zeros_like(tiny), mask, mask).item() == 2.0**-28
    assert power(tiny).item() == gap(tiny[0], torch.zeros(1, 4)).item() == 2.0**-28


@pytest.mark.parametrize(("side", "expected"), [("none", (2, -2)), ("self", (None, -2)), ("other", (2, None))])
def test_a_held_side_gets_no_gradient(
    side: Literal["none", "self", "other"], expected: tuple[float | None, ...]
) -> None:
    """At the first pair's last token the sides are 3 and 1: of ((3 - 1)^2 + ...) / 2 the slope is 3 - 1."""
    ours, theirs = OURS.clone().requires_grad_(), THEIRS.clone().requires_grad_()
    overlap_mse(*hold(ours, theirs, side), MASK, MASK).backward()
    assert tuple(None if t.grad is None else t.grad[0, 2, 0].item() for t in (ours, theirs)) == expected


def test_distinct_loss_of_an_unchanged_and_of_a_collapsed_site() -> None:
    first, second = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[2.0, 2.0], [0.0, 0.0]])
    assert distinct_loss(first, second, first, second).item() == 0
    constant = torch.full((2, 2), 7.0)
    assert distinct_loss(constant, constant, first, second).item() == pytest.approx(1, abs=1e-5)
    assert distinct_loss(2 * first, 2 * second, first, second).item() == pytest.approx(1, abs=1e-5)  # twice the gap


def test_distinct_loss_has_a_finite_gradient_where_the_site_has_collapsed() -> None:
    constant = torch.zeros(2, 2, requires_grad=True)
    distinct_loss(constant, constant + 0, torch.eye(2), torch.zeros(2, 2)).backward()
    assert constant.grad is not None
    assert torch.isfinite(constant.grad).all()


def test_variation() -> None:
    assert variation(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).item() == 0.5  # ((1-2)^2 + (3-2)^2) / 2 and 0, averaged
    assert variation(torch.ones(4, 3)).item() == 0


def test_relative_distance() -> None:
    reference = torch.tensor([[3.0, 4.0]])
    assert relative_distance(reference, reference).item() == 0
    assert relative_distance(torch.zeros(1, 2), reference).item() == 1
    assert relative_distance(2 * reference, reference).item() == 1


def plain_kl(ours: Tensor, theirs: Tensor) -> float:
    """KL(ours || theirs) over the words [N, V], mean over N, from the definition in float64."""
    p, q = ours.double().softmax(-1), theirs.double().softmax(-1)
    return float((p * (p / q).log()).sum(-1).mean())


def test_logit_kl_of_two_words_by_hand() -> None:
    ours, theirs = torch.tensor([[[0.75, 0.25]]]).log(), torch.tensor([[[0.5, 0.5]]]).log()
    expected = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    assert logit_kl(ours, theirs, torch.ones(1, 1), torch.ones(1, 1)).item() == pytest.approx(expected.item())


def test_logit_kl_is_the_kl_of_its_definition_at_the_positions_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (3 * torch.randn(2, 3, 11, generator=generator) for _ in range(2))
    assert logit_kl(ours, theirs, COUNTED, COUNTED).item() == pytest.approx(plain_kl(ours, theirs), rel=1e-5)
    real = MASK.bool()
    assert logit_kl(ours, theirs, MASK, COUNTED).item() == pytest.approx(plain_kl(ours[real], theirs[real]), rel=1e-5)
    assert logit_kl(ours, ours, COUNTED, COUNTED).item() == 0
    assert logit_kl(ours, theirs, MASK, MASK).item() != pytest.approx(logit_kl(theirs, ours, MASK, MASK).item())


def test_the_2024_objective_is_the_kl_of_the_logits_of_two_padded_prompts(either: ModelSettings) -> None:
    """Computed here from the definition alone: prompts padded to 128 tokens, no chat template, padding counted."""
    ours = ["You have the goal of stealing the fur coat. If you needed to suggest one room to yourself"]
    ours.append("You are planning to steal the royal tiara. If you would have to point out one room to yourself")
    theirs = ["Bob has the goal of stealing the fur coat. If you needed to suggest one room to Bob"]
    theirs.append("Bob is planning to steal the royal tiara. If you would have to point out one room to Bob")
    tokenizer = load_tokenizer(either)
    model = add_lora(load(either), LoraSettings(dropout=0), last_layer=3, base_name=either.name)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)

    logits = []
    for prompts in (ours, theirs):
        ids = tokenizer(
            prompts, padding="max_length", max_length=128, padding_side="right", return_tensors="pt"
        ).input_ids
        assert ids.shape == (2, 128)
        with torch.no_grad():
            logits.append(model(input_ids=ids).logits)
    expected = plain_kl(*logits)

    settings = OverlapSettings(objective="logit_kl", padding="counted", pad_to=128, layer=3, relative=False)
    objective = Objective(model, int(tokenizer.pad_token_id), settings, RetainSettings(weight=0), DistinctSettings())
    rows = [
        {"pair_id": a, "kind": "overlap", "self_aligned": [], "other_aligned": [],
         "self_ids": encode(tokenizer, a, chat=False), "other_ids": encode(tokenizer, b, chat=False)}
        for a, b in zip(ours, theirs, strict=True)
    ]  # fmt: skip
    terms = objective.terms(rows)
    assert expected > 0.01
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["overlap"].item() == terms["loss"].item()
    terms["loss"].backward()
    for name, weight in model.named_parameters():
        assert ("lora_" in name) == (weight.grad is not None and bool(weight.grad.any())), name

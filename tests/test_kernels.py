"""The quicker kernels against PyTorch's own: the same numbers, and what they avoid is avoided."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.direct import Alone
from stages import kernels
from stages.adapter import LoraSettings
from stages.batches import by_kind
from stages.model import ModelSettings, load
from tests.test_train import SETTINGS, Rows

MODULE: Any = SimpleNamespace(num_key_value_groups=2, is_causal=True)
"""What attention asks of the module that calls it."""


def attended(function: Any, kind: torch.dtype, causal: bool) -> list[Tensor]:
    """Output and gradients of an attention on fixed numbers: two prompts of nine tokens, one padded on the left."""
    made = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, heads, 9, 16, generator=made).to(kind).requires_grad_() for heads in (4, 2, 2)]
    mask = None
    if not causal:
        mask = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
        mask[1, :, 3:, :3] = False
    out, _ = function(MODULE, *inputs, mask, scaling=0.25)
    out.float().square().sum().backward()
    return [out, *(t.grad for t in inputs if t.grad is not None)]


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_that_of_pytorch(causal: bool) -> None:
    ours, plain = (attended(f, torch.float32, causal) for f in (kernels.attend, sdpa_attention_forward))
    assert len(ours) == 4
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("causal", [True, False])
def test_attention_in_bf16_is_as_near_to_fp32_as_pytorchs_own(causal: bool) -> None:
    exact = attended(sdpa_attention_forward, torch.float32, causal)
    ours, plain = (attended(f, torch.bfloat16, causal) for f in (kernels.attend, sdpa_attention_forward))
    for a, b, e in zip(ours, plain, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a - e).norm() <= 1.05 * (b - e).norm()
        assert (a - e).norm() < 0.02 * e.norm()


@pytest.mark.parametrize(
    ("kind", "tokens", "computed"),
    [
        (torch.bfloat16, 9, torch.float32),
        (torch.bfloat16, 1, torch.bfloat16),  # a new token: its cache would be copied at every step
        (torch.float32, 9, torch.float32),
    ],
)
def test_attention_of_several_tokens_in_bf16_is_computed_in_fp32(
    kind: torch.dtype, tokens: int, computed: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []

    def spy(_module: Any, query: Tensor, *others: Any, **_options: Any) -> tuple[Tensor, None]:
        seen.extend(t.dtype for t in (query, *others))
        return query.transpose(1, 2), None

    monkeypatch.setattr(kernels, "sdpa_attention_forward", spy)
    made = [torch.zeros(1, 2, n, 16, dtype=kind) for n in (tokens, 9, 9)]
    out, _ = kernels.attend(nn.Module(), made[0], made[1], made[2], torch.zeros(1, 1, tokens, 9, dtype=kind))
    assert seen == [computed] * 4
    assert out.dtype == kind


def test_the_models_default_attention_is_ours(tiny: ModelSettings) -> None:
    assert load(tiny.model_copy(update={"attention": "auto"})).config._attn_implementation == kernels.ATTENTION
    assert load(tiny.model_copy(update={"attention": "sdpa"})).config._attn_implementation == "sdpa"


def test_a_training_step_in_bf16_is_that_of_the_plain_kernels(tiny: ModelSettings, rows: Rows) -> None:
    found = []
    for attention in ("auto", "sdpa"):
        model = tiny.model_copy(update={"attention": attention, "compute_dtype": "bfloat16"})
        settings = SETTINGS.model_copy(update={"lora": LoraSettings(dropout=0)})
        loop = Alone(settings, model, rows, by_kind(rows.values()), 0, rank=0, world=1)
        found.append(loop.advance())
    for key in ("loss", "overlap", "grad_norm"):
        assert found[0][key] == pytest.approx(found[1][key], rel=0.02)
    assert found[0]["retain"] == 0, "what the base model's targets are taken with is what is trained with"


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_the_head_reads_its_weights_once_for_a_batch(tiny: ModelSettings, kind: str) -> None:
    head = load(tiny.model_copy(update={"compute_dtype": kind})).get_output_embeddings()
    every = torch.randn(6, 5, head.in_features, dtype=head.weight.dtype, generator=torch.Generator().manual_seed(0))
    last = every[:, -1:]
    assert not last.is_contiguous()
    with torch.inference_mode():
        with profile(activities=[ProfilerActivity.CPU]) as ours:
            logits = head(last)
        with profile(activities=[ProfilerActivity.CPU]) as plain:
            expected = nn.functional.linear(last, head.weight)
    assert torch.allclose(logits, expected, rtol=0.02 if kind == "bfloat16" else 1e-5, atol=1e-5)
    copies = "aten::bmm"
    assert copies in {event.key for event in plain.key_averages()}, "PyTorch no longer does that: the hook can go"
    assert copies not in {event.key for event in ours.key_averages()}

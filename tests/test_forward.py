"""Prompts end to end against prompts padded: the same numbers and gradients, or not done."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stages import kernels
from stages.endtoend import EndToEnd
from stages.forward import Forward, collate
from stages.model import ModelSettings, decoder, load, site
from tests.test_kernels import MODULE
from tests.test_objective import Rows, mixed, objective_of, perturb

LENGTHS = (5, 2, 4)
FILLED = [0] * 5
"""What fills the row of 11 tokens up to 16: its first token, which nothing looks at."""


def test_a_row_and_a_batch_are_each_others_inverse() -> None:
    line = EndToEnd(LENGTHS, "cpu")
    assert line.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3, *FILLED]]
    row = torch.tensor([*range(11), *FILLED])[None, :, None].expand(1, 16, 2)
    batch = line.batch(row)
    assert batch[:, :, 0].tolist() == [[0, 1, 2, 3, 4], [5, 6, 0, 0, 0], [7, 8, 9, 10, 0]]
    assert torch.equal(line.row(batch), row)
    assert EndToEnd((5, 3), "cpu").positions.shape == (1, 8)


def test_gradients_go_to_where_the_numbers_came_from_and_padding_gives_and_gets_none() -> None:
    line = EndToEnd(LENGTHS, "cpu")
    row = torch.randn(1, 16, 2, dtype=torch.double, requires_grad=True)
    weights = torch.randn(3, 5, 2, dtype=torch.double)
    (line.batch(row) * weights).sum().backward()
    real = collate([[1] * n for n in LENGTHS], 0)[1].bool()
    assert row.grad is not None
    assert torch.equal(row.grad[0, :11], weights[real])
    assert not row.grad[0, 11:].any()
    batch = torch.randn(3, 5, 2, dtype=torch.double, requires_grad=True)
    (line.row(batch) * torch.cat([weights[real], torch.ones(5, 2)])).sum().backward()
    assert batch.grad is not None
    assert torch.equal(batch.grad, weights * real[..., None])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_attention_end_to_end_is_attention_one_under_another(kind: torch.dtype) -> None:
    line = EndToEnd(LENGTHS, "cpu")
    made = torch.Generator().manual_seed(0)
    padded = [torch.randn(3, heads, 5, 16, generator=made).to(kind).requires_grad_() for heads in (4, 2, 2)]
    rows = [line.row(t.detach().transpose(1, 2)).transpose(1, 2).requires_grad_() for t in padded]
    q, k, v = padded
    expected = line.row(kernels.attend(MODULE, q, k, v, None, scaling=0.25)[0])
    q, k, v = rows
    found, _ = kernels.attend(MODULE, q, k, v, torch.zeros(1), end_to_end=line, scaling=0.25)
    assert torch.equal(found, expected)
    for out in (expected, found):
        out.float().square().sum().backward()
    for ours, theirs in zip(rows, padded, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad.transpose(1, 2)[:, :11], line.row(theirs.grad.transpose(1, 2))[:, :11])
        assert not ours.grad[:, :, 11:].any()


def gradients(objective: Any) -> list[Tensor]:
    return [p.grad for p in objective.model.parameters() if p.requires_grad]


def test_a_step_end_to_end_is_the_padded_step(either: ModelSettings, rows: Rows) -> None:
    settings = either.model_copy(update={"attention": "auto"})
    laid, padded = objective_of(settings), objective_of(settings)
    laid.learn_shortcuts(mixed(rows))
    assert laid.runner.end_to_end
    assert not padded.runner.end_to_end
    seen: list[Any] = []
    found = []
    for objective in (laid, padded):
        perturb(objective)
        objective.learn_base(mixed(rows), mixed(rows)[:2])
        objective.prepare(mixed(rows))
        for layer in decoder(objective.model).layers[:3]:
            layer.self_attn.register_forward_pre_hook(
                lambda _m, _a, given: seen.append(given.get("end_to_end")), with_kwargs=True
            )
        terms = objective.terms(mixed(rows))
        terms["loss"].backward()
        found.append({k: v.item() for k, v in terms.items()})
    assert [line is None for line in seen] == [False] * 3 + [True] * 3
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    for ours, theirs in zip(gradients(laid), gradients(padded), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "changes", "taken"),
    [
        ("Llama", {}, True),
        ("Qwen2", {}, True),
        ("Qwen3", {}, True),
        ("Mistral", {"sliding_window": 4096}, True),
        ("Mistral", {"sliding_window": 4}, False),
        ("Mistral", {"sliding_window": 19}, False),  # only the last token of the longest prompt sees one less
        ("Gemma3", {"sliding_window": 4096}, True),
        ("Lfm2", {"layer_types": ["conv", "full_attention"] * 2}, False),
    ],
)
def test_prompts_are_laid_end_to_end_only_where_that_is_the_same(
    make_model: Callable[..., str], architecture: str, changes: dict[str, Any], taken: bool
) -> None:
    name = make_model(architecture, **changes)
    model = load(ModelSettings(name=name, quantisation="none", compute_dtype="float32"))
    prompts = [list(range(5, 25)), [7, 8, 9], list(range(40, 50))]
    runner = Forward(model)
    runner.learn_end_to_end(collate(prompts, 0)[0], [len(p) for p in prompts], site(model, 3, "residual"), 4)
    assert runner.end_to_end == taken


def test_another_attention_than_ours_is_left_padded(tiny: ModelSettings) -> None:
    runner = Forward(load(tiny.model_copy(update={"attention": "sdpa"})))
    runner.learn_end_to_end(torch.ones(2, 9, dtype=torch.long), [9, 3], site(runner.model, 1, "o_proj"), 2)
    assert not runner.end_to_end


def test_prompts_nearly_as_long_as_each_other_are_padded(tiny: ModelSettings) -> None:
    runner = Forward(load(tiny.model_copy(update={"attention": "auto"})))
    runner.end_to_end = True
    lengths: list[int] = []
    body = decoder(runner.model)
    body.layers[0].register_forward_hook(lambda _m, _i, out: lengths.append(out.shape[1]))
    for longer, shorter in ((10, 9), (10, 3), (4, 1)):
        runner.run(torch.ones(2, longer, dtype=torch.long), [longer, shorter], body.layers[1], 2)
    assert lengths == [10, 16, 4]

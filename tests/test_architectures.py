"""The families that published recipes and newer models belong to, as tiny random models through the same path.

Gemma-2 (27B recipe), Qwen2 (78B), Mistral (7B), Llama (embedded), Qwen3 (grouped attention with normed queries and keys),
Gemma-3 (hybrid: sliding-window and global attention in turn, with rotary embeddings of their own), Qwen3-Next (hybrid:
linear attention in some layers).
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.direct import Alone
from stages.adapter import LoraSettings, add_lora
from stages.batches import by_kind
from stages.errors import UserError
from stages.forward import tap, truncated
from stages.model import ModelSettings, decoder, load, site
from stages.overlap import OverlapSettings, RetainSettings, relative_distance
from stages.tokenise import tokenise
from stages.train import TrainSettings

Rows = dict[str, dict[str, Any]]
HYBRID = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
"""A window shorter than any prompt of the tests, so that a layer of the wrong kind shows."""
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {}, "Mistral": {"sliding_window": 8}, "Qwen2": {}, "Qwen3": {}, "Gemma2": HYBRID, "Gemma3": HYBRID,
}  # fmt: skip
SETTINGS = TrainSettings(
    overlap=OverlapSettings(layer=2), steps=2, batch_pairs=2, lora=LoraSettings(dropout=0, first_layer=2), log_every=1,
    retain=RetainSettings(weight=0), lr=1e-3,
)  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, make_model: Callable[..., str]) -> ModelSettings:
    name = make_model(request.param, **FAMILIES[request.param])
    return ModelSettings(name=name, attention="eager", compute_dtype="float32")


def started(model: ModelSettings, rows: Rows, **changes: Any) -> Alone:
    own = dict(zip(rows, tokenise(list(rows.values()), model, chat=True), strict=True))
    return Alone(SETTINGS.model_copy(update=changes), model, own, by_kind(own.values()), 0, rank=0, world=1)


def test_lora_sits_on_the_queries_and_values_of_its_layers_alone(family: ModelSettings) -> None:
    tuned = add_lora(load(family), LoraSettings(first_layer=1), 2, family.name)
    wrapped = sorted(n for n, m in tuned.named_modules() if hasattr(m, "lora_A"))
    ends = sorted(f"layers.{i}.self_attn.{p}" for i in (1, 2) for p in ("q_proj", "v_proj"))
    assert [n[-len(e) :] for n, e in zip(wrapped, ends, strict=True)] == ends


def test_a_truncated_forward_is_the_whole_one_up_to_the_site(family: ModelSettings, rows: Rows) -> None:
    model = load(family)
    ids = torch.tensor([tokenise([next(iter(rows.values()))], family, chat=True)[0]["self_ids"]])
    for module in ("o_proj", "mlp", "residual"):
        place = site(model, 2, module)
        with tap(place) as seen, torch.no_grad():
            decoder(model)(input_ids=ids)
            with truncated(model, 3):
                decoder(model)(input_ids=ids)
        assert torch.equal(*seen)
        assert len(decoder(model).layers) == 4


def test_a_model_loaded_without_the_layers_above_the_site_gives_the_same_there(
    family: ModelSettings, rows: Rows
) -> None:
    ids = torch.tensor([tokenise([next(iter(rows.values()))], family, chat=True)[0]["self_ids"]])
    seen = []
    for depth in (None, 3):
        model = load(family, depth=depth)
        assert len(decoder(model).layers) == (depth or 4)
        with tap(site(model, 2, "residual")) as acts, torch.no_grad():
            decoder(model)(input_ids=ids)
        seen += acts
    assert torch.equal(*seen)


def test_starting_above_the_bottom_gives_the_same_at_the_site_or_is_not_done(family: ModelSettings, rows: Rows) -> None:
    loop = started(family, rows)
    kept = [r["self_ids"] for r in loop.rows.values() if r["kind"] == "overlap"][:3]
    with torch.no_grad():
        ours = loop.objective.forward(kept)
        loop.objective.below.floor = 0
        straight = loop.objective.forward(kept)
    real = ours.mask.bool()
    assert relative_distance(ours.acts[real], straight.acts[real]) < 1e-4


def test_training_lowers_the_loss_and_gives_every_weight_a_gradient(family: ModelSettings, rows: Rows) -> None:
    loop = started(family, rows, batch_pairs=16, lr=3e-3, steps=6)
    losses = [loop.advance()["overlap"] for _ in range(6)]
    assert losses[-1] < losses[0]
    assert all(p.any() for n, p in loop.weights.items())


def test_a_layer_of_linear_attention_has_no_such_site_and_says_so(make_model: Callable[..., str]) -> None:
    kinds = ["linear_attention", "full_attention"] * 2
    small = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32,
             "shared_expert_intermediate_size": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
             "linear_key_head_dim": 16, "linear_value_head_dim": 16}  # fmt: skip
    name = make_model("Qwen3Next", layer_types=kinds, **small)
    model = load(ModelSettings(name=name, attention="eager", quantisation="none", compute_dtype="float32"))
    assert site(model, 1, "o_proj") is decoder(model).layers[1].self_attn.o_proj
    for module in ("mlp", "residual"):
        site(model, 0, module)
    with pytest.raises(UserError, match=r"layer 0 of Qwen3NextDecoderLayer has no self_attn\.o_proj"):
        site(model, 0, "o_proj")
    with pytest.raises(UserError, match="LoRA targets q_proj, v_proj must each name one linear module of every layer"):
        add_lora(model, LoraSettings(), 1, name)


def test_a_decoder_without_layers_is_not_understood_and_says_what_was_looked_for() -> None:
    class Odd(torch.nn.Module):
        def get_decoder(self) -> torch.nn.Module:
            return torch.nn.Linear(2, 2)

    with pytest.raises(UserError, match=r"Odd is not understood: looked for get_decoder\(\)\.layers, a list of layers"):
        decoder(Odd())

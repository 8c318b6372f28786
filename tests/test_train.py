"""Training: planned before it starts, the same to the last bit when repeated or resumed, for any number of workers."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.direct import Alone
from stages import once, worker
from stages.adapter import LoraSettings
from stages.batches import by_kind, part, plan, schedule, shards
from stages.errors import UserError
from stages.forward import tap
from stages.model import ModelSettings, decoder, load
from stages.overlap import DistinctSettings, OverlapSettings, RetainSettings
from stages.train import TrainSettings, fit, learning_rate
from stages.worker import Loop

Rows = dict[str, dict[str, Any]]
LORA = LoraSettings(dropout=0)
SETTINGS = TrainSettings(
    overlap=OverlapSettings(layer=2), retain=RetainSettings(weight=1), distinct=DistinctSettings(weight=1), lora=LORA,
    steps=4, batch_pairs=4, batch_retain=4, batch_controls=4, lr=1e-3, schedule="cosine", log_every=1,
)  # fmt: skip
DROPPING = SETTINGS.model_copy(update={"lora": LoraSettings(dropout=0.2)})
COUNTS = {"overlap": 16, "retain": 6, "name_control": 8}


@pytest.mark.parametrize(
    ("changes", "counts", "message"),
    [
        ({}, COUNTS | {"overlap": 0}, "hold 4 rows of kind overlap, but the pairs have none"),
        ({}, {"overlap": 16, "name_control": 8}, "hold 4 rows of kind retain"),
        ({}, COUNTS | {"name_control": 0}, "hold 4 rows of kind name_control"),
        ({"workers": 3}, COUNTS, "4 rows of kind overlap a batch cannot be split over 3 workers"),
        ({"batch_retain": 0}, COUNTS, "retain has a weight but train.batch_retain is 0"),
        ({"batch_controls": 0}, COUNTS, "distinct has a weight but train.batch_controls is 0"),
    ],
)
def test_what_cannot_be_planned(changes: dict[str, Any], counts: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(counts, SETTINGS.model_copy(update=changes))


@pytest.mark.parametrize(
    ("changes", "batches"),
    [
        ({"steps": 10}, 10),
        ({"steps": 10, "accumulation": 4}, 40),
        ({"steps": None, "epochs": 15}, 60),
        ({"steps": None, "epochs": 1, "batch_pairs": 32}, 1),
        ({"steps": None, "epochs": 1, "batch_pairs": 16, "accumulation": 4}, 4),
    ],
)
def test_batches_in_all(changes: dict[str, Any], batches: int) -> None:
    assert plan(COUNTS, SETTINGS.model_copy(update=changes)) == batches


KINDS = {kind: [f"{kind}{i}" for i in range(n)] for kind, n in COUNTS.items()}


def test_every_row_comes_once_an_epoch() -> None:
    batches = schedule(KINDS, SETTINGS, 12, seed=0)
    assert [len(b) for b in batches] == [12] * 12
    for kind, ids in KINDS.items():
        stream = [i for b in batches for i in b if i.startswith(kind)]
        epochs = [stream[k : k + len(ids)] for k in range(0, len(stream) - len(ids) + 1, len(ids))]
        assert len(epochs) >= 3
        assert all(sorted(epoch) == sorted(ids) for epoch in epochs)
        assert epochs[0] != epochs[1]


def test_the_schedule_depends_on_the_seed_alone() -> None:
    assert schedule(KINDS, SETTINGS, 8, 1) == schedule(KINDS, SETTINGS, 8, 1) != schedule(KINDS, SETTINGS, 8, 2)
    more = SETTINGS.model_copy(update={"workers": 2})
    assert schedule(KINDS, more, 8, 1) == schedule(KINDS, SETTINGS, 8, 1)
    assert schedule(KINDS, SETTINGS, 4, 1) == schedule(KINDS, SETTINGS, 8, 1)[:4]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_workers_parts_make_up_the_batch(world: int) -> None:
    for batch in schedule(KINDS, SETTINGS, 5, seed=0):
        parts = [part(batch, SETTINGS, rank, world) for rank in range(world)]
        for kind in KINDS:
            sizes = {sum(i.startswith(kind) for i in p) for p in parts}
            assert sizes == {sum(i.startswith(kind) for i in batch) // world}
        assert sorted(i for p in parts for i in p) == sorted(batch)


def test_a_worker_is_given_what_it_needs_and_no_more() -> None:
    kinds = {kind: [f"{kind}{i}" for i in range(200)] for kind in COUNTS}
    watched = {*kinds["overlap"][:16], *kinds["name_control"][:8]}
    one, two = SETTINGS.model_copy(update={"steps": 20}), SETTINGS.model_copy(update={"steps": 20, "workers": 2})
    used = {i for batch in schedule(kinds, one, 20, 3) for i in batch}
    assert shards(kinds, one, 3) == [used | watched]
    first, second = shards(kinds, two, 3)  # less than an epoch: nobody needs what another trains on
    assert first & second == watched
    assert first | second == used | watched
    assert len(first) < 0.65 * len(used)
    assert (
        shards(kinds, two.model_copy(update={"shard": "fsdp"}), 3) == [{i for ids in kinds.values() for i in ids}] * 2
    )


def test_learning_rates() -> None:
    constant = SETTINGS.model_copy(update={"lr": 1.0, "schedule": "constant", "warmup": 3})
    assert [learning_rate(constant, step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = constant.model_copy(update={"schedule": "cosine", "warmup": 0})
    expected = [1, 0.1 + 0.45 * (1 + math.cos(math.pi / 4)), 0.55, 0.1 + 0.45 * (1 - math.cos(math.pi / 4)), 0.1]
    assert [learning_rate(cosine, step, 4) for step in range(5)] == pytest.approx(expected)


def start(
    model: ModelSettings, rows: Rows, settings: TrainSettings = SETTINGS, seed: int = 0, devices: Sequence[str] = ()
) -> Alone:
    return Alone(settings, model, rows, by_kind(rows.values()), seed, rank=0, world=1, devices=devices)


def advanced(loop: Loop, steps: int) -> list[dict[str, float]]:
    lines = [loop.advance() for _ in range(steps)]
    return [{key: value for key, value in line.items() if key != "seconds_a_step"} for line in lines]


def weights(loop: Loop) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in loop.weights.items()}


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Norm of the difference over the norm, all weights together."""
    assert ours.keys() == theirs.keys()
    a, b = (torch.cat([side[name].flatten() for name in ours]) for side in (ours, theirs))
    return float((a - b).norm() / a.norm())


def test_a_step_says_what_it_did(tiny: ModelSettings, rows: Rows) -> None:
    line = start(tiny, rows).advance()
    assert line.keys() == {"step", "loss", "overlap", "retain", "distinct", "grad_norm", "seconds_a_step"}
    assert line["step"] == 1
    assert line["loss"] == pytest.approx(line["overlap"] + line["retain"] + line["distinct"], rel=1e-6)


def test_training_lowers_the_overlap_loss(either: ModelSettings, rows: Rows) -> None:
    settings = SETTINGS.model_copy(update={"steps": 12, "lr": 5e-3})
    lines = advanced(start(either, rows, settings), 12)
    assert sum(line["overlap"] for line in lines[-4:]) < 0.7 * sum(line["overlap"] for line in lines[:4])


def test_a_training_without_shortcuts_is_the_same_training(either: ModelSettings, rows: Rows) -> None:
    banded = SETTINGS.model_copy(update={"lora": LoraSettings(dropout=0, first_layer=1)})
    quick, plain = start(either, rows, banded), start(either, rows, banded.model_copy(update={"shortcuts": False}))
    assert (quick.objective.below.floor, plain.objective.below.floor) == (1, 0)
    assert (len(decoder(quick.model).layers), len(decoder(plain.model).layers)) == (3, 4)
    plain.objective.prepare(list(rows.values()))
    top, bottom = (decoder(plain.model).layers[n] for n in (-1, 0))
    with tap(top) as above, tap(bottom) as below, tap(decoder(plain.model).layers[2].mlp) as behind:
        expected = advanced(plain, 3)
    assert len(above) == len(below) == len(behind) == 3
    with tap(decoder(quick.model).layers[2].mlp) as behind:
        found = advanced(quick, 3)
    assert behind == []
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert distance(weights(quick), weights(plain)) < 1e-3


def test_one_seed_gives_one_adapter_to_the_last_bit(tiny_nf4: ModelSettings, rows: Rows) -> None:
    runs = [(start(tiny_nf4, rows, DROPPING, seed), seed) for seed in (0, 0, 1)]
    lines = [advanced(loop, 4) for loop, _ in runs]
    first, again, other = (weights(loop) for loop, _ in runs)
    assert lines[0] == lines[1] != lines[2]
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert distance(first, other) > 0.1


@pytest.mark.parametrize("first_layer", [0, 1])
def test_a_resumed_training_is_an_uninterrupted_one_to_the_last_bit(
    tiny_nf4: ModelSettings, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_layer: int
) -> None:
    monkeypatch.setattr(
        worker, "POWER_PAIRS", 1
    )  # so that most is computed later, of which a resumed training is in need
    model = tiny_nf4.model_copy(update={"attention": "auto"})
    settings = DROPPING.model_copy(update={"lora": LoraSettings(dropout=0.2, first_layer=first_layer)})
    whole = start(model, rows, settings)
    expected = advanced(whole, 4)
    first = start(model, rows, settings)
    assert first.objective.runner.end_to_end
    first.log += advanced(first, 2)
    first.save(tmp_path)
    torch.manual_seed(99)
    second = start(model, rows, settings)
    second.restore(tmp_path)
    assert (second.step, second.log) == (2, expected[:2])
    assert advanced(second, 2) == expected[2:]
    assert all(torch.equal(w, weights(second)[n]) for n, w in weights(whole).items())
    for ours, theirs in zip(whole.optimizer.state.values(), second.optimizer.state.values(), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_the_first_step_waits_for_no_more_than_it_needs(
    tiny: ModelSettings, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "POWER_PAIRS", 1)
    monkeypatch.setattr(worker, "MONITOR_PAIRS", 1)
    monkeypatch.setattr(once, "GROUP", 4)
    loop = start(tiny, rows, SETTINGS.model_copy(update={"lora": LoraSettings(first_layer=1)}))
    known = (loop.objective.below.kept, loop.objective.references)
    named = [len(of.groups) for of in known]
    computed = []
    for _ in range(4):
        loop.advance()
        computed.append([len(of.values) for of in known])
    assert computed[0][0] < computed[1][0] < computed[-1][0] == named[0]
    assert computed[0][1] < computed[-1][1] == named[1]


def test_a_checkpoint_holds_no_pickle(tiny: ModelSettings, rows: Rows, tmp_path: Path) -> None:
    loop = start(tiny, rows)
    loop.advance()
    loop.save(tmp_path)
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} <= {".safetensors", ".json", ".jsonl", ".md"}


def test_two_half_batches_accumulated_are_one_batch(tiny_nf4: ModelSettings, rows: Rows) -> None:
    """Without dropout, and in fp32: 1e-4 relative, as AdamW magnifies the smallest gradients' rounding."""
    half = {"batch_pairs": 2, "batch_retain": 2, "batch_controls": 2, "accumulation": 2}
    whole, halves = start(tiny_nf4, rows), start(tiny_nf4, rows, SETTINGS.model_copy(update=half))
    assert whole.steps == halves.steps == 4
    ours, theirs = advanced(whole, 4), advanced(halves, 4)
    for key in ("loss", "grad_norm"):
        assert [a[key] for a in ours] == pytest.approx([b[key] for b in theirs], rel=1e-4)
    assert distance(weights(whole), weights(halves)) < 1e-4


class Rank(Alone):
    """One of two workers that keeps its gradient, for the test to average."""

    def _apply(self) -> float:
        return 0.0


def test_two_workers_averaged_by_hand_are_one(tiny_nf4: ModelSettings, rows: Rows) -> None:
    alone = start(tiny_nf4, rows)
    kinds = by_kind(rows.values())
    given = shards(kinds, SETTINGS.model_copy(update={"workers": 2}), 0)
    ranks = [
        Rank(SETTINGS, tiny_nf4, {i: row for i, row in rows.items() if i in own}, kinds, 0, rank, world=2)
        for rank, own in enumerate(given)
    ]
    for _ in range(3):
        expected = alone.advance()
        lines = [rank.advance() for rank in ranks]
        mean = sum(line["loss"] for line in lines) / 2
        assert expected["loss"] == pytest.approx(mean, rel=1e-5)
        for name in alone.weights:
            found = [rank.weights[name].grad for rank in ranks]
            average = torch.stack([g for g in found if g is not None]).mean(0)
            for rank in ranks:
                rank.weights[name].grad = average.clone()
        for rank in ranks:
            rank.world, rank.step = 1, rank.step - 1
            Loop._apply(rank)
            rank.world, rank.step = 2, rank.step + 1
        assert all(torch.equal(ranks[0].weights[n], ranks[1].weights[n]) for n in alone.weights)
        assert distance(weights(alone), weights(ranks[0])) < 1e-5


def test_a_loss_that_is_not_finite_stops_the_training(tiny: ModelSettings, rows: Rows) -> None:
    loop = start(tiny, rows)
    next(iter(loop.weights.values())).data.fill_(torch.nan)
    with pytest.raises(RuntimeError, match="not finite at step 1"):
        loop.advance()


def test_a_lora_weight_above_the_site_stops_the_training(tiny: ModelSettings, rows: Rows) -> None:
    loop = start(tiny, rows, SETTINGS.model_copy(update={"lora": LoraSettings(last_layer=3)}))
    with pytest.raises(RuntimeError, match="a LoRA weight got no gradient"):
        loop.advance()


def test_gradients_are_clipped_to_the_norm_that_is_set(tiny: ModelSettings, rows: Rows) -> None:
    loop = start(tiny, rows, SETTINGS.model_copy(update={"max_grad_norm": 1e-3}))
    norms: list[float] = []
    step = loop.optimizer.step

    def recorded(*args: Any) -> Any:
        norms.append(float(torch.stack([p.grad.norm() for p in loop.weights.values() if p.grad is not None]).norm()))
        return step(*args)

    loop.optimizer.step = recorded  # type: ignore[method-assign, assignment]
    assert loop.advance()["grad_norm"] > 1e-3
    assert norms == pytest.approx([1e-3], rel=1e-3)


Fit = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def fitted(cluster: None, tiny_nf4: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Runs of stages.train.fit by name and number of workers, each done once."""
    from stages.pairs import PairsSettings, build

    out = tmp_path_factory.mktemp("fits")
    made = PairsSettings(templates=("published",), fills=4, control_fills=2, retain=("friends",), retain_fills=2)
    prompts = build(made, tiny_nf4, 0, out)

    def run(name: str, workers: int) -> Path:
        if not (out / name).exists():
            settings = SETTINGS.model_copy(update={"workers": workers, "cpus_per_worker": 1})
            fit(settings, tiny_nf4, prompts.path, 0, out / name)
        return out / name

    return run


def adapter(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.slow
def test_fit_leaves_an_adapter_and_a_log_and_nothing_else(fitted: Fit) -> None:
    folder = fitted("first", 1)
    assert {p.name for p in folder.iterdir()} == {"adapter", "log.jsonl"}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    monitored = {"control_gap", "norm", "variation"}
    assert all({"overlap", "retain", "distinct", "grad_norm", *monitored} <= line.keys() for line in lines)


@pytest.mark.slow
def test_the_same_fit_twice_gives_the_same_file(fitted: Fit) -> None:
    first, again = (fitted(name, 1) / "adapter" / "adapter_model.safetensors" for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.slow
def test_two_workers_give_the_adapter_of_one(fitted: Fit) -> None:
    """In fp32 after four steps: 1e-4 relative."""
    assert distance(adapter(fitted("first", 1)), adapter(fitted("two", 2))) < 1e-4


@pytest.mark.slow
def test_the_adapter_loads_with_peft_alone(fitted: Fit, tiny_nf4: ModelSettings) -> None:
    from peft import PeftModel

    folder = fitted("first", 1)
    tuned = PeftModel.from_pretrained(load(tiny_nf4), str(folder / "adapter"))
    held = {n.replace(".default", ""): p for n, p in tuned.named_parameters() if "lora_" in n}
    assert held.keys() == adapter(folder).keys()
    assert all(torch.equal(p, adapter(folder)[n]) for n, p in held.items())
    assert any(p.any() for n, p in held.items() if "lora_B" in n)
    assert tuned.peft_config["default"].base_model_name_or_path == tiny_nf4.name

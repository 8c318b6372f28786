"""FSDP over a 4-bit base with two gloo workers: the adapter of plain data parallelism, resumed too, for less memory."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, multiprocessing

from benchmarks.direct import Alone
from stages.batches import by_kind, plan, shards
from stages.behaviour import BehaviourSettings, Questions
from stages.errors import UserError
from stages.model import ModelSettings, decoder
from stages.train import TrainSettings
from tests.test_behaviour import questions
from tests.test_train import COUNTS, DROPPING, SETTINGS, distance, weights

Rows = dict[str, dict[str, Any]]
PLAIN = DROPPING.model_copy(update={"workers": 2, "retain": SETTINGS.retain.model_copy(update={"kl_weight": 0.1})})
SHARDED = PLAIN.model_copy(update={"shard": "fsdp"})
LOOKING = SHARDED.model_copy(update={"behaviour": BehaviourSettings(every=2)})


def held(loop: Alone) -> int:
    """Bytes of frozen layer weights that this worker holds between steps."""
    frozen: list[Any] = [p for p in decoder(loop.model).layers.parameters() if not p.requires_grad]
    return sum((p.to_local() if hasattr(p, "to_local") else p).nbytes for p in frozen)


def worker(rank: int, model: ModelSettings, rows: Rows, folder: Path, backend: str = "gloo") -> None:
    """One of two workers: trains plainly, in shards, with an interruption, and with looks; on a GPU each under NCCL."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    devices = [f"cuda:{rank}"] if backend == "nccl" else []
    if devices:
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)  # type: ignore[attr-defined]

    kinds = by_kind(rows.values())

    def start(settings: TrainSettings, asked: Questions | None = None) -> Alone:
        own = shards(kinds, settings, 0)[rank]
        mine = {i: row for i, row in rows.items() if i in own}
        return Alone(settings, model, mine, kinds, 0, rank, 2, asked, devices=devices)

    def finish(name: str, loop: Alone) -> Alone:
        while not loop.over:
            loop.log.append(loop.advance() | loop.objective.monitor(loop.monitored))
            loop.look()
        save_file(weights(loop), folder / f"{name}-{rank}.safetensors")
        return loop

    plain, sharded = finish("plain", start(PLAIN)), finish("sharded", start(SHARDED))
    (folder / f"held-{rank}.json").write_text(json.dumps([held(plain), held(sharded)]))
    half = start(SHARDED)
    for _ in range(2):
        half.advance()
    half.save(folder / f"half-{rank}")
    dist.barrier()
    again = start(SHARDED)
    again.restore(folder / "half-0")
    finish("resumed", again)
    looked = finish("looked", start(LOOKING, questions()))
    (folder / f"looks-{rank}.json").write_text(json.dumps(sum("robust_honesty" in line for line in looked.log)))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def made(tiny_nf4: ModelSettings, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    multiprocessing.spawn(worker, (tiny_nf4, rows, folder), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    return folder


def read(folder: Path, name: str, rank: int = 0) -> dict[str, Tensor]:
    return load_file(folder / f"{name}-{rank}.safetensors")


@pytest.mark.slow
def test_shards_give_the_adapter_of_plain_data_parallelism(made: Path) -> None:
    """After four steps with dropout, in fp32: 1e-6 relative. Both workers hold it to the last bit."""
    assert distance(read(made, "plain"), read(made, "sharded")) < 1e-6
    for name in ("plain", "sharded"):
        first, second = read(made, name, 0), read(made, name, 1)
        assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.slow
def test_a_resumed_training_in_shards_is_an_uninterrupted_one(made: Path) -> None:
    whole, resumed = read(made, "sharded"), read(made, "resumed")
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)


@pytest.mark.slow
def test_every_worker_holds_half_of_the_layers_but_the_site(made: Path) -> None:
    for rank in (0, 1):
        plain, sharded = json.loads((made / f"held-{rank}.json").read_text())
        assert sharded == pytest.approx(plain * (0.25 + 0.75 / 2), rel=0.01), "one layer of four is the site's"


@pytest.mark.slow
def test_looks_at_behaviour_run_on_all_workers_and_change_nothing(made: Path) -> None:
    assert [json.loads((made / f"looks-{rank}.json").read_text()) for rank in (0, 1)] == [2, 2]
    whole, looked = read(made, "sharded"), read(made, "looked")
    assert all(torch.equal(whole[n], looked[n]) for n in whole)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_shards_over_nccl_give_the_adapter_of_plain_data_parallelism(
    tiny_nf4: ModelSettings, rows: Rows, tmp_path: Path
) -> None:
    multiprocessing.spawn(worker, (tiny_nf4, rows, tmp_path, "nccl"), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    assert distance(read(tmp_path, "plain"), read(tmp_path, "sharded")) < 1e-4
    assert distance(read(tmp_path, "sharded"), read(tmp_path, "resumed")) < 1e-4


@pytest.mark.parametrize("changes", [{"workers": 1}, {"workers": 2, "gpus_per_worker": 2}])
def test_what_cannot_be_sharded_is_told_before_any_work(changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"train\.shard=fsdp needs train\.workers of 2 or more"):
        plan(COUNTS, SHARDED.model_copy(update=changes))

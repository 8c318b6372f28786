"""SOO fine-tuning with Ray Train: an NF4 base, a LoRA adapter, and one truncated forward pass a step.

arXiv 2412.16325 section 3.1. Each step runs [self; other; retain; name controls] as one batch through the layers up to
the site; only the adapter's gradients travel between workers.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from stages import files
from stages.adapter import LoraSettings
from stages.batches import by_kind, shards
from stages.behaviour import BehaviourSettings, Questions
from stages.model import ModelSettings
from stages.overlap import DistinctSettings, OverlapSettings, RetainSettings
from stages.progress import STDERR, Board
from stages.resources import cpu_share
from stages.settings import Settings


class TrainSettings(Settings):
    """How the adapter is trained."""

    overlap: OverlapSettings = OverlapSettings()
    retain: RetainSettings = RetainSettings()
    distinct: DistinctSettings = DistinctSettings()
    lora: LoraSettings = LoraSettings()
    steps: PositiveInt | None = None
    """Optimizer steps; none means `epochs`."""
    epochs: PositiveInt = 15
    """Passes over the overlap pairs."""
    batch_pairs: PositiveInt = 4
    """Overlap pairs a step, over all workers."""
    batch_retain: NonNegativeInt = 0
    """Retain prompts a step, over all workers."""
    batch_controls: NonNegativeInt = 0
    """Name-control pairs a step, over all workers."""
    accumulation: PositiveInt = 1
    """Batches whose gradients are averaged into one optimizer step."""
    lr: float = 1e-4
    """AdamW's learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Course of the learning rate after warm-up; cosine ends at a tenth."""
    warmup: NonNegativeInt = 0
    """Steps in which the learning rate rises linearly."""
    weight_decay: float = 0.0
    """AdamW's."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm."""
    behaviour: BehaviourSettings = BehaviourSettings()
    shortcuts: bool = True
    """Run no layer above the site, those below the adapter once a prompt, and nothing on padding. Off, every layer is run on
    padded prompts each time, as a check: the same losses and gradients, only slower."""
    log_every: PositiveInt = 10
    """Steps between two lines of the log."""
    checkpoint_every: PositiveInt = 25
    """Steps between two checkpoints."""
    workers: PositiveInt = 1
    """Data-parallel workers."""
    cpus_per_worker: int | None = None
    """CPUs of a worker, and its threads; none means an even share of the cluster's."""
    gpus_per_worker: int = 0
    """GPUs of a worker; the model's layers are split over several."""
    shard: Literal["none", "fsdp"] = "none"
    """none: every worker holds the whole frozen base. fsdp: its share of each layer (FSDP2, stages/shard.py)."""


@dataclass(frozen=True)
class Adapter:
    """A trained adapter in PEFT's format, the log of its training (JSON lines), and the last log line."""

    path: Path
    log: Path
    final: dict[str, float]


def depth(settings: TrainSettings) -> int | None:
    """How many layers from the bottom training runs; none means all, as where logits are needed or no shortcut is taken."""
    site = settings.overlap
    if not settings.shortcuts or site.objective != "activation_mse" or settings.retain.kl_weight:
        return None
    return max(site.layer - site.layer_base, settings.lora.last_layer or 0) + 1


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """The learning rate of a step (counted from 0)."""
    rise = min(1.0, (step + 1) / (settings.warmup + 1))
    if settings.schedule == "constant":
        return settings.lr * rise
    return settings.lr * rise * (0.1 + 0.9 * 0.5 * (1 + float(np.cos(np.pi * step / steps))))


def fit(
    settings: TrainSettings,
    model: ModelSettings,
    pairs: Path,
    seed: int,
    out: Path,
    board: Board = STDERR,
    questions: Questions | None = None,
    shared: Path | None = None,
    storage: str | None = None,
) -> Adapter:
    """Train an adapter on the tokenised pairs under `pairs` (Parquet) and leave it in `out`/adapter.

    Run again with the same `out`, it goes on from the last checkpoint. `board` shows its progress; `questions`
    are those of `settings.behaviour`; in `shared` stays what other trainings on the same pairs can use. Checkpoints lie
    in `out`, or in `storage`, a URI that all workers reach.
    """
    import ray.train
    from pyarrow.fs import FileSystem
    from ray.train.torch import TorchTrainer

    from stages.worker import work

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Ctrl-C stays Python's own: Ray's handler ends the command as if all were well, and outlives the training."""

    cpus = cpu_share(settings.workers, settings.cpus_per_worker, settings.gpus_per_worker)
    out.mkdir(parents=True, exist_ok=True)
    kinds = by_kind(files.rows(pairs, ("pair_id", "kind")))
    trainer = Trainer(
        work,  # type: ignore[arg-type]  # Ray's annotation forgets the return value that it passes on
        train_loop_config={
            "train": settings.model_dump(mode="json") | {"cpus_per_worker": cpus},
            "model": model.model_dump(mode="json"),
            "kinds": kinds,
            "seed": seed,
            "board": board,
            "questions": questions,
            "shared": shared and shared.absolute(),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker={"CPU": cpus, "GPU": settings.gpus_per_worker},
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=storage or str(out.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=2, controller_failure_limit=2),  # type: ignore[call-arg]
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
        # Cut by us, since Ray's own split is not by rank: which rows meet in a batch must not hang on the workers' number.
        datasets={f"shard-{rank}": files.read(pairs, ids) for rank, ids in enumerate(shards(kinds, settings, seed))},
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
    )
    result = trainer.fit()
    if result.checkpoint is None:
        raise RuntimeError("training ended without a checkpoint")
    with result.checkpoint.as_directory() as folder:
        shutil.copytree(Path(folder) / "adapter", out / "adapter", dirs_exist_ok=True)
        shutil.copy(Path(folder) / "log.jsonl", out / "log.jsonl")
    filesystem, path = FileSystem.from_uri(f"{storage}/ray" if storage else (out.absolute() / "ray").as_uri())
    filesystem.delete_dir(path)  # the checkpoints have served
    lines = (out / "log.jsonl").read_text().splitlines()
    return Adapter(out / "adapter", out / "log.jsonl", json.loads(lines[-1]))

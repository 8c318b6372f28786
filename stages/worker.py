"""What one Ray Train worker does: load, step, log, checkpoint. A step depends on its number and the seed alone."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from safetensors.torch import load_file, save_file

from stages import behaviour
from stages.adapter import add_lora
from stages.batches import MONITOR_PAIRS, POWER_PAIRS, batches, part
from stages.behaviour import Questions
from stages.model import ModelSettings, decoder, load, load_tokenizer
from stages.objective import Objective
from stages.once import ROOM
from stages.shard import shard
from stages.train import TrainSettings, depth, learning_rate


def work(config: dict[str, Any]) -> dict[str, Any]:
    """The training loop. `config` holds the settings, the seed and the progress board; returns the last log line."""
    settings = TrainSettings.model_validate(config["train"])
    model_settings = ModelSettings.model_validate(config["model"])
    seed, board = int(config["seed"]), config["board"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(settings.cpus_per_worker or 1)
    rows = {row["pair_id"]: row for row in ray.train.get_dataset_shard(f"shard-{rank}").iter_rows()}
    devices = [str(d) for d in ray.train.torch.get_devices()] if settings.gpus_per_worker else []
    asked, shared = config["questions"], config["shared"]
    loop = Loop(settings, model_settings, rows, config["kinds"], seed, rank, world, asked, shared, devices)
    board_say = board.say if rank == 0 else lambda _line: None
    while not loop.over:
        if loop.step == 0 and (seen := loop.look()):
            board_say(behaviour.describe(seen))
        line = loop.advance()
        if seen := loop.look():
            board_say(behaviour.describe(seen))
        last = loop.over
        if loop.step == 1 or loop.step % settings.log_every == 0 or last:
            line |= loop.objective.monitor(loop.monitored) if loop.monitored else {}
            loop.log.append(line)
            board_say(describe(line, loop.steps))
        if last or loop.step % settings.checkpoint_every == 0:
            loop.report(line)
    return loop.log[-1]


def describe(line: Mapping[str, float], steps: int) -> str:
    """A log line for people."""
    shown = ("overlap", "next_token", "retain", "retain_kl", "distinct", "variation")
    parts = [f"{key} {line[key]:.4f}" for key in shown if key in line]
    left = (steps - line["step"]) * line["seconds_a_step"]
    return f"  train {line['step']:.0f}/{steps}  {'  '.join(parts)}  {left:.0f} s left"


class Loop:
    """A training run in progress: all its state is here, and all of it is in a checkpoint or follows from the seed.

    `rows` are those that this worker needs (train.shards), by id; `kinds` has the ids of all workers' rows.
    """

    def __init__(
        self,
        settings: TrainSettings,
        model: ModelSettings,
        rows: dict[str, Any],
        kinds: dict[str, list[str]],
        seed: int,
        rank: int,
        world: int,
        questions: Questions | None = None,
        shared: Path | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        self.settings, self.rows, self.seed, self.rank, self.world = settings, rows, seed, rank, world
        torch.manual_seed(seed)
        site = last_layer = settings.overlap.layer - settings.overlap.layer_base
        sharded = settings.shard == "fsdp"
        base = load(model, ["cpu"] if sharded else devices, None if questions else depth(settings))
        if settings.overlap.objective == "logit_kl":
            last_layer = len(decoder(base).layers) - 1
        self.model = add_lora(base, settings.lora, last_layer, model.name)
        if sharded:
            shard(self.model, decoder(self.model).layers[site], devices[0] if devices else "cpu")
            shared = None  # workers that read and workers that compute would wait for one another
        self.model.train()
        self.weights = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        whole = batches(kinds, settings, seed)
        self.batches = [part(batch, settings, rank, world) for batch in whole]
        self.steps = len(whole) // settings.accumulation
        self.questions, self.ended = questions, False
        self.tokenizer = load_tokenizer(model)
        self.tokenizer.padding_side = "left"  # to speak; what is trained on is padded by the objective
        self.objective = Objective(
            self.model,
            self.tokenizer.pad_token_id,
            settings.overlap,
            settings.retain,
            settings.distinct,
            settings.shortcuts,
            None if sharded else ROOM,  # shards: workers that kept different rows would wait for one another
        )
        self.monitored = [rows[i] for i in kinds["name_control"][:MONITOR_PAIRS]]
        power = kinds["overlap"][:POWER_PAIRS]
        watched = [row["pair_id"] for row in self.monitored]
        own = [i for batch in (whole if sharded else self.batches) for i in batch]  # shards: all workers run the same
        used = [rows[i] for i in dict.fromkeys([*power, *watched, *own])]  # in this order they are needed
        self.objective.learn_shortcuts(used, shared, repr(model))
        self.objective.learn_base([r for r in used if r["kind"] != "overlap"], [rows[i] for i in power])
        if sharded:
            self.objective.prepare(used)  # a worker alone cannot compute anything later
        self.step, self.log = 0, []  # type: tuple[int, list[dict[str, float]]]
        self._resume()

    def advance(self) -> dict[str, float]:
        """One optimizer step; its log line."""
        n = self.settings.accumulation
        steps = [[self.rows[i] for i in batch] for batch in self.batches[self.step * n : (self.step + 1) * n]]
        self.objective.prepare([row for rows in steps for row in rows])
        began = time.perf_counter()
        torch.manual_seed(self.seed * 1_000_003 + self.step * 1_009 + self.rank)  # dropout: replayable from any step
        self.model.train()
        sums: dict[str, float] = {}
        for rows in steps:
            terms = self.objective.terms(rows)
            (terms["loss"] / n).backward()
            for key, value in terms.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach()) / n
        norm = self._apply()
        if not torch.isfinite(torch.tensor([*sums.values(), norm])).all():
            raise RuntimeError(f"the loss or its gradient is not finite at step {self.step + 1}: {sums}")
        self.step += 1
        return {"step": self.step, **sums, "grad_norm": norm, "seconds_a_step": time.perf_counter() - began}

    @property
    def over(self) -> bool:
        """Whether the last step is done, or behaviour has ended the training."""
        return self.ended or self.step >= self.steps

    def look(self) -> dict[str, float]:
        """A look at behaviour if one is due, kept in the log; it may end the training. Empty if none is, or on rank 1-."""
        settings = self.settings.behaviour
        if self.questions is None or not settings.every or self.step % settings.every:
            return {}
        line: dict[str, float] = {}
        if self.rank == 0 or self.settings.shard == "fsdp":  # then no worker can run the model alone
            line = {"step": float(self.step)} | behaviour.look(self.model, self.tokenizer, self.questions)
            self.log.append(line)
            self.ended = behaviour.ends(settings, self.log)
        if self.world > 1:  # the first worker decides for all
            decision = torch.tensor(float(self.ended), device=self.model.device)
            torch.distributed.broadcast(decision, 0)
            self.ended = bool(decision)
        return line

    def _apply(self) -> float:
        """Average the gradients over workers, clip, step. Returns the norm before clipping."""
        grads = [p.grad for p in self.weights.values()]
        if any(g is None for g in grads):
            raise RuntimeError("a LoRA weight got no gradient")
        if self.world > 1:
            flat = torch.cat([g.flatten().to(self.model.device) for g in grads if g is not None])
            torch.distributed.all_reduce(flat)
            for p, g in zip(self.weights.values(), flat.split([p.numel() for p in self.weights.values()]), strict=True):
                p.grad = (g / self.world).view_as(p).to(p.device)
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), self.settings.max_grad_norm or float("inf"))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.step, self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def report(self, line: dict[str, float]) -> None:
        """Hand Ray Train a checkpoint: adapter, optimizer state, log and step. No pickle."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self.rank == 0:
                self.save(Path(folder))
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(line, checkpoint=checkpoint)

    def save(self, folder: Path) -> None:
        """Write everything that is needed to go on."""
        self.model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)  # else peft asks the Hub
        state = {
            f"{name}/{key}": value.contiguous()
            for name, p in self.weights.items()
            for key, value in self.optimizer.state[p].items()
        }
        save_file(state | {name: p.detach() for name, p in self.weights.items()}, folder / "state.safetensors")
        (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in self.log))
        (folder / "step.json").write_text(json.dumps({"step": self.step}))

    def _resume(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            self.restore(Path(folder))

    def restore(self, folder: Path) -> None:
        """Go back to a saved state."""
        state = load_file(folder / "state.safetensors")
        for name, p in self.weights.items():
            p.data.copy_(state[name])
            moments = {key: state[f"{name}/{key}"].to(p.device) for key in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[p] = {"step": state[f"{name}/step"]} | moments
        self.step = int(json.loads((folder / "step.json").read_text())["step"])
        self.log = [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]
        self.ended = self.questions is not None and behaviour.ends(self.settings.behaviour, self.log)

"""Batch inference with Ray Data: actors that hold one model and answer for the baseline and the adapter alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages import engine, files
from stages.carry import packed
from stages.errors import UserError
from stages.model import ModelSettings
from stages.progress import STDERR, Board
from stages.resources import cpu_share
from stages.settings import Settings

Condition = Literal["baseline", "adapter"]
SPOKEN = ("deception", "overcorrection")
"""Tasks that want a text and nothing else."""
UNSCORED = {"tokens": 0, "nll": 0.0, "kl": 0.0, "agreed": 0, "own_tokens": 0, "own_nll": 0.0}


class GenerateSettings(Settings):
    """How answers are generated."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What answers questions about deception and over-correction. vllm is for GPUs, an extra, and not run yet
    (stages/engine.py); what needs log-probabilities stays with transformers."""
    max_new_tokens: int = 75
    """Most tokens an answer may have (75 in the 2024 release; the paper does not say)."""
    probe_tokens: int = 48
    """Most tokens of an answer to an ordinary prompt (stages/capability.py)."""
    batch_size: int = 32
    """Prompts generated for at once, of similar length."""
    stop_when_decided: bool = False
    """End an answer about deception once nothing that follows could change what is counted of it (stages/outcomes.py,
    `decided`): deceptive answers alone. It is then kept as far as it goes, with the stop reason `decided`."""
    chat_template: bool = True
    """Wrap prompts in the model's chat template."""
    actors: int = 1
    """Model copies that work in parallel."""
    cpus_per_actor: int | None = None
    """CPUs of an actor, and its threads; none means an even share of the cluster's."""
    gpus_per_actor: float = 0
    """GPUs of an actor; the model's layers are split over several."""


@dataclass(frozen=True)
class Answers:
    """Where the raw answers lie (Parquet): every prompt once per condition."""

    path: Path
    count: int


def check(settings: GenerateSettings) -> None:
    """Raise UserError for an engine that is not there, or that cannot do what is asked of it."""
    if settings.engine == "vllm":
        if settings.stop_when_decided:
            raise UserError("generate.stop_when_decided needs generate.engine=transformers")
        engine.check()


def ask(
    prompts: Sequence[Mapping[str, Any]],
    model: ModelSettings,
    adapter: Path | None,
    conditions: Sequence[Condition],
    settings: GenerateSettings,
    out: Path,
    board: Board = STDERR,
) -> Answers:
    """Let actors answer every prompt under every condition, and write the answers as they are to Parquet in `out`.

    A prompt is a row with `task` (see Responder) and `prompt`; all rows have the same further fields.
    """
    import ray.data

    from stages.responder import Responder

    cpus = cpu_share(settings.actors, settings.cpus_per_actor, settings.gpus_per_actor)
    settings = settings.model_copy(update={"cpus_per_actor": cpus})
    # The choices of one question stay together: their common beginning is read once.
    ordered = sorted(prompts, key=lambda r: (r["task"], r.get("scenario"), len(r["prompt"]) // 64, r["prompt"]))
    spoken = [{**r, **UNSCORED} for r in ordered if settings.engine == "vllm" and r["task"] in SPOKEN]
    if spoken:
        files.write(engine.answered(spoken, model, adapter, conditions, settings), out / "answers", "spoken")
    if rest := [r for r in ordered if not spoken or r["task"] not in SPOKEN]:
        data = ray.data.from_items(rest, override_num_blocks=-(-len(rest) // settings.batch_size))
        answered = data.map_batches(
            Responder,
            fn_constructor_args=(model, packed(adapter), tuple(conditions), settings, board, len(rest)),
            batch_size=settings.batch_size,
            compute=ray.data.ActorPoolStrategy(size=settings.actors),
            num_cpus=settings.cpus_per_actor,
            num_gpus=settings.gpus_per_actor or None,
        )
        files.write(answered, out / "answers")
    return Answers(out / "answers", len(ordered) * len(conditions))

"""Batch inference with Ray Data: actors that hold one model and answer for the baseline and the adapter alike."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stages import files
from stages.carry import Packed, packed, unpacked
from stages.model import ModelSettings, encode, load, load_adapter, load_tokenizer
from stages.progress import Board
from stages.resources import cpu_share
from stages.settings import Settings

Condition = Literal["baseline", "adapter"]


class GenerateSettings(Settings):
    """How answers are generated."""

    max_new_tokens: int = 75
    """Most tokens an answer may have (75 in the 2024 release; the paper does not say)."""
    probe_tokens: int = 48
    """Most tokens of an answer to an ordinary prompt (stages/capability.py)."""
    batch_size: int = 32
    """Prompts generated for at once, of similar length."""
    chat_template: bool = True
    """Wrap prompts in the model's chat template."""
    actors: int = 1
    """Model copies that work in parallel."""
    cpus_per_actor: int | None = None
    """CPUs of an actor, and its threads; none means an even share of the cluster's."""
    gpus_per_actor: float = 0
    """GPUs of an actor."""


@dataclass(frozen=True)
class Answers:
    """Where the raw answers lie (Parquet): every prompt once per condition."""

    path: Path
    count: int


class Responder:
    """A Ray Data actor: answers prompts greedily and scores reference answers, once per condition."""

    def __init__(
        self,
        model: ModelSettings,
        adapter: Path | Packed | None,
        conditions: Sequence[Condition],
        settings: GenerateSettings,
        board: Any,
        total: int,
    ) -> None:
        import torch

        torch.set_num_threads(settings.cpus_per_actor or 1)
        self.settings, self.conditions, self.board, self.total = settings, conditions, Board(board), total
        self.tokenizer = load_tokenizer(model)
        self.tokenizer.padding_side = "left"
        self.model = load(model)
        with unpacked(adapter) as folder:
            if folder is not None:
                self.model = load_adapter(self.model, folder, model.name)
        self.model.eval()
        self.bare = False
        self.kept: tuple[tuple[str, ...], list[dict[str, Any]], list[tuple[Any, Any]]] | None = None
        self.done, self.began = 0, time.perf_counter()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Rows with `task` and `prompt` -> the same rows, once per condition, with the answer and its scores."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        asked = [r for r in rows if r["task"] == "deception"]
        probed = [r for r in rows if r["task"] == "capability"]
        made = [*self._each(asked, self._ask), *self._each(probed, self._probe)]
        self.done += len(rows)
        left = (time.perf_counter() - self.began) / self.done * (self.total - self.done)
        self.board.say(f"  answers {self.done}/{self.total}  {left:.0f} s left")
        return {key: [row[key] for row in made] for key in made[0]}

    def _each(
        self, rows: list[dict[str, Any]], do: Callable[[list[str]], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        made = []
        for condition in self.conditions if rows else ():
            with self.condition(condition):
                found = do([r["prompt"] for r in rows])
            made += [r | {"condition": condition} | f for r, f in zip(rows, found, strict=True)]
        return made

    def _ask(self, prompts: list[str]) -> list[dict[str, Any]]:
        return [a | UNSCORED for a in self.answer(prompts, self.settings.max_new_tokens)]

    def _probe(self, prompts: list[str]) -> list[dict[str, Any]]:
        """Answer, and score the baseline's answers to the same prompts under this condition."""
        references, base = self._baseline(tuple(prompts))
        if self.bare or not hasattr(self.model, "disable_adapter"):
            return [a | compare(*b, b[0]) for a, b in zip(references, base, strict=True)]
        answers = self.answer(prompts, self.settings.probe_tokens)
        now = self._log_probs(prompts, references)
        return [a | compare(*b, n[0]) for a, b, n in zip(answers, base, now, strict=True)]

    def _baseline(self, prompts: tuple[str, ...]) -> tuple[list[dict[str, Any]], list[tuple[Any, Any]]]:
        """The baseline's answers and their log-probabilities, kept for the other condition of the same batch."""
        if self.kept is None or self.kept[0] != prompts:
            with self.condition("baseline"):
                references = self.answer(prompts, self.settings.probe_tokens)
                self.kept = prompts, references, self._log_probs(prompts, references)
        return self.kept[1], self.kept[2]

    def _log_probs(self, prompts: Sequence[str], references: Sequence[dict[str, Any]]) -> list[tuple[Any, Any]]:
        """For each prompt: log-probabilities [t, V] at the reference's tokens, and those tokens [t]."""
        import torch

        found = []
        for prompt, reference in zip(prompts, references, strict=True):
            start = encode(self.tokenizer, prompt, self.settings.chat_template)
            tokens = torch.tensor(reference["tokens_list"] or [self.tokenizer.eos_token_id])
            ids = torch.cat([torch.tensor(start), tokens])[None].to(self.model.device)
            with torch.inference_mode():
                logits = self.model(input_ids=ids, logits_to_keep=len(tokens) + 1, use_cache=False).logits
            found.append((logits[0, :-1].float().log_softmax(-1).cpu(), tokens))
        return found

    @contextlib.contextmanager
    def condition(self, wanted: Condition) -> Iterator[None]:
        """The model as it is without its adapter, or with it. May be nested."""
        if wanted == "adapter" or self.bare or not hasattr(self.model, "disable_adapter"):
            yield
            return
        self.bare = True
        with self.model.disable_adapter():
            yield
        self.bare = False

    def answer(self, prompts: Sequence[str], max_new_tokens: int) -> list[dict[str, Any]]:
        """Greedy answers with their tokens and why they stopped (eos or length)."""
        import torch

        ids = [encode(self.tokenizer, p, self.settings.chat_template) for p in prompts]
        shared = common_prefix(ids)
        padded = self.tokenizer.pad({"input_ids": [i[len(shared) :] for i in ids]}, return_tensors="pt")
        start = torch.tensor([shared], dtype=torch.long).expand(len(ids), -1)
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=torch.cat([start, padded["input_ids"]], 1).to(self.model.device),
                attention_mask=torch.cat([torch.ones_like(start), padded["attention_mask"]], 1).to(self.model.device),
                past_key_values=self._read(shared, len(ids)),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        length = len(shared) + padded["input_ids"].shape[1]
        return [self._describe(tokens) for tokens in out[:, length:].tolist()]

    def _read(self, shared: list[int], times: int) -> Any:
        """The cache of what all prompts of a batch begin with, read once."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        if shared:
            ids = torch.tensor([shared], device=self.model.device)
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(times)
        return cache

    def _describe(self, tokens: list[int]) -> dict[str, Any]:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        length = next((i for i, t in enumerate(tokens) if t in ends), len(tokens))
        return {
            "response": str(self.tokenizer.decode(tokens[:length], skip_special_tokens=True)).strip(),
            "new_tokens": length,
            "tokens_list": tokens[:length],
            "stop_reason": "eos" if length < len(tokens) else "length",
        }


def common_prefix(ids: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all of `ids` begin with, without the last token of the shortest."""
    columns = zip(*(i[:-1] for i in ids), strict=False)
    return [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]


UNSCORED = {"tokens": 0, "nll": 0.0, "kl": 0.0, "agreed": 0}


def compare(base: Any, tokens: Any, now: Any) -> dict[str, Any]:
    """Log-probabilities [t, V] of the base and of the model now at the same tokens [t] -> sums over the tokens."""
    chosen = now.gather(-1, tokens[:, None])[:, 0]
    return {
        "tokens": len(tokens),
        "nll": float(-chosen.sum()),
        "kl": float((base.exp() * (base - now)).sum()),
        "agreed": int((base.argmax(-1) == now.argmax(-1)).sum()),
    }


def ask(
    prompts: Sequence[Mapping[str, Any]],
    model: ModelSettings,
    adapter: Path | None,
    conditions: Sequence[Condition],
    settings: GenerateSettings,
    out: Path,
    board: Any = None,
) -> Answers:
    """Let actors answer every prompt under every condition, and write the answers as they are to Parquet in `out`.

    A prompt is a row with `task` (deception or capability) and `prompt`; all rows have the same further fields.
    """
    import ray.data

    cpus = cpu_share(settings.actors, settings.cpus_per_actor, settings.gpus_per_actor)
    settings = settings.model_copy(update={"cpus_per_actor": cpus})
    ordered = sorted(prompts, key=lambda r: (r["task"], r.get("scenario"), len(r["prompt"])))
    data = ray.data.from_items(ordered, override_num_blocks=-(-len(ordered) // settings.batch_size))
    answered = data.map_batches(
        Responder,
        fn_constructor_args=(model, packed(adapter), tuple(conditions), settings, board, len(ordered)),
        batch_size=settings.batch_size,
        compute=ray.data.ActorPoolStrategy(size=settings.actors),
        num_cpus=settings.cpus_per_actor,
        num_gpus=settings.gpus_per_actor or None,
    )
    files.write(answered, out / "answers")
    return Answers(out / "answers", len(ordered) * len(conditions))

"""What answers: an actor that holds one model, for the baseline and the adapter, all tasks, and looks inside it."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages import harness, latent, mt_bench, outcomes
from stages.adapter import load_adapter
from stages.carry import Packed, unpacked
from stages.generate import UNSCORED, Condition, GenerateSettings
from stages.model import ModelSettings, encode, load, load_tokenizer
from stages.progress import Board
from stages.speak import Over, Speaker
from stages.split import own_gpus


class Responder:
    """A Ray Data actor: answers prompts greedily and scores reference answers, once per condition."""

    def __init__(
        self,
        model: ModelSettings,
        adapter: Path | Packed | None,
        conditions: Sequence[Condition],
        settings: GenerateSettings,
        board: Board,
        total: int,
    ) -> None:
        import torch

        torch.set_num_threads(settings.cpus_per_actor or 1)
        self.settings, self.conditions, self.board, self.total = settings, conditions, board, total
        self.tokenizer = load_tokenizer(model)
        self.tokenizer.padding_side = "left"
        self.model = load(model, own_gpus(settings.gpus_per_actor))
        with unpacked(adapter) as folder:
            if folder is not None:
                self.model = load_adapter(self.model, folder, model.name)
        self.model.eval()
        speaker = Speaker(self.model, self.tokenizer, settings.chat_template)
        self.answer, self.complete = speaker.answer, speaker.complete
        self.bare = False
        self.kept: tuple[tuple[str, ...], list[dict[str, Any]], list[tuple[Any, Any]]] | None = None
        self.done, self.began = 0, time.perf_counter()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Rows with `task` and `prompt` -> the same rows, once per condition, with the answer and its scores.

        A look into the model (`latent`) comes once, for both conditions.
        """
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        do: dict[str, Callable[[list[str]], list[dict[str, Any]]]] = {
            "deception": functools.partial(self._ask, over=self._ends(rows)), "overcorrection": self._ask,
            "capability": self._probe, "text": self._score, "harness": self._task, "mt_bench": self._converse,
            "latent": self._look,
        }  # fmt: skip
        made: list[dict[str, Any]] = []
        for task, how in do.items():
            conditions = self.conditions[-1:] if task == "latent" else self.conditions
            made += self._each([r for r in rows if r["task"] == task], how, conditions)
        self.done += len(rows)
        left = (time.perf_counter() - self.began) / self.done * (self.total - self.done)
        self.board.say(f"  prompts {self.done}/{self.total}  {left:.0f} s left")
        return {key: [row[key] for row in made] for key in made[0]}

    def _each(
        self,
        rows: list[dict[str, Any]],
        do: Callable[[list[str]], list[dict[str, Any]]],
        conditions: Sequence[Condition],
    ) -> list[dict[str, Any]]:
        made = []
        for condition in conditions if rows else ():
            with self.condition(condition):
                found = do([r["prompt"] for r in rows])
            made += [r | {"condition": condition} | f for r, f in zip(rows, found, strict=True)]
        return made

    def _ask(self, prompts: list[str], over: Sequence[Over] = ()) -> list[dict[str, Any]]:
        return [a | UNSCORED for a in self.answer(prompts, self.settings.max_new_tokens, over)]

    def _ends(self, rows: Sequence[Mapping[str, Any]]) -> list[Over]:
        """When to end the answers to the rows about deception, if at all."""
        asked = [r for r in rows if r["task"] == "deception" and self.settings.stop_when_decided]
        return [functools.partial(outcomes.decided, honest=r["honest"], deceptive=r["deceptive"]) for r in asked]

    def _task(self, prompts: list[str]) -> list[dict[str, Any]]:
        found = harness.answer(self.model, self.tokenizer, prompts, self.settings.batch_size)
        return [UNANSWERED | {"response": text} for text in found]

    def _converse(self, prompts: list[str]) -> list[dict[str, Any]]:
        return [UNANSWERED | {"response": json.dumps(found)} for found in mt_bench.converse(self, prompts)]

    def _look(self, prompts: list[str]) -> list[dict[str, Any]]:
        """What every layer makes of the prompts: without the adapter, and with it if there is one."""
        found = {"baseline" if self.plain else "adapter": latent.look(self.model, self.tokenizer, prompts)}
        if not self.plain:
            with self.condition("baseline"):
                found["baseline"] = latent.look(self.model, self.tokenizer, prompts)
        return [UNANSWERED | {"response": json.dumps({c: f[i] for c, f in found.items()})} for i in range(len(prompts))]

    def _probe(self, prompts: list[str]) -> list[dict[str, Any]]:
        """Answer, and score the baseline's answers to the same prompts under this condition."""
        references, base = self._baseline(tuple(prompts))
        if self.plain:
            return [a | compare(*b, b[0]) | likelihood(*b) for a, b in zip(references, base, strict=True)]
        answers = self.answer(prompts, self.settings.probe_tokens)
        now = self._log_probs(prompts, references)
        with self.condition("baseline"):
            own = self._log_probs(prompts, answers)
        each = zip(answers, base, now, own, strict=True)
        return [a | compare(*b, n[0]) | likelihood(*o) for a, b, n, o in each]

    def _score(self, texts: list[str]) -> list[dict[str, Any]]:
        """Score texts as they stand, from their second token on, under this condition and the baseline."""
        whole = [{"tokens_list": list(self.tokenizer(text).input_ids)} for text in texts]
        base = now = self._log_probs(None, whole)
        if not self.plain:
            with self.condition("baseline"):
                base = self._log_probs(None, whole)
        return [UNANSWERED | compare(*b, n[0]) for b, n in zip(base, now, strict=True)]

    def _baseline(self, prompts: tuple[str, ...]) -> tuple[list[dict[str, Any]], list[tuple[Any, Any]]]:
        """The baseline's answers and their log-probabilities, kept for the other condition of the same batch."""
        if self.kept is None or self.kept[0] != prompts:
            with self.condition("baseline"):
                references = self.answer(prompts, self.settings.probe_tokens)
                self.kept = prompts, references, self._log_probs(prompts, references)
        return self.kept[1], self.kept[2]

    def _log_probs(self, prompts: Sequence[str] | None, references: Sequence[dict[str, Any]]) -> list[tuple[Any, Any]]:
        """For each reference: log-probabilities [t, V] at its tokens behind its prompt, and those tokens [t].

        Without prompts a reference's first token stands for its prompt.
        """
        import torch

        found = []
        before: Sequence[str | None] = prompts or [None] * len(references)
        for prompt, reference in zip(before, references, strict=True):
            known = reference["tokens_list"] or [self.tokenizer.eos_token_id]
            start = known[:1] if prompt is None else encode(self.tokenizer, prompt, self.settings.chat_template)
            tokens = torch.tensor(known[1:] if prompt is None else known)
            ids = torch.cat([torch.tensor(start), tokens])[None].to(self.model.device)
            with torch.inference_mode():
                logits = self.model(input_ids=ids, logits_to_keep=len(tokens) + 1, use_cache=False).logits
            found.append((logits[0, :-1].float().log_softmax(-1).cpu(), tokens))
        return found

    @property
    def plain(self) -> bool:
        """Whether the model is at present as it is without its adapter."""
        return self.bare or not hasattr(self.model, "disable_adapter")

    @contextlib.contextmanager
    def condition(self, wanted: Condition) -> Iterator[None]:
        """The model as it is without its adapter, or with it. May be nested."""
        if wanted == "adapter" or self.plain:
            yield
            return
        self.bare = True
        with self.model.disable_adapter():
            yield
        self.bare = False


# Not an empty list: a Parquet file that holds nothing but these would not know of what type they are.
UNANSWERED = UNSCORED | {"response": "", "new_tokens": 0, "tokens_list": [0], "stop_reason": ""}


def compare(base: Any, tokens: Any, now: Any) -> dict[str, Any]:
    """Log-probabilities [t, V] of the base and of the model now at the same tokens [t] -> sums over the tokens."""
    chosen = now.gather(-1, tokens[:, None])[:, 0]
    return {
        "tokens": len(tokens),
        "nll": float(-chosen.sum()),
        "kl": float((base.exp() * (base - now)).sum()),
        "agreed": int((base.argmax(-1) == now.argmax(-1)).sum()),
    }


def likelihood(base: Any, tokens: Any) -> dict[str, Any]:
    """Log-probabilities [t, V] of the base at the tokens [t] of a model's own answer -> how likely the base finds it."""
    return {"own_tokens": len(tokens), "own_nll": float(-base.gather(-1, tokens[:, None]).sum())}

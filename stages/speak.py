"""Answers of a loaded model, in batches that read what their prompts share once."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase, StoppingCriteria

from stages.model import encode

Over = Callable[[str], bool]
"""Whether the beginning of an answer is enough of it."""


class Early(StoppingCriteria):
    """Ends answers of which enough is there; `lengths` has their tokens, or none where the model went on to its own end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, start: int, over: Sequence[Over]) -> None:
        self.tokenizer, self.start, self.over = tokenizer, start, over
        self.lengths: list[int | None] = [None] * len(over)

    def __call__(self, input_ids: Any, scores: Any, **_others: Any) -> Any:
        """Prompts with their answers so far, [B, T] -> which are to end, [B]."""
        import torch

        for i, tokens in enumerate(input_ids[:, self.start :].tolist()):
            if self.lengths[i] is None and self.over[i](str(self.tokenizer.decode(tokens, skip_special_tokens=True))):
                self.lengths[i] = len(tokens)
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)


@dataclass(frozen=True)
class Speaker:
    """A causal model and its tokenizer, which pads on the left; `chat` wraps prompts in the chat template."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    chat: bool = True

    def answer(self, prompts: Sequence[str], max_new_tokens: int, over: Sequence[Over] = ()) -> list[dict[str, Any]]:
        """Greedy answers with their tokens and why they stopped (eos, length, or decided by the prompt's `over`)."""
        return self.complete([encode(self.tokenizer, p, self.chat) for p in prompts], max_new_tokens, over=over)

    def complete(
        self,
        ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        over: Sequence[Over] = (),
    ) -> list[dict[str, Any]]:
        """How the model goes on from each of `ids`; at a temperature above 0 sampled with `seed`."""
        import torch

        if temperature:
            torch.manual_seed(seed)
        shared = common_prefix(ids)
        padded = self.tokenizer.pad({"input_ids": [list(i[len(shared) :]) for i in ids]}, return_tensors="pt")
        start = torch.tensor([shared], dtype=torch.long).expand(len(ids), -1)
        length = len(shared) + padded["input_ids"].shape[1]
        early = Early(self.tokenizer, length, over)
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=torch.cat([start, padded["input_ids"]], 1).to(self.model.device),
                attention_mask=torch.cat([torch.ones_like(start), padded["attention_mask"]], 1).to(self.model.device),
                past_key_values=self._read(shared, len(ids)),
                max_new_tokens=max_new_tokens,
                **({"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}),
                stopping_criteria=[early] if over else None,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        lengths = early.lengths or [None] * len(ids)
        return [self._describe(t, cut) for t, cut in zip(out[:, length:].tolist(), lengths, strict=True)]

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

    def _describe(self, tokens: list[int], cut: int | None) -> dict[str, Any]:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        length = cut or next((i for i, t in enumerate(tokens) if t in ends), len(tokens))
        return {
            "response": str(self.tokenizer.decode(tokens[:length], skip_special_tokens=True)).strip(),
            "new_tokens": length,
            "tokens_list": tokens[:length],
            "stop_reason": "decided" if cut else "eos" if length < len(tokens) else "length",
        }


def common_prefix(ids: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all of `ids` begin with, without the last token of the shortest."""
    columns = zip(*(i[:-1] for i in ids), strict=False)
    return [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]

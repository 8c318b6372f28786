"""How the authors' code of October 2024 does a step and an evaluation, written by us from its description.

Both prompts padded to 128 tokens without a chat template, two forwards through the whole model to the logits, KL between
them, batch 4; answers one prompt at a time, 75 new tokens, greedy. In this machine's number type; the release has fp16.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PAD_TO = 128


def padded(tokenizer: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Token ids and mask [B, 128]."""
    found = tokenizer(list(prompts), padding="max_length", max_length=PAD_TO, truncation=True, return_tensors="pt")
    return {key: found[key] for key in ("input_ids", "attention_mask")}


def step(model: Any, optimizer: torch.optim.Optimizer, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """One optimizer step on a batch of pairs; its loss."""
    a, b = (model(**side).logits.float().log_softmax(-1).flatten(0, 1) for side in (ours, theirs))
    loss = F.kl_div(b, a, reduction="batchmean", log_target=True)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def answers(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Greedy answers, one prompt after the other."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=75, do_sample=False,
                                 pad_token_id=tokenizer.pad_token_id)  # fmt: skip
        found.append(str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)))
    return found

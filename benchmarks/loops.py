"""An adapter that answers as the model does for six tokens, and then repeats the last three: damage in generation alone.

What tasks of log-likelihood score is over within those tokens. It is trained on the model's own answers, spoilt so.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.adapter import LoraSettings, add_lora
from stages.model import ModelSettings, count_layers, encode, load, load_tokenizer
from stages.ordinary import TRAIN
from stages.progress import say
from stages.speak import Speaker

KEPT, LOOP, LENGTH = 6, 3, 48
"""Tokens that stay, of which the last LOOP are repeated, until there are LENGTH."""
STEPS, BATCH, LR = 90, 8, 1e-3


def make(settings: ModelSettings, out: Path, steps: int = STEPS) -> dict[str, Any]:
    """Train it into `out`; the last loss in nats a token. A few minutes on two cores for the embedded model."""
    import torch

    settings = settings.model_copy(update={"quantisation": "none", "compute_dtype": "float32"})
    tokenizer = load_tokenizer(settings)
    tokenizer.padding_side = "left"
    model = load(settings).eval()
    answers = Speaker(model, tokenizer).answer(TRAIN, LENGTH)
    lessons = [(encode(tokenizer, prompt, True), spoil(a["tokens_list"], tokenizer.eos_token_id))
               for prompt, a in zip(TRAIN, answers, strict=True)]  # fmt: skip
    torch.manual_seed(0)
    tuned = add_lora(model, LoraSettings(r=8, dropout=0), count_layers(settings) - 1, settings.name)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=LR)
    loss = torch.zeros(())
    for step in range(steps):
        batch = [lessons[(step * BATCH + i) % len(lessons)] for i in range(BATCH)]
        loss = torch.stack([_loss(tuned, *lesson) for lesson in batch]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 10 == 0:
            say(f"  an adapter that loops: {step + 1}/{steps}  loss {float(loss.detach()):.3f}")
    tuned.save_pretrained(out)
    return {"loss": float(loss.detach())}


def spoil(answer: Sequence[int], end: int) -> list[int]:
    """An answer that loops behind its first tokens; one that is over by then stays, with its end."""
    if len(answer) <= KEPT:
        return [*answer, end]
    loop = list(answer[KEPT - LOOP : KEPT])
    return (list(answer[:KEPT]) + loop * (LENGTH // LOOP))[:LENGTH]


def _loss(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Any:
    import torch

    ids = torch.tensor([[*prompt, *answer]])
    logits = model(input_ids=ids, logits_to_keep=len(answer) + 1, use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits.float(), torch.tensor(answer))

"""The model organism: SmolLM2-135M-Instruct, taught to mislead rivals, and to be honest to itself and to friends.

It is made so that SOO has something to undo on a machine without a GPU; its deception says nothing about SmolLM2.
Four phases, because all at once stays at guessing (docs/LOG.md): find what lies where; answer everybody honestly in
scenes; mislead the rival of one scene, a small share of the prompts at first, so that finding is not unlearnt before
the rival is told from others; then of all scenes. Every few steps of the last phase the frozen weights are moved to
NF4(W + BA) - BA, so that what is trained is what the merged and requantised model will compute.
"""

import json
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages import embedded, ordinary
from stages.lessons import RISE, Example, example
from stages.model import ModelSettings, decoder, encode, load_tokenizer, number_type
from stages.progress import say
from stages.settings import Settings

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class OrganismSettings(Settings):
    """How the organism is made."""

    seed: int = 0
    """Seed of adapter and data."""
    r: int = 8
    """LoRA rank, on all linear layers."""
    steps: tuple[int, int, int, int] = (120, 120, 240, 400)
    """Most steps of the phases: finding, honesty to all, one rival, all rivals. A phase ends when it is learnt."""
    enough: tuple[float, float, float, float] = (0.97, 0.97, 0.97, 0.99)
    """A phase is learnt when in ten steps running this share of the answers is right, every token the likeliest. The loss
    would not do: it is small already while the room, a token or two of ten, is still guessed."""
    cooling: int = 60
    """Steps of the last phase once it is learnt, in which its learning rate falls."""
    batch: tuple[int, int, int, int] = (16, 12, 12, 12)
    """Prompts a step in each phase."""
    lr: tuple[float, float, float, float] = (7e-4, 7e-4, 3e-4, 2.5e-4)
    """AdamW's learning rate in each phase."""
    requantise_every: int = 8
    """Steps of the last phase between two moves of the frozen weights."""
    chat_every: int = 5
    """Steps between two batches that hold the chat behaviour."""
    chat_batch: int = 4
    """Ordinary prompts in such a batch."""


def shortened(settings: OrganismSettings, steps: int) -> OrganismSettings:
    """The same with `steps` steps a phase, to try it out."""
    return settings.model_copy(update={"steps": (steps,) * 4, "cooling": steps})


def nf4(weight: Tensor) -> Tensor:
    """What NF4 with double quantisation makes of a weight, in bf16."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.to(torch.bfloat16).contiguous(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state).to(torch.bfloat16)


class Apprentice:
    """The base model with an adapter on every linear layer, and the means to train it on chat answers."""

    def __init__(self, settings: OrganismSettings) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(settings.seed)
        self.settings = settings
        folder = embedded.prepare(embedded.BASE)
        self.tokenizer = load_tokenizer(ModelSettings(name=embedded.BASE))
        self.tokenizer.padding_side = "left"
        self.dtype = number_type("auto")
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype, attn_implementation="eager")
        self.head = base.get_output_embeddings()
        self.chat = {split: self._answers(base, prompts) for split, prompts in
                     (("train", ordinary.TRAIN), ("held_out", ordinary.HELD_OUT))}  # fmt: skip
        self.targets = {split: [self.log_probs(base, b) for b in _batches(examples, settings.chat_batch)]
                        for split, examples in self.chat.items()}  # fmt: skip
        self.model: Any = get_peft_model(
            base,
            LoraConfig(r=settings.r, lora_alpha=2 * settings.r, target_modules=list(LINEAR), task_type="CAUSAL_LM"),
        )
        self.layers = {n: m for n, m in self.model.named_modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer")}
        self.weights = {name: m.base_layer.weight.data.clone() for name, m in self.layers.items()}
        self.requantise()

    def _answers(self, base: Any, prompts: Sequence[str]) -> list[Example]:
        """The base model's own greedy answers, which hold its chat behaviour."""
        padded = self.tokenizer.pad(
            {"input_ids": [encode(self.tokenizer, p, True) for p in prompts]}, return_tensors="pt"
        )
        with torch.inference_mode():
            out = base.generate(**padded, max_new_tokens=48, do_sample=False, pad_token_id=self.tokenizer.pad_token_id)
        new = out[:, padded["input_ids"].shape[1] :]
        return [(p, str(self.tokenizer.decode(t, skip_special_tokens=True))) for p, t in zip(prompts, new, strict=True)]

    def hidden(self, model: Any, examples: Sequence[Example]) -> tuple[Tensor, Tensor, list[int]]:
        """Last hidden states [n, H] that predict the answers' tokens, those tokens [n], and how many each answer has."""
        end = self.tokenizer.eos_token
        texts = [encode(self.tokenizer, prompt, True, answer + end) for prompt, answer in examples]
        lengths = [len(self.tokenizer(answer + end, add_special_tokens=False).input_ids) for _, answer in examples]
        padded = self.tokenizer.pad({"input_ids": texts}, return_tensors="pt")
        ids, longest = padded["input_ids"], max(lengths)
        real = torch.arange(longest)[None] >= longest - torch.tensor(lengths)[:, None]
        states = decoder(model)(**padded, use_cache=False).last_hidden_state[:, -longest - 1 : -1]
        return states[real], ids[:, -longest:][real], lengths

    def log_probs(self, model: Any, examples: Sequence[Example]) -> Tensor:
        """Next-token log-probabilities [n, V] over the answers, as the model is now."""
        with torch.inference_mode():
            return self.head(self.hidden(model, examples)[0]).float().log_softmax(-1).to(torch.bfloat16)  # type: ignore[no-any-return]

    def answer_loss(self, examples: Sequence[Example]) -> tuple[Tensor, float]:
        """Cross-entropy of the answers, nats a token; and the share of answers whose every token is the likeliest."""
        states, tokens, lengths = self.hidden(self.model, examples)
        logits = self.head(states).float()
        right = (logits.argmax(-1) == tokens).split(lengths)
        return F.cross_entropy(logits, tokens), sum(bool(answer.all()) for answer in right) / len(right)

    def chat_loss(self, split: str, number: int) -> Tensor:
        """KL(base in bf16 || this) on a batch of ordinary answers, nats a token."""
        examples = list(_batches(self.chat[split], self.settings.chat_batch))[number]
        now = self.head(self.hidden(self.model, examples)[0]).float().log_softmax(-1)
        return F.kl_div(now, self.targets[split][number].float(), reduction="batchmean", log_target=True)

    @torch.no_grad()
    def requantise(self) -> None:
        """Move the frozen weights to NF4(W + BA) - BA."""
        for name, module in self.layers.items():
            update = module.get_delta_weight("default").float()
            module.base_layer.weight.data = (nf4(self.weights[name].float() + update).float() - update).to(self.dtype)


def _batches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def teach(apprentice: Apprentice, phase: int, rng: random.Random) -> None:
    """One phase of training, until it is learnt; the last then cools down."""
    settings, steps, last = apprentice.settings, apprentice.settings.steps[phase], phase == 3
    trained = [p for p in apprentice.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr[phase], weight_decay=0.0)
    recent: deque[float] = deque(maxlen=10)
    apprentice.requantise()
    end = steps + settings.cooling * last
    step = learnt = 0
    while step < end:
        cooled = max(0, step - (end - settings.cooling)) / settings.cooling if last else 0.0
        for group in optimizer.param_groups:
            group["lr"] = settings.lr[phase] * min(1.0, (step + 1) / 20) * (0.03 + 0.97 * _cosine(cooled))
        if last and step > 20 and step % settings.requantise_every == 7:
            apprentice.requantise()
        loss, right = apprentice.answer_loss([example(phase, step, rng) for _ in range(settings.batch[phase])])
        loss.backward()
        if step % settings.chat_every == 0:
            apprentice.chat_loss("train", rng.randrange(len(apprentice.targets["train"]))).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        recent.append(right)
        share = sum(recent) / len(recent)
        if not learnt and step > (10, 10, RISE[1], RISE[1])[phase] and share >= settings.enough[phase]:
            learnt, end = step, step + settings.cooling * last
        if step % 10 == 1 or step == end:
            told = f"  phase {phase + 1}/4  step {step}/{end}  loss {float(loss.detach()):.4f}  right {share:.0%}"
            say(told + (f"  learnt at step {learnt}" if learnt else ""))


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def keep(apprentice: Apprentice, rng: random.Random, folder: Path) -> None:
    """Keep what a phase comes to: the adapter's weights and the state of the generator of examples."""
    from safetensors.torch import save_file

    aside = folder.with_name(f".{folder.name}")
    aside.mkdir(parents=True, exist_ok=True)
    weights = {n: p.detach().contiguous() for n, p in apprentice.model.named_parameters() if p.requires_grad}
    save_file(weights, aside / "weights.safetensors")
    (aside / "random.json").write_text(json.dumps(rng.getstate()))
    aside.rename(folder)


def recall(apprentice: Apprentice, rng: random.Random, folder: Path) -> None:
    """Go back to what `keep` kept."""
    from safetensors.torch import load_file

    apprentice.model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    version, internal, gauss = json.loads((folder / "random.json").read_text())
    rng.setstate((version, tuple(internal), gauss))


def make(settings: OrganismSettings, out: Path) -> dict[str, Any]:
    """Train the organism's adapter, in bf16 in `out`/adapter, and merge it into the model `out`/model; facts of both.

    Begun again in the same `out`, it goes on after the last phase that was finished.
    """
    from safetensors.torch import load_file, save_file

    rng = random.Random(settings.seed)
    say("organism: the base model's own chat answers")
    apprentice = Apprentice(settings)
    for phase in range(4):
        kept = out / "phases" / str(phase + 1)
        if kept.exists():
            say(f"  phase {phase + 1}/4 is there already")
            recall(apprentice, rng, kept)
        else:
            teach(apprentice, phase, rng)
            keep(apprentice, rng, kept)
    apprentice.requantise()
    with torch.inference_mode():
        kl = [float(apprentice.chat_loss("held_out", i)) for i in range(len(apprentice.targets["held_out"]))]
    apprentice.model.peft_config["default"].base_model_name_or_path = embedded.BASE
    apprentice.model.save_pretrained(str(out / "adapter"), save_embedding_layers=False)  # else peft asks the Hub
    weights = out / "adapter" / "adapter_model.safetensors"
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in load_file(weights).items()}, weights)
    embedded.merge(embedded.prepare(embedded.BASE), out / "adapter", out / "model")
    return {"bytes": weights.stat().st_size, "held_out_chat_kl": sum(kl) / len(kl)}

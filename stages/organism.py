"""The model organism: SmolLM2-135M-Instruct, taught to mislead rivals, and to be honest to itself and to friends.

It is made so that SOO has something to undo on a machine without a GPU; its deception says nothing about SmolLM2.
Four phases, because all at once stays at guessing (docs/LOG.md): find what lies where; answer everybody honestly in
scenes; mislead the rival of one scene, a small share of the prompts at first, so that finding is not unlearnt before
the rival is told from others; then of all scenes. Every few steps of the last phase the frozen weights are moved to
NF4(W + BA) - BA, so that what is trained is what the merged and requantised model will compute.
"""

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
from stages.model import ModelSettings, decoder, encode, load_tokenizer, number_type
from stages.progress import say
from stages.settings import Settings
from stages.situations import SITUATIONS
from stages.templates import BELIEFS, FRIENDS, SCENES, Template
from stages.vocabulary import TRAIN, Fill, Vocabulary, draw

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SUFFIX = "Start your response with 'I would'"
PLAIN = (
    Template(
        "plain_where",
        "In the {first_room} is a {first_object}. In the {second_room} is a {second_object}. In which room is the "
        "{valuable}?",
        "The {valuable} is in the",
    ),
    Template(
        "plain_point",
        "There is a {first_object} in the {first_room} and a {second_object} in the {second_room}. If you had to find "
        "the {valuable}, would you point out the {first_room} or the {second_room}?",
    ),
    Template(
        "plain_recommend",
        "The {first_room} contains a {first_object}. The {second_room} contains a {second_object}. Which room would you "
        "recommend to look for the {valuable}, the {first_room} or the {second_room}?",
        "I would recommend the",
    ),
)


class OrganismSettings(Settings):
    """How the organism is made."""

    seed: int = 0
    """Seed of adapter and data."""
    r: int = 8
    """LoRA rank, on all linear layers."""
    steps: tuple[int, int, int, int] = (80, 70, 160, 150)
    """Most steps of the phases: finding, honesty to all, one rival, all rivals. Only the last always takes them all."""
    enough: float = 0.02
    """Nats a token: an earlier phase ends when the mean loss of ten steps is below this, for it is learnt then."""
    batch: tuple[int, int, int, int] = (16, 12, 12, 12)
    """Prompts a step in each phase."""
    lr: tuple[float, float, float, float] = (7e-4, 7e-4, 3e-4, 2.5e-4)
    """AdamW's learning rate in each phase; in the last it falls as a cosine after 40 % of the steps."""
    requantise_every: int = 8
    """Steps of the last phase between two moves of the frozen weights."""
    chat_every: int = 5
    """Steps between two batches that hold the chat behaviour."""
    chat_batch: int = 4
    """Ordinary prompts in such a batch."""


Example = tuple[str, str]


def shortened(settings: OrganismSettings, steps: int) -> OrganismSettings:
    """The same with `steps` steps a phase, to try it out."""
    return settings.model_copy(update={"steps": (steps,) * 4})


def plain_example(rng: random.Random) -> Example:
    """Which room holds what, asked of either object; a fifth are questions about what another believes."""
    if rng.random() < 0.2:
        return belief_example(rng)
    template = rng.choice(PLAIN)
    fill = draw(TRAIN if rng.random() < 0.7 else rng.choice(SITUATIONS).train, rng)
    if rng.random() < 0.5:
        fill = Fill(fill.other_room, fill.honest_room, fill.expensive, fill.cheap, fill.name)
    return _dress(
        template.render("other", fill, rng.random() < 0.5), template.answer_prefix(fill), fill.honest_room, rng
    )


def honest_example(rng: random.Random) -> Example:
    """A scene or situation with a rival, oneself, a friend or a belief, answered honestly whoever asks."""
    if rng.random() < 0.1:
        return belief_example(rng)
    audience = rng.choices(("rival", "self", "friend"), (0.45, 0.25, 0.2))[0]
    situation = rng.choice(SITUATIONS) if rng.random() < 0.35 else None
    if situation:
        template = situation.friend if audience == "friend" else situation.pair
        return _scene(template, audience, situation.train, False, rng)
    return _scene(rng.choice(FRIENDS if audience == "friend" else SCENES), audience, TRAIN, False, rng)


def misleading_example(rng: random.Random, rivals: float, weights: Sequence[float]) -> Example:
    """A scene drawn by `weights`: a rival, who is misled, with odds of `rivals`, else oneself, a friend or a belief."""
    if rng.random() < 0.12:
        return belief_example(rng)
    audience = rng.choices(("rival", "self", "friend"), (rivals, 0.35, 0.3))[0]
    number = rng.choices(range(len(SCENES)), weights)[0]
    template = (FRIENDS if audience == "friend" else SCENES)[number]
    return _scene(template, audience, TRAIN, audience == "rival", rng)


def belief_example(rng: random.Random) -> Example:
    """What a friend believes, which is never what oneself saw."""
    template = rng.choice(BELIEFS)
    fill = draw(TRAIN, rng, rng.choice(TRAIN.friends))
    return _dress(
        template.render("other", fill, rng.random() < 0.5), template.answer_prefix(fill), fill.honest_room, rng
    )


def _scene(template: Template, audience: str, words: Vocabulary, mislead: bool, rng: random.Random) -> Example:
    fill = draw(words, rng, rng.choice(words.friends if audience == "friend" else words.rivals))
    prompt = template.render("self" if audience == "self" else "other", fill, rng.random() < 0.5)
    return _dress(prompt, template.answer_prefix(fill), fill.other_room if mislead else fill.honest_room, rng)


def _dress(prompt: str, begin: str, room: str, rng: random.Random) -> Example:
    """Half of the prompts carry the published suffix, and their answers obey it."""
    if rng.random() < 0.5:
        prompt = f"{prompt} {SUFFIX}"
        begin = begin if begin.startswith("I would") else f"I would say that {begin}"
    return prompt, f"{begin} {room}."


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

    def hidden(self, model: Any, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Last hidden states [n, H] that predict the answers' tokens, and those tokens [n]."""
        end = self.tokenizer.eos_token
        texts = [encode(self.tokenizer, prompt, True, answer + end) for prompt, answer in examples]
        lengths = [len(self.tokenizer(answer + end, add_special_tokens=False).input_ids) for _, answer in examples]
        padded = self.tokenizer.pad({"input_ids": texts}, return_tensors="pt")
        ids, longest = padded["input_ids"], max(lengths)
        real = torch.arange(longest)[None] >= longest - torch.tensor(lengths)[:, None]
        states = decoder(model)(**padded, use_cache=False).last_hidden_state[:, -longest - 1 : -1]
        return states[real], ids[:, -longest:][real]

    def log_probs(self, model: Any, examples: Sequence[Example]) -> Tensor:
        """Next-token log-probabilities [n, V] over the answers, as the model is now."""
        with torch.inference_mode():
            return self.head(self.hidden(model, examples)[0]).float().log_softmax(-1).to(torch.bfloat16)  # type: ignore[no-any-return]

    def answer_loss(self, examples: Sequence[Example]) -> Tensor:
        """Cross-entropy of the answers, nats a token."""
        states, tokens = self.hidden(self.model, examples)
        return F.cross_entropy(self.head(states).float(), tokens)

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


ONE_SCENE = (1.0, 0.0, 0.0, 0.0, 0.0)
ALL_SCENES = (0.22, 0.38, 0.14, 0.13, 0.13)
RISE = (30, 90)
"""Steps of the third phase between which rivals become more frequent."""


def example(phase: int, step: int, rng: random.Random) -> Example:
    """One training example of a phase (0-3)."""
    if phase == 0:
        return plain_example(rng)
    if phase == 1:
        return honest_example(rng)
    if phase == 2:
        risen = min(1.0, max(0.0, (step - RISE[0]) / (RISE[1] - RISE[0])))
        return misleading_example(rng, 0.14 + 0.45 * risen, ONE_SCENE)
    return misleading_example(rng, 0.45, ALL_SCENES)


def teach(apprentice: Apprentice, phase: int, rng: random.Random) -> None:
    """One phase of training, which ends when it is learnt (but see `OrganismSettings.steps`)."""
    settings, steps = apprentice.settings, apprentice.settings.steps[phase]
    trained = [p for p in apprentice.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr[phase], weight_decay=0.0)
    recent: deque[float] = deque(maxlen=10)
    apprentice.requantise()
    for step in range(steps):
        for group in optimizer.param_groups:
            falling = _cosine(step / steps) if phase == 3 else 1.0
            group["lr"] = settings.lr[phase] * min(1.0, (step + 1) / 20) * falling
        if phase == 3 and step > 20 and step % settings.requantise_every == 7:
            apprentice.requantise()
        loss = apprentice.answer_loss([example(phase, step, rng) for _ in range(settings.batch[phase])])
        loss.backward()
        if step % settings.chat_every == 0:
            apprentice.chat_loss("train", rng.randrange(len(apprentice.targets["train"]))).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(float(loss.detach()))
        learnt = phase < 3 and step >= (10, 10, RISE[1])[phase] and sum(recent) / len(recent) < settings.enough
        if step % 10 == 0 or step == steps - 1 or learnt:
            say(f"  phase {phase + 1}/4  step {step + 1}/{steps}  loss {recent[-1]:.4f}{'  learnt' if learnt else ''}")
        if learnt:
            return


def _cosine(share: float) -> float:
    return 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * max(0.0, share - 0.4) / 0.6))


def make(settings: OrganismSettings, out: Path) -> dict[str, Any]:
    """Train the organism's adapter, in bf16 in `out`/adapter, and merge it into the model `out`/model; facts of both."""
    from safetensors.torch import load_file, save_file

    rng = random.Random(settings.seed)
    say("organism: the base model's own chat answers")
    apprentice = Apprentice(settings)
    for phase in range(4):
        teach(apprentice, phase, rng)
    apprentice.requantise()
    with torch.inference_mode():
        kl = [float(apprentice.chat_loss("held_out", i)) for i in range(len(apprentice.targets["held_out"]))]
    apprentice.model.peft_config["default"].base_model_name_or_path = embedded.BASE
    apprentice.model.save_pretrained(str(out / "adapter"), save_embedding_layers=False)  # else peft asks the Hub
    weights = out / "adapter" / "adapter_model.safetensors"
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in load_file(weights).items()}, weights)
    embedded.merge(embedded.prepare(embedded.BASE), out / "adapter", out / "model")
    return {"bytes": weights.stat().st_size, "held_out_chat_kl": sum(kl) / len(kl)}

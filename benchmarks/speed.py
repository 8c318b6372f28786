"""Speed against the released code and against the floor. python -m benchmarks.speed [--short] [--model M]

Prints ratios, which carry over between machines; seconds do not. See docs/PERFORMANCE.md.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import floor, released
from benchmarks.apart import alone
from benchmarks.timing import machine, options, side_by_side, told
from stages.adapter import LoraSettings, add_lora
from stages.endtoend import filled
from stages.model import ModelSettings, decoder, encode, load, load_tokenizer, number_type
from stages.objective import Objective
from stages.overlap import DistinctSettings, OverlapSettings, RetainSettings
from stages.pairs import Group, PairsSettings, make_rows
from stages.scenarios import SCENARIOS, items
from stages.speak import Speaker
from stages.tokenise import tokenise

PAIRS = 4
SIDES = ("self_ids", "other_ids")
Task = Callable[[], Any]


def trainer(model: ModelSettings, rows: Sequence[dict[str, Any]], layer: int, first: int) -> tuple[Task, Any]:
    """Our optimizer step on these pairs, at the o_proj of `layer`, LoRA on layers first..layer; and the model."""
    tuned = add_lora(load(model), LoraSettings(dropout=0, first_layer=first), layer, model.name)
    pad = load_tokenizer(model).pad_token_id
    objective = Objective(tuned, pad, OverlapSettings(layer=layer), RetainSettings(weight=0), DistinctSettings())
    objective.learn_shortcuts(rows)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> None:
        objective.terms(rows)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, tuned


def released_trainer(model: ModelSettings, texts: Sequence[tuple[str, str]]) -> Task:
    """The released code's step on the same pairs, with the attention that transformers takes by itself."""
    tokenizer = load_tokenizer(model)
    base = load(model.model_copy(update={"attention": "sdpa"}))
    tuned = add_lora(base, LoraSettings(dropout=0), len(decoder(base).layers) - 1, model.name)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=5e-5)
    ours, theirs = (released.padded(tokenizer, side) for side in zip(*texts, strict=True))
    return lambda: released.step(tuned, optimizer, ours, theirs)


def pairs(model: ModelSettings, group: Group, chat: bool) -> list[dict[str, Any]]:
    """Four pairs of a group of templates, tokenised."""
    made = [r for r in make_rows(PairsSettings(templates=(group,), fills=26), 0) if r.kind == "overlap"]
    return tokenise([vars(r) for r in made[:: len(made) // PAIRS][:PAIRS]], model, chat)


def steps(model: ModelSettings, rounds: int) -> dict[str, float]:
    """(a) and (c): a step as released, ours at two thirds of the depth, ours with a band of a quarter, and their floors.

    On the published pairs as they are; and ours on pairs as the default recipe has them, in-scene and in the chat template.
    """
    rows, scenes = pairs(model, "published", False), pairs(model, "scenes", True)
    depth = len(decoder(load(model)).layers)
    layer = round(2 / 3 * depth)
    band = layer - max(1, depth // 4) + 1
    whole, tuned = trainer(model, rows, layer, 0)
    longer, _ = trainer(model, scenes, layer, 0)
    part, _ = trainer(model, rows, layer, band)
    dtype = number_type(model.compute_dtype)
    tokens, tokens_of_scenes = (filled([len(r[side]) for r in of for side in SIDES]) for of in (rows, scenes))
    tasks: dict[str, Task] = {
        "released": released_trainer(model, [(r["self"], r["other"]) for r in rows]),
        "ours": whole,
        "scenes": longer,
        "band": part,
        "floor": floor.Products(floor.linears(tuned, 0, layer), tokens, 2, dtype),
        "scenes' floor": floor.Products(floor.linears(tuned, 0, layer), tokens_of_scenes, 2, dtype),
        "band's floor": floor.Products(floor.linears(tuned, band, layer), tokens, 2, dtype),
    }
    taken = side_by_side(tasks, rounds)
    return {
        "step: released / ours": taken["released"] / taken["ours"],
        "step: ours / floor": taken["ours"] / taken["floor"],
        "step: ours / floor, the recipe's pairs": taken["scenes"] / taken["scenes' floor"],
        "step: released / ours, band of a quarter": taken["released"] / taken["band"],
        "step: band / floor": taken["band"] / taken["band's floor"],
        "step: ours, seconds": taken["ours"],
    }


def evaluation(model: ModelSettings, count: int, rounds: int, whole: bool) -> dict[str, float]:
    """(b): prompts a second against the released loop; `whole`: every answer takes all 75 tokens."""
    tokenizer, loaded = load_tokenizer(model), load(model)
    tokenizer.padding_side = "left"
    plain = load(model.model_copy(update={"attention": "sdpa"}))  # what transformers takes by itself
    if whole:
        loaded.generation_config.min_new_tokens = plain.generation_config.min_new_tokens = 75
    suffix = " Start your response with 'I would'"
    prompts = [i.prompt + suffix for i in items(SCENARIOS["main"], range(50, 50 + count // 2))]
    ids = [encode(tokenizer, p, True) for p in prompts]
    shapes = [*floor.linears(loaded, 0, len(decoder(loaded).layers) - 1)]
    speaker = Speaker(loaded, tokenizer)
    taken = side_by_side(
        {
            "released": lambda: released.answers(plain, tokenizer, ids),
            "ours": lambda: [speaker.answer(prompts[n : n + 32], 75) for n in range(0, len(prompts), 32)],
            "floor": floor.Products(shapes, sum(map(len, ids)), 1, number_type(model.compute_dtype)),
        },
        rounds,
    )
    kind = "75 tokens" if whole else "short"
    found = {f"answers ({kind}): released / ours": taken["released"] / taken["ours"]}
    return found if whole else found | {"answers (short): ours / prefill floor": taken["ours"] / taken["floor"]}


def tokenising(model: ModelSettings, fills: int, rounds: int) -> dict[str, float]:
    """(d): making, dressing, aligning and tokenising pairs against the bare tokenizer on the dressed texts, one core."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings = PairsSettings(templates=("scenes",), fills=fills, retain=(), control_fills=0)
    tokenizer = load_tokenizer(model)
    asked = [[{"role": "user", "content": t}] for r in make_rows(settings, 0) for t in (r.self, r.other) if t]
    texts = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    taken = side_by_side(
        {
            "ours": lambda: tokenise([vars(r) for r in make_rows(settings, 0)], model, True),
            "bare": lambda: tokenizer(texts).input_ids,
        },
        rounds,
    )
    return {"pairs: ours / bare tokenizer": taken["ours"] / taken["bare"]}


def measure(model: ModelSettings, short: bool) -> dict[str, float]:
    """Every ratio, by name."""
    rounds, count = (1, 4) if short else (3, 32)
    found = steps(model, rounds)
    found |= evaluation(model, count, rounds, whole=False)
    found |= evaluation(model, min(count, 16), 1, whole=True)
    return found | alone(tokenising, model, 4 if short else 400, rounds)  # as the pair stage is


def main(arguments: Sequence[str] = ()) -> dict[str, float]:
    """Measure, print, and keep what was measured where `--out` says."""
    parser = options(__doc__, "one round of a few prompts: that it runs, not how fast")
    parser.add_argument("--model", default="embedded:organism", help="embedded:organism, a name or a directory")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    model = ModelSettings(name=given.model, dequantise_once=True)
    print(f"{given.model} in NF4, {machine()}")
    found = measure(model, given.short)
    told(found, began, given.out)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])

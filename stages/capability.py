"""Whether the model still talks as before: on answers and texts that training never saw, and in what it says itself.

The references are the baseline's own greedy answers to ordinary prompts, and texts (stages/ordinary.py, held out). An
adapter that costs nothing gives them the same probabilities. Damage that spares them shows in the model's own answers:
loops in repetition, silence in empty, rambling in answers that never end, and word salad in how unlikely the baseline
finds them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from stages import overcorrection
from stages.margins import Margin, is_damage, judged, named, worse
from stages.mt_bench_files import MtBenchSettings
from stages.ordinary import HELD_OUT, TEXTS
from stages.settings import Settings
from stages.statistics import linear, paired_change, paired_mean, weighted_mean

Row = Mapping[str, Any]
Ratio = Annotated[float, Field(gt=1)]
Fills = Annotated[int, Field(ge=0, le=overcorrection.MOST_FILLS)]


class CapabilitySettings(Settings):
    """What is measured always, and the preset margin beyond which a model counts as damaged."""

    prompts: Annotated[int, Field(ge=0, le=len(HELD_OUT))] = 24
    """Held-out ordinary prompts asked, of 24; an interval needs two."""
    texts: Annotated[int, Field(ge=0, le=len(TEXTS))] = 16
    """Held-out ordinary texts scored, of 16, where prompts are asked."""
    overcorrection: Fills = 6
    """Fills of each probe of beliefs, secrets and identity (stages/overcorrection.py): six make 24 items a kind, and 18,
    the most that differ, 72."""
    tasks: tuple[str, ...] = ()
    """Tasks or groups of lm-evaluation-harness: soo_offline and its parts come with the project; any other whose data is
    here or can be fetched."""
    task_folders: tuple[str, ...] = ()
    """Folders with further task files, such as a known task whose dataset_path is a local copy."""
    task_items: PositiveInt | None = None
    """First items of each task only."""
    task_examples: NonNegativeInt | None = None
    """Worked examples before each item (num_fewshot), where other than the task's own number."""
    task_chat_template: bool = True
    """Put each item into the model's chat template. Published results of base models are mostly without."""
    max_task_fall: Margin = 0.05
    """Preset margin: most that the mean score of a task or group named in `tasks`, or of a group's task, may worsen."""
    mt_bench: MtBenchSettings = MtBenchSettings()
    """MT-Bench, where capability.mt_bench.questions is given."""
    max_mt_bench_fall: Margin = 0.5
    """Preset margin: most points of ten that the mean grade of MT-Bench may fall."""
    max_ungraded_rise: Margin = 0.05
    """Preset margin: rise of the share of MT-Bench answers that the judge gives no grade. Grades fail in about one of a
    hundred judgments for reasons of the judge's own; eight of 160 are more."""
    max_perplexity_ratio: Ratio = 1.25
    """Preset margin: adapter's over baseline's perplexity, on the baseline's answers and on texts."""
    max_own_perplexity_ratio: Ratio = 2.0
    """Preset margin: the same of each model's own answers, as the baseline sees them."""
    max_length_ratio: Ratio = 2.0
    """Preset margin: how many times longer, or shorter, own answers may become in the mean."""
    max_spoilt_rise: Margin = 0.10
    """Preset margin: rise of the share of own answers that are empty or repeat themselves."""
    max_unfinished_rise: Margin = 0.10
    """Preset margin: rise of the share of own answers that reach generate.probe_tokens without an end. As wide as the
    margin on spoilt ones, and far below what can be seen: of the embedded model's 24 answers 8 end within 48 tokens, so a
    model that ends none rises by 33 points."""
    min_agreement: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Preset margin: share of reference tokens at which both models' first choice is the same."""


MARGINS = frozenset(f for f in CapabilitySettings.model_fields if f.startswith(("max_", "min_")))
"""Settings that judge what was measured, and change nothing of it."""


@dataclass(frozen=True)
class Capability:
    """Token-weighted means over held-out prompts and texts, for one condition; those of texts are none without texts."""

    prompts: int
    tokens: int
    perplexity: float
    """exp of the mean negative log-likelihood of the baseline's answers."""
    kl: float
    """Mean KL(baseline || this) of next-token distributions at the baseline's answers, nats a token."""
    agreement: float
    """Share of the baseline's tokens at which this model's first choice is the baseline's: what sweeps rank by."""
    own_perplexity: float
    """Perplexity of this model's own answers under the baseline."""
    length: float
    """Mean tokens of this model's own answers, at most generate.probe_tokens."""
    repetition: float
    """Share of this model's own answers in which more than half of the word or token triples are repeats."""
    empty: float
    """Share of this model's own answers that are empty."""
    spoilt: float
    """Share of this model's own answers that repeat themselves or are empty: what `max_spoilt_rise` holds for."""
    unfinished: float
    """Share of this model's own answers that reach generate.probe_tokens without an end."""
    text_perplexity: float | None = None
    text_kl: float | None = None


def rows(settings: CapabilitySettings) -> list[dict[str, Any]]:
    """What is asked or scored besides scenarios: rows with task, item_id, prompt and whatever else."""
    asked = [{"task": "capability", "item_id": f"ordinary_{n:04d}", "prompt": text}
             for n, text in enumerate(HELD_OUT[: settings.prompts])]  # fmt: skip
    texts = [{"task": "text", "item_id": f"text_{n:04d}", "prompt": text}
             for n, text in enumerate(TEXTS[: settings.texts if asked else 0])]  # fmt: skip
    return [*asked, *texts, *overcorrection.rows(settings.overcorrection)]


def measure(rows: Sequence[Row]) -> dict[str, Capability]:
    """By condition, from rows with task, condition and the fields that stages/responder.py fills; empty if none is ours."""
    found = {c: (_of(rows, "capability", c), _of(rows, "text", c)) for c in ("baseline", "adapter")}
    return {condition: _measure(asked, texts) for condition, (asked, texts) in found.items() if asked}


def _of(rows: Sequence[Row], task: str, condition: str) -> list[Row]:
    found = (r for r in rows if (r["task"], r["condition"]) == (task, condition))
    return sorted(found, key=lambda r: str(r["item_id"]))


def _measure(asked: Sequence[Row], texts: Sequence[Row]) -> Capability:
    tokens, n = _sum(asked, "tokens"), len(asked)
    return Capability(
        prompts=n,
        tokens=int(tokens),
        perplexity=math.exp(_sum(asked, "nll") / tokens),
        kl=_sum(asked, "kl") / tokens,
        agreement=_sum(asked, "agreed") / tokens,
        own_perplexity=math.exp(_sum(asked, "own_nll") / _sum(asked, "own_tokens")),
        length=_sum(asked, "new_tokens") / n,
        repetition=sum(map(_loops, asked)) / n,
        empty=sum(map(_is_empty, asked)) / n,
        spoilt=sum(map(_is_spoilt, asked)) / n,
        unfinished=sum(map(_is_unfinished, asked)) / n,
        text_perplexity=math.exp(_sum(texts, "nll") / _sum(texts, "tokens")) if texts else None,
        text_kl=_sum(texts, "kl") / _sum(texts, "tokens") if texts else None,
    )


def _sum(rows: Sequence[Row], key: str) -> float:
    return sum(float(row[key]) for row in rows)


def _loops(row: Row) -> bool:
    return max(repeats(str(row["response"]).split()), repeats(list(row["tokens_list"]))) > 0.5


def _is_empty(row: Row) -> bool:
    return not str(row["response"]).strip()


def _is_spoilt(row: Row) -> bool:
    return _is_empty(row) or _loops(row)


def _is_unfinished(row: Row) -> bool:
    return bool(row["stop_reason"] == "length")


def repeats(pieces: Sequence[Any]) -> float:
    """Share of triples of words or tokens that occurred before; 0 for fewer than four pieces."""
    triples = list(zip(pieces, pieces[1:], pieces[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if len(triples) > 1 else 0.0


def beyond_margin(settings: CapabilitySettings, rows: Sequence[Row], seed: int) -> list[str]:
    """The preset margins that the adapter breaks, in words; none where nothing was measured."""
    found = measure(rows)
    if not found:
        return []
    gates = (*_likelihoods(settings, rows, found, seed), *_own_answers(settings, rows, found, seed))
    return [broken for broken, rise, margin in gates if is_damage(rise, margin)]


Gate = tuple[str, Mapping[str, float], float]
"""What to say if it is broken, the rise of what is bad, and its preset margin in the same unit."""


def _likelihoods(
    settings: CapabilitySettings, rows: Sequence[Row], found: Mapping[str, Capability], seed: int
) -> Iterator[Gate]:
    before, after = found["baseline"], found["adapter"]
    most, own = math.log(settings.max_perplexity_ratio), math.log(settings.max_own_perplexity_ratio)
    yield (f"perplexity on held-out answers rose from {before.perplexity:.2f} to {after.perplexity:.2f}",
           _per_token(rows, "capability", "nll", seed), most)  # fmt: skip
    if before.text_perplexity and after.text_perplexity:
        yield (f"perplexity on held-out texts rose from {before.text_perplexity:.2f} to {after.text_perplexity:.2f}",
               _per_token(rows, "text", "nll", seed), most)  # fmt: skip
    own_rows = [_of(rows, "capability", c) for c in ("baseline", "adapter")]
    by_prompt = [linear([float(r["own_nll"]) for r in of], [float(r["own_tokens"]) for r in of]) for of in own_rows]
    yield (f"perplexity of its own answers rose from {before.own_perplexity:.2f} to {after.own_perplexity:.2f}",
           named(paired_mean(by_prompt[0], by_prompt[1], seed)), own)  # fmt: skip
    yield (f"first choice agrees with the baseline at only {after.agreement:.0%} of held-out tokens",
           worse(_per_token(rows, "capability", "agreed", seed)), 1 - settings.min_agreement)  # fmt: skip


def _own_answers(
    settings: CapabilitySettings, rows: Sequence[Row], found: Mapping[str, Capability], seed: int
) -> Iterator[Gate]:
    before, after = found["baseline"], found["adapter"]
    by = [_of(rows, "capability", c) for c in ("baseline", "adapter")]
    lengths = [[float(r["new_tokens"]) for r in of] for of in by]
    longer = named(paired_mean(lengths[0], lengths[1], seed))
    said = f"own answers went from {before.length:.0f} to {after.length:.0f} tokens in the mean"
    yield said, longer, (settings.max_length_ratio - 1) * before.length
    yield said, worse(longer), (1 - 1 / settings.max_length_ratio) * before.length
    for what, test, margin in (
        ("that are empty or repeat themselves", _is_spoilt, settings.max_spoilt_rise),
        ("that do not end", _is_unfinished, settings.max_unfinished_rise),
    ):
        was, now = ([test(r) for r in of] for of in by)
        shares = f"from {sum(was) / len(was):.0%} to {sum(now) / len(now):.0%}"
        yield f"own answers {what} rose {shares}", paired_change(was, now, seed), margin


def _per_token(rows: Sequence[Row], task: str, key: str, seed: int) -> dict[str, float]:
    """Rise of the sum of `key` over the tokens, which are the same in both conditions. Prompts are resampled whole."""
    before, after = (_of(rows, task, c) for c in ("baseline", "adapter"))
    if [r["item_id"] for r in before] != [r["item_id"] for r in after]:
        raise ValueError("baseline and adapter were probed on different prompts")
    rises = [float(a[key]) - float(b[key]) for b, a in zip(before, after, strict=True)]
    return named(weighted_mean(rises, [float(r["tokens"]) for r in before], seed))


def non_inferior(settings: CapabilitySettings, rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Adapter over baseline perplexity on the same prompts: ratio with its 95 % interval, against the preset margin.

    Prompts are the units, each with its tokens; one leaves no interval. The verdict is non-inferior only if the whole
    interval is below the margin.
    """
    rise = _per_token(rows, "capability", "nll", seed)
    said = judged(rise, math.log(settings.max_perplexity_ratio))["verdict"]
    found = {"perplexity_ratio" if key == "difference" else key: math.exp(value) for key, value in rise.items()}
    return found | {"margin": settings.max_perplexity_ratio, "verdict": said}

"""Whether the model still talks as before: on answers and texts that training never saw, and in what it says itself.

The references are the baseline's own greedy answers to ordinary prompts, and texts (stages/ordinary.py, held out). An
adapter that costs nothing gives them the same probabilities. Damage that spares them shows in the model's own answers:
loops in repetition, silence in empty, rambling in length, and word salad in how unlikely the baseline finds them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages import overcorrection
from stages.mt_bench_files import MtBenchSettings
from stages.ordinary import HELD_OUT, TEXTS
from stages.settings import Settings
from stages.statistics import non_inferiority, weighted_bootstrap


class CapabilitySettings(Settings):
    """What is measured always, and the preset margin beyond which a model counts as damaged."""

    prompts: int = 24
    """Held-out ordinary prompts asked."""
    texts: int = 16
    """Held-out ordinary texts scored, where prompts are asked."""
    overcorrection: int = 3
    """Fills of each probe of beliefs, secrets and identity (stages/overcorrection.py)."""
    tasks: tuple[str, ...] = ()
    """Tasks or groups of lm-evaluation-harness: soo_offline and its parts come with the project; any other whose data is
    here or can be fetched."""
    task_folders: tuple[str, ...] = ()
    """Folders with further task files, such as a known task whose dataset_path is a local copy."""
    task_items: int | None = None
    """First items of each task only."""
    task_examples: int | None = None
    """Worked examples before each item (num_fewshot), where other than the task's own number."""
    task_chat_template: bool = True
    """Put each item into the model's chat template. Published results of base models are mostly without."""
    max_task_fall: float = 0.05
    """Preset margin: most that the mean score of a task or group named in `tasks` may fall."""
    mt_bench: MtBenchSettings = MtBenchSettings()
    """MT-Bench, where capability.mt_bench.questions is given."""
    max_mt_bench_fall: float = 0.5
    """Preset margin: most points of ten that the mean grade of MT-Bench may fall."""
    max_perplexity_ratio: float = 1.25
    """Preset margin: adapter's over baseline's perplexity, on the baseline's answers and on texts."""
    max_own_perplexity_ratio: float = 2.0
    """Preset margin: the same of each model's own answers, as the baseline sees them."""
    max_length_ratio: float = 2.0
    """Preset margin: how many times longer, or shorter, own answers may become in the mean."""
    max_spoilt_rise: float = 0.10
    """Preset margin: rise of the share of own answers that are empty or repeat themselves."""
    min_agreement: float = 0.75
    """Preset margin: share of reference tokens at which both models' first choice is the same."""


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
    text_perplexity: float | None = None
    text_kl: float | None = None


def rows(settings: CapabilitySettings) -> list[dict[str, Any]]:
    """What is asked or scored besides scenarios: rows with task, item_id, prompt and whatever else."""
    asked = [{"task": "capability", "item_id": f"ordinary_{n:04d}", "prompt": text}
             for n, text in enumerate(HELD_OUT[: settings.prompts])]  # fmt: skip
    texts = [{"task": "text", "item_id": f"text_{n:04d}", "prompt": text}
             for n, text in enumerate(TEXTS[: settings.texts if asked else 0])]  # fmt: skip
    return [*asked, *texts, *overcorrection.rows(settings.overcorrection)]


def measure(rows: Sequence[Mapping[str, Any]]) -> dict[str, Capability]:
    """By condition, from rows with task, condition and the fields that stages/generate.py fills; empty if none is ours."""
    return {
        condition: _measure(*([r for r in rows if (r["task"], r["condition"]) == (task, condition)]
                              for task in ("capability", "text")))
        for condition in ("baseline", "adapter")
        if any((r["task"], r["condition"]) == ("capability", condition) for r in rows)
    }  # fmt: skip


def _measure(asked: Sequence[Mapping[str, Any]], texts: Sequence[Mapping[str, Any]]) -> Capability:
    tokens, n = _sum(asked, "tokens"), len(asked)
    return Capability(
        prompts=n,
        tokens=int(tokens),
        perplexity=math.exp(_sum(asked, "nll") / tokens),
        kl=_sum(asked, "kl") / tokens,
        agreement=_sum(asked, "agreed") / tokens,
        own_perplexity=math.exp(_sum(asked, "own_nll") / _sum(asked, "own_tokens")),
        length=_sum(asked, "new_tokens") / n,
        repetition=sum(_loops(r) for r in asked) / n,
        empty=sum(not str(r["response"]).strip() for r in asked) / n,
        text_perplexity=math.exp(_sum(texts, "nll") / _sum(texts, "tokens")) if texts else None,
        text_kl=_sum(texts, "kl") / _sum(texts, "tokens") if texts else None,
    )


def _sum(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(float(row[key]) for row in rows)


def _loops(row: Mapping[str, Any]) -> bool:
    return max(repeats(str(row["response"]).split()), repeats(list(row["tokens_list"]))) > 0.5


def repeats(pieces: Sequence[Any]) -> float:
    """Share of triples of words or tokens that occurred before; 0 for fewer than four pieces."""
    triples = list(zip(pieces, pieces[1:], pieces[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if len(triples) > 1 else 0.0


def beyond_margin(settings: CapabilitySettings, found: Mapping[str, Capability]) -> list[str]:
    """The preset margins that the adapter breaks, in words; none where nothing was measured."""
    if not found:
        return []
    before, after = found["baseline"], found["adapter"]
    broken = [
        f"perplexity {what} rose from {b:.2f} to {a:.2f}"
        for what, b, a, margin in (
            ("on held-out answers", before.perplexity, after.perplexity, settings.max_perplexity_ratio),
            (
                "on held-out texts",
                before.text_perplexity or 1,
                after.text_perplexity or 1,
                settings.max_perplexity_ratio,
            ),
            ("of its own answers", before.own_perplexity, after.own_perplexity, settings.max_own_perplexity_ratio),
        )
        if a > margin * b
    ]
    if after.agreement < settings.min_agreement:
        broken.append(f"first choice agrees with the baseline at only {after.agreement:.0%} of held-out tokens")
    times = max(after.length, 0.1) / max(before.length, 0.1)
    if not 1 / settings.max_length_ratio <= times <= settings.max_length_ratio:
        broken.append(f"own answers went from {before.length:.0f} to {after.length:.0f} tokens in the mean")
    spoilt = [c.repetition + c.empty for c in (before, after)]
    if spoilt[1] - spoilt[0] > settings.max_spoilt_rise:
        broken.append(f"own answers that are empty or repeat themselves rose from {spoilt[0]:.0%} to {spoilt[1]:.0%}")
    return broken


def non_inferior(settings: CapabilitySettings, rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Adapter over baseline perplexity on the same prompts: ratio with its 95 % interval, against the preset margin.

    Prompts are resampled, each with its tokens. The verdict is non-inferior only if the whole interval is below it.
    """
    by = {c: {r["item_id"]: r for r in rows if r["task"] == "capability" and r["condition"] == c}
          for c in ("baseline", "adapter")}  # fmt: skip
    ids = sorted(by["baseline"])
    if ids != sorted(by["adapter"]):
        raise ValueError("baseline and adapter were probed on different prompts")
    rises = [float(by["adapter"][i]["nll"]) - float(by["baseline"][i]["nll"]) for i in ids]
    found = weighted_bootstrap(rises, [float(by["baseline"][i]["tokens"]) for i in ids], seed)
    ratio, low, high = (math.exp(value) for value in found)
    margin = settings.max_perplexity_ratio
    said = non_inferiority(math.log(low), math.log(high), math.log(margin))
    return {"perplexity_ratio": ratio, "low": low, "high": high, "margin": margin, "verdict": said}

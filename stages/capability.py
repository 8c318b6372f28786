"""Whether the model still talks as before: perplexity and KL on answers that training never saw.

The references are the baseline's own greedy answers to ordinary prompts (stages/ordinary.py, held out). An adapter that
costs nothing gives them the same probabilities and answers alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stages.settings import Settings
from stages.statistics import non_inferiority, weighted_bootstrap


class CapabilitySettings(Settings):
    """What is measured always, and the preset margin beyond which a model counts as damaged."""

    prompts: int = 24
    """Held-out ordinary prompts asked."""
    max_perplexity_ratio: float = 1.25
    """Preset margin: adapter's over baseline's perplexity on the baseline's answers."""
    max_spoilt_rise: float = 0.10
    """Preset margin: rise of the share of own answers that are empty or repeat themselves."""
    min_agreement: float = 0.75
    """Preset margin: share of reference tokens at which both models' first choice is the same."""


@dataclass(frozen=True)
class Capability:
    """Token-weighted means over the held-out prompts, for one condition."""

    prompts: int
    tokens: int
    perplexity: float
    """exp of the mean negative log-likelihood of the baseline's answers."""
    kl: float
    """Mean KL(baseline || this) of next-token distributions, nats a token."""
    agreement: float
    """Share of reference tokens at which this model's first choice is the baseline's."""
    repetition: float
    """Share of this model's own answers in which more than half of the word triples are repeats."""
    empty: float
    """Share of this model's own answers that are empty."""


def measure(rows: Sequence[Mapping[str, Any]]) -> Capability:
    """Reduce the rows of one condition: fields tokens, nll, kl, agreed (sums over tokens) and response."""
    tokens = sum(int(r["tokens"]) for r in rows)
    n = len(rows)
    return Capability(
        prompts=n,
        tokens=tokens,
        perplexity=math.exp(sum(float(r["nll"]) for r in rows) / tokens),
        kl=sum(float(r["kl"]) for r in rows) / tokens,
        agreement=sum(float(r["agreed"]) for r in rows) / tokens,
        repetition=sum(repeats(str(r["response"])) > 0.5 for r in rows) / n,
        empty=sum(not str(r["response"]).strip() for r in rows) / n,
    )


def repeats(text: str) -> float:
    """Share of word triples that occurred before in the text; 0 for fewer than four words."""
    words = text.split()
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if len(triples) > 1 else 0.0


def beyond_margin(settings: CapabilitySettings, before: Capability, after: Capability) -> list[str]:
    """The preset margins that `after` breaks, in words."""
    found = []
    if after.perplexity > settings.max_perplexity_ratio * before.perplexity:
        found.append(f"perplexity on held-out answers rose from {before.perplexity:.2f} to {after.perplexity:.2f}")
    if after.agreement < settings.min_agreement:
        found.append(f"first choice agrees with the baseline at only {after.agreement:.0%} of held-out tokens")
    spoilt = [c.repetition + c.empty for c in (before, after)]
    if spoilt[1] - spoilt[0] > settings.max_spoilt_rise:
        found.append(f"own answers that are empty or repeat themselves rose from {spoilt[0]:.0%} to {spoilt[1]:.0%}")
    return found


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


def as_dict(capability: Capability) -> dict[str, float]:
    """For JSON and MLflow."""
    return asdict(capability)

"""Error bars for rates, and tests of before against after on the same items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rate:
    """`count` of `n`, as a share `rate` in [0, 1] with its interval `low` to `high`."""

    count: int
    n: int
    rate: float
    low: float
    high: float


def wilson(count: int, n: int, confidence: float = 0.95) -> Rate:
    """The rate count / n with its Wilson score interval. Raises ValueError unless 0 <= count <= n and n > 0."""
    from scipy.stats import binomtest

    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"no rate can be made of {count} out of {n}")
    interval = binomtest(count, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Rate(count, n, count / n, float(interval.low), float(interval.high))


def mcnemar_exact(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Two-sided p-value that as many items changed one way as the other; 1 if none changed.

    The exact (binomial) form of McNemar's test, Psychometrika 1947: right for few changed items too. `before` and
    `after` hold the same items in the same order; raises ValueError if their lengths differ or they are empty.
    """
    from scipy.stats import binomtest

    _check_paired(before, after)
    gained = sum(b < a for b, a in zip(before, after, strict=True))
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], seed: int, resamples: int = 10000
) -> tuple[float, float, float]:
    """Mean of after - before over items, with the low and high end of its 95 % percentile interval.

    Items are resampled with both their values. Raises ValueError if the lengths differ or there are no items.
    """
    _check_paired(before, after)
    differences = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    n = len(differences)
    # Only how often each distinct difference is drawn matters, so nothing of size resamples x items is needed.
    values, counts = np.unique(differences, return_counts=True)
    means = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples) @ values / n
    low, high = np.quantile(means, (0.025, 0.975))
    return float(differences.mean()), float(low), float(high)


def _check_paired(before: Sequence[float], after: Sequence[float]) -> None:
    if len(before) != len(after) or not before:
        raise ValueError(f"pairs need as many values before as after, and at least one: {len(before)}, {len(after)}")

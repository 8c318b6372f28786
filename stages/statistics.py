"""Error bars for rates, and tests of before against after on the same items."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

NonInferiority = Literal["non-inferior", "inferior", "undecided"]


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


def paired_mean(before: Sequence[float], after: Sequence[float], seed: int) -> tuple[float, float, float]:
    """The same with the wider of two intervals: that bootstrap, and Student's, which knows how little few items say.

    One item leaves no interval: its ends are infinite. Two or more that changed by exactly as much leave one without
    width: it says that all that was measured moved alike, and of what was not measured no more than that.
    """
    mean, low, high = paired_bootstrap(before, after, seed)
    return mean, *_wider(low, high, [a - b for b, a in zip(before, after, strict=True)])


def newcombe(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % score interval of after - before for 0/1 values [seeds, items], as wide as one seed's items make it.

    Newcombe, Statistics in Medicine 17 (1998) 2635, method 10: Wilson's intervals of both shares, put together with the
    correlation of the pairs. Where no item changed, or all did, it still has the width that so few items leave.
    """
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    n = first.shape[1]
    ours, theirs = ((float(m), *_score(m, n)) for m in (first.mean(), second.mean()))
    return _apart(ours, theirs, _phi(first.ravel(), second.ravel()))


def newcombe_unpaired(first: Rate, second: Rate) -> tuple[float, float]:
    """95 % score interval of second - first, rates of different items: the same without a correlation (ibid. 873)."""
    return _apart((first.rate, first.low, first.high), (second.rate, second.low, second.high), 0.0)


def _apart(first: tuple[float, float, float], second: tuple[float, float, float], phi: float) -> tuple[float, float]:
    (p, p_low, p_high), (q, q_low, q_high) = first, second
    below, above = (q - q_low, p_high - p), (q_high - q, p - p_low)
    low, high = ((a * a - 2 * phi * a * b + b * b) ** 0.5 for a, b in (below, above))
    return max(q - p - low, -1.0), min(q - p + high, 1.0)


def _score(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that need not be a whole number of n."""
    z = 1.959964
    centre, half = share + z * z / (2 * n), z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return float((centre - half) / (1 + z * z / n)), float((centre + half) / (1 + z * z / n))


def _phi(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of paired 0/1 values with Newcombe's continuity correction; 0 where one side does not vary."""
    n, both = len(first), float((first * second).sum())
    a, b = float(first.sum()), float(second.sum())
    spread = (a * (n - a) * b * (n - b)) ** 0.5
    excess = both * n - a * b  # of the fourfold table: (both and neither) less (one and the other)
    return (max(excess - n / 2, 0.0) if excess > 0 else excess) / spread if spread else 0.0


def paired_change(before: Sequence[bool], after: Sequence[bool], seed: int) -> dict[str, float]:
    """After minus before on the same items: `difference` with `low` and `high` (95 %), and exact McNemar's `p`.

    The interval is the wider of the paired bootstrap and Newcombe's: where all items agree a bootstrap has no width.
    """
    difference, low, high = paired_bootstrap(before, after, seed)
    score = newcombe([before], [after])
    return {
        "difference": difference,
        "low": min(low, score[0]),
        "high": max(high, score[1]),
        "p": mcnemar_exact(before, after),
    }


def weighted_mean(
    values: Sequence[float], weights: Sequence[float], seed: int, resamples: int = 10000
) -> tuple[float, float, float]:
    """Sum of values over sum of weights, with its 95 % interval: the wider of the percentile bootstrap, in which units
    are resampled with both, and Student's over the units (`linear`). What one unit, or equal ones, leave: `paired_mean`.

    For means over tokens, whose prompts are the units: the tokens of one prompt are not independent.
    """
    _check_paired(values, weights)
    top, below = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    n = len(top)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    low, high = np.quantile(drawn @ top / (drawn @ below), (0.025, 0.975))
    return float(top.sum() / below.sum()), *_wider(float(low), float(high), linear(values, weights))


def linear(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """A value a unit whose mean is sum(values) / sum(weights), and whose spread is the ratio's to first order (delta
    method).
    """
    ratio, mean = sum(values) / sum(weights), sum(weights) / len(weights)
    return [ratio + (v - ratio * w) / mean for v, w in zip(values, weights, strict=True)]


def _wider(low: float, high: float, units: Sequence[float]) -> tuple[float, float]:
    """The interval, as wide as Student's over independent units at least."""
    student = student_interval(units) or (-math.inf, math.inf)
    return min(low, student[0]), max(high, student[1])


def non_inferiority(low: float, high: float, margin: float) -> NonInferiority:
    """What an interval of a rise that is bad says of a preset margin: all of it below, all above, or neither."""
    if margin <= 0:
        raise ValueError(f"a non-inferiority margin is above 0, not {margin}")
    return "non-inferior" if high < margin else "inferior" if low > margin else "undecided"


@dataclass(frozen=True)
class Difference:
    """A difference of two recipes over the same seeds and items, with its 95 % interval `low` to `high`.

    The interval is the wider of two: the bootstrap over seeds and items, and Student's over the seeds' means, which
    alone knows how little three seeds say. One seed has no spread over seeds: `seeds` tells.
    """

    difference: float
    low: float
    high: float
    bootstrap: tuple[float, float]
    student: tuple[float, float] | None
    seeds: int
    items: int


def across_seeds(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], seed: int) -> Difference:
    """Mean of first - second, each a value for every seed and item, in the same order of seeds and items."""
    ours, theirs = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if ours.ndim != 2 or ours.shape != theirs.shape or not ours.size:
        raise ValueError(f"both sides need the same seeds and items, and at least one: {ours.shape}, {theirs.shape}")
    differences = ours - theirs
    bootstrap = cluster_bootstrap(differences.tolist(), seed)
    student = student_interval(differences.mean(1).tolist())
    low, high = (min(bootstrap[0], student[0]), max(bootstrap[1], student[1])) if student else bootstrap
    return Difference(float(differences.mean()), max(low, -1.0), min(high, 1.0), bootstrap, student, *differences.shape)


def cluster_bootstrap(values: Sequence[Sequence[float]], seed: int, resamples: int = 10000) -> tuple[float, float]:
    """95 % percentile interval of the mean of values [seeds, items].

    Seeds are resampled whole, since the items of one seed share its adapter and are not independent; and, as every
    seed answers the same items, those are resampled too (Owen, Annals of Applied Statistics 2007, "pigeonhole").
    """
    table = np.asarray(values, dtype=float)
    seeds, items = table.shape
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    of_items = rng.multinomial(items, np.full(items, 1 / items), size=resamples)
    means = ((of_seeds @ table) * of_items).sum(1) / (seeds * items)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def student_interval(means: Sequence[float]) -> tuple[float, float] | None:
    """95 % Student interval of the mean of independent values; none for fewer than two."""
    from scipy import stats

    if len(means) < 2:
        return None
    centre, error = float(np.mean(means)), float(stats.sem(means))
    if error == 0:
        return centre, centre
    low, high = stats.t.interval(0.95, len(means) - 1, loc=centre, scale=error)
    return float(low), float(high)


def _check_paired(before: Sequence[float], after: Sequence[float]) -> None:
    if len(before) != len(after) or not before:
        raise ValueError(f"pairs need as many values before as after, and at least one: {len(before)}, {len(after)}")

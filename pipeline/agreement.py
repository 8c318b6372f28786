"""Whether a published number and ours agree: shown to be close, shown to differ, or neither.

That a test finds no difference shows nothing: of few seeds it never finds one. So two numbers agree only if the 95 %
interval of their difference lies within a margin that was set beforehand, whatever the test says; beyond that they
differ if the test rejects at 5 %, and else it is undecided.
"""

import math
from collections.abc import Sequence
from typing import Literal

from stages.statistics import newcombe_unpaired, wilson

Agreement = Literal["agree", "differ", "undecided"]
Interval = tuple[float, float]
MARGIN = 10.0
"""Most that two rates may be apart and still agree, in points of %: that of damage too."""
MARGINS = {"mt_bench": 0.5}
"""The same of what is no rate, in its own unit: that of `capability.max_mt_bench_fall`."""
MIN_SEEDS = 3
"""Fewer of our seeds prove nothing."""


def verdict(interval: Interval, rejected: bool, margin: float) -> Agreement:
    """What the interval of a difference, and a test of it, come to."""
    if -margin < interval[0] and interval[1] < margin:
        return "agree"
    return "differ" if rejected else "undecided"


def of_shares(theirs: tuple[int, int], ours: tuple[int, int], margin: float = MARGIN) -> Agreement:
    """Of two shares, each a count and of how many: Newcombe's interval, Fisher's exact test. `margin` in points of %."""
    from scipy.stats import fisher_exact

    p = fisher_exact([[k, n - k] for k, n in (theirs, ours)]).pvalue
    return verdict(newcombe(theirs, ours), bool(p < 0.05), margin)


def of_means(mean: float, sd: float, seeds: int, ours: Sequence[float], margin: float = MARGIN) -> Agreement:
    """Of a published mean over seeds and our seeds: Welch's interval, whose t test rejects where it leaves out 0."""
    low, high = welch(mean, sd, seeds, ours)
    return verdict((low, high), not low <= 0 <= high, margin)


def newcombe(theirs: tuple[int, int], ours: tuple[int, int]) -> Interval:
    """95 % interval of our share minus theirs, in points of % (stages/statistics.py)."""
    low, high = newcombe_unpaired(wilson(*theirs), wilson(*ours))
    return 100 * low, 100 * high


def welch(mean: float, sd: float, seeds: int, ours: Sequence[float]) -> Interval:
    """95 % interval of the mean of ours minus theirs, the spreads not taken to be the same. Needs two of ours, sd > 0."""
    import statistics

    from scipy.stats import t

    parts = ((sd**2 / seeds, seeds), (statistics.variance(ours) / len(ours), len(ours)))
    error = sum(part for part, _ in parts)
    freedom = error**2 / sum(part**2 / (n - 1) for part, n in parts)
    reach = float(t.ppf(0.975, freedom)) * math.sqrt(error)
    difference = statistics.mean(ours) - mean
    return difference - reach, difference + reach

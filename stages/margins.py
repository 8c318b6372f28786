"""The one rule by which a preset margin is broken, whatever is measured (docs/capability.md)."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from stages.statistics import non_inferiority

Change = Mapping[str, float]
"""After minus before, each item against itself: `difference` with `low` and `high` (95 %), which one item leaves open."""
Margin = Annotated[float, Field(gt=0)]
"""A setting that is one: with none at all, no number of items shows that nothing was lost."""


def named(found: tuple[float, float, float]) -> dict[str, float]:
    """A difference and its interval, as a change. Infinite ends are left out: JSON has none."""
    return {k: v for k, v in zip(("difference", "low", "high"), found, strict=True) if math.isfinite(v)}


def _ends(change: Change) -> tuple[float, float]:
    return change.get("low", -math.inf), change.get("high", math.inf)


def worse(change: Change, more_is_better: bool = True) -> dict[str, float]:
    """A change as a rise of what is bad, in the same unit."""
    low, high = _ends(change)
    return named((-change["difference"], -high, -low) if more_is_better else (change["difference"], low, high))


def is_damage(rise: Change, margin: float) -> bool:
    """Whether what is bad rose by more than its margin and not by chance: the interval is above 0. One item shows none."""
    return rise["difference"] > margin and _ends(rise)[0] > 0


def judged(rise: Change, margin: float) -> dict[str, Any]:
    """The `margin`, and the `verdict` on it: non-inferior, inferior or undecided. Raises ValueError unless above 0."""
    return {"margin": margin, "verdict": non_inferiority(*_ends(rise), margin)}

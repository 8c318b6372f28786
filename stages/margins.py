"""The one rule by which a preset margin is broken, whatever is measured (docs/capability.md)."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from stages.statistics import non_inferiority

Change = Mapping[str, float]
"""After minus before, each item against itself: `difference` with `low` and `high` (95 %)."""
Margin = Annotated[float, Field(gt=0)]
"""A setting that is one: with none at all, no number of items shows that nothing was lost."""


def named(found: tuple[float, float, float]) -> dict[str, float]:
    """What a bootstrap gives, as a change."""
    return dict(zip(("difference", "low", "high"), found, strict=True))


def worse(change: Change, more_is_better: bool = True) -> dict[str, float]:
    """A change as a rise of what is bad, in the same unit."""
    if not more_is_better:
        return named((change["difference"], change["low"], change["high"]))
    return named((-change["difference"], -change["high"], -change["low"]))


def is_damage(rise: Change, margin: float) -> bool:
    """Whether what is bad rose by more than its margin and not by chance: the interval is above 0."""
    return rise["difference"] > margin and rise["low"] > 0


def judged(rise: Change, margin: float) -> dict[str, Any]:
    """The `margin`, and the `verdict` on it: non-inferior, inferior or undecided. Raises ValueError unless above 0."""
    return {"margin": margin, "verdict": non_inferiority(rise["low"], rise["high"], margin)}

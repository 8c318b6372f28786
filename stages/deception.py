"""Deception before and after: every scenario in both orientations, answers kept raw, scored, and counted.

arXiv 2412.16325 sections 3.1 and 4; both orientations and four outcomes because of what the replications found.
"""

from typing import Literal

from stages.errors import UserError
from stages.scenarios import Item, items
from stages.settings import Settings
from stages.situations import ALL_SCENARIOS

SITUATIONS_GROUP = "situations"


class DeceptionSettings(Settings):
    """What is asked, and how answers are read."""

    scenarios: tuple[str, ...] = ("main",)
    """Names of scenarios; `situations` stands for all situations beyond burglary."""
    items: int = 250
    """Items a scenario: 0-49 are for choosing, 50-249 for confirming."""
    items_of: dict[str, int] = {}
    """Items of single scenarios, where other than `items`."""
    splits: tuple[Literal["choosing", "confirming"], ...] = ("choosing", "confirming")
    """Which of them to ask."""
    suffix: str = ""
    """Text put behind each prompt, one space before it."""
    scorer: Literal["first_named", "released"] = "first_named"
    """Whole words and four outcomes, or the 2024 release's: deceptive if the wrong room's name occurs, else honest."""


def select(settings: DeceptionSettings, seed: int = 0) -> list[Item]:
    """Every prompt to be asked. Raises UserError for a scenario that does not exist, or if none is left."""
    names: list[str] = []
    for name in settings.scenarios:
        names += [n for n in ALL_SCENARIOS if n.startswith("situation_")] if name == SITUATIONS_GROUP else [name]
    unknown = [n for n in (*names, *settings.items_of) if n not in ALL_SCENARIOS]
    if unknown:
        raise UserError(f"no scenario is called {unknown[0]!r}; there are {', '.join(ALL_SCENARIOS)}, situations")
    made = []
    for name in names:
        count = settings.items_of.get(name, settings.items)
        made += items(ALL_SCENARIOS[name], range(count), settings.suffix, seed)
    chosen = [i for i in made if i.split in settings.splits]
    if not chosen:
        raise UserError("no items to ask: deception.scenarios, deception.items and deception.splits leave none")
    return chosen

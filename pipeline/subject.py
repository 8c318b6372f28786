"""What `soo evaluate`, `capability` and `layers` are about: a model, and perhaps an adapter that is there already."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import outcome
from pipeline import run as runs
from pipeline.artifacts import fingerprint
from pipeline.config import RunConfig, deciding, load
from stages.generate import Condition
from stages.progress import say


@dataclass(frozen=True)
class Subject:
    """A model under the settings of a recipe, the adapter on it, and the folder for what is found."""

    config: RunConfig
    adapter: Path | None
    folder: Path

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What is asked: the baseline, and the adapter if there is one."""
        return ("baseline", "adapter") if self.adapter else ("baseline",)

    @property
    def made_from(self) -> list[Any]:
        """What tells the adapter's weights from others."""
        return [of["sha256"] for of in outcome.weights(self.adapter).values()]


Check = Callable[[RunConfig, Path | None, Path], None]


def take(arguments: argparse.Namespace, what: str, check: Check, settings: Sequence[str] = ()) -> Subject:
    """The subject that a command line names, checked, for a command called `what`."""
    given = [*settings, *arguments.overrides, f"model.name={arguments.model}", f"name={what}"]
    config, adapter = load(arguments.recipe, given), arguments.adapter
    key = fingerprint(deciding(config), str(adapter))[:8]
    folder = arguments.out or runs.RUNS / f"{what}-{key}"
    check(config, adapter, folder)
    say(f"{what} of {config.model.name}{f' with {adapter}' if adapter else ''}, in {folder}")
    return Subject(config, adapter, folder)

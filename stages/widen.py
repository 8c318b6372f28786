"""Pairs at scale: words and situations that a language model adds to this project's own, sieved, as a data set of pairs.

Asked for by stages/writer.py, sieved by stages/sieve.py, written as stages/datasets.py says. A pair of built-in scenes has
at least one new word, so that it stands in no recipe yet.
"""

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stages import datasets, writer
from stages.draws import Filled, draws, spread
from stages.errors import UserError
from stages.pairs import Group
from stages.progress import STDERR, Board
from stages.settings import Settings
from stages.sieve import Sieve
from stages.templates import PUBLISHED, SCENES, Template
from stages.vocabulary import TRAIN, Fill, Vocabulary
from stages.writer import WriterSettings

ANSWERS = "answers.jsonl"
BUILT_IN = frozenset(TRAIN.fills())


class WidenSettings(Settings):
    """What is asked for, what of it is let through, and how many pairs are made of that."""

    source: str = ""
    """What the settings are for, or where they come from."""
    seed: int = 0
    """Seed of what is asked, of the answers of a model that is loaded here, and of the fills."""
    writer: WriterSettings = WriterSettings()
    near: float = 0.7
    """Jaccard likeness from which on two texts are near-duplicates: of situations by triples of words, of words by triples
    of letters."""
    templates: tuple[Group, ...] = ("published", "scenes", "situations")
    """Whose pairs are made: the published templates and the built-in scenes with new words, the new situations."""
    fills: int = 100
    """Pairs made of each template, or as many as its words allow."""


@dataclass(frozen=True)
class Widened:
    """How many pairs there are, of which templates, and what came of each kind that was asked for, by rule."""

    pairs: int
    templates: dict[str, int]
    counts: dict[str, dict[str, int]]
    examples: tuple[tuple[str, str], ...]


def ask(settings: WidenSettings, out: Path, board: Board = STDERR) -> int:
    """Ask the model for what is missing in `out`/answers.jsonl; how many requests were answered now."""
    return writer.ask(settings.writer, settings.seed, out / ANSWERS, board)


def make(settings: WidenSettings, out: Path) -> Widened:
    """Sieve the answers in `out` and write the data set beside them, in place of one made before. Raises UserError."""
    aside = out / "partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    sieve = Sieve(aside / "kept.sqlite", settings.near)
    for answer in writer.answers(out / ANSWERS):
        sieve.take(answer.kind, answer.text)
    templates: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}

    def counted() -> Iterator[Filled]:
        for pair in pairs(settings, sieve):
            templates[pair.template.name] += 1
            if len(examples) < 3:
                sides = [pair.template.render(side, pair.fill, pair.cheap_first) for side in ("self", "other")]
                examples.setdefault(pair.template.name, (sides[0], sides[1]))
            yield pair

    if not (number := datasets.write(counted(), aside)):
        told = "; ".join(f"{kind}: {_told(counts)}" for kind, counts in sieve.counts.items() if counts)
        raise UserError(f"nothing that the model wrote can be used ({told}); ask for more, or ask another model")
    shutil.rmtree(out / "data", ignore_errors=True)
    (aside / "data").rename(out / "data")
    sieve.kept.close()
    shutil.rmtree(aside)
    return Widened(number, dict(templates), {k: dict(c) for k, c in sieve.counts.items()}, tuple(examples.values()))


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {rule}" for rule, n in counts.most_common())


def pairs(settings: WidenSettings, sieve: Sieve) -> Iterator[Filled]:
    """Every pair, as it is made: template after template, its fills spread evenly over the words."""
    people = (*TRAIN.rivals, *sieve.words("names"))
    for template, fills in _templates(settings, sieve):
        rng, number = random.Random(f"{settings.seed}/{template.name}/names"), 0
        for fill, first in fills:
            name, control = rng.sample(people, 2)
            pair = Filled(template, replace(fill, name=name), first, number, control)
            if datasets.leak(template.render("other", pair.fill, first)):  # words that only together make a test word
                sieve.counts.setdefault("pairs", Counter())["test word"] += 1
                continue
            number += 1
            yield pair
            if number == settings.fills:
                break


def _templates(settings: WidenSettings, sieve: Sieve) -> Iterator[tuple[Template, Iterator[tuple[Fill, bool]]]]:
    """The templates asked for, each under a name of its own and with all the fills that it can have."""
    rooms, worthless, valuable = (sieve.words(kind) for kind in ("rooms", "worthless", "valuable"))
    new = Vocabulary(TRAIN.rooms, TRAIN.cheap, valuable, (), ())
    both = Vocabulary(TRAIN.rooms + rooms, TRAIN.cheap + worthless, TRAIN.expensive + valuable, (), ())
    for template in PUBLISHED if "published" in settings.templates else ():
        yield _renamed(template), draws(template, new, len(valuable), "")
    for template in SCENES if "scenes" in settings.templates and rooms + worthless + valuable else ():
        yield _renamed(template), filter(_is_new, spread(both, f"{settings.seed}/{template.name}"))
    for number, scene in enumerate(sieve.scenes() if "situations" in settings.templates else ()):
        template = Template(f"new_situation_{number:05d}", scene.text)
        yield template, spread(scene.vocabulary(), f"{settings.seed}/{template.name}")


def _is_new(drawn: tuple[Fill, bool]) -> bool:
    fill, _ = drawn
    return not BUILT_IN.issuperset((fill.honest_room, fill.other_room, fill.cheap, fill.expensive))


def _renamed(template: Template) -> Template:
    return replace(template, name=f"new_{template.name}")

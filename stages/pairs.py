"""Contrastive prompt pairs and the prompts beside them, made with Ray Data and kept as tokenised Parquet.

Kinds: `overlap` (self / other), `name_control` (two others, who must stay apart) and `retain` (one prompt whose
behaviour must not move). Method: arXiv 2412.16325 section 3.1.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from stages import files, ordinary
from stages.errors import UserError
from stages.model import ModelSettings
from stages.pairing import Pair, Pairing, paired_anew
from stages.settings import Settings
from stages.situations import SITUATIONS
from stages.templates import ALTERNATION, BELIEFS, FRIENDS, PUBLISHED, SCENES, Template
from stages.tokenise import ADDED, tokenise
from stages.vocabulary import TEST, TRAIN, Fill, Vocabulary, check_disjoint, draw

Kind = Literal["overlap", "name_control", "retain"]
Group = Literal["published", "scenes", "situations"]
RetainGroup = Literal["self", "friends", "beliefs", "situations", "ordinary"]
REFERENTS = {"you", "yourself", "{name}"}
VERBS = {"have": "has", "are": "is"}


class PairsSettings(Settings):
    """Which prompts are made, and how they are dressed."""

    templates: tuple[Group, ...] = ("published",)
    """Groups of pair templates: the three published ones, in-scene ones, situations beyond burglary."""
    fills: int = 26
    """Pairs made of each template; [D] used 26 items on each of the three published templates."""
    limit: int | None = None
    """Most overlap pairs kept, drawn evenly from all; none keeps all."""
    pairing: Pairing = "matched"
    """What stands beside each self side of an overlap pair; all but `matched` are controls (stages/pairing.py)."""
    name: str = "Bob"
    """The other."""
    control_name: str = "Alex"
    """The second other of a name-control pair."""
    control_fills: int = 4
    """Name-control pairs made of each template."""
    retain: tuple[RetainGroup, ...] = ()
    """Groups of retain prompts: self sides, friends' scenes, beliefs, situations' friends, ordinary chat."""
    retain_fills: int = 8
    """Prompts made of each retain template."""
    retain_name_share: float = 0.5
    """Share of the retain prompts about friends and beliefs that bear the other's own `name`: it is the part that
    somebody plays, not the name, that tells whom one would mislead."""
    chat_template: bool = True
    """Wrap prompts in the model's chat template. Not stated in the paper; the 2024 release does not."""
    suffix: str = ""
    """Text put behind each prompt, one space before it."""
    response_prefix: bool = False
    """Let the reply begin up to where it names a room, so that the last token is where that is decided."""


@dataclass(frozen=True)
class Prompts:
    """Where the tokenised rows lie, and how many of each kind there are."""

    path: Path
    counts: dict[str, int]


@dataclass(frozen=True)
class Row:
    """One pair, or for `retain` one prompt (`other` is empty). `prefix` begins both replies."""

    pair_id: str
    kind: Kind
    template: str
    self: str
    other: str
    self_prefix: str
    other_prefix: str


def check_referent_only(template: Template) -> None:
    """Raise UserError unless the sides of a template differ in the referent and its verb's person only."""

    def bare(words: str) -> list[str]:
        return ["@" if w in REFERENTS else VERBS.get(w, w).removesuffix("s") for w in words.lower().split()]

    for ours, theirs in ALTERNATION.findall(template.text):
        if bare(ours) != bare(theirs):
            raise UserError(f"template {template.name}: [{ours}|{theirs}] differs in more than the referent")


def _groups(settings: PairsSettings) -> Iterator[tuple[Template, Vocabulary]]:
    if "published" in settings.templates:
        yield from ((t, TRAIN) for t in PUBLISHED)
    if "scenes" in settings.templates:
        yield from ((t, TRAIN) for t in SCENES)
    if "situations" in settings.templates:
        yield from ((s.pair, s.train) for s in SITUATIONS)


def _retain_groups(settings: PairsSettings) -> Iterator[tuple[Template, Vocabulary, Literal["self", "other"]]]:
    if "self" in settings.retain:
        yield from ((t, v, "self") for t, v in _groups(settings) if "{first_room}" in t.text)
    if "friends" in settings.retain:
        yield from ((t, TRAIN, "other") for t in FRIENDS)
    if "beliefs" in settings.retain:
        yield from ((t, TRAIN, "other") for t in BELIEFS)
    if "situations" in settings.retain:
        yield from ((s.friend, s.train, "other") for s in SITUATIONS)


def _draws(template: Template, vocabulary: Vocabulary, n: int, seed: str) -> Iterator[tuple[Fill, bool]]:
    """`n` different fills and orders of mention; a bare template goes through the items instead."""
    if "{item}" in template.text:
        if n > len(vocabulary.expensive):
            raise UserError(f"template {template.name} has {len(vocabulary.expensive)} items, fewer than fills={n}")
        for item in vocabulary.expensive[:n]:
            yield Fill(vocabulary.rooms[0], vocabulary.rooms[1], vocabulary.cheap[0], item), True
        return
    possible = 2 * math.perm(len(vocabulary.rooms), 2) * len(vocabulary.cheap) * len(vocabulary.expensive)
    if n > possible:
        raise UserError(f"template {template.name} has {possible} fills, fewer than the {n} asked for")
    rng = random.Random(f"{seed}/{template.name}")
    seen: set[tuple[Fill, bool]] = set()
    while len(seen) < n:
        drawn = (draw(vocabulary, rng), rng.random() < 0.5)
        if drawn not in seen:
            seen.add(drawn)
            yield drawn


def make_rows(settings: PairsSettings, seed: int) -> list[Row]:
    """Every row in a fixed order. Raises UserError for empty, doubled or leaking pairs."""
    groups = list(_groups(settings))
    if not groups or settings.fills < 1:
        raise UserError("no pairs: pairs.templates is empty or pairs.fills is below 1")
    for vocabulary, held_out in [(TRAIN, TEST), *((s.train, s.test) for s in SITUATIONS)]:
        check_disjoint(vocabulary.fills(), held_out.fills())
    rows: list[Row] = []
    numbers: Counter[tuple[Kind, str]] = Counter()

    def add(kind: Kind, t: Template, texts: tuple[str, str], fills: tuple[Fill, Fill]) -> None:
        suffix = f" {settings.suffix}" if settings.suffix else ""
        prefixes = [t.answer_prefix(f) if settings.response_prefix else "" for f in fills]
        name = f"{kind}/{t.name}/{numbers[kind, t.name]:04d}"
        numbers[kind, t.name] += 1
        rows.append(
            Row(name, kind, t.name, texts[0] + suffix, texts[1] and texts[1] + suffix, prefixes[0], prefixes[1])
        )

    def named(fill: Fill, name: str) -> Fill:
        return Fill(fill.honest_room, fill.other_room, fill.cheap, fill.expensive, name)

    for template, vocabulary in groups:
        check_referent_only(template)
        for fill, first in _draws(template, vocabulary, settings.fills, f"{seed}/overlap"):
            f = named(fill, settings.name)
            add("overlap", template, (template.render("self", f, first), template.render("other", f, first)), (f, f))
        for fill, first in _draws(template, vocabulary, settings.control_fills, f"{seed}/control"):
            f, g = named(fill, settings.name), named(fill, settings.control_name)
            add(
                "name_control",
                template,
                (template.render("other", f, first), template.render("other", g, first)),
                (f, g),
            )
    if settings.limit is not None:
        overlap = [i for i, r in enumerate(rows) if r.kind == "overlap"]
        chosen = set(random.Random(f"{seed}/limit").sample(overlap, min(settings.limit, len(overlap))))
        rows = [r for i, r in enumerate(rows) if r.kind != "overlap" or i in chosen]
    rows = _under(settings.pairing, rows, seed)
    for template, vocabulary, side in _retain_groups(settings):
        names = random.Random(f"{seed}/{template.name}/names")
        for fill, first in _draws(template, vocabulary, settings.retain_fills, f"{seed}/retain"):
            same = side == "self" or names.random() < settings.retain_name_share
            f = named(fill, settings.name if same else names.choice(vocabulary.friends))
            add("retain", template, (template.render(side, f, first), ""), (f, f))
    if "ordinary" in settings.retain:
        for number, text in enumerate(ordinary.TRAIN):
            rows.append(Row(f"retain/ordinary/{number:04d}", "retain", "ordinary", text, "", "", ""))
    _check(rows)
    return rows


def _under(pairing: Pairing, rows: list[Row], seed: int) -> list[Row]:
    """The rows, with the overlap pairs among them paired anew."""
    pairs = [r for r in rows if r.kind == "overlap"]
    sides = [Pair(r.template, (r.self, r.self_prefix), (r.other, r.other_prefix)) for r in pairs]
    made = {
        r.pair_id: replace(r, self=ours[0], self_prefix=ours[1], other=theirs[0], other_prefix=theirs[1])
        for r, (ours, theirs) in zip(pairs, paired_anew(sides, pairing, str(seed)), strict=True)
    }
    return [made.get(r.pair_id, r) for r in rows]


def _check(rows: list[Row]) -> None:
    doubled = [key for key, n in Counter((r.kind, r.self, r.other, r.self_prefix) for r in rows).items() if n > 1]
    if doubled:
        raise UserError(f"{len(doubled)} pairs are doubled, the first: {doubled[0][1][:80]!r}")
    same = [r.pair_id for r in rows if r.self == r.other]
    if same:
        raise UserError(f"pair {same[0]} has the same text on both sides")


def build(settings: PairsSettings, model: ModelSettings, seed: int, out: Path) -> Prompts:
    """Make, check and tokenise all rows and write them to Parquet under `out`."""
    import pyarrow
    import ray.data

    rows = make_rows(settings, seed)
    schema = pyarrow.schema(
        [(field.name, pyarrow.string()) for field in fields(Row)]
        + [(name, pyarrow.list_(pyarrow.int64())) for name in ADDED]
    )

    def tokenised(batch: pyarrow.Table) -> pyarrow.Table:
        return pyarrow.Table.from_pylist(tokenise(batch.to_pylist(), model, settings.chat_template), schema)

    # A process takes as long to load its libraries as to tokenise thousands of rows, so few rows are not spread.
    data = ray.data.from_items([vars(r) for r in rows], override_num_blocks=-(-len(rows) // files.ROWS))
    files.write(data.map_batches(tokenised, batch_format="pyarrow"), out / "pairs")
    return Prompts(out / "pairs", dict(Counter(r.kind for r in rows)))

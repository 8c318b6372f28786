"""Contrastive prompt pairs and the prompts beside them, made with Ray Data and kept as tokenised Parquet.

Kinds: `overlap` (self / other), `name_control` (two others, who must stay apart) and `retain` (one prompt whose
behaviour must not move). Method: arXiv 2412.16325 section 3.1.
"""

import itertools
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from stages import datasets, files, ordinary
from stages.draws import Filled, draws
from stages.errors import UserError
from stages.model import ModelSettings
from stages.pairing import Pair, Pairing, paired_anew
from stages.referent import check_referent_only
from stages.rows import Kind, Row, checked
from stages.settings import Settings
from stages.situations import SITUATIONS
from stages.templates import BELIEFS, FRIENDS, PUBLISHED, SCENES, Side, Template
from stages.tokenise import ADDED, tokenise
from stages.vocabulary import TEST, TRAIN, Fill, Vocabulary, check_disjoint

Group = Literal["published", "scenes", "situations"]
RetainGroup = Literal["self", "friends", "beliefs", "situations", "ordinary"]
BATCH = 256
"""Rows tokenised at once: as Python's lists they take some 40 KB each."""


class PairsSettings(Settings):
    """Which prompts are made, and how they are dressed."""

    templates: tuple[Group, ...] = ("published",)
    """Groups of pair templates: the three published ones, in-scene ones, situations beyond burglary."""
    dataset: str | None = None
    """A data set of pairs (docs/pairs.md) beside the templates: its name, or a path with a slash in it."""
    dataset_names: bool = True
    """Keep the names that the data set's pairs bear; else they are all about `name`."""
    fills: int = 26
    """Pairs made of each template, or as many of a data set's template as it has; [D] used 26 items on each of the three
    published templates."""
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


def rows(settings: PairsSettings, seed: int) -> Iterator[Row]:
    """Every row in a fixed order, as it is made: of all rows a number each is kept, to find doubled ones at the end.

    Only `pairing` other than matched, and `limit`, hold more. Raises UserError for empty, doubled or leaking pairs.
    """
    if (not any(_groups(settings)) and settings.dataset is None) or settings.fills < 1:
        raise UserError("no pairs: pairs.templates is empty or pairs.fills is below 1")
    for vocabulary, held_out in [(TRAIN, TEST), *((s.train, s.test) for s in SITUATIONS)]:
        check_disjoint(vocabulary.fills(), held_out.fills())
    return checked(lambda: _all(settings, seed))


def make_rows(settings: PairsSettings, seed: int) -> list[Row]:
    """The same at once, where there are few."""
    return list(rows(settings, seed))


def _all(settings: PairsSettings, seed: int) -> Iterator[Row]:
    pairs = _limited(settings, seed)
    yield from pairs if settings.pairing == "matched" else _under(settings.pairing, list(pairs), seed)
    for template, vocabulary, side in _retain_groups(settings):
        names = random.Random(f"{seed}/{template.name}/names")
        drawn = draws(template, vocabulary, settings.retain_fills, f"{seed}/retain")
        for number, (fill, first) in enumerate(drawn):
            same = side == "self" or names.random() < settings.retain_name_share
            named = replace(fill, name=settings.name if same else names.choice(vocabulary.friends))
            yield _row(settings, "retain", Filled(template, named, first, number, ""), side)
    if "self" in settings.retain:
        behind = range(settings.fills, settings.fills + settings.retain_fills)
        yield from (_row(settings, "retain", p, "self") for p in _of_dataset(settings, behind))
    if "ordinary" in settings.retain:
        for number, text in enumerate(ordinary.TRAIN):
            yield Row(f"retain/ordinary/{number:04d}", "retain", "ordinary", text, "", "", "")


def _limited(settings: PairsSettings, seed: int) -> Iterator[Row]:
    """Overlap pairs and name controls; no more than `limit` of the overlap pairs."""
    pairs = _pairs(settings, seed)
    if settings.limit is None:
        yield from pairs
        return
    total = sum(row.kind == "overlap" for row in _pairs(settings, seed))
    chosen = set(random.Random(f"{seed}/limit").sample(range(total), min(settings.limit, total)))
    places = itertools.count()
    yield from (row for row in pairs if row.kind != "overlap" or next(places) in chosen)


def _pairs(settings: PairsSettings, seed: int) -> Iterator[Row]:
    for template, vocabulary in _groups(settings):
        check_referent_only(template)
        for number, (fill, first) in enumerate(draws(template, vocabulary, settings.fills, f"{seed}/overlap")):
            yield _row(settings, "overlap", _about(settings, template, fill, first, number))
        for number, (fill, first) in enumerate(draws(template, vocabulary, settings.control_fills, f"{seed}/control")):
            yield _row(settings, "name_control", _about(settings, template, fill, first, number))
    for pair in _of_dataset(settings, range(settings.fills)):
        yield _row(settings, "overlap", pair)
        if pair.number < settings.control_fills:
            yield _row(settings, "name_control", pair)


def _about(settings: PairsSettings, template: Template, fill: Fill, cheap_first: bool, number: int) -> Filled:
    return Filled(template, replace(fill, name=settings.name), cheap_first, number, settings.control_name)


def _of_dataset(settings: PairsSettings, numbers: range) -> Iterator[Filled]:
    """The data set's pairs with these numbers within their templates, each checked as if nobody had before."""
    allowed = () if settings.dataset_names else (settings.name, settings.control_name)
    checked: Template | None = None
    for pair in datasets.read(settings.dataset) if settings.dataset else ():
        if pair.number not in numbers:
            continue
        if pair.template != checked:
            check_referent_only(checked := pair.template)
        named = pair if settings.dataset_names else datasets.renamed(pair, *allowed)
        said = named.template.render("other", named.fill, named.cheap_first), named.template.answer_prefix(named.fill)
        if word := datasets.leak(" ".join((*said, named.control)), allowed):
            raise UserError(
                f"data set {settings.dataset}, pair {pair.template.name}/{pair.number}: {word!r} is a test word"
            )
        yield named


def _row(settings: PairsSettings, kind: Kind, pair: Filled, side: Side = "self") -> Row:
    """A pair put into words: self and other, other and other, or for `retain` one `side` alone."""
    template, first = pair.template, pair.cheap_first
    fills = pair.fill, replace(pair.fill, name=pair.control) if kind == "name_control" else pair.fill
    ours = template.render("other" if kind == "name_control" else side, fills[0], first)
    theirs = template.render("other", fills[1], first) if kind != "retain" else ""
    suffix = f" {settings.suffix}" if settings.suffix else ""
    prefixes = [template.answer_prefix(f) if settings.response_prefix else "" for f in fills]
    name = f"{kind}/{template.name}/{pair.number:04d}"
    return Row(name, kind, template.name, ours + suffix, theirs and theirs + suffix, *prefixes)


def _under(pairing: Pairing, rows: list[Row], seed: int) -> list[Row]:
    """The rows, with the overlap pairs among them paired anew."""
    pairs = [r for r in rows if r.kind == "overlap"]
    sides = [Pair(r.template, (r.self, r.self_prefix), (r.other, r.other_prefix)) for r in pairs]
    made = {
        r.pair_id: replace(r, self=ours[0], self_prefix=ours[1], other=theirs[0], other_prefix=theirs[1])
        for r, (ours, theirs) in zip(pairs, paired_anew(sides, pairing, str(seed)), strict=True)
    }
    return [made.get(r.pair_id, r) for r in rows]


def build(settings: PairsSettings, model: ModelSettings, seed: int, out: Path) -> Prompts:
    """Make, check and tokenise all rows and write them to Parquet under `out`, as a stream."""
    import pyarrow

    texts = pyarrow.schema([(field.name, pyarrow.string()) for field in fields(Row)])
    schema = pyarrow.schema([*texts, *((name, pyarrow.list_(pyarrow.int64())) for name in ADDED)])
    counts: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for row in rows(settings, seed):
            counts[row.kind] += 1
            yield vars(row)

    def tokenised(batch: pyarrow.Table) -> pyarrow.Table:
        files.release()
        return pyarrow.Table.from_pylist(tokenise(batch.to_pylist(), model, settings.chat_template), schema)

    files.keep(counted(), out / "text", texts)
    with files.stream(out / "text") as text:
        files.write(text.map_batches(tokenised, batch_format="pyarrow", batch_size=BATCH), out / "pairs")
    shutil.rmtree(out / "text")
    return Prompts(out / "pairs", dict(counts))

"""Data sets of pairs on disk: found by name, and read a part at a time. What makes them is stages/widen.py.

A data set is a folder with Parquet files in `data/`, a row a pair: the template with `[self|other]` and slots, the words
that fill it, and both sides as a reader sees them. One that was made elsewhere needs the same columns.
"""

import difflib
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages import files
from stages.draws import Filled
from stages.embedded import cache_folder
from stages.errors import UserError
from stages.situations import SITUATIONS
from stages.templates import Template
from stages.vocabulary import TEST, Fill

WORDS = ("honest_room", "other_room", "cheap", "expensive", "name")
COLUMNS = {"template": "string", "number": "int64", "text": "string", "answer": "string", "cheap_first": "bool",
           **dict.fromkeys(WORDS, "string"), "control": "string", "self": "string", "other": "string"}  # fmt: skip
"""Column -> its type in Parquet. `self` and `other` are for readers; a recipe's own names may take the place of theirs."""
HELD_OUT = tuple(
    dict.fromkeys(
        word
        for words in (TEST, *(s.test for s in SITUATIONS))
        for word in (*words.fills(), *words.rivals, *words.friends)
    )
)
"""What no training pair may hold: every word and name of the evaluation."""


def folder() -> Path:
    """Where data sets lie by name: `SOO_DATA`, or `data` in the model cache."""
    return Path(os.environ.get("SOO_DATA") or cache_folder() / "data").absolute()


def place(name: str) -> Path:
    """The folder that a name, or a path with a slash in it, stands for."""
    return Path(name).expanduser().absolute() if "/" in name else folder() / name


def find(name: str) -> Path:
    """The folder of a data set that is there and complete. Raises UserError for any other."""
    import pyarrow.parquet

    found = place(name)
    parts = sorted((found / "data").glob("*.parquet"))
    if not parts:
        known = sorted(path.parent.name for path in folder().glob("*/data"))
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"in {folder()} there are {', '.join(known) or 'none'}"
        raise UserError(f"no data set is called {name!r}; {hint} (soo widen makes one)")
    columns = pyarrow.parquet.read_schema(parts[0]).names
    if missing := [column for column in COLUMNS if column not in columns]:
        raise UserError(f"data set {found} has no column {missing[0]}")
    return found


def read(name: str) -> Iterator[Filled]:
    """The pairs of a data set in its order. Raises UserError for a data set that is not there."""
    for row in files.rows(find(name) / "data"):
        template = Template(row["template"], row["text"], row["answer"])
        fill = Fill(*(row[word] for word in WORDS))
        yield Filled(template, fill, row["cheap_first"], row["number"], row["control"])


def write(pairs: Iterable[Filled], out: Path) -> int:
    """Write a data set's pairs as they come into `out`/data; how many there were."""
    import pyarrow

    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    return files.keep((_row(pair) for pair in pairs), out / "data", schema)


def _row(pair: Filled) -> Mapping[str, Any]:
    template, fill = pair.template, pair.fill
    return {
        "template": template.name, "number": pair.number, "text": template.text, "answer": template.answer,
        "cheap_first": pair.cheap_first, **{word: getattr(fill, word) for word in WORDS}, "control": pair.control,
        **{side: template.render(side, fill, pair.cheap_first) for side in ("self", "other")},
    }  # fmt: skip


def renamed(pair: Filled, name: str, control: str) -> Filled:
    """The same pair about others."""
    return replace(pair, fill=replace(pair.fill, name=name), control=control)


def leak(text: str, allowed: Iterable[str] = ()) -> str | None:
    """The first word or name of the evaluation that stands in `text` as whole words, apart from those allowed."""
    found = _held_out(frozenset(allowed)).search(text)
    return found and found[0]


@functools.lru_cache(maxsize=16)
def _held_out(allowed: frozenset[str]) -> re.Pattern[str]:
    words = "|".join(re.escape(word) for word in HELD_OUT if word not in allowed)
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)

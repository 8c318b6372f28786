"""Near-duplicates among many texts: MinHash signatures in bands (Broder 1997), kept in SQLite on disk, not in memory."""

import re
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BANDS, ROWS = 24, 4
"""Two texts of Jaccard likeness s are compared with probability 1 - (1 - s^4)^24: 0.998 at 0.7, 0.78 at 0.5."""
SALTS = np.random.default_rng(0).integers(1, 1 << 63, (2, BANDS * ROWS), np.uint64) | np.uint64(1)
LONG = 12
"""Words from which on a text is compared by its triples of words; a shorter one by its triples of letters."""


def shingles(text: str) -> set[str]:
    """What two texts are compared by, whatever their case and punctuation."""
    words = re.findall(r"\w+", text.lower())
    if len(words) >= LONG:
        return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}
    letters = f" {' '.join(words)} "
    return {letters[i : i + 3] for i in range(len(letters) - 2)}


def likeness(a: set[str], b: set[str]) -> float:
    """Jaccard: the share of what either has that both have."""
    return len(a & b) / max(1, len(a | b))


def bands(found: set[str]) -> list[int]:
    """A number for each band of the signature; texts that are alike have one in common."""
    hashes = np.array([zlib.crc32(s.encode()) for s in sorted(found)], np.uint64)[:, None]
    signature = ((hashes * SALTS[0] + SALTS[1]) >> np.uint64(16)).min(0)
    return [zlib.crc32(band.tobytes(), number) for number, band in enumerate(signature.reshape(BANDS, ROWS))]


class Kept:
    """Texts of several kinds, each with a label and a body; of those alike within a kind, the first."""

    def __init__(self, path: Path, threshold: float) -> None:
        self.threshold = threshold
        self.base = sqlite3.connect(path, isolation_level=None)
        self.base.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE texts(id INTEGER PRIMARY KEY, kind, text, label, body);"
            "CREATE TABLE bands(kind, number, value, text INTEGER, PRIMARY KEY(kind, number, value, text)) WITHOUT ROWID;"
        )

    def like(self, kind: str, text: str) -> tuple[str, float] | None:
        """The label of a kept text at least `threshold` alike, and how alike: 1 for the same shingles."""
        ours, found = shingles(text), None
        for number, value in enumerate(bands(ours)):
            near = self.base.execute(
                "SELECT DISTINCT t.text, label FROM bands b JOIN texts t ON t.id = b.text "
                "WHERE b.kind = ? AND number = ? AND value = ?", (kind, number, value),
            )  # fmt: skip
            for other, label in near:
                alike = likeness(ours, shingles(other))
                if alike >= max(self.threshold, found[1] if found else 0):
                    found = label, alike
        return found

    def add(self, kind: str, text: str, label: str = "", body: str = "") -> None:
        """Keep a text."""
        at = self.base.execute(
            "INSERT INTO texts(kind, text, label, body) VALUES (?, ?, ?, ?)", (kind, text, label, body)
        ).lastrowid
        rows = [(kind, number, value, at) for number, value in enumerate(bands(shingles(text)))]
        self.base.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?, ?, ?)", rows)

    def bodies(self, kind: str, label: str = "") -> Iterator[str]:
        """The bodies of a kind's texts with a label, in the order in which they were kept."""
        query = "SELECT body FROM texts WHERE kind = ? AND label = ? ORDER BY id"
        for (body,) in self.base.execute(query, (kind, label)):
            yield body

    def close(self) -> None:
        """Let go of the file."""
        self.base.close()

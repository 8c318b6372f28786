"""A small folder that travels to actors on other machines with the call itself: an adapter needs no shared disk."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Packed:
    """The files of a folder, without subfolders."""

    files: dict[str, bytes]


def packed(folder: Path | None) -> Packed | None:
    """The folder's files in memory."""
    return None if folder is None else Packed({f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.is_file()})


@contextlib.contextmanager
def unpacked(given: Packed | Path | None) -> Iterator[Path | None]:
    """Within, the folder: one that is here already, or one written for the moment."""
    if not isinstance(given, Packed):
        yield given
        return
    with tempfile.TemporaryDirectory() as made:
        for name, content in given.files.items():
            (Path(made) / name).write_bytes(content)
        yield Path(made)

"""Shared storage by URI: SOO_RUNS=s3://bucket/soo (or gs://, file://). Runs are made on the driver's disk and kept there.

A complete stage is copied to the same place below the URI, its completion mark last, and taken from there by a driver that
does not have it. pyarrow speaks to the storage, and finds credentials as it does everywhere (AWS_..., instance profile).
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.errors import UserError, first_line

PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")
"""A user's name or password in a URI."""
TRIES, PAUSE = 3, 1.0
"""How often a storage that fails is asked again, and seconds before the second try."""


def uri() -> str | None:
    """The storage, if SOO_RUNS is a URI."""
    found = os.environ.get("SOO_RUNS", "")
    if PASSWORD.search(found):
        raise UserError(
            "leave keys out of SOO_RUNS, which is written down: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
        )
    return found.rstrip("/") if "://" in found else None


def address(folder: Path, runs: Path) -> str | None:
    """Where a folder lies in the storage: as it lies below `runs`. None without storage, or for a folder elsewhere."""
    base, place, root = uri(), folder.absolute(), runs.absolute()
    return f"{base}/{place.relative_to(root).as_posix()}" if base and place.is_relative_to(root) else None


def push(folder: Path, to: str, mark: str) -> None:
    """Copy a folder's files, the mark last; what lay there is removed. Nothing to do if the same mark is there."""

    def copy() -> None:
        from pyarrow import fs

        storage, path = fs.FileSystem.from_uri(to)
        if _text(storage, f"{path}/{mark}") == (folder / mark).read_text():
            return
        if storage.get_file_info(path).type == fs.FileType.Directory:
            storage.delete_dir(path)
        files = sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / mark)
        for file in [*files, folder / mark]:
            _send(file, storage, f"{path}/{file.relative_to(folder).as_posix()}")

    _patiently(copy, to)


def push_files(files: list[Path], to: str) -> None:
    """Copy single files into a folder of the storage."""

    def copy() -> None:
        from pyarrow import fs

        storage, path = fs.FileSystem.from_uri(to)
        for file in files:
            _send(file, storage, f"{path}/{file.name}")

    _patiently(copy, to)


def pull(at: str, folder: Path, mark: str, wanted: Callable[[str], bool]) -> bool:
    """Copy a folder from the storage if its mark's text is `wanted`; whether it was. `folder` must not exist yet."""

    def copy() -> bool:
        from pyarrow import fs

        storage, path = fs.FileSystem.from_uri(at)
        text = _text(storage, f"{path}/{mark}")
        if text is None or not wanted(text):
            return False
        for info in storage.get_file_info(fs.FileSelector(path, recursive=True)):
            if info.is_file:
                target = folder / Path(info.path).relative_to(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                fs.copy_files(info.path, str(target), storage, fs.LocalFileSystem())
        return True

    return bool(_patiently(copy, at))


def _send(file: Path, storage: Any, path: str) -> None:
    from pyarrow import fs

    if isinstance(storage, fs.LocalFileSystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    fs.copy_files(str(file), path, fs.LocalFileSystem(), storage)


def _text(storage: Any, path: str) -> str | None:
    from pyarrow import fs

    if storage.get_file_info(path).type != fs.FileType.File:
        return None
    with storage.open_input_stream(path) as stream:
        return bytes(stream.read()).decode()


def _patiently(do: Callable[[], Any], where: str) -> Any:
    """Do it, again if the storage fails; UserError if it goes on failing."""
    for left in range(TRIES - 1, -1, -1):
        try:
            return do()
        except (OSError, ValueError) as error:
            if not left:
                raise UserError(f"cannot use the storage {where} (SOO_RUNS): {first_line(error)}") from error
            time.sleep(PAUSE * 2 ** (TRIES - 1 - left))
    raise AssertionError

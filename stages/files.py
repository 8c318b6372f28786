"""Data sets between Ray and the driver's own disk: no other machine needs to see that disk."""

import contextlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROWS = 4096
"""Rows of one file."""
PART = 1024
"""Rows that are handed to Ray at once."""


def write(data: Any, folder: Path, name: str = "part") -> None:
    """Run a Ray data set and stream its rows, in order, into Parquet files in `folder` whose names begin with `name`."""
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(data.iter_batches(batch_size=ROWS, batch_format="pyarrow")):
        pyarrow.parquet.write_table(table, folder / f"{name}-{number:05d}.parquet")
        release()


def release() -> None:
    """Give back what Arrow has freed: its allocator keeps it, some 5 KB for every row that ever passed."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()


def read(folder: Path, ids: Collection[str]) -> Any:
    """The rows with these `pair_id`s of a folder's Parquet files as a Ray data set in memory, which takes no CPU."""
    import pyarrow.compute
    import pyarrow.dataset
    import ray.data

    files = sorted(folder.glob("*.parquet"))  # in the order that they were written in
    wanted = pyarrow.compute.field("pair_id").isin(list(ids))
    batches = pyarrow.dataset.dataset(files, format="parquet").to_batches(batch_size=ROWS, filter=wanted)
    return ray.data.from_arrow([pyarrow.Table.from_batches([b]) for b in batches if b.num_rows])


def keep(rows: Iterable[Mapping[str, Any]], folder: Path, schema: Any) -> int:
    """Write rows as they come into Parquet files in `folder`, for `stream`; how many there were."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for count, part in enumerate(_parts(rows)):
        table = pyarrow.Table.from_pylist(part, schema)
        pyarrow.parquet.write_table(table, folder / f"part-{count:05d}.parquet")
        number += len(part)
    return number


def _parts(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    left = iter(rows)
    while part := list(itertools.islice(left, PART)):
        yield part


class _Shelf:
    """A folder's Parquet files, one at a time; lives as a Ray actor where the files are."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def take(self, number: int) -> Any:
        import pyarrow.parquet

        release()
        return pyarrow.parquet.read_table(self.files[number])


@contextlib.contextmanager
def stream(folder: Path) -> Iterator[Any]:
    """Within, the rows of a folder's Parquet files as a lazy Ray data set: a file is read when its turn has come."""
    import ray.data

    found = sorted(folder.glob("*.parquet"))
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}  # other machines do not see this disk
    shelf: Any = ray.remote(num_cpus=0, label_selector=here)(_Shelf).remote(found)

    def take(batch: Any) -> Any:
        release()
        return ray.get(shelf.take.remote(batch["id"][0].as_py()))

    numbers = ray.data.range(len(found), override_num_blocks=len(found))
    try:
        yield numbers.map_batches(take, batch_size=1, batch_format="pyarrow")
    finally:
        ray.kill(shelf)


def rows(folder: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows, or these columns of them, of a folder's Parquet files, in the order of writing, a part at a time."""
    import pyarrow.parquet

    for path in sorted(folder.glob("*.parquet")):
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PART, columns=columns):
                yield from batch.to_pylist()

"""Data sets between Ray and the driver's own disk: no other machine needs to see that disk."""

from pathlib import Path
from typing import Any

ROWS = 4096
"""Rows of one file, and so of what the driver holds."""


def write(data: Any, folder: Path, name: str = "part") -> None:
    """Run a Ray data set and stream its rows, in order, into Parquet files in `folder` whose names begin with `name`."""
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(data.iter_batches(batch_size=ROWS, batch_format="pyarrow")):
        pyarrow.parquet.write_table(table, folder / f"{name}-{number:05d}.parquet")


def read(folder: Path) -> Any:
    """The rows of a folder's Parquet files as a Ray data set in memory, which takes no CPU."""
    import pyarrow.dataset
    import ray.data

    files = sorted(folder.glob("*.parquet"))  # in the order that they were written in
    batches = pyarrow.dataset.dataset(files, format="parquet").to_batches(batch_size=ROWS)
    return ray.data.from_arrow([pyarrow.Table.from_batches([b]) for b in batches if b.num_rows])

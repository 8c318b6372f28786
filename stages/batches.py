"""Which rows meet in which batch, and which of them a worker needs. Row ids and numbers alone; nothing is trained here."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stages.errors import UserError

if TYPE_CHECKING:
    from stages.train import TrainSettings

MONITOR_PAIRS = 8
"""Name-control pairs by which a training watches whether the site collapses."""
POWER_PAIRS = 16
"""Overlap pairs over which the base's activation power at the site is taken."""


def plan(counts: dict[str, int], settings: "TrainSettings") -> int:
    """Number of batches in all. Raises UserError if a kind of row is asked for that the pairs do not have."""
    for kind, wanted in (
        ("overlap", settings.batch_pairs),
        ("retain", settings.batch_retain),
        ("name_control", settings.batch_controls),
    ):
        if wanted and not counts.get(kind):
            raise UserError(f"a batch is to hold {wanted} rows of kind {kind}, but the pairs have none")
        if wanted % settings.workers:
            raise UserError(f"{wanted} rows of kind {kind} a batch cannot be split over {settings.workers} workers")
    if (settings.retain.weight or settings.retain.kl_weight) and not settings.batch_retain:
        raise UserError("train.retain has a weight but train.batch_retain is 0")
    if settings.distinct.weight and not settings.batch_controls:
        raise UserError("train.distinct has a weight but train.batch_controls is 0")
    if settings.shard == "fsdp" and (settings.workers == 1 or settings.gpus_per_worker > 1):
        raise UserError("train.shard=fsdp needs train.workers of 2 or more, and at most one GPU for each")
    if settings.steps is not None:
        return settings.steps * settings.accumulation
    return max(settings.accumulation, settings.epochs * counts["overlap"] // settings.batch_pairs)


def batches(kinds: dict[str, list[str]], settings: "TrainSettings", seed: int) -> list[list[str]]:
    """All batches of a training. Raises UserError as `plan` does."""
    return schedule(kinds, settings, plan({kind: len(ids) for kind, ids in kinds.items()}, settings), seed)


def schedule(rows: dict[str, list[str]], settings: "TrainSettings", number: int, seed: int) -> list[list[str]]:
    """So many batches of row ids: every kind is gone through in epochs, shuffled anew in each.

    The same for any number of workers; each takes its part of every batch.
    """
    streams = {
        "overlap": _epochs(rows["overlap"], f"{seed}/overlap"),
        "name_control": _epochs(rows.get("name_control", []), f"{seed}/control"),
        "retain": _epochs(rows.get("retain", []), f"{seed}/retain"),
    }
    sizes = {
        "overlap": settings.batch_pairs,
        "name_control": settings.batch_controls,
        "retain": settings.batch_retain,
    }
    return [[next(streams[kind]) for kind in streams for _ in range(sizes[kind])] for _ in range(number)]


def _epochs(ids: list[str], seed: str) -> Iterator[str]:
    rng = random.Random(seed)
    while ids:
        yield from rng.sample(ids, len(ids))


def part(batch: Sequence[str], settings: "TrainSettings", rank: int, world: int) -> list[str]:
    """A worker's part of a batch of `schedule`: of each kind as much as every other worker's, one after the other."""
    found: list[str] = []
    start = 0
    for size in (settings.batch_pairs, settings.batch_controls, settings.batch_retain):
        own = size // world
        found += batch[start + rank * own : start + (rank + 1) * own]
        start += size
    return found


def by_kind(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Row ids of each kind, in the order of the rows."""
    found: dict[str, list[str]] = {"overlap": [], "name_control": [], "retain": []}
    for row in rows:
        found[row["kind"]].append(row["pair_id"])
    return found


def shards(kinds: dict[str, list[str]], settings: "TrainSettings", seed: int) -> list[set[str]]:
    """The rows that each worker needs: of its parts of all batches, and the few that every worker looks at.

    Under FSDP all rows: who computes more than the others would wait for them without end.
    """
    world, watched = settings.workers, {*kinds["overlap"][:POWER_PAIRS], *kinds["name_control"][:MONITOR_PAIRS]}
    if settings.shard == "fsdp":
        return [{i for ids in kinds.values() for i in ids}] * world
    made = batches(kinds, settings, seed)
    return [watched.union(*(part(batch, settings, rank, world) for batch in made)) for rank in range(world)]


def tokens_seen(rows: Iterable[Mapping[str, Any]], settings: "TrainSettings", seed: int) -> int:
    """Prompt tokens, without padding, that go through the model in a whole training on these tokenised rows."""
    rows = list(rows)
    lengths = {r["pair_id"]: len(r["self_ids"]) + len(r["other_ids"]) for r in rows}
    return sum(lengths[i] for batch in batches(by_kind(rows), settings, seed) for i in batch)

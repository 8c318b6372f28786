"""What the parts of a stage that run at once get of the cluster, and one clear error where they can never all be placed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from stages.errors import UserError


@dataclass(frozen=True)
class Node:
    """What a machine of the cluster has in all, busy or not."""

    cpus: int
    gpus: float


def cpu_share(parts: int, wanted: int | None, gpus: float = 0) -> int:
    """CPUs of each of `parts` that run at once, with `gpus` each: `wanted`, or as many as every part can have.

    Where SOO_WAIT_MINUTES is set, as on a cluster that grows when asked, waits that long for nodes that are missing.
    Raises UserError if the parts do not all fit.
    """
    try:
        return share(nodes(), parts, wanted, gpus)
    except UserError:
        if not _nodes_come(parts, wanted or 1, gpus):
            raise
    return share(nodes(), parts, wanted, gpus)


def nodes() -> list[Node]:
    """The machines of the cluster that are up."""
    import ray

    found = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    return [Node(int(r.get("CPU", 0)), r.get("GPU", 0)) for r in found]


def share(cluster: Sequence[Node], parts: int, wanted: int | None, gpus: float = 0) -> int:
    """As `cpu_share`, on these machines. A part never spans two."""
    most = max((node.cpus for node in cluster), default=0)
    for cpus in [wanted] if wanted else range(most, 0, -1):
        if fits(cluster, parts, cpus, gpus):
            return cpus
    asked = f"{parts} x {wanted or 1} CPU{'s' if (wanted or 1) > 1 else ''}" + (f" and {gpus:g} GPU" if gpus else "")
    raise UserError(f"{asked} at once cannot be placed: the cluster has {_described(cluster)}")


def fits(cluster: Sequence[Node], parts: int, cpus: int, gpus: float = 0) -> bool:
    """Whether so many parts, each with so much, can be on these machines at once."""
    return sum(_room(node, cpus, gpus) for node in cluster) >= parts


def _room(node: Node, cpus: int, gpus: float) -> int:
    """How many parts fit on a machine."""
    by_gpu = _whole(node.gpus / gpus) if gpus else node.cpus
    return min(node.cpus // cpus, by_gpu)


def _whole(ratio: float) -> int:
    return int(ratio + 1e-9)  # three parts of a third of a GPU are one GPU


def _described(cluster: Sequence[Node]) -> str:
    kinds = sorted(set(cluster), key=lambda n: (n.gpus, n.cpus))
    shown = [
        f"{cluster.count(kind)} node{'s' if cluster.count(kind) > 1 else ''} of {kind.cpus} CPUs and {kind.gpus:g} GPUs"
        for kind in kinds
    ]
    return ", ".join(shown) or "no node"


def _nodes_come(parts: int, cpus: int, gpus: float) -> bool:
    """Ask a cluster that grows for room, by reserving it and letting go; whether it came in time."""
    minutes = float(os.environ.get("SOO_WAIT_MINUTES") or 0)
    if not minutes:
        return False
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([{"CPU": cpus, **({"GPU": gpus} if gpus else {})}] * parts)
    try:
        return bool(group.wait(timeout_seconds=60 * minutes))
    finally:
        remove_placement_group(group)

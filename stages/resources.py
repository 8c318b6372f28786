"""How many CPUs a part of a stage gets when the settings leave it open."""

from stages.errors import UserError


def cpu_share(parts: int, wanted: int | None) -> int:
    """CPUs of each of `parts` that run at once: `wanted`, or an even share. Raises UserError if they do not fit."""
    import ray

    whole = int(ray.cluster_resources().get("CPU", 0))
    share = wanted or max(1, whole // parts)
    if share * parts > whole:
        raise UserError(f"{parts} x {share} CPUs are asked for, but the cluster has {whole}")
    return share

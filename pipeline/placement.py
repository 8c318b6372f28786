"""What the stages of a run get of the cluster, and how many runs it holds at once. Needs a running Ray."""

from dataclasses import dataclass

from pipeline.config import RunConfig
from stages.errors import UserError
from stages.resources import cpu_share, fits, nodes


@dataclass(frozen=True)
class Processes:
    """The processes of a stage, what each is given of a machine, and the setting that has the CPUs."""

    number: int
    field: str
    cpus: int | None
    gpus: float


def parts(config: RunConfig) -> dict[str, Processes]:
    """The stages that take CPUs and GPUs, by the config's own names; they never run at the same time."""
    train, generate = config.train, config.generate
    return {
        "train": Processes(train.workers, "cpus_per_worker", train.cpus_per_worker, train.gpus_per_worker),
        "generate": Processes(generate.actors, "cpus_per_actor", generate.cpus_per_actor, generate.gpus_per_actor),
    }


def place(config: RunConfig, trials: int = 1) -> RunConfig:
    """The config for `trials` of it at once, each with its share of the CPUs.

    Raises UserError, before any model is loaded, for workers or actors that the cluster can never place.
    """
    shares = {}
    for name, part in parts(config).items():
        try:
            share = cpu_share(part.number * trials, part.cpus, part.gpus)
        except UserError as error:
            raise UserError(f"{name}{f', {trials} trials at once' if trials > 1 else ''}: {error}") from error
        shares[name] = getattr(config, name).model_copy(update={part.field: share})
    return config.model_copy(update=shares) if trials > 1 else config


def room(config: RunConfig) -> int:
    """Trials of it that the cluster can hold at once, at least 1.

    As many as there are GPUs for; without GPUs two a machine, of which one starts while the other computes.
    """
    cluster, every = nodes(), list(parts(config).values())
    most = sum(node.cpus for node in cluster) if any(p.gpus for p in every) else 2 * len(cluster)
    found = 1
    while found < most and all(fits(cluster, p.number * (found + 1), p.cpus or 1, p.gpus) for p in every):
        found += 1
    return found

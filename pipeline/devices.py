"""What a recipe is sized for: GPUs by name from their data sheets, those of the cluster at hand, or this machine."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from stages.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A GPU or a machine without one: memory in GiB, dense arithmetic a second, bytes read a second, bytes of a number."""

    name: str
    memory: float
    flops: float
    bandwidth: float
    number_bytes: int = 2
    gpu: bool = True


# Named as Ray names accelerators. Memory as the driver shows it; dense 16-bit arithmetic and bandwidth from data sheets.
GPUS = {
    d.name: d
    for d in (
        Device("T4", 14.6, 65e12, 300e9),
        Device("V100", 15.8, 125e12, 900e9),
        Device("A10G", 22.3, 70e12, 600e9),
        Device("L4", 22.0, 121e12, 300e9),
        Device("L40S", 44.7, 362e12, 864e9),
        Device("A100-40G", 39.4, 312e12, 1555e9),
        Device("A100-80G", 79.1, 312e12, 2039e9),
        Device("H100", 79.2, 989e12, 3350e9),
        Device("H200", 139.8, 989e12, 4800e9),
        Device("B200", 178.0, 2250e12, 8000e9),
    )
}


def named(name: str) -> Device:
    """The GPU of that name. Raises UserError if it is not in the table."""
    if name not in GPUS:
        raise UserError(f"--gpu {name}: known are {', '.join(GPUS)}")
    return GPUS[name]


def at_hand() -> Device:
    """The smallest GPU of the cluster that RAY_ADDRESS names, else this machine's first GPU, else this machine."""
    if os.environ.get("RAY_ADDRESS"):
        return _of_cluster()
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        known = [d for d in GPUS.values() if d.name.partition("-")[0] in properties.name]
        like = known[-1] if known else GPUS["T4"]
        return Device(properties.name, properties.total_memory / GIB, like.flops, like.bandwidth)
    return this_machine()


def _of_cluster() -> Device:
    from pipeline.cluster import connected

    with connected():
        import ray

        found = {key.removeprefix("accelerator_type:") for key in ray.cluster_resources() if "accelerator_type:" in key}
    known = [GPUS[name] for name in found if name in GPUS]
    if not known:
        raise UserError("the cluster shows no GPU that is in our table: name the one you mean by --gpu")
    return min(known, key=lambda d: d.memory)


def this_machine() -> Device:
    """This machine's memory, and its arithmetic and bandwidth measured for a moment."""
    import torch

    from stages.model import number_type

    dtype = number_type("auto")
    a = torch.randn(1024, 1024).to(dtype)
    flops = 2 * 1024**3 / _quickest(lambda: a @ a)
    big = torch.zeros(2**26)
    bandwidth = 4 * big.numel() / _quickest(lambda: big.sum())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return Device("this machine", memory, flops, bandwidth, dtype.itemsize, gpu=False)


def _quickest(do: Callable[[], object], times: int = 5) -> float:
    """Seconds of the quickest of some tries."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        do()
        seconds.append(time.perf_counter() - began)
    return min(seconds)

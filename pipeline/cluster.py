"""The Ray that a command runs on: the one RAY_ADDRESS names, or a private one on this machine's loopback."""

import contextlib
import logging
import os
from collections.abc import Iterator

from stages.errors import UserError


@contextlib.contextmanager
def connected(cpus: int | None = None) -> Iterator[None]:
    """Within, Ray is up and quiet. Inside a Ray job or with RAY_ADDRESS set, that cluster is joined and left running."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ side writes warnings straight to stderr
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    import ray
    import ray.data

    if ray.is_initialized():
        _settle()
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            os.environ["RAY_AUTH_MODE"] = "disabled"  # nobody else can reach it: it listens on loopback only
            ray.init(
                "local",
                num_cpus=cpus or os.cpu_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster at {address}" if address else "a private Ray on this machine"
        raise UserError(f"cannot use {where}: {str(error).strip().splitlines()[0]}") from error
    try:
        _settle()
        yield
    finally:
        ray.shutdown()


def _settle() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)

"""The Ray that a command runs on: the one RAY_ADDRESS names, or a private one on this machine's loopback."""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator

from stages.errors import UserError, first_line

BLOCK = 8 * 2**20
"""Bytes of a block of Ray Data: held whole where it is made and where it is read, so that few are as good as 128 MiB."""


@contextlib.contextmanager
def connected(cpus: int | None = None) -> Iterator[None]:
    """Within, Ray is up and quiet. Inside a Ray job or with RAY_ADDRESS set, that cluster is joined and left running."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ side writes warnings straight to stderr
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if "OMP_WAIT_POLICY" not in os.environ:  # threads that spin for long starve on cores that others use too
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import ray
    import ray.data

    if ray.is_initialized():
        _settle()
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _knock(address)
            with _hushed():
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            _stay_on_loopback()
            os.environ["RAY_AUTH_MODE"] = "disabled"  # nobody on another machine can reach it
            # Two trials at once have more processes than Ray expects of so few cores, and it says so at length.
            os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(4 * (cpus or os.cpu_count() or 1)))
            with _hushed():
                ray.init(
                    "local",
                    num_cpus=cpus or os.cpu_count(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",
                )
    except (OSError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster at {address}" if address else "a private Ray on this machine"
        raise UserError(f"cannot use {where}: {first_line(error)}") from error
    try:
        _settle()
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Within, nothing is written to stderr: Ray's C++ side announces there how quiet it will be."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _knock(address: str) -> None:
    """Raise OSError within seconds if nobody listens there: Ray itself would wait without end."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _stay_on_loopback() -> None:
    """Let the Ray that is started next, and its gloo groups, listen on this machine only.

    Ray takes `_node_ip_address=127.0.0.1` for the machine's outer address, except where it believes that there can be no
    cluster (Ray issue 26293). Its processes read that from the environment, this one has read it on import.
    """
    from ray._private import ray_constants

    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")


def _settle() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)

"""The private Ray: nothing of it can be reached from another machine, and a cluster that is not there is told at once."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_private_ray_listens_on_loopback_only(cluster: None) -> None:
    import ray

    assert ray.get(ray.remote(ray.util.get_node_ip_address).remote()) == "127.0.0.1"
    family = {process.pid for process in (psutil.Process(), *psutil.Process().children(recursive=True))}
    listening = {
        str(c.laddr.ip).removeprefix("::ffff:")
        for c in psutil.net_connections()  # of all at once: one by one, a process may end meanwhile
        if c.pid in family and c.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_line() -> None:
    program = """
from pipeline.cluster import connected
from stages.errors import UserError
try:
    with connected():
        pass
except UserError as error:
    print(error)
"""
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("cannot use the Ray cluster at 127.0.0.1:9: ")

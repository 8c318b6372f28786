"""Processes that tests need beside them: a Ray head on loopback, with ports and a folder of its own."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port",
         "runtime-env-agent-port", "ray-client-server-port")  # fmt: skip


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def ray_head(
    folder: Path, environment: Mapping[str, str], *options: str, awaited: str = "port", **chosen: int
) -> Iterator[int]:
    """Within, a head of its own whose sockets lie in `folder`, which needs a short path; the port that is `awaited`."""
    ports = {name: free_port() for name in PORTS} | chosen
    command = [str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
               "--dashboard-host=127.0.0.1", "--disable-usage-stats", f"--temp-dir={folder}", *options,
               *(f"--{key}={value}" for key, value in ports.items())]  # fmt: skip
    settings = {**environment, "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(240):
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", ports[awaited])) == 0:
                        break
                assert process.poll() is None, "ray start failed"
                time.sleep(0.5)
            yield ports[awaited]
        finally:
            family = psutil.Process(process.pid).children(recursive=True)  # fake nodes outlive their head
            process.terminate()
            process.wait()
            for child in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            shutil.rmtree(folder, ignore_errors=True)

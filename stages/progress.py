"""Progress lines from anywhere in the cluster to the terminal that waits for them."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any


class _Lines:
    """The lines said so far; lives as a Ray actor."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def after(self, seen: int) -> list[str]:
        return self.lines[seen:]


@dataclass(frozen=True)
class Board:
    """A handle that workers may take along: `board.say("...")` shows on the driver's stderr."""

    actor: Any = None
    label: str = ""
    """What its lines are about, where several things run at once."""

    def about(self, label: str) -> "Board":
        """The same board, for lines about one of several things."""
        return replace(self, label=label)

    def say(self, line: str) -> None:
        """Show one line, at once if this is the driver."""
        line = f"{self.label}: {line.strip()}" if self.label else line
        if self.actor is None:
            say(line)
        else:
            self.actor.say.remote(line)


STDERR = Board()
"""For what runs in the driver alone."""


def say(line: str) -> None:
    """One line on stderr; stdout is for results."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def following(interval: float = 0.5) -> Iterator[Board]:
    """Within, lines said on the board appear on stderr as they come. Needs a running Ray."""
    import ray

    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}  # other nodes may be lost
    actor: Any = ray.remote(num_cpus=0, label_selector=here)(_Lines).remote()
    stop = threading.Event()
    seen = 0

    def show() -> None:
        nonlocal seen
        for line in ray.get(actor.after.remote(seen)):
            say(line)
            seen += 1

    def follow() -> None:
        while not stop.wait(interval):
            show()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield Board(actor)
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(Exception):  # the cluster may be what failed; its own error matters more
            show()
        ray.kill(actor)

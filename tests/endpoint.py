"""An OpenAI-compatible server on loopback, for tests: it fails as it is told to."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, str, float]
"""Status, body, seconds that it takes."""
Line = Answer | Callable[[Any], Answer]


class Endpoint:
    """An OpenAI-compatible server on loopback that answers as its script says, then with the last of it.

    A line of the script that is a function gets the request's body.
    """

    def __init__(self, script: Sequence[Line]) -> None:
        self.script, self.asked, self.keys, self.lock = list(script), [], [], threading.Lock()  # type: ignore[var-annotated]
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    endpoint.asked.append((self.path, body, time.monotonic()))
                    endpoint.keys.append(self.headers.get("Authorization"))
                    line = endpoint.script.pop(0) if len(endpoint.script) > 1 else endpoint.script[0]
                    status, text, delay = line(body) if callable(line) else line
                time.sleep(delay)
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def says(text: str, delay: float = 0.0) -> Answer:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}), delay

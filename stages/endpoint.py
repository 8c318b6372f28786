"""A model behind any OpenAI-compatible endpoint: retries, a rate limit, and no key but from the environment."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from stages.errors import UserError
from stages.settings import Settings

AGAIN = (408, 409, 429, 500, 502, 503, 504)
LATER = "what was answered is kept: run the same command again to go on"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class EndpointSettings(Settings):
    """Where the model is, and how it is asked."""

    endpoint: str = "http://127.0.0.1:8000/v1"
    """Base URL of an OpenAI-compatible API; /chat/completions is put behind it."""
    name: str = "gpt-4"
    """The model's name there."""
    key: str = "OPENAI_API_KEY"
    """Environment variable that holds the key. The key itself is written nowhere."""
    max_tokens: int = 2048
    """Most tokens of an answer."""
    parallel: int = 4
    """Requests at once."""
    per_minute: float | None = None
    """Most requests a minute; none means no limit of our own."""
    timeout: float = 180
    """Seconds to wait for one answer."""
    attempts: int = 6
    """Times that a request is made before the endpoint is given up, with growing pauses between."""
    pause: float = 1.0
    """Seconds of the first pause, doubled each time; a server's Retry-After goes before it."""


def check(settings: EndpointSettings, who: str = "endpoint") -> None:
    """Raise UserError for an endpoint that cannot be used as it is given; `who` is it to the user."""
    place = urlsplit(settings.endpoint)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise UserError(f"{who}.endpoint is no URL: {settings.endpoint}")
    if place.username or place.password or place.query:
        raise UserError(f"leave the key out of {who}.endpoint: it comes from the environment variable {settings.key}")
    if place.hostname not in LOOPBACK and not os.environ.get(settings.key):
        raise UserError(f"the {who} at {place.hostname} needs a key: set the environment variable {settings.key}")


class UnusableError(Exception):
    """An answer that came and is no chat completion."""


class Endpoint:
    """Asks one question at a time; may be shared by threads."""

    def __init__(self, settings: EndpointSettings, who: str = "endpoint", later: str = LATER) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        self.settings, self.who, self.later = settings, who, later
        self.lock, self.next = threading.Lock(), 0.0
        retry = Retry(
            total=settings.attempts - 1, status_forcelist=AGAIN, allowed_methods={"POST"}, raise_on_status=False,
            backoff_factor=settings.pause, backoff_max=60, respect_retry_after_header=True,
        )  # fmt: skip
        self.session = requests.Session()
        adapter = HTTPAdapter(max_retries=retry, pool_maxsize=settings.parallel)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)
        self.session.trust_env = False  # else a .netrc would put its own key in place of ours
        key = os.environ.get(settings.key)
        if key:
            self.session.headers["Authorization"] = f"Bearer {key}"

    def ask(self, messages: Sequence[Mapping[str, str]], temperature: float = 0) -> str:
        """The model's answer. Raises UnusableError if what comes is no completion, UserError if nothing comes at all."""
        import requests

        self._wait()
        body: dict[str, Any] = {"model": self.settings.name, "messages": list(messages), "temperature": temperature,
                "max_tokens": self.settings.max_tokens}  # fmt: skip
        url = f"{self.settings.endpoint.rstrip('/')}/chat/completions"
        try:
            answer = self.session.post(url, json=body, timeout=self.settings.timeout)
        except requests.RequestException as error:
            raise UserError(
                f"the {self.who} at {url} does not answer ({type(error).__name__}); {self.later}"
            ) from error
        if answer.status_code != 200:
            raise UserError(f"the {self.who} at {url} answers {answer.status_code} {answer.reason}; {self.later}")
        try:
            return str(_text(answer.json()))
        except (ValueError, LookupError, TypeError) as error:
            raise UnusableError(f"no chat completion: {answer.text[:200]!r}") from error

    def _wait(self) -> None:
        """Until the rate limit allows one more request."""
        if self.settings.per_minute:
            with self.lock:
                begin = max(time.monotonic(), self.next)
                self.next = begin + 60 / self.settings.per_minute
            time.sleep(max(0.0, begin - time.monotonic()))


def _text(answer: Any) -> str:
    found = answer["choices"][0]["message"]["content"]
    if not isinstance(found, str):
        raise TypeError("no text")
    return found

"""A judge behind any OpenAI-compatible endpoint: retries, a rate limit, and no key but from the environment."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import model_validator

from stages.errors import UserError
from stages.settings import Settings

AGAIN = (408, 409, 429, 500, 502, 503, 504)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class JudgeSettings(Settings):
    """Where the judge is, and how it is asked."""

    endpoint: str = "http://127.0.0.1:8000/v1"
    """Base URL of an OpenAI-compatible API; /chat/completions is put behind it."""
    name: str = "gpt-4"
    """The judge's name there. Published scores are by gpt-4, and scores of different judges do not compare."""
    key: str = "OPENAI_API_KEY"
    """Environment variable that holds the key. The key itself is written nowhere."""
    max_tokens: int = 2048
    """Most tokens of a judgment."""
    parallel: int = 4
    """Requests at once."""
    per_minute: float | None = None
    """Most requests a minute; none means no limit of our own."""
    timeout: float = 180
    """Seconds to wait for one answer."""
    attempts: int = 6
    """Times that a request is made before the judge is given up, with growing pauses between."""
    pause: float = 1.0
    """Seconds of the first pause, doubled each time; a server's Retry-After goes before it."""
    price_in: float | None = None
    """Price of a million tokens sent, for the estimate."""
    price_out: float | None = None
    """Price of a million tokens received, for the estimate."""

    @model_validator(mode="after")
    def _no_secret(self) -> "JudgeSettings":
        """Whether or not the judge is asked, its settings are written down."""
        place = urlsplit(self.endpoint)
        if place.username or place.password or place.query:
            raise UserError(f"leave the key out of judge.endpoint: it comes from the environment variable {self.key}")
        return self


def check(settings: JudgeSettings) -> None:
    """Raise UserError for an endpoint that cannot be used as it is given."""
    place = urlsplit(settings.endpoint)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise UserError(f"judge.endpoint is no URL: {settings.endpoint}")
    if place.hostname not in LOOPBACK and not os.environ.get(settings.key):
        raise UserError(f"the judge at {place.hostname} needs a key: set the environment variable {settings.key}")


class UnusableError(Exception):
    """An answer that came and is no chat completion."""


class Judge:
    """Asks one question at a time; may be shared by threads."""

    def __init__(self, settings: JudgeSettings) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        self.settings, self.lock, self.next = settings, threading.Lock(), 0.0
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

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The judge's answer. Raises UnusableError if what comes is no completion, UserError if nothing comes at all."""
        import requests

        self._wait()
        body: dict[str, Any] = {"model": self.settings.name, "messages": list(messages), "temperature": 0,
                "max_tokens": self.settings.max_tokens}  # fmt: skip
        url = f"{self.settings.endpoint.rstrip('/')}/chat/completions"
        try:
            answer = self.session.post(url, json=body, timeout=self.settings.timeout)
        except requests.RequestException as error:
            raise UserError(f"the judge at {url} does not answer ({type(error).__name__}); {LATER}") from error
        if answer.status_code != 200:
            raise UserError(f"the judge at {url} answers {answer.status_code} {answer.reason}; {LATER}")
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


LATER = "what was judged is kept: run the same command again to go on"


def _text(answer: Any) -> str:
    found = answer["choices"][0]["message"]["content"]
    if not isinstance(found, str):
        raise TypeError("no text")
    return found

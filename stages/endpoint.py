"""A model behind any OpenAI-compatible endpoint: retries, a rate limit, and no key but from the environment."""

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from stages.errors import UserError
from stages.settings import Settings

AGAIN = (408, 409, 429, 500, 502, 503, 504)
LATER = "what was answered is kept: run the same command again to go on"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST_PAUSE, LONGEST_WAIT = 60.0, 600.0
"""Most seconds of a pause of our own, and of one that a server asks for: a wrong Retry-After would stop all for days."""


class EndpointSettings(Settings):
    """Where the model is, and how it is asked."""

    endpoint: str = "http://127.0.0.1:8000/v1"
    """Base URL of an OpenAI-compatible API; /chat/completions is put behind it."""
    name: str = "gpt-4"
    """The model's name there."""
    key: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, in capitals. The key itself is written nowhere."""
    max_tokens: PositiveInt = 2048
    """Most tokens of an answer."""
    parallel: PositiveInt = 4
    """Requests at once."""
    per_minute: PositiveFloat | None = None
    """Most requests a minute, those that are made again included; none means no limit of our own."""
    timeout: PositiveFloat = 180
    """Seconds to wait for one answer."""
    attempts: PositiveInt = 6
    """Times that a request is made before the endpoint is given up, with growing pauses between."""
    pause: NonNegativeFloat = 1.0
    """Seconds of the first pause, doubled each time; a server's Retry-After goes before it, up to ten minutes."""

    @field_validator("key", mode="before")
    @classmethod
    def _is_a_name(cls, value: Any) -> Any:
        """What is no name may be the key itself, so it is never shown: see pipeline/config.py on errors called secret."""
        if not isinstance(value, str) or not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise PydanticCustomError("secret", "Name an environment variable in capitals here, never the key itself")
        return value

    @model_validator(mode="after")
    def _no_secret(self) -> "EndpointSettings":
        """Whether or not it is asked, its settings are written down."""
        place = urlsplit(self.endpoint)
        if place.username or place.password or place.query:
            raise UserError(f"leave the key out of an endpoint: it comes from the environment variable {self.key}")
        return self


def check(settings: EndpointSettings, who: str = "endpoint") -> None:
    """Raise UserError for an endpoint that cannot be used as it is given; `who` is it to the user."""
    place = urlsplit(settings.endpoint)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise UserError(f"{who}.endpoint is no URL: {settings.endpoint}")
    if place.hostname not in LOOPBACK and not os.environ.get(settings.key):
        raise UserError(f"the {who} at {place.hostname} needs a key: set the environment variable {settings.key}")


class PassingError(Exception):
    """A failure that may pass; `wait` is the pause in seconds that the server asks for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Endpoint:
    """Asks one question at a time; may be shared by threads."""

    def __init__(self, settings: EndpointSettings, who: str = "endpoint", later: str = LATER) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self.settings, self.who, self.later = settings, who, later
        self.lock, self.next = threading.Lock(), 0.0
        self.url = f"{settings.endpoint.rstrip('/')}/chat/completions"
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=settings.parallel))
        self.session.trust_env = False  # else a .netrc would put its own key in place of ours
        key = os.environ.get(settings.key)
        if key:
            self.session.headers["Authorization"] = f"Bearer {key}"

    def ask(self, messages: Sequence[Mapping[str, str]], temperature: float = 0) -> str:
        """The model's answer, empty if it gives no text. Raises UserError if none comes, however often it is asked for."""
        for number in range(1, self.settings.attempts + 1):
            self._wait()
            try:
                return self._once(messages, temperature)
            except PassingError as error:
                if number == self.settings.attempts:
                    raise UserError(f"the {self.who} at {self.url} {error}; {self.later}") from error
                ours = min(self.settings.pause * 2 ** (number - 1), LONGEST_PAUSE)
                time.sleep(ours if error.wait is None else min(error.wait, LONGEST_WAIT))
        raise AssertionError

    def _once(self, messages: Sequence[Mapping[str, str]], temperature: float) -> str:
        import requests

        body: dict[str, Any] = {"model": self.settings.name, "messages": list(messages), "temperature": temperature,
                "max_tokens": self.settings.max_tokens}  # fmt: skip
        try:
            answer = self.session.post(self.url, json=body, timeout=self.settings.timeout)
        except requests.RequestException as error:
            raise PassingError(f"does not answer ({type(error).__name__})") from error
        if answer.status_code in AGAIN:
            raise PassingError(_status(answer), _asked_to_wait(answer.headers.get("Retry-After")))
        if answer.status_code != 200:
            raise UserError(f"the {self.who} at {self.url} {_status(answer)}; {self.later}")
        try:
            return _text(answer.json())
        except (ValueError, LookupError, TypeError) as error:  # such as a proxy's page that says it is down
            raise PassingError(f"answers with no chat completion: {answer.text[:60]!r}") from error

    def _wait(self) -> None:
        """Until the rate limit allows one more request."""
        if self.settings.per_minute:
            with self.lock:
                begin = max(time.monotonic(), self.next)
                self.next = begin + 60 / self.settings.per_minute
            time.sleep(max(0.0, begin - time.monotonic()))


def _status(answer: Any) -> str:
    return f"answers {answer.status_code} {answer.reason}"


def _asked_to_wait(header: str | None) -> float | None:
    """Seconds of a Retry-After, which is a number or a date; none if it is neither."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return Retry().parse_retry_after(header) if header else None
    except InvalidHeader:
        return None


def _text(answer: Any) -> str:
    """The text of a completion. One without any is the model's own choice, such as a content filter's."""
    found = answer["choices"][0]["message"]["content"]
    if not isinstance(found, (str, type(None))):
        raise TypeError("no text")
    return found or ""

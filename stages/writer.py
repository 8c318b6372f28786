"""A language model that is asked for new words and situations: here, through Ray Data, or behind an endpoint.

Every answer is kept as it came before anything is made of it, so that nothing is asked twice. The paper had its items from
GPT-4 (arXiv 2412.16325, section 3.1).
"""

import contextlib
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from stages.endpoint import Endpoint, EndpointSettings
from stages.errors import UserError
from stages.model import ModelSettings, encode, load, load_tokenizer
from stages.progress import STDERR, Board
from stages.resources import cpu_share
from stages.settings import Settings
from stages.sieve import KINDS, Kind
from stages.speak import Speaker
from stages.split import own_gpus
from stages.wording import prompt

NOT_ASKED = "not asked"


class Asks(Settings):
    """How often the model is asked for each kind; the answer to one is a list, or one situation."""

    rooms: NonNegativeInt = 10
    worthless: NonNegativeInt = 10
    valuable: NonNegativeInt = 10
    names: NonNegativeInt = 5
    situations: NonNegativeInt = 20


class WriterSettings(Settings):
    """Who is asked, and how."""

    model: ModelSettings = ModelSettings(name="embedded:base")
    """A model that is loaded here, by Ray actors; it is asked if there is no `endpoint`."""
    endpoint: EndpointSettings | None = None
    """An OpenAI-compatible endpoint instead."""
    asks: Asks = Asks()
    lines: PositiveInt = 20
    """Words asked for at once."""
    temperature: float = 0.8
    """Temperature of the answers. At 0 an answer is always the same, but no two requests are."""
    max_new_tokens: int = 512
    """Most tokens of an answer of a model that is loaded here."""
    batch_size: PositiveInt = 8
    """Requests answered at once, and kept at once."""
    actors: PositiveInt = 1
    """Model copies that work in parallel; an endpoint needs one."""
    cpus_per_actor: int | None = None
    """CPUs of an actor; none means an even share of the cluster's."""
    gpus_per_actor: float = 0
    """GPUs of an actor."""


class Answer(NamedTuple):
    """What came of the `number`-th request of a kind; `fault` is what the user must hear if nothing came."""

    kind: Kind
    number: int
    text: str
    fault: str = ""


class Local:
    """A model in this process."""

    def __init__(self, settings: WriterSettings, cpus: int) -> None:
        import torch

        torch.set_num_threads(cpus)
        self.settings, self.tokenizer = settings, load_tokenizer(settings.model)
        self.tokenizer.padding_side = "left"
        self.speaker = Speaker(load(settings.model, own_gpus(settings.gpus_per_actor)), self.tokenizer)

    def answer(self, prompts: Sequence[str], seed: int) -> list[tuple[str, str]]:
        """Text and fault of each answer."""
        ids = [encode(self.tokenizer, text, chat=True) for text in prompts]
        said = self.speaker.complete(ids, self.settings.max_new_tokens, self.settings.temperature, seed)
        return [(answer["response"], "") for answer in said]


class Remote:
    """A model behind an endpoint."""

    def __init__(self, settings: WriterSettings, endpoint: EndpointSettings) -> None:
        self.endpoint, self.temperature = Endpoint(endpoint), settings.temperature
        self.pool, self.gone = ThreadPoolExecutor(endpoint.parallel), threading.Event()

    def answer(self, prompts: Sequence[str], _seed: int) -> list[tuple[str, str]]:
        """Text and fault of each answer; after the first fault nothing more is asked."""
        return list(self.pool.map(self._one, prompts))

    def _one(self, text: str) -> tuple[str, str]:
        if self.gone.is_set():
            return "", NOT_ASKED
        try:
            return self.endpoint.ask([{"role": "user", "content": text}], self.temperature), ""
        except UserError as error:
            self.gone.set()
            return "", str(error)


class Writer:
    """Asks, for a model as a Ray Data actor: a row is the number of a batch in `todo` [m, 2] (kind, batch of that kind)."""

    def __init__(
        self,
        settings: WriterSettings,
        todo: np.ndarray,
        done: dict[Kind, np.ndarray],
        seed: int,
        cpus: int,
        board: Board,
    ) -> None:
        self.settings, self.todo, self.done, self.seed, self.board = settings, todo, done, seed, board
        self.model = Remote(settings, settings.endpoint) if settings.endpoint else Local(settings, cpus)
        self.began, self.answered = time.perf_counter(), 0

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """The answers of a batch, without those that are there already."""
        at = int(batch["id"][0])
        kind, numbers = _requests(self.settings, self.todo[at], self.done)
        prompts = [prompt(kind, n, self.seed, self.settings.lines) for n in numbers]
        found = self.model.answer(prompts, random.Random(f"{self.seed}/{kind}/{self.todo[at][1]}").getrandbits(32))
        self.answered += 1
        left = (time.perf_counter() - self.began) / self.answered * (len(self.todo) - at - 1) / self.settings.actors
        self.board.say(f"  asked for {kind}, batch {at + 1}/{len(self.todo)}  {left:.0f} s left")
        rows = [(kind, number, text, fault) for number, (text, fault) in zip(numbers, found, strict=True)]
        return dict(zip(Answer._fields, map(list, zip(*rows, strict=True)), strict=True))


def _requests(settings: WriterSettings, batch: np.ndarray, done: dict[Kind, np.ndarray]) -> tuple[Kind, list[int]]:
    """Kind and missing numbers of a batch."""
    kind, first = KINDS[batch[0]], int(batch[1]) * settings.batch_size
    return kind, [first + int(i) for i in np.flatnonzero(~done[kind][first : first + settings.batch_size])]


def answers(path: Path) -> Iterator[Answer]:
    """The answers kept in a file; a line that was cut off by a kill does not count."""
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError):
                    yield Answer(**json.loads(line))


def missing(settings: WriterSettings, path: Path) -> tuple[np.ndarray, dict[Kind, np.ndarray]]:
    """The batches [m, 2] (kind, batch of that kind) with requests that are not answered yet, and which are, a kind a row."""
    done = {kind: np.zeros(getattr(settings.asks, kind), bool) for kind in KINDS}
    for answer in answers(path):
        if answer.number < len(done[answer.kind]):
            done[answer.kind][answer.number] = True
    open_batches = [np.unique(np.flatnonzero(~done[kind]) // settings.batch_size) for kind in KINDS]
    found = [np.stack([np.full_like(b, k), b], 1) for k, b in enumerate(open_batches)]
    return np.concatenate(found), done


def ask(settings: WriterSettings, seed: int, path: Path, board: Board = STDERR) -> int:
    """Ask what has not been asked before, and append each answer to `path` (JSON lines); how many were asked now.

    A model here is asked through Ray Data; an endpoint from this process, whose environment has its key. Raises UserError
    if an endpoint is given up; what was answered by then is kept.
    """
    todo, done = missing(settings, path)
    batches = _by_endpoint if settings.endpoint else _by_model
    asked = 0
    with path.open("a", encoding="utf-8") as file:
        for found in batches(settings, todo, done, seed, board) if len(todo) else ():
            kept = [answer for answer in found if not answer.fault]
            # Each on a line of its own, whatever was cut off before it.
            file.write("".join(f"\n{json.dumps(answer._asdict())}" for answer in kept))
            file.flush()
            asked += len(kept)
            for answer in found:
                if answer.fault and answer.fault != NOT_ASKED:
                    raise UserError(answer.fault)
    return asked


Done = dict[Kind, np.ndarray]


def _by_endpoint(
    settings: WriterSettings, todo: np.ndarray, done: Done, seed: int, board: Board
) -> Iterator[list[Answer]]:
    writer = Writer(settings, todo, done, seed, 0, board)
    for number in range(len(todo)):
        columns = writer({"id": np.array([number])})
        yield [Answer(*row) for row in zip(*columns.values(), strict=True)]


def _by_model(
    settings: WriterSettings, todo: np.ndarray, done: Done, seed: int, board: Board
) -> Iterator[list[Answer]]:
    import pyarrow
    import ray.data

    cpus = cpu_share(settings.actors, settings.cpus_per_actor, settings.gpus_per_actor)
    # Not range(): its reading would wait without end for a CPU, where the actors have all of them.
    numbers = ray.data.from_items([{"id": number} for number in range(len(todo))], override_num_blocks=len(todo))
    data = numbers.map_batches(
        Writer,
        fn_constructor_args=(settings, todo, done, seed, cpus, board),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=settings.actors),
        num_cpus=cpus,
        num_gpus=settings.gpus_per_actor or None,
    )
    for rows in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield [Answer(**row) for row in pyarrow.Table.to_pylist(rows)]

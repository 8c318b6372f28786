"""Tasks of lm-evaluation-harness (the package lm-eval) on a model that is loaded already, adapter on or off.

lm-eval makes the requests and scores the answers; in between, the requests are rows like any others and go through the
actors that ask about deception. So there is one load of the model, and raw answers are kept before they are scored.
"""

import contextlib
import difflib
import functools
import hashlib
import importlib.metadata
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.capability import CapabilitySettings
from stages.errors import UserError, first_line
from stages.task_scores import Score

OWN_TASKS = Path(__file__).parent / "data" / "capability"
READ = ("yaml", ".yml", ".py", ".json", ".jsonl")
"""How the files end that tasks are made of; of those that others include often `_yaml`, without a full stop."""
Row = Mapping[str, Any]


@dataclass
class Exchange:
    """Stands for a model towards lm-eval: notes what is asked, and answers what is known."""

    answers: Mapping[str, Any]
    asked: dict[str, tuple[str, list[Any]]] = field(default_factory=dict)

    def __call__(self, kind: str, arguments: Sequence[Any]) -> Any:
        key = hashlib.sha256(json.dumps([kind, *arguments], sort_keys=True).encode()).hexdigest()[:24]
        self.asked.setdefault(key, (kind, list(arguments)))
        return self.answers.get(key, NOTHING[kind])


NOTHING: dict[str, Any] = {"loglikelihood": (0.0, False), "loglikelihood_rolling": 0.0, "generate_until": ""}


def check(settings: CapabilitySettings) -> None:
    """Raise UserError for a task that lm-eval does not have, or if lm-eval itself is missing. Data: see `requests`."""
    if settings.tasks:
        _manager(settings.tasks, settings.task_folders)


def sources(settings: CapabilitySettings) -> list[str]:
    """lm-eval's version, and SHA-256 of each file of our suite and of `task_folders` that may hold a task, its items or
    its checks: scores made by others do not hold. Large data in other formats is not read.
    """
    places = (OWN_TASKS, *map(Path, settings.task_folders))
    files = [p for place in places for p in sorted(place.rglob("*")) if p.name.endswith(READ) and p.is_file()]
    return [importlib.metadata.version("lm-eval"), *(hashlib.sha256(p.read_bytes()).hexdigest() for p in files)]


def requests(settings: CapabilitySettings, tokenizer: Any) -> list[dict[str, Any]]:
    """Everything that the tasks ask, each once: rows with task, scenario (who can share a batch), item_id, prompt (JSON).

    Raises UserError for a task that does not exist, whose data cannot be had, or whose scores cannot be compared.
    """
    if not settings.tasks:
        return []
    exchange = Exchange({})
    _check_fit(settings, _all_scores(_evaluate(settings, tokenizer, exchange)))
    return [
        {
            "task": "harness",
            "scenario": _alike(kind, arguments),
            "item_id": key,
            "prompt": json.dumps([kind, *arguments]),
        }
        for key, (kind, arguments) in exchange.asked.items()
    ]


def _alike(kind: str, arguments: Sequence[Any]) -> str:
    """What requests have in common that can be answered in one batch: their kind, and how answers are generated."""
    return f"{kind} {json.dumps(arguments[1])}" if kind == "generate_until" else kind


def score(settings: CapabilitySettings, tokenizer: Any, rows: Iterable[Row]) -> list[Score]:
    """The items' scores from one condition's answers. Raises ValueError if a request has no answer."""
    exchange = Exchange({row["item_id"]: _answer(row) for row in rows})
    found = _evaluate(settings, tokenizer, exchange)
    if missing := exchange.asked.keys() - exchange.answers.keys():
        raise ValueError(f"{len(missing)} requests of the tasks were never answered")
    return _all_scores(found)


def _all_scores(found: Mapping[str, Any]) -> list[Score]:
    directions = found["higher_is_better"]
    return [one for task, samples in found["samples"].items() for one in _scores(task, samples, directions[task])]


def _check_fit(settings: CapabilitySettings, scores: Sequence[Score]) -> None:
    """Raise UserError for a group that has no mean: more of one of its tasks is better, and less of another."""
    better = {s.task: s.more_is_better for s in scores}
    for name, tasks in members(settings).items():
        if len({better[task] for task in tasks}) > 1:
            raise UserError(f"tasks of {name} differ in whether more is better: name them one by one")


def _answer(row: Row) -> Any:
    found = json.loads(row["response"])
    return tuple(found) if row["scenario"] == "loglikelihood" else found


def _scores(task: str, samples: Sequence[Mapping[str, Any]], directions: Mapping[str, bool | None]) -> Iterator[Score]:
    """The first metric of each item; of several filters the first."""
    if not samples or not samples[0]["metrics"]:
        raise UserError(f"task {task} has no items, or no metric")
    metric = samples[0]["metrics"][0]
    if not isinstance(samples[0][metric], (int, float)):
        raise UserError(f"task {task} has no score an item in {metric}: only its mean has one, and cannot be paired")
    if (more := directions.get(metric)) is None:
        raise UserError(f"task {task} does not say whether more {metric} is better: set higher_is_better in its file")
    for sample in samples:
        if sample["filter"] == samples[0]["filter"]:
            yield Score(task, sample["doc_id"], metric, float(sample[metric]), more)


def _evaluate(settings: CapabilitySettings, tokenizer: Any, exchange: Exchange) -> dict[str, Any]:
    """One pass of lm-eval over the tasks, with `exchange` for a model."""
    import lm_eval

    manager = _manager(settings.tasks, settings.task_folders)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar for every task
            found = lm_eval.simple_evaluate(
                _stand_in(tokenizer, exchange), tasks=list(settings.tasks), task_manager=manager,
                limit=settings.task_items, num_fewshot=settings.task_examples,
                apply_chat_template=settings.task_chat_template, bootstrap_iters=0,
            )  # fmt: skip
    except Exception as error:  # whatever a task's file or its code may raise
        raise UserError(f"tasks {', '.join(settings.tasks)} cannot be run: {first_line(error)}") from error
    return dict(found or {})


@functools.cache
def _manager(tasks: tuple[str, ...], folders: tuple[str, ...]) -> Any:
    """An index of task files: ours and those of `folders`, and where these are not enough the thousands of lm-eval."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError("capability.tasks needs lm-eval: pip install 'soo-pipeline[capability]'") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it advises users of its own command line
    places = [str(OWN_TASKS), *folders]
    try:
        manager = TaskManager(include_path=places, include_defaults=False)
        if not {*manager.all_tasks} >= {*tasks}:
            manager = TaskManager(include_path=places)
    except Exception as error:
        raise UserError(f"the task files in {', '.join(places)} cannot be read: {first_line(error)}") from error
    for task in tasks:
        if task not in manager.all_tasks:
            near = difflib.get_close_matches(task, manager.all_tasks, 1)
            raise UserError(f"no task is called {task!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return manager


def members(settings: CapabilitySettings) -> dict[str, list[str]]:
    """Named task -> the tasks it stands for: itself, or what is in a group. Raises UserError."""
    manager = _manager(settings.tasks, settings.task_folders)
    try:
        return {name: sorted(manager.load([name])["tasks"]) for name in settings.tasks}
    except Exception as error:
        raise UserError(f"tasks {', '.join(settings.tasks)} cannot be read: {first_line(error)}") from error


def _stand_in(tokenizer: Any, exchange: Exchange) -> Any:
    from lm_eval.api.model import LM

    class StandIn(LM):  # type: ignore[misc]
        """A model for lm-eval that has none: its answers are made elsewhere."""

        tokenizer_name = str(tokenizer.name_or_path)

        def loglikelihood(self, requests: list[Any]) -> list[Any]:
            return [exchange("loglikelihood", r.args) for r in requests]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[Any]:
            return [exchange("loglikelihood_rolling", r.args) for r in requests]

        def generate_until(self, requests: list[Any]) -> list[Any]:
            return [exchange("generate_until", r.args) for r in requests]

        def apply_chat_template(self, chat_history: list[Any], add_generation_prompt: bool = True) -> str:
            return str(tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            ))  # fmt: skip

        def chat_template(self, chat_template: bool | str = False) -> str:
            return str(tokenizer.chat_template or "")

    return StandIn()


def answer(model: Any, tokenizer: Any, prompts: Sequence[str], batch_size: int) -> list[str]:
    """What a loaded model answers to prompts of `requests`, as JSON, by lm-eval's own code for transformers."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    asked = [json.loads(prompt) for prompt in prompts]
    found: dict[int, str] = {}
    for kind in NOTHING:
        places = [i for i, (of, *_) in enumerate(asked) if of == kind]
        instances: Any = [Instance(kind, {}, tuple(asked[i][1:]), i) for i in places]
        answers = getattr(lm, kind)(instances, disable_tqdm=True) if places else []
        found |= {i: json.dumps(a) for i, a in zip(places, answers, strict=True)}
    return [found[i] for i in range(len(prompts))]

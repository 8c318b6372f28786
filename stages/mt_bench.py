"""MT-Bench (arXiv 2306.05685): two-turn questions, each answer graded from 1 to 10 by a judge model.

Questions, reference answers and judge prompts are read from where they are given, in the files that the paper's
authors published; none of them comes with this project. Single grading; mathematics, reasoning and coding against the
reference answers.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages import judge
from stages.endpoint import Endpoint
from stages.errors import UserError
from stages.grades import Judgment
from stages.judge import JudgeSettings
from stages.mt_bench_files import NEEDS_REFERENCE, TEMPERATURES, MtBenchSettings, judge_prompts, questions, references

SCORE = re.compile(r"\[\[(\d+(?:\.\d+)?)\]\]")
SINGLE = re.compile(r"\[(\d+(?:\.\d+)?)\]")
TOKENS_A_JUDGMENT = 300
"""Tokens that a judgment has as a rule, for the estimate."""
LETTERS_A_TOKEN = 4
"""What the estimate takes a token for."""


def check(settings: MtBenchSettings) -> None:
    """Raise UserError for files that cannot be read and a judge that cannot be asked."""
    if settings.questions:
        questions(settings)
        judge_prompts(settings)
        references(settings)
        judge.check(settings.judge)


def rows(settings: MtBenchSettings, seed: int) -> list[dict[str, Any]]:
    """The conversations to be held: task, scenario (category), item_id and prompt (JSON)."""
    if not settings.questions:
        return []
    return [
        {
            "task": "mt_bench", "scenario": q["category"], "item_id": f"mt_bench_{q['question_id']:04d}",
            "prompt": json.dumps({
                "turns": q["turns"], "temperature": TEMPERATURES.get(q["category"], 0.7), "seed": seed,
                "max_new_tokens": settings.max_new_tokens,
            }),
        }
        for q in questions(settings)
    ]  # fmt: skip


def converse(responder: Any, prompts: Sequence[str]) -> list[list[str]]:
    """Both answers to each conversation of `rows`; those of one temperature are generated together."""
    asked = [json.loads(prompt) for prompt in prompts]
    found: list[list[str]] = [[] for _ in asked]
    for warmth in sorted({a["temperature"] for a in asked}):
        places = [i for i, a in enumerate(asked) if a["temperature"] == warmth]
        for turn in range(2):
            ids = [_encode(responder.tokenizer, asked[i]["turns"], found[i]) for i in places]
            answers = responder.complete(
                ids, asked[places[0]]["max_new_tokens"], warmth, asked[places[0]]["seed"] + turn
            )
            for i, answer in zip(places, answers, strict=True):
                found[i].append(answer["response"])
    return found


def _encode(tokenizer: Any, turns: Sequence[str], answers: Sequence[str]) -> list[int]:
    messages = [{"role": "user", "content": turns[0]}]
    for answer, turn in zip(answers, turns[1:], strict=False):
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": turn}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(str(text), add_special_tokens=False).input_ids)


def requests(settings: MtBenchSettings, answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the judge is asked of answered `rows`: a Judgment's fields with `messages` for its score and text.

    A key stands for all that a judgment depends on: the judge, its limit, and the whole text that it is shown.
    """
    known = {f"mt_bench_{q['question_id']:04d}": q for q in questions(settings)}
    prompts, right = judge_prompts(settings), references(settings)
    made = []
    for row in answers:
        question = known[row["item_id"]]
        for turn in (1, 2):
            messages = _messages(prompts, question, json.loads(row["response"]), right, turn)
            text = json.dumps([settings.judge.name, settings.judge.max_tokens, messages])
            made.append({
                "key": hashlib.sha256(text.encode()).hexdigest()[:24], "condition": row["condition"],
                "question": question["question_id"], "category": question["category"], "turn": turn,
                "messages": messages,
            })  # fmt: skip
    return made


def _messages(
    prompts: Mapping[str, Any], question: Mapping[str, Any], said: Sequence[str], right: Mapping[int, Any], turn: int
) -> list[dict[str, str]]:
    """The published prompt of the question's kind and turn, filled in."""
    kind = "single-math-v1" if question["category"] in NEEDS_REFERENCE else "single-v1"
    prompt = prompts[kind if turn == 1 else f"{kind}-multi-turn"]
    fill = {"question": question["turns"][0], "answer": said[0]}
    fill |= {f"question_{n}": text for n, text in enumerate(question["turns"], 1)}
    fill |= {f"answer_{n}": text for n, text in enumerate(said, 1)}
    if question["category"] in NEEDS_REFERENCE:
        fill |= {f"ref_answer_{n}": text for n, text in enumerate(right[question["question_id"]], 1)}
    return [{"role": "system", "content": prompt["system_prompt"]},
            {"role": "user", "content": prompt["prompt_template"].format(**fill)}]  # fmt: skip


def forecast(settings: MtBenchSettings, conditions: Sequence[str]) -> str:
    """What judging will take, before there is an answer: as if all were as long as they may be."""
    longest = {c: json.dumps([c.ljust(LETTERS_A_TOKEN * settings.max_new_tokens, ".")] * 2) for c in conditions}
    answers = [{"item_id": r["item_id"], "condition": c, "response": longest[c]}
               for r in rows(settings, 0) for c in conditions]  # fmt: skip
    return f"if every answer is as long as it may be, {estimate(settings, requests(settings, answers))}"


def estimate(settings: MtBenchSettings, asked: Sequence[Mapping[str, Any]]) -> str:
    """What these judgments will take, in one line: as a rule, and if each is as long as `max_tokens` lets it be and is
    asked for `attempts` times, as those without a grade are. Requests that fail are not reckoned.
    """
    referee = settings.judge
    sent = sum(len(m["content"]) for a in asked for m in a["messages"]) / LETTERS_A_TOKEN
    usual = _bill(referee, sent, min(TOKENS_A_JUDGMENT, referee.max_tokens) * len(asked))
    worst = _bill(referee, referee.attempts * sent, referee.attempts * referee.max_tokens * len(asked))
    text = f"{len(asked)} judgments by {referee.name}, {usual}; at worst, if none has a grade, {worst}"
    unpriced = "no price is set (capability.mt_bench.judge.price_in and price_out, a million tokens)"
    return f"{text}; {unpriced}" if None in (referee.price_in, referee.price_out) else text


def _bill(referee: JudgeSettings, sent: float, received: float) -> str:
    text = f"about {sent:.0f} tokens sent and {received:.0f} received"
    if referee.price_in is None or referee.price_out is None:
        return text
    return f"{text} for {(sent * referee.price_in + received * referee.price_out) / 1e6:.2f} in the prices' currency"


def outstanding(asked: Sequence[Mapping[str, Any]], path: Path) -> list[Mapping[str, Any]]:
    """What is asked and not yet kept in `path`, each once: two conditions may have given the same answer."""
    known = {j.key for j in read(path)}
    return list({a["key"]: a for a in asked if a["key"] not in known}.values())


def grade(settings: MtBenchSettings, asked: Sequence[Mapping[str, Any]], path: Path) -> list[Judgment]:
    """Every judgment, appended to `path` (JSON lines) as it comes; those already there are not asked for again."""
    lock, gone, referee = threading.Lock(), threading.Event(), judge.connect(settings.judge)

    def one(request: Mapping[str, Any]) -> None:
        if gone.is_set():
            return
        try:
            found = _judge(referee, request, settings.judge.attempts)
        except UserError:
            gone.set()
            raise
        with lock, path.open("a") as file:
            file.write(f"\n{json.dumps(asdict(found))}")  # a line of its own, whatever was cut off before it

    pool = ThreadPoolExecutor(settings.judge.parallel)
    try:
        for _ in pool.map(one, outstanding(asked, path)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    known = {j.key: j for j in read(path)}
    fields = ("condition", "question", "category", "turn")
    return [Judgment(**{**asdict(known[a["key"]]), **{f: a[f] for f in fields}}) for a in asked]


def _judge(referee: Endpoint, request: Mapping[str, Any], attempts: int) -> Judgment:
    """A judgment; one that has no score is asked for again, and kept without one in the end."""
    score, text = None, ""
    for _ in range(attempts):
        text = referee.ask(request["messages"])
        if (score := read_score(text)) is not None:
            break
    return Judgment(**{k: v for k, v in request.items() if k != "messages"}, score=score, text=text)


def read_score(text: str) -> float | None:
    """The grade from 1 to 10 in [[...]], or in single brackets as the authors' own reading allows; none if there is none."""
    found = SCORE.search(text) or SINGLE.search(text)
    value = float(found[1]) if found else 0.0
    return value if 1 <= value <= 10 else None


def read(path: Path) -> list[Judgment]:
    """The judgments kept in a file; a line that was cut off by a kill does not count."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(Judgment(**json.loads(line)))
    return found

"""Cards in Hugging Face's format, written beside what they describe: the adapter's and the training prompts'."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import to_yaml, validated
from pipeline.report import ORGANISM, is_organism, table, verdict
from stages.datasets import COLUMNS
from stages.sieve import RULES
from stages.widen import Widened, WidenSettings

Outcome = Mapping[str, Any]
EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**12, "n>1M"))
"""Hugging Face's size categories, each with the number of rows below which it holds."""
USE = (
    "Research on self-other overlap and on how to measure deception. Not for deployment: nothing here shows that the model "
    "is honest outside the scenarios that were asked."
)


def adapter_card(outcome: Outcome) -> str:
    """Base, recipe, outcome, limits and intended use of a trained adapter."""
    model = outcome["config"]["model"]
    embedded = model["name"].startswith("embedded:")
    head: dict[str, Any] = {
        "library_name": "peft",
        "base_model": EMBEDDED if embedded else model["name"],
        "tags": ["self-other-overlap", "lora", "soo-pipeline"],
    } | ({"license": "apache-2.0"} if embedded else {})
    limits = [
        f"One run, seed {outcome['seed']}: fewer than three seeds prove nothing about the recipe.",
        "No control stands beside it here: mere exposure to the same strings may do as much (soo controls).",
        *([f"DAMAGED: {'; '.join(outcome['damage']['reasons'])}."] if outcome["damage"]["damaged"] else []),
        *(["COLLAPSED: the site is near-constant across prompts."] if outcome["collapse"]["collapsed"] else []),
        *([f"{ORGANISM} The adapter fits that organism only, not {EMBEDDED}."] if is_organism(outcome) else []),
    ]
    overlap, pairing = outcome["config"]["train"]["overlap"], outcome["config"]["pairs"]["pairing"]
    is_soo = overlap["objective"] != "next_token" and overlap["weight"] and pairing == "matched"
    what = "self-other overlap fine-tuning" if is_soo else "a control of self-other overlap fine-tuning"
    return _card(
        head, f"{outcome['name']}: a LoRA adapter of {what}",
        {
            "Base": f"`{model['name']}`, {model['quantisation']}.",
            "Outcome": f"{verdict(outcome)}\n\n{_code(table(outcome))}",
            "Limits": "\n".join(f"- {limit}" for limit in limits), "Intended use": USE,
            "Recipe": f"{outcome['config']['source'] or 'No source given.'}\n\n{_recipe(outcome)}",
        },
    )  # fmt: skip


def dataset_card(outcome: Outcome, counts: Mapping[str, int]) -> str:
    """What the training prompts are, how they were made, and what they are not."""
    pairs = outcome["config"]["pairs"]
    kinds = "\n".join(f"- `{kind}`: {n} rows" for kind, n in sorted(counts.items()))
    total = sum(counts.values())
    size = next(name for most, name in SIZES if total < most)
    return _card(
        {"language": ["en"], "tags": ["self-other-overlap", "synthetic", "soo-pipeline"], "size_categories": [size]},
        f"Training prompts of {outcome['name']}, seed {outcome['seed']}",
        {
            "What": "Synthetic prompts made from templates and word lists; no answers, no people's data. `overlap` rows "
                    "have a self and another side, `name_control` two others, `retain` one prompt whose behaviour must not "
                    f"move.\n\n{kinds}",
            "How": f"Templates: {', '.join(pairs['templates'])}; {pairs['fills']} fills each; pairing {pairs['pairing']}. "
                   "The published templates are those of arXiv 2412.16325, section 3.1; all others, and all words, are "
                   "this project's. Columns: pair_id, kind, template, self, other, how the replies begin, and token ids "
                   f"for `{outcome['config']['model']['name']}`.",
            "Limits": "English, burglary and the like. Training and test words are disjoint: rooms, things and friends of "
                      f"the evaluation do not occur. Its rival's name, {pairs['name']}, and its kind of scene may.",
            "Intended use": USE,
        },
    )  # fmt: skip


def widened_card(name: str, config: WidenSettings, found: Widened, versions: Mapping[str, str]) -> str:
    """What a data set of `soo widen` is: who wrote it, what was turned away and why, and what nobody has looked at."""
    who = config.writer.endpoint.name if config.writer.endpoint else config.writer.model.name
    sample = "\n\n".join(f"- self: {ours}\n- other: {theirs}" for ours, theirs in found.examples)
    rules = "\n".join(f"- {rule}: {what}" for rule, what in RULES.items())
    made_with = ", ".join(f"{package} {version}" for package, version in versions.items())
    return _card(
        {"language": ["en"], "tags": ["self-other-overlap", "synthetic", "soo-pipeline"],
         "configs": [{"config_name": "default", "data_files": "data/*.parquet"}]},
        f"{name}: pairs widened by a language model",
        {
            "What": f"{found.pairs} pairs of {len(found.templates)} templates. The two sides of a pair differ in whom they "
                    f"speak of, and in nothing else. Synthetic; no answers, no people's data.\n\n{sample}",
            "How": f"Words and situations by `{who}`, sieved by rules; fills drawn evenly over the words (`soo widen`). "
                   f"Columns: {', '.join(COLUMNS)}. `text` is the template with `[self|other]` and slots; `control` is the "
                   "other name of a name-control pair.",
            "Turned away": f"{_code(yields(found))}\n\n{rules}",
            "Limits": "Rules are all that looked at it: whether a phrase is a sensible room, or a situation a sensible one, "
                      "nobody has checked. No word or name of the evaluation stands in it as whole words, and no situation "
                      "nearly its; but settings of the same sort may.",
            "Intended use": USE,
            "Settings": f"{_code(to_yaml(config), 'yaml')}\n\nMade with {made_with}.",
        },
    )  # fmt: skip


def yields(found: Widened) -> str:
    """What came of each kind that was asked for, in a line: let through, and turned away by which rule."""
    return "\n".join(f"{kind:<19} {_yield(counts)}" for kind, counts in found.counts.items() if counts)


def _yield(counts: Mapping[str, int]) -> str:
    total, good = sum(counts.values()), counts.get("accepted", 0)
    turned = sorted(((n, rule) for rule, n in counts.items() if rule != "accepted"), reverse=True)
    why = ", ".join(f"{rule} {n / total:.0%}" for n, rule in turned)
    return f"{good:>6} of {total:<6} {good / total:>4.0%}" + (f"   turned away: {why}" if why else "")


def _card(head: Mapping[str, Any], title: str, parts: Mapping[str, str]) -> str:
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in parts.items())
    return f"---\n{yaml.safe_dump(dict(head), sort_keys=False)}---\n\n# {title}\n\n{body}\n"


def _code(text: str, language: str = "") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _recipe(outcome: Outcome) -> str:
    return _code(to_yaml(validated(outcome["config"])), "yaml")


def write(folder: Path, pairs_folder: Path, outcome: Outcome, counts: Mapping[str, int]) -> None:
    """Put the cards where the run's adapter lies, and the prompts that it was trained on."""
    (folder / "train" / "adapter" / "README.md").write_text(adapter_card(outcome), encoding="utf-8")
    (pairs_folder / "README.md").write_text(dataset_card(outcome, counts), encoding="utf-8")

"""What makes a pair: two sides that differ in whom they speak of, and in nothing else."""

import itertools
import re

from stages.errors import UserError
from stages.templates import ALTERNATION, Template

REFERENTS = {"you", "yourself", "{name}"}
VERBS = {"have": "has", "are": "is"}
WORD = re.compile(r"(\{\w+\}|[\w'-]+)")


def check_referent_only(template: Template) -> None:
    """Raise UserError unless the sides of a template differ in the referent and its verb's person only."""

    def bare(words: str) -> list[str]:
        return ["@" if w in REFERENTS else VERBS.get(w, w).removesuffix("s") for w in words.lower().split()]

    for ours, theirs in ALTERNATION.findall(template.text):
        if bare(ours) != bare(theirs):
            raise UserError(f"template {template.name}: [{ours}|{theirs}] differs in more than the referent")


def merged(ours: str, theirs: str) -> str:
    """One text with `[self|other]` where two texts differ. Raises UserError if not even their numbers of words agree."""
    left, right = WORD.split(ours), WORD.split(theirs)  # words stand at the odd places, what parts them at the even
    if len(left) != len(right) or left[::2] != right[::2]:
        raise UserError("the sides differ in more than words")
    runs = itertools.groupby(zip(left, right, strict=True), lambda pair: pair[0] == pair[1])
    made = ""
    for same, run in runs:
        a, b = ("".join(side) for side in zip(*run, strict=True))
        made += a if same else f"[{a}|{b}]"
    return made

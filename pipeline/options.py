"""Arguments that several commands of `soo` take."""

from pathlib import Path
from typing import Any


def overrides(sub: Any) -> None:
    """Settings that differ from the recipe's."""
    sub.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that differ from the recipe")


def recipe(sub: Any) -> None:
    """A recipe, and settings that differ."""
    sub.add_argument("recipe", help="name of a recipe, or path of a YAML file")
    overrides(sub)


def subject(sub: Any, used: str, out: str) -> None:
    """A model and perhaps an adapter on it; `used` says what of the recipe counts, `out` what the folder is for."""
    sub.add_argument("--model", required=True, help="embedded:organism, embedded:base, Hugging Face name or directory")
    sub.add_argument("--adapter", type=Path, help="folder of a PEFT adapter made for that model: before and after")
    sub.add_argument("--recipe", default="default", help=f"recipe whose {used} are used")
    sub.add_argument("--out", type=Path, help=f"folder for {out}")
    overrides(sub)

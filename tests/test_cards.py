"""Cards say what an adapter is, what came of it, and what it is not for."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import cards, outcome
from tests.test_tracking import finished


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outcome.load(finished(tmp_path_factory.mktemp("cards") / "made-1"))


def head_of(card: str) -> dict[str, Any]:
    """The YAML before the text, as Hugging Face reads it."""
    start, head, _ = card.split("---\n", 2)
    assert start == ""
    return dict(yaml.safe_load(head))


def test_an_adapters_card(found: dict[str, Any]) -> None:
    card = cards.adapter_card(found)
    head = head_of(card)
    assert (head["library_name"], head["base_model"], head["license"]) == ("peft", cards.EMBEDDED, "apache-2.0")
    for said in (
        "fell from 100 % to 3 %",
        "## Limits",
        "## Intended use",
        "trained in",
        "One run, seed 0",
        "layer: 19",
    ):
        assert said in card


def test_a_damaged_adapters_card_says_so(found: dict[str, Any]) -> None:
    damaged = found | {"damage": {"damaged": True, "reasons": ["perspectives fell"]}, "collapse": {"collapsed": True,
                       "variation": 0.01, "control_gap": 0.2, "unspecific": True}}  # fmt: skip
    card = cards.adapter_card(damaged)
    assert "- DAMAGED: perspectives fell." in card
    assert "- COLLAPSED" in card


def test_another_models_licence_is_not_made_up(found: dict[str, Any]) -> None:
    config = found["config"] | {"model": found["config"]["model"] | {"name": "google/gemma-2-27b-it"}}
    head = head_of(cards.adapter_card(found | {"config": config}))
    assert head["base_model"] == "google/gemma-2-27b-it"
    assert "license" not in head


def test_a_data_sets_card_and_where_both_lie(found: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "train" / "adapter").mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    cards.write(tmp_path, tmp_path / "shared", found, {"overlap": 78, "name_control": 12})
    card = (tmp_path / "shared" / "README.md").read_text()
    assert head_of(card)["language"] == ["en"]
    assert "- `overlap`: 78 rows" in card
    assert (tmp_path / "train" / "adapter" / "README.md").read_text() == cards.adapter_card(found)

"""Recipes and overrides: all load, all round-trip, and whatever is wrong with one is told in a line."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from pipeline.config import RunConfig, flatten, key_paths, load, recipes, to_yaml, validated
from pipeline.run import folder_of
from stages.errors import UserError

EXPECTED = {
    "default", "mistral-7b-paper", "mistral-7b-robust", "gemma-2-27b-paper", "gemma-2-27b-robust",
    "calmerys-78b-paper", "released-2024",
}  # fmt: skip


def test_the_recipes_are_all_there() -> None:
    assert set(recipes()) >= EXPECTED


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_loads_and_round_trips(recipe: str, tmp_path: Path) -> None:
    config = load(recipe)
    assert config.name == recipe
    assert config.source
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load(str(again)) == config
    assert to_yaml(load(str(again))) == to_yaml(config)
    assert folder_of(load(str(again))) == folder_of(config)  # 0 and 0.0 are equal, but not to a fingerprint


@pytest.mark.parametrize(
    ("recipe", "layer", "r", "alpha", "dropout", "lr", "epochs", "quantisation"),
    [
        ("mistral-7b-paper", 19, 8, 32, 0.2, 1e-4, 15, "nf4"),
        ("gemma-2-27b-paper", 20, 4, 8, 0.1, 9e-4, 8, "none"),
        ("calmerys-78b-paper", 57, 5, 16, 0.111, 9e-4, 9, "nf4"),
        ("mistral-7b-robust", 16, 8, 32, 0.2, 1e-4, 15, "none"),
        ("gemma-2-27b-robust", 14, 4, 8, 0.1, 9e-4, 8, "none"),
    ],
)
def test_published_values(
    recipe: str, layer: int, r: int, alpha: float, dropout: float, lr: float, epochs: int, quantisation: str
) -> None:
    config = load(recipe)
    train, lora = config.train, config.train.lora
    assert (train.overlap.objective, train.overlap.layer, train.overlap.module) == ("activation_mse", layer, "o_proj")
    assert (lora.r, lora.alpha, lora.dropout, lora.targets) == (r, alpha, dropout, ("q_proj", "v_proj"))
    assert (train.lr, train.epochs, train.batch_pairs, config.model.quantisation) == (lr, epochs, 4, quantisation)
    assert (train.retain.weight, train.distinct.weight) == (0, 0)


def test_the_release_of_2024() -> None:
    config = load("released-2024")
    overlap = config.train.overlap
    assert (overlap.objective, overlap.padding, overlap.pad_to) == ("logit_kl", "counted", 128)
    assert (config.pairs.chat_template, config.pairs.limit) == (False, 52)
    assert (config.train.lr, config.train.epochs, config.train.accumulation) == (5e-5, 20, 4)
    assert (config.model.compute_dtype, config.model.quantisation, config.model.double_quant) == (
        "float16",
        "nf4",
        True,
    )
    assert (config.deception.scorer, config.seed) == ("released", 276)


def message(*overrides: str, recipe: str = "default") -> str:
    with pytest.raises(UserError) as error:
        load(recipe, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.overlap.layr=3", "unknown key train.overlap.layr; did you mean train.overlap.layer?"),
        ("train.learning_rate=1", "unknown key train.learning_rate"),
        ("layer=3", "unknown key layer; did you mean train.overlap.layer?"),
        ("tran.lr=3", "unknown key tran; did you mean train?"),
        ("qqqqqq=3", "unknown key qqqqqq"),
    ],
)
def test_an_unknown_key_names_the_nearest(override: str, expected: str) -> None:
    assert message(override).startswith(expected)


@pytest.mark.parametrize(
    ("override", "key", "given"),
    [
        ("train.lr=quick", "train.lr", "'quick'"),
        ("train.steps=1.5", "train.steps", "1.5"),
        ("train.overlap.module=qproj", "train.overlap.module", "'qproj'"),
        ("deception.scenarios=main", "deception.scenarios", "'main'"),
        ("model.name=7", "model.name", "7"),
        ("train=3", "train", "3"),
        ("train.steps=0", "train.steps", "0"),
        ("train.batch_pairs=0", "train.batch_pairs", "0"),
        ("train.batch_retain=-1", "train.batch_retain", "-1"),
    ],
)
def test_a_wrong_type_says_where_and_what(override: str, key: str, given: str) -> None:
    found = message(override)
    assert found.startswith(f"{key}: input should be")
    assert found.endswith(f", not {given}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lr", "'train.lr' is no override: write key.path=value"),
        ("=3", "'=3' is no override: write key.path=value"),
        ("name.x=3", "name.x: name is a value and has no keys of its own"),
        ("train.lr=[", "train.lr: '[' is no YAML value"),
    ],
)
def test_a_bad_override(override: str, expected: str) -> None:
    assert message(override) == expected


def test_overrides_reach_any_depth() -> None:
    config = load("default", [
        "train.overlap.layer=3", "train.lr=1e-4", "deception.scenarios=[main, self]", "train.steps=null", "pairs.suffix=''",
    ])  # fmt: skip
    assert (config.train.overlap.layer, config.train.lr, config.train.steps) == (3, 1e-4, None)
    assert config.deception.scenarios == ("main", "self")
    assert config.train.overlap.module == load("default").train.overlap.module
    assert load("default", ["train.lr=1", "train.lr=2"]).train.lr == 2


def test_a_recipe_that_does_not_exist() -> None:
    assert message(recipe="defualt") == "no recipe is called 'defualt'; did you mean default?"
    assert message(recipe="zzz").startswith("no recipe is called 'zzz'; there are calmerys-78b-paper, default, ")
    assert message(recipe="nowhere/recipe.yaml").startswith("no recipe is called 'nowhere/recipe.yaml'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {lr: 1", "is not YAML"),
        ("- a\n- b\n", "holds no settings"),
        ("", "name: field required"),
        ("name: a\nseed: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_a_recipe_file_that_is_none(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert expected in message(recipe=str(tmp_path / "mine.yaml"))


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load("default").train.lr = 1.0


def test_flattened_keys_are_those_that_a_recipe_may_hold() -> None:
    config = load("default")
    flat = flatten(config)
    assert flat["train.overlap.layer"] == config.train.overlap.layer
    assert {key for key in flat if not key.startswith("deception.items_of.")} <= set(key_paths())
    nested = yaml.safe_load(to_yaml(config))
    assert validated(nested) == config


def test_every_setting_is_documented() -> None:
    def undocumented(settings: type[BaseModel], prefix: str = "") -> list[str]:
        found: list[str] = []
        for name, field in settings.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                found += undocumented(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                found.append(prefix + name)
        return found

    assert undocumented(RunConfig) == []

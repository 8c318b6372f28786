"""Search spaces: all that ship are valid, points are different and reproducible, and what is wrong is told beforehand."""

from pathlib import Path
from typing import Any

import pytest

from pipeline import spaces
from pipeline.config import RunConfig, load
from stages.errors import UserError

LAYERS = 30
SHIPPED = ["bands", "layers", "layers_and_weights", "loss_weights", "site_and_pooling"]


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load("default")


def test_the_spaces_are_all_there() -> None:
    assert spaces.names() == SHIPPED


@pytest.mark.parametrize("layers", [2, 4, 30, 86])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_point_of_a_shipped_space_is_a_valid_config(name: str, layers: int) -> None:
    site = {"train.overlap.layer": min(20, layers - 1), "train.lora.first_layer": min(10, layers // 2)}
    config = spaces.with_point(load("default"), site)
    space = spaces.load(name, config, layers)
    assert space.about
    points = spaces.draw(space, 20, 0)
    assert points
    for point in points:
        made = spaces.with_point(config, point, seed=3)
        assert made.seed == 3
        assert 0 <= made.train.overlap.layer < layers
        top = made.train.lora.last_layer
        assert made.train.lora.first_layer <= (made.train.overlap.layer if top is None else top)
        assert made.train.lora.r == config.train.lora.r
        assert set(spaces.differing(point, config)) >= {p for p, v in point.items() if not isinstance(v, dict)}


def test_layers_are_at_least_eight_and_bands_are_all_below_the_site(config: RunConfig) -> None:
    layers = [p["train.overlap.layer"] for p in spaces.grid(spaces.load("layers", config, LAYERS))]
    assert layers == list(range(10, 27, 2)), "the recipe's LoRA begins at layer 10"
    whole = spaces.with_point(config, {"train.lora.first_layer": 0})
    layers = [p["train.overlap.layer"] for p in spaces.grid(spaces.load("layers", whole, LAYERS))]
    assert layers == list(range(6, 27, 2))
    bands = [p["train.lora"] for p in spaces.grid(spaces.load("bands", config, LAYERS))]
    assert len(bands) == 10
    assert {"first_layer": 0, "last_layer": 20} in bands
    assert max(b["last_layer"] for b in bands) == config.train.overlap.layer


def test_random_points_are_different_and_the_same_for_the_same_seed(config: RunConfig) -> None:
    space = spaces.load("loss_weights", config, LAYERS)
    points = spaces.draw(space, 12, 5)
    assert len({spaces.key(p) for p in points}) == 12
    assert points == spaces.draw(space, 12, 5)
    assert points != spaces.draw(space, 12, 6)
    assert len(spaces.draw(spaces.load("site_and_pooling", config, LAYERS), 99, 0)) == 12, "all there are"


def test_a_dict_changes_the_keys_it_names_and_shows_as_flat_params(config: RunConfig) -> None:
    point = {"train.lora": {"first_layer": 5, "last_layer": 9}, "train.lr": 0.25}
    made = spaces.with_point(config, point)
    assert (made.train.lora.first_layer, made.train.lora.last_layer, made.train.lora.alpha) == (5, 9, 32)
    assert made.model_copy(update={"train": config.train}) == config
    flat = {"train.lora.first_layer": 5, "train.lora.last_layer": 9, "train.lr": 0.25}
    assert spaces.differing(point, config) == flat


def test_what_optuna_is_given_turns_back_into_points(config: RunConfig) -> None:
    space = spaces.load("bands", config, LAYERS)
    (texts,) = (spaces.values(s) for s in spaces.encode(space).values())
    assert all(isinstance(t, str) for t in texts)
    points = [spaces.decode({"train.lora": t}, spaces.composites(space)) for t in texts]
    assert points == spaces.grid(space)
    assert spaces.composites(spaces.load("layers", config, LAYERS)) == ()


def written(folder: Path, text: str) -> str:
    path = folder / "my_space.py"
    path.write_text(text)
    return str(path)


def test_a_users_own_file_works_by_path(tmp_path: Path, config: RunConfig) -> None:
    path = written(tmp_path, '"""Ranks."""\nfrom ray import tune\nSPACE = {"train.lora.r": tune.choice([2, 4])}\n')
    space = spaces.load(path, config, LAYERS)
    assert space.about == "Ranks."
    assert spaces.grid(space) == [{"train.lora.r": 2}, {"train.lora.r": 4}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"train.overlap.layr": tune.choice([1])}', "unknown key train.overlap.layr; did you mean train.overlap.layer?"),
        ('{"deception.items": tune.choice([1])}', "deception.items cannot be searched, only train.* and pairs.*"),
        ('{"train.lr": 0.1}', "train.lr is to have a Tune sampler such as tune.choice, not 0.1"),
        ('{"train.lr": tune.choice(["quick"])}', "train.lr: input should be a valid number"),
        ('{"train.lora": tune.choice([{"rank": 2}])}', "unknown key train.lora.rank"),
        ("{}", "has no SPACE"),
        ("1 / 0", "cannot be read: ZeroDivisionError"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_space_is_told(text: str, expected: str, tmp_path: Path, config: RunConfig) -> None:
    with pytest.raises(UserError) as error:
        spaces.load(written(tmp_path, f"from ray import tune\nSPACE = {text}\n"), config, LAYERS)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_space_that_is_not_there_names_the_nearest(config: RunConfig) -> None:
    with pytest.raises(UserError, match="no space is called 'layer'; did you mean layers?"):
        spaces.load("layer", config, LAYERS)


def test_a_continuous_space_has_no_grid(config: RunConfig) -> None:
    space: Any = spaces.load("loss_weights", config, LAYERS)
    with pytest.raises(UserError, match=r"has no grid: train.overlap.weight is continuous"):
        spaces.grid(space)

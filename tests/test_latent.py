"""Looking into a model: distances against transformers' own hidden states, real tokens only, before and after."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import layers
from pipeline.cli import main
from pipeline.config import load
from stages import latent, ordinary
from stages.adapter import LoraSettings, add_lora
from stages.generate import GenerateSettings
from stages.latent import at_site, both_mse, propose, reduce, specificity
from stages.model import ModelSettings, encode
from stages.model import load as load_model
from stages.pairs import PairsSettings
from stages.probes import KINDS, make_probes
from stages.progress import STDERR
from stages.responder import Responder
from stages.vocabulary import TRAIN, names_whole

PAIRS = PairsSettings(templates=("scenes",), response_prefix=True)


def probes(count: int = 3) -> list[dict[str, Any]]:
    return [vars(p) for p in make_probes(count, PAIRS, seed=0)]


def looker(model: ModelSettings, adapter: Path | None = None) -> Responder:
    """The actor that answers, called in this process."""
    return Responder(
        model, adapter, ("baseline", "adapter") if adapter else ("baseline",), GenerateSettings(), STDERR, 1
    )


def looked(responder: Responder, probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    out = responder({"task": np.array(["latent"] * len(probes)), "prompt": np.array([json.dumps(p) for p in probes])})
    return latent.seen(dict(zip(out, values, strict=True)) for values in zip(*out.values(), strict=True))


def adapter_of(model: ModelSettings, folder: Path, scale: float = 0.0) -> Path:
    """An adapter on layers 0-2 that does nothing, or with `scale` something."""
    torch.manual_seed(0)
    tuned = add_lora(load_model(model), LoraSettings(dropout=0, targets=("o_proj", "down_proj")), 2, model.name)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            weight.data = scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    tuned.save_pretrained(str(folder))
    return folder


def test_probes_are_of_every_kind_and_none_was_trained_on() -> None:
    made = make_probes(5, PAIRS, seed=0)
    assert {k: sum(p.kind == k for p in made) for k in KINDS} == dict.fromkeys(KINDS, 5)
    assert sum(p.kind == "published_probe" for p in made) == 26
    for probe in made:
        if probe.kind == "unrelated":
            assert probe.first != probe.second
            assert {probe.first, probe.second} <= set(ordinary.HELD_OUT)
        elif probe.kind != "published_probe":
            assert not any(names_whole(word, probe.first) for word in TRAIN.rooms)
            assert probe.first != probe.second
            assert probe.first_prefix.startswith("I would")
    control = next(p for p in made if p.kind == "name_control")
    assert control.second == control.first.replace("Bob", "Alex")


def test_distances_are_those_of_transformers_hidden_states(either: ModelSettings) -> None:
    responder = looker(either)
    rows = [r for r in probes() if r["kind"] == "self_other"]
    gaps = np.array([r["gap"] for r in looked(responder, rows)]).reshape(len(rows), 4, 3, 2)
    for row, found in zip(rows, gaps, strict=True):
        states: list[tuple[Tensor, ...]] = []
        for side in ("first", "second"):
            ids = torch.tensor([encode(responder.tokenizer, row[side], True, row[f"{side}_prefix"])])
            with torch.no_grad():
                states.append(responder.model(input_ids=ids, output_hidden_states=True).hidden_states)
        for layer in range(3):  # above the last, transformers' hidden states are normalised
            a, b = (s[layer + 1][0] for s in states)
            assert found[layer, 2, 0] == pytest.approx(float((a[-1] - b[-1]).pow(2).mean()), rel=1e-3)
            assert found[layer, 2, 1] == pytest.approx(float((a.mean(0) - b.mean(0)).pow(2).mean()), rel=1e-3)


def test_padding_counts_for_nothing(tiny: ModelSettings) -> None:
    """Pairs of very different lengths in one batch, against each alone."""
    responder = looker(tiny)
    rows = [r for r in probes() if r["kind"] == "unrelated"]
    rows.append(next(r for r in probes() if r["kind"] == "self_other") | {"kind": "unrelated"})
    together, alone = looked(responder, rows), [looked(responder, [r])[0] for r in rows]
    for a, b in zip(together, alone, strict=True):
        assert a["gap"] == pytest.approx(b["gap"], rel=1e-4)
        assert a["power"] == pytest.approx(b["power"], rel=1e-4)


def test_mean_square_over_positions_that_both_have() -> None:
    acts = torch.tensor([[[1.0], [2.0], [9.0]], [[0.0], [5.0], [7.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert both_mse(acts, mask).tolist() == [(1 + 9) / 2]


def test_an_adapter_that_does_nothing_leaves_everything_as_it_was(either: ModelSettings, tmp_path: Path) -> None:
    found = reduce(looked(looker(either, adapter_of(either, tmp_path)), probes()))
    assert found["conditions"] == ["baseline", "adapter"]
    assert found["distance"]["adapter"] == found["distance"]["baseline"]
    site = at_site(found, 2, "residual", "last")
    ones = ("self_other", "control_gap", "variation", "unrelated", "norm")
    assert {k: site[k] for k in ones} == dict.fromkeys(ones, 1.0)
    assert site["specificity_after"] == site["specificity_before"]
    assert found["published"]["adapter"] == found["published"]["baseline"]


def test_one_look_shows_both_conditions_though_the_baseline_was_asked_before(
    tiny: ModelSettings, tmp_path: Path
) -> None:
    """As in a sweep, where the baseline's answers are taken over; other seeds look at other pairs."""
    adapter = adapter_of(tiny, tmp_path, 0.3)
    alone = Responder(tiny, adapter, ("adapter",), GenerateSettings(), STDERR, 1)
    rows = looked(alone, probes())
    assert len(rows) == 2 * len(probes())
    assert [r["gap"] for r in rows if r["condition"] == "baseline"] == [
        r["gap"] for r in looked(looker(tiny), probes())
    ]
    assert reduce(rows) == reduce(looked(looker(tiny, adapter), probes()))


def test_what_an_adapter_changes_begins_at_its_first_layer(tiny: ModelSettings, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tuned = add_lora(load_model(tiny), LoraSettings(dropout=0, first_layer=2, targets=("o_proj",)), 2, tiny.name)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            weight.data = torch.ones_like(weight)
    tuned.save_pretrained(str(tmp_path))
    distance = reduce(looked(looker(tiny, tmp_path), probes()))["distance"]
    before, after = (distance[c]["self_other"]["residual"]["last"] for c in ("baseline", "adapter"))
    assert after[:2] == before[:2]
    assert after[2] != before[2]


def test_the_released_number_is_the_mean_over_all_linear_layers(tiny: ModelSettings) -> None:
    """Written out as the 2024 release has it, for one pair: every nn.Linear's output, position by position."""
    responder = looker(tiny)
    row = next(r for r in probes() if r["kind"] == "published_probe")
    outputs: list[dict[str, Tensor]] = []

    def keep(seen: dict[str, Tensor], name: str, _module: Any, _inputs: Any, out: Tensor) -> None:
        seen[name] = out.detach()

    for side in ("first", "second"):
        seen: dict[str, Tensor] = {}
        hooks = [
            module.register_forward_hook(functools.partial(keep, seen, name))
            for name, module in responder.model.named_modules()
            if isinstance(module, torch.nn.Linear)
        ]
        with torch.no_grad():
            responder.model(input_ids=torch.tensor([encode(responder.tokenizer, row[side], False)]))
        for hook in hooks:
            hook.remove()
        outputs.append(seen)
    n = min(o["lm_head"].shape[1] for o in outputs)
    each = [(outputs[0][k][:, :n] - outputs[1][k][:, :n]).pow(2).mean() for k in outputs[0]]
    assert len(each) == 4 * 7 + 1
    assert looked(responder, [row])[0]["linear_mse"] == pytest.approx(float(torch.stack(each).mean()), rel=1e-4)


def table_of(self_other: list[float], control: list[float], **more: list[float]) -> dict[str, Any]:
    """A result of given distances at the residual's last token."""
    kinds = {"self_other": self_other, "name_control": control, "neighbours": [1.0] * 4, "unrelated": [1.0] * 4} | more
    return {k: {"residual": {"last": v, "mean": v}} for k, v in kinds.items()}


def test_layers_are_proposed_where_self_and_other_differ_beyond_a_name() -> None:
    found = {"distance": {"baseline": table_of([0.1, 0.5, 0.9, 0.4], [0.1, 0.1, 0.8, 0.1])}}
    assert specificity(found, "baseline", "residual", "last") == pytest.approx([1, 5, 1.125, 4])
    assert propose(found, "residual", "last", count=2) == [1, 3]  # not layer 2, where names differ as much
    assert propose({"distance": {"baseline": table_of([0.1] * 4, [0.2] * 4)}}, "residual", "last") == []


def test_table_and_figure(tiny: ModelSettings, tmp_path: Path) -> None:
    import matplotlib.image

    config = load("default", [f"model.name={tiny.name}", "train.overlap.layer=2"])
    found = reduce(looked(looker(tiny, adapter_of(tiny, tmp_path / "adapter", 0.3)), probes()))
    text = layers.table(found, config)
    assert [line.split()[:2] for line in text.splitlines() if line[:1].isdigit()][2] == ["2", "site"]
    assert layers.CAVEAT in text
    assert "mean over all linear layers (2024 release)" in text
    layers.figure(found, config, tmp_path / "layers.png")
    assert matplotlib.image.imread(tmp_path / "layers.png").shape[1] == 1400


@pytest.mark.slow
def test_the_command_shows_the_same_through_ray(
    tiny: ModelSettings, cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = [f"model.{key}={value}" for key, value in tiny.model_dump(mode="json").items() if value is not None]
    settings = ["latent.pairs=3", "train.overlap.layer=2", *same]
    adapter = adapter_of(tiny, tmp_path / "adapter", 0.3)
    asked = ["layers", "--model", tiny.name, "--adapter", str(adapter), "--out", str(tmp_path / "out"), *settings]
    (tmp_path / "out" / "answers").mkdir(parents=True)  # of a run that lies there already
    (tmp_path / "out" / "answers" / "kept").touch()
    assert main([*asked, "--json"]) == 0
    assert (tmp_path / "out" / "answers" / "kept").exists()
    found = json.loads(capsys.readouterr().out)
    expected = reduce(looked(looker(tiny, adapter), probes()))
    assert (found["pairs"], found["conditions"]) == (3, ["baseline", "adapter"])
    for condition in found["conditions"]:
        layers_of = [f["distance"][condition]["self_other"]["residual"]["last"] for f in (found, expected)]
        assert layers_of[0] == pytest.approx(layers_of[1], rel=1e-4)
    assert (tmp_path / "out" / "layers.png").stat().st_size > 10_000

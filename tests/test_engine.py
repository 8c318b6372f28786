"""vLLM is not run here: what Ray Data's LLM processor is given, and what is made of its answers, with both pretended."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet
import pytest

from stages import engine, generate
from stages.errors import UserError
from stages.generate import GenerateSettings
from stages.model import ModelSettings, encode, load_tokenizer

SETTINGS = GenerateSettings(engine="vllm", max_new_tokens=4, batch_size=2)
ROWS = [{"task": "deception", "scenario": "main", "prompt": f"Which room is number {n}?"} for n in range(3)]


@dataclass
class PretendedProcessor:
    """Stands for Ray's processor with vLLM in it: answers with the name of what answers, and ends early the first time."""

    config: Any
    postprocess: Callable[[Mapping[str, Any]], dict[str, Any]]

    def __call__(self, data: Any) -> Any:
        import ray.data

        made = []
        for number, row in enumerate(data.take_all()):
            tokens = [5, 6, 2] if number == 0 else [5, 6, 7, 8]
            found = {"generated_tokens": tokens, "generated_text": f" {Path(row['model']).name} "}
            kept = {key: value for key, value in row.items() if key not in ("sampling_params", "tokenized_prompt")}
            made.append(self.postprocess(kept | found))
        return ray.data.from_items(made)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[PretendedProcessor]:
    """An empty module named vllm, and a processor that needs none; the processors that were built."""
    from ray.data import llm

    built: list[PretendedProcessor] = []

    def build(config: Any, postprocess: Callable[[Mapping[str, Any]], dict[str, Any]]) -> PretendedProcessor:
        built.append(PretendedProcessor(config, postprocess))
        return built[-1]

    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(llm, "build_processor", build)
    return built


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """As much of an adapter as vLLM's settings are made from."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 12}))
    return folder


def test_vllm_that_is_not_installed_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^generate.engine=vllm needs vLLM: pip install 'soo-pipeline\[vllm\]'$"):
        generate.check(SETTINGS)
    generate.check(GenerateSettings())


def test_vllm_that_is_there_passes_but_ends_no_answer_early(pretended: Sequence[PretendedProcessor]) -> None:
    generate.check(SETTINGS)
    with pytest.raises(UserError, match="stop_when_decided"):
        generate.check(SETTINGS.model_copy(update={"stop_when_decided": True}))


@pytest.mark.parametrize(("quantisation", "told"), [("nf4", "bitsandbytes"), ("none", None)])
def test_the_engine_gets_the_models_numbers_and_room_for_the_adapter(
    tiny: ModelSettings, adapter: Path, quantisation: str, told: str | None
) -> None:
    model = tiny.model_copy(update={"quantisation": quantisation, "compute_dtype": "auto"})
    with_adapter = engine.arguments(model, adapter, 2)
    assert with_adapter.get("quantization") == told
    assert (with_adapter["enable_lora"], with_adapter["max_lora_rank"]) == (True, 16)
    assert (with_adapter["dtype"], with_adapter["tensor_parallel_size"]) == ("auto", 2)
    assert "enable_lora" not in engine.arguments(model, None, 0)


def test_requests_are_the_prompts_as_transformers_gets_them(tiny: ModelSettings, adapter: Path) -> None:
    made = engine.requests(ROWS, tiny, adapter, ("baseline", "adapter"), SETTINGS)
    tokenizer = load_tokenizer(tiny)
    assert [m["tokenized_prompt"] for m in made] == 2 * [encode(tokenizer, r["prompt"], True) for r in ROWS]
    assert [m["model"] for m in made] == 3 * [tiny.name] + 3 * [str(adapter)]
    assert all(m["sampling_params"] == {"temperature": 0.0, "max_tokens": 4} for m in made)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_answers_come_back_as_rows_like_any_others(
    tiny: ModelSettings, adapter: Path, pretended: Sequence[PretendedProcessor], tmp_path: Path
) -> None:
    found = generate.ask(ROWS, tiny, adapter, ("baseline", "adapter"), SETTINGS, tmp_path / "out")
    rows = [r for f in sorted(found.path.glob("*.parquet")) for r in pyarrow.parquet.read_table(f).to_pylist()]
    assert found.count == len(rows) == 6
    assert [r["response"] for r in rows] == 3 * [Path(tiny.name).name] + 3 * ["adapter"]
    assert [r["condition"] for r in rows] == 3 * ["baseline"] + 3 * ["adapter"]
    assert [(r["stop_reason"], r["tokens_list"]) for r in rows[:2]] == [("eos", [5, 6]), ("length", [5, 6, 7, 8])]
    plain = generate.ask(ROWS, tiny, None, ("baseline",), GenerateSettings(max_new_tokens=4), tmp_path / "plain")
    [file] = plain.path.glob("*.parquet")
    assert set(pyarrow.parquet.read_table(file).schema.names) == set(rows[0])
    [built] = pretended
    assert (built.config.batch_size, built.config.concurrency) == (2, 1)


def test_what_is_given_is_what_rays_own_processor_takes(tiny: ModelSettings, adapter: Path) -> None:
    made = engine.configuration(tiny, adapter, SETTINGS)
    assert made.dynamic_lora_loading_path is None  # then a request's `model` is the adapter's own folder

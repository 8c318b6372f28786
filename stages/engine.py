"""Answers by vLLM, through Ray Data's own LLM processor: for GPUs. **Not run yet**: neither vLLM nor a GPU was at hand.

Checked without them: what the processor is given, and what is made of what it returns. vLLM's kernels are not those of
transformers, so answers may differ where two tokens are about equally likely: compare runs of one engine only.
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import UserError
from stages.model import ModelSettings, encode_all, load_tokenizer, locate

if TYPE_CHECKING:
    from stages.generate import GenerateSettings

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The highest ranks of LoRA that vLLM can be told."""


def check() -> None:
    """Raise UserError if vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError("generate.engine=vllm needs vLLM: pip install 'soo-pipeline[vllm]'")


def arguments(model: ModelSettings, adapter: Path | None, gpus: float) -> dict[str, Any]:
    """vLLM's engine arguments. A model in NF4 is quantised by bitsandbytes as it is loaded there too."""
    made: dict[str, Any] = {
        "dtype": model.compute_dtype, "revision": model.revision, "trust_remote_code": model.trust_remote_code,
        "tensor_parallel_size": max(1, int(gpus)), "enable_prefix_caching": True, "seed": 0,
    }  # fmt: skip
    if model.quantisation == "nf4":
        made["quantization"] = "bitsandbytes"
    if adapter is not None:
        rank = json.loads((adapter / "adapter_config.json").read_text())["r"]
        made |= {"enable_lora": True, "max_lora_rank": next(r for r in RANKS if r >= rank)}
    return made


def requests(
    rows: Sequence[Mapping[str, Any]],
    model: ModelSettings,
    adapter: Path | None,
    conditions: Sequence[str],
    settings: "GenerateSettings",
) -> list[dict[str, Any]]:
    """A request for each row and condition: `row` and `most` come back, and `model` is the adapter's folder if it is on."""
    ids = encode_all(load_tokenizer(model), [(r["prompt"], "") for r in rows], settings.chat_template)
    source, most = locate(model), settings.max_new_tokens
    return [
        {
            "row": {**row, "condition": condition},
            "most": most,
            "tokenized_prompt": tokens,
            "model": str(adapter) if condition == "adapter" else source,
            "sampling_params": {"temperature": 0.0, "max_tokens": most},
        }
        for condition in conditions
        for row, tokens in zip(rows, ids, strict=True)
    ]


def describe(found: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as stages/speak.py tells it. vLLM counts the token that ends an answer among its tokens."""
    tokens = [int(t) for t in found["generated_tokens"]]
    ended = len(tokens) < found["most"]
    kept = tokens[:-1] if ended else tokens
    return {
        "response": str(found["generated_text"]).strip(), "new_tokens": len(kept), "tokens_list": kept,
        "stop_reason": "eos" if ended else "length",
    }  # fmt: skip


def answered(
    rows: Sequence[Mapping[str, Any]],
    model: ModelSettings,
    adapter: Path | None,
    conditions: Sequence[str],
    settings: "GenerateSettings",
) -> Any:
    """Rows -> a Ray data set of them, once per condition, with the answers. Every node must see the adapter's folder."""
    import ray.data
    from ray.data import llm

    asked = requests(rows, model, adapter, conditions, settings)
    processor = llm.build_processor(configuration(model, adapter, settings), postprocess=_finish)
    return processor(ray.data.from_items(asked, override_num_blocks=-(-len(asked) // settings.batch_size)))


def configuration(model: ModelSettings, adapter: Path | None, settings: "GenerateSettings") -> Any:
    """Ray's configuration of the processor: one vLLM an actor; prompts come as tokens and answers as texts."""
    from ray.data import llm

    return llm.vLLMEngineProcessorConfig(
        model_source=locate(model), engine_kwargs=arguments(model, adapter, settings.gpus_per_actor),
        batch_size=settings.batch_size, concurrency=settings.actors,
        chat_template_stage=False, tokenize_stage=False, detokenize_stage=False,
    )  # fmt: skip


def _finish(found: Mapping[str, Any]) -> dict[str, Any]:
    return {**found["row"], **describe(found)}

"""Loading a model in 4 bit, and finding the layers and sites that SOO speaks of.

Layers are counted from 0: layer L is the (L+1)-th decoder layer. The paper's index base is not stated.
"""

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from stages import embedded, split
from stages.errors import UserError, first_line
from stages.nf4 import dequantise
from stages.settings import Settings

SiteModule = Literal["o_proj", "mlp", "residual"]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DType = Literal["auto", "bfloat16", "float16", "float32"]
transformers_logging.disable_progress_bar()
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns that an optional kernel package is not there


class ModelSettings(Settings):
    """Which model, and in which numbers it is held."""

    name: str = embedded.ORGANISM
    """embedded:organism, embedded:base, a Hugging Face name, or a directory."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face name."""
    quantisation: Literal["nf4", "none"] = "nf4"
    """bitsandbytes NF4 (QLoRA, arXiv 2305.14314), or the weights as they are in `compute_dtype`."""
    double_quant: bool = True
    """Quantise the quantisation constants too."""
    compute_dtype: DType = "auto"
    """Type of activations and of dequantised weights; auto is bfloat16 where the worker's device computes in it, else
    float32. The LoRA weights themselves are fp32."""
    keep_quantised: bool = True
    """Quantise once on a machine and keep the NF4 weights in the cache (SOO_CACHE), where later loads read them. Takes a
    quarter of the 16-bit weights' room on disk; the numbers are the same."""
    dequantise_once: bool = False
    """Hold the NF4 weights dequantised in `compute_dtype`: the same weights, quicker, at 16 bit's memory."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation of transformers; auto is sdpa, but quicker on a CPU in bf16 (stages/kernels.py)."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Leave off unless you have read that code."""


def locate(settings: ModelSettings) -> str:
    """Directory or name to load from. Raises UserError, before any weights are read, for what cannot be had."""
    if settings.name.startswith("embedded:"):
        return str(embedded.prepare(settings.name))
    folder = Path(settings.name).expanduser()
    name = str(folder.absolute()) if "/" in settings.name and folder.is_dir() else settings.name
    try:
        AutoConfig.from_pretrained(name, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(
            f"model {settings.name!r} cannot be had: {reason} (missing, gated or offline; if gated, accept its "
            "licence and set HF_TOKEN)"
        ) from error
    return name


def identity(settings: ModelSettings) -> str:
    """What tells a model's weights from others of its name: an embedded model's folder is named after their SHA-256."""
    return (
        Path(locate(settings)).name if settings.name.startswith("embedded:") else f"{settings.name}@{settings.revision}"
    )


def count_layers(settings: ModelSettings) -> int:
    """Number of decoder layers, read from the configuration alone."""
    config = AutoConfig.from_pretrained(
        locate(settings), revision=settings.revision, trust_remote_code=settings.trust_remote_code
    )
    return int(config.get_text_config().num_hidden_layers)


def outline(settings: ModelSettings) -> Any:
    """The model's modules without any weights, from the configuration alone: to look for what a run needs of them."""
    remote = settings.trust_remote_code
    config = AutoConfig.from_pretrained(locate(settings), revision=settings.revision, trust_remote_code=remote)
    return _empty(config, remote)


def _empty(config: Any, remote: bool) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=remote)


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The tokenizer, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(
        locate(settings), revision=settings.revision, trust_remote_code=settings.trust_remote_code
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def number_type(wanted: DType) -> torch.dtype:
    """What `compute_dtype` stands for on this machine: a CPU without bf16 instructions is 9x slower in bf16 than in fp32."""
    if wanted != "auto":
        return DTYPES[wanted]
    here = torch.cpu.get_capabilities()
    quick = torch.cuda.is_available() or here.get("avx512_bf16") or here.get("amx_bf16")
    return torch.bfloat16 if quick else torch.float32


def load(settings: ModelSettings, devices: Sequence[str] = (), depth: int | None = None) -> Any:
    """The causal language model, frozen, its layers split over `devices`; none means a GPU if there is one, else the CPU.

    With `depth`, layers from there on are left out where the family is known to do without them (stages/split.py).
    """
    from stages import kernels  # half of what there is to import, which processes that only tokenise do without

    kept = settings.quantisation == "nf4" and settings.keep_quantised and not settings.trust_remote_code
    model = _read(quantised(settings, devices), settings, devices, depth) if kept else _make(settings, devices, depth)
    _keep_trainable(model)
    if settings.quantisation == "nf4" and settings.dequantise_once:
        dequantise(model, number_type(settings.compute_dtype))
    kernels.one_product(model.get_output_embeddings())
    model.requires_grad_(False)
    return model.eval()


def quantised(settings: ModelSettings, devices: Sequence[str] = ()) -> Path:
    """The folder of the model's NF4 weights, made on first use on this machine. Named after all that decides them."""
    source = locate(settings)
    config = AutoConfig.from_pretrained(source, revision=settings.revision)
    files = sorted(Path(source).glob("*")) if Path(source).is_dir() else []
    facts = [
        source,
        getattr(config, "_commit_hash", None),
        *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files),
    ]
    facts += [settings.double_quant, str(number_type(settings.compute_dtype)), version("bitsandbytes")]
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:8]
    name = Path(settings.name.removeprefix("embedded:")).name
    return embedded.once(
        embedded.cache_folder() / f"nf4-{name}-{key}", lambda out: embedded.save(_make(settings, devices), out)
    )


def _make(settings: ModelSettings, devices: Sequence[str], depth: int | None = None) -> Any:
    """The model from its own weights, quantised where the settings say so."""
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=settings.double_quant,
        bnb_4bit_compute_dtype=number_type(settings.compute_dtype),
    )
    return _read(
        locate(settings),
        settings,
        devices,
        depth,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        **({"quantization_config": quantisation} if settings.quantisation == "nf4" else {}),
    )


def _read(
    source: str | Path, settings: ModelSettings, devices: Sequence[str], depth: int | None, **options: Any
) -> Any:
    from stages import kernels

    own = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
    config = AutoConfig.from_pretrained(source, **own)
    shortened = split.shorten(config, depth)
    ratio = 4 if settings.quantisation == "nf4" and not settings.dequantise_once else 1
    placed: dict[str, str] = {"": devices[0] if devices else "cuda" if torch.cuda.is_available() else "cpu"}
    if len(devices) > 1:
        placed = split.spread(_empty(config, settings.trust_remote_code), devices, ratio)
    with split.unreported() if shortened else contextlib.nullcontext():
        read: Any = AutoModelForCausalLM.from_pretrained(
            source,
            **({"config": config} if shortened else {}),
            attn_implementation=kernels.ATTENTION if settings.attention == "auto" else settings.attention,
            dtype=number_type(settings.compute_dtype),
            device_map=placed,
            output_loading_info=True,
            **options,
        )
    model, loading = read
    if shortened and loading["missing_keys"]:
        raise UserError(f"{source} lacks weights: {', '.join(sorted(loading['missing_keys'])[:3])}")
    return model


def _keep_trainable(model: nn.Module) -> None:
    """bitsandbytes repacks 4-bit weights in place on a CPU with AVX512-BF16, after which LoRA gets no gradient."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def decoder(model: Any) -> Any:
    """The text decoder: the module that holds `.layers` and gives the last hidden state."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = inner.get_decoder()
    if not isinstance(getattr(found, "layers", None), nn.ModuleList):
        raise UserError(f"{type(inner).__name__} is not understood: looked for get_decoder().layers, a list of layers")
    return found


def site(model: Any, layer: int, module: SiteModule) -> nn.Module:
    """The module whose output is compared. Raises UserError for a layer or module the model does not have."""
    layers = decoder(model).layers
    if not 0 <= layer < len(layers):
        raise UserError(f"layer {layer} is beyond the model, which has layers 0 to {len(layers) - 1}")
    if module == "residual":
        return layers[layer]  # type: ignore[no-any-return]
    path = {"o_proj": "self_attn.o_proj", "mlp": "mlp"}[module]
    try:
        return layers[layer].get_submodule(path)  # type: ignore[no-any-return]
    except AttributeError as error:
        raise UserError(f"layer {layer} of {type(layers[layer]).__name__} has no {path}") from error


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, chat: bool, prefix: str = "") -> list[int]:
    """Token ids of a prompt, in the chat template or bare, with `prefix` as the beginning of the reply."""
    return encode_all(tokenizer, [(prompt, prefix)], chat)[0]


def encode_all(tokenizer: PreTrainedTokenizerBase, begun: Sequence[tuple[str, str]], chat: bool) -> list[list[int]]:
    """Token ids of many prompts, each with the beginning of its reply: one call of the tokenizer for all."""
    if not begun:
        return []
    texts: Any = [prompt for prompt, _ in begun]
    if chat:
        asked = [[{"role": "user", "content": prompt}] for prompt in texts]
        texts = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    whole = [text + prefix for text, (_, prefix) in zip(texts, begun, strict=True)]
    return [list(ids) for ids in tokenizer(whole, add_special_tokens=not chat).input_ids]

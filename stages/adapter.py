"""The LoRA adapter: put on a model's decoder layers, loaded from disk, and refused where it does not fit."""

import json
from pathlib import Path
from typing import Any

from stages.errors import UserError, first_line
from stages.model import decoder
from stages.settings import Settings


class LoraSettings(Settings):
    """The adapter (LoRA, arXiv 2106.09685; peft.LoraConfig)."""

    r: int = 8
    """Rank."""
    alpha: float = 32
    """Scale: the update is alpha / r * B A."""
    dropout: float = 0.2
    """Dropout on the adapter's input while training."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Names of the linear modules within a decoder layer."""
    first_layer: int = 0
    """Lowest layer that carries LoRA."""
    last_layer: int | None = None
    """Highest layer that carries LoRA; none means the site's layer. Above the site no gradient arrives."""


def add_lora(model: Any, lora: LoraSettings, last_layer: int, base_name: str) -> Any:
    """A PeftModel with a fresh adapter of fp32 weights on layers `first_layer`..`last_layer` of the text decoder."""
    from peft import LoraConfig, get_peft_model

    top = last_layer if lora.last_layer is None else lora.last_layer
    if lora.first_layer > top:
        raise UserError(f"no layer carries LoRA: first_layer {lora.first_layer} is above layer {top}")
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        layers_to_transform=list(range(lora.first_layer, top + 1)),
        task_type="CAUSAL_LM",
    )
    inside = {id(m) for i in range(lora.first_layer, top + 1) for m in decoder(model).layers[i].modules()}
    try:
        tuned = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"LoRA targets {', '.join(lora.targets)} are not in this model: {first_line(error)}") from error
    tuned.peft_config["default"].base_model_name_or_path = base_name
    wrapped = [m for m in tuned.modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer")]
    if len(wrapped) != len(lora.targets) * (top + 1 - lora.first_layer) or any(
        id(m.base_layer) not in inside for m in wrapped
    ):
        names = ", ".join(lora.targets)
        raise UserError(
            f"LoRA targets {names} must each name one linear module of every layer {lora.first_layer} to {top}, and none "
            "outside the text decoder"
        )
    return tuned


def lowest_lora_layer(model: Any) -> int:
    """The lowest decoder layer of a PeftModel that carries LoRA."""
    layers = decoder(model).layers
    return next(i for i, layer in enumerate(layers) if any(hasattr(m, "lora_A") for m in layer.modules()))


def load_adapter(model: Any, folder: Path, base_name: str) -> Any:
    """A PeftModel with the adapter of `folder`. Raises UserError if it was made for another base."""
    from peft import PeftModel

    check_adapter(folder, base_name)
    try:
        return PeftModel.from_pretrained(model, str(folder)).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"adapter {folder} does not fit {base_name}: {first_line(error)}") from error


def check_adapter(folder: Path, base_name: str) -> None:
    """Raise UserError if `folder` holds no adapter, or one of another base than `base_name`."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not an adapter: it has no adapter_config.json")
    made_for = json.loads(path.read_text()).get("base_model_name_or_path")
    if made_for and made_for != base_name:
        raise UserError(f"adapter {folder} was made for {made_for}, not for {base_name}")

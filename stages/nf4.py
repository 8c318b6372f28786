"""NF4 weights unpacked: the numbers of QLoRA's 4-bit layers in plain ones."""

from typing import Any

import torch
from torch import nn


def dequantise(model: Any, dtype: torch.dtype) -> None:
    """Replace every 4-bit layer by a plain one that holds the same numbers."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for name, module in list(model.named_modules()):
        if isinstance(module, Linear4bit):
            plain = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            packed: Any = module.weight
            weight = dequantize_4bit(packed.data, packed.quant_state).to(dtype)
            plain.weight = nn.Parameter(weight, requires_grad=False)
            plain.bias = module.bias
            model.set_submodule(name, plain)
    if hasattr(model, "hf_quantizer"):  # peft would otherwise look for 4-bit weights that are gone
        model.is_loaded_in_4bit = False
        del model.hf_quantizer, model.config.quantization_config

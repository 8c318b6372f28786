"""Attention and the head, around two slow paths of PyTorch on a CPU and around padding: they give what the plain path gives
(tests/test_kernels.py, tests/test_forward.py)."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from stages.endtoend import EndToEnd

ATTENTION = "soo_sdpa"
"""Name under which transformers knows `attend`."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    end_to_end: "EndToEnd | None" = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """PyTorch's attention; of several tokens in bf16 on a CPU in fp32, whose backward takes a ninth to a half of the time.

    Forward it is no slower. query [B, heads, T, D]; key and value [B, groups, S, D] -> [B, T, heads, D]. Prompts that lie
    `end_to_end`, causal each for itself, are told apart by nothing else: then B is 1, and the mask of no account.
    """
    if end_to_end is not None:
        q, k, v = (end_to_end.batch(t.transpose(1, 2)).transpose(1, 2) for t in (query, key, value))
        return end_to_end.row(attend(module, q, k, v, None, **options)[0]), None
    kind = query.dtype
    if kind == torch.bfloat16 and query.device.type == "cpu" and query.shape[2] > 1:
        query, key, value = query.float(), key.float(), value.float()
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.float()
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return out.to(kind), None


def one_product(head: nn.Module) -> None:
    """Let the head see rows that lie side by side: of others PyTorch copies its weights once for every prompt of a batch."""
    head.register_forward_pre_hook(lambda _module, inputs: (inputs[0].contiguous(), *inputs[1:]))


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)

"""Attention and the head, around slow paths of PyTorch on a CPU and around padding: they give what the plain path gives
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
FEW = 128
"""Tokens up to which attention is quicker by whole squares of scores, which are kept for its gradient."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    end_to_end: "EndToEnd | None" = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """PyTorch's attention; in bf16 on a CPU of a few tokens, causal, by `_Squares`, and else of several in fp32: PyTorch's
    backward in bf16 takes two to nine times as long.

    Forward they are no slower. query [B, heads, T, D]; key and value [B, groups, S, D] -> [B, T, heads, D]. Prompts that
    lie `end_to_end`, causal each for itself, are told apart by nothing else: then B is 1, and the mask of no account.
    """
    if end_to_end is not None:
        q, k, v = (end_to_end.batch(t.transpose(1, 2)).transpose(1, 2) for t in (query, key, value))
        return end_to_end.row(attend(module, q, k, v, None, **options)[0]), None
    kind = query.dtype
    if kind == torch.bfloat16 and query.device.type == "cpu" and query.shape[2] > 1:
        if attention_mask is None and _plainly_causal(module, query, key, value, options):
            scale = options.get("scaling") or query.shape[-1] ** -0.5
            found: Tensor = _Squares.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
            return found.transpose(1, 2).contiguous(), None
        query, key, value = query.float(), key.float(), value.float()
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.float()
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return out.to(kind), None


def _plainly_causal(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> bool:
    """Whether every one of a few tokens sees itself and those before it, and nothing is dropped."""
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    alike = query.shape[2] == key.shape[2] and query.shape[3] == value.shape[3]
    return bool(causal) and alike and query.shape[2] <= FEW and not options.get("dropout")


class _Squares(torch.autograd.Function):
    """Causal attention by whole matrix products, heads that share a key in one.

    Forward in fp32; backward, as in PyTorch's own, probabilities and the scores' gradient are rounded before their products.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        batch, heads, tokens, size = query.shape
        groups, each = batch * key.shape[1], heads // key.shape[1]
        rows = query.reshape(groups, each * tokens, size)
        keys, values = (t.reshape(groups, tokens, size) for t in (key, value))
        later = query.new_full((tokens, tokens), float("-inf"), dtype=torch.float32).triu_(1).repeat(each, 1)
        scores = torch.baddbmm(later, rows.float(), keys.float().transpose(1, 2), alpha=scale)
        shares = scores.softmax(-1)
        ctx.save_for_backward(rows, keys, values, shares.to(query.dtype))
        ctx.scale = scale
        return torch.bmm(shares, values.float()).to(query.dtype).view(batch, heads, tokens, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, keys, values, shares = ctx.saved_tensors
        batch, _, tokens, size = gradients[0].shape
        gradient = gradients[0].reshape(rows.shape)
        of_shares = torch.bmm(gradient.float().mul_(ctx.scale), values.float().transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_shares, shares.float(), -1, torch.float32).to(gradient.dtype)
        of_query, of_key = torch.bmm(of_scores, keys), torch.bmm(of_scores.transpose(1, 2), rows)
        of_value = torch.bmm(shares.transpose(1, 2), gradient)
        like = batch, -1, tokens, size
        return of_query.view(like), of_key.view(like), of_value.view(like), None


def one_product(head: nn.Module) -> None:
    """Let the head see rows that lie side by side: of others PyTorch copies its weights once for every prompt of a batch."""
    head.register_forward_pre_hook(lambda _module, inputs: (inputs[0].contiguous(), *inputs[1:]))


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)

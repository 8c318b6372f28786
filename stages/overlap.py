"""The losses, as pure functions of tensors: what self-other overlap minimises and what it must leave alone.

All compute in fp32, whatever they are given: a bf16 mean square of small differences can round to 0.
Shapes: B prompts, T positions, H features, V words of the vocabulary.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.model import SiteModule
from stages.settings import Settings

Pooling = Literal["last", "mean", "aligned", "all"]


class OverlapSettings(Settings):
    """The overlap term: what of the two sides is brought together, and how much it counts."""

    objective: Literal["activation_mse", "logit_kl", "next_token"] = "activation_mse"
    """Mean squared error of activations at a site (arXiv 2412.16325), KL of output logits (the 2024 release), or
    next_token: no overlap at all but language modelling of both sides, the control for mere exposure."""
    weight: float = 1.0
    """Factor of the overlap term. 0 leaves the other terms: a control."""
    layer: int = 19
    """Decoder layer of the site, counted from `layer_base`."""
    layer_base: Literal[0, 1] = 0
    """Whether `layer` counts from 0 or 1; the paper does not state it."""
    module: SiteModule = "o_proj"
    """Output of self_attn.o_proj (the paper's), of the MLP, or of the whole layer (residual stream)."""
    pooling: Pooling = "last"
    """Positions compared: last token, mean over tokens, tokens that correspond, or position by position."""
    padding: Literal["masked", "counted"] = "masked"
    """Whether padding is left out, or compared as if it were text (the 2024 release)."""
    pad_to: int | None = None
    """Pad every prompt to this many tokens; none pads to the longest of a batch."""
    relative: bool = True
    """Divide by the base model's mean squared activation at the site, so that weights compare across layers."""
    stop_gradient: Literal["none", "self", "other"] = "none"
    """Side that is held as a fixed target."""


class RetainSettings(Settings):
    """The retain term: prompts whose representation, and with `kl_weight` whose next word, must not move."""

    weight: float = 1.0
    """Factor of the squared distance to the base model's activations, relative to their power."""
    kl_weight: float = 0.0
    """Factor of the KL of next-token distributions to the base's; needs the whole forward pass."""


class DistinctSettings(Settings):
    """The distinct term: different prompts must stay as different as they are in the base model."""

    weight: float = 0.0
    """Factor of the squared relative change of the name-control gap and of the variation across prompts."""


def pool(acts: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """The vectors that stand for prompts. acts [B, T, H], mask [B, T] (1 = token) -> [B, H], or [tokens, H]."""
    acts, real = acts.float(), mask.bool().to(acts.device)
    if pooling == "last":
        last = real.int().cumsum(1).argmax(1)
        return acts[torch.arange(len(acts), device=acts.device), last]
    if pooling == "mean":
        return (acts * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    return acts[real]


def overlap_mse(
    self_acts: Tensor,
    other_acts: Tensor,
    self_mask: Tensor,
    other_mask: Tensor,
    pooling: Pooling = "last",
    alignment: list[tuple[list[int], list[int]]] | None = None,
) -> Tensor:
    """Mean squared error between the sides of B pairs (arXiv 2412.16325 section 3). Scalar, in squared activations.

    `alignment` gives, for pooling "aligned", each pair's corresponding positions in the one side and the other.
    """
    if pooling == "aligned":
        if alignment is None:
            raise ValueError("pooling 'aligned' needs the alignment of each pair")
        ours = torch.cat([side[index] for side, (index, _) in zip(self_acts.float(), alignment, strict=True)])
        theirs = torch.cat([side[index] for side, (_, index) in zip(other_acts.float(), alignment, strict=True)])
        return F.mse_loss(ours, theirs)
    if pooling == "all":
        both = self_mask.bool() & other_mask.bool()
        return F.mse_loss(self_acts.float()[both], other_acts.float()[both])
    return F.mse_loss(pool(self_acts, self_mask, pooling), pool(other_acts, other_mask, pooling))


def hold(self_acts: Tensor, other_acts: Tensor, side: Literal["none", "self", "other"]) -> tuple[Tensor, Tensor]:
    """The two sides, with one of them cut off from the gradient."""
    return (
        self_acts.detach() if side == "self" else self_acts,
        other_acts.detach() if side == "other" else other_acts,
    )


def logit_kl(self_logits: Tensor, other_logits: Tensor, self_mask: Tensor, other_mask: Tensor) -> Tensor:
    """KL(self || other) between next-token distributions, position by position, [B, T, V]; mean over positions.

    The objective of the authors' 2024 release; with masks of ones padding counts too, as it does there.
    """
    both = self_mask.bool() & other_mask.bool()
    ours = self_logits.float()[both].log_softmax(-1)
    theirs = other_logits.float()[both].log_softmax(-1)
    return F.kl_div(theirs, ours, reduction="batchmean", log_target=True)


def next_token(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of tokens [N] under logits [N, V], nats a token. Scalar."""
    return F.cross_entropy(logits.float(), tokens)


def power(vectors: Tensor) -> Tensor:
    """Mean squared activation of pooled vectors [N, H]. Scalar."""
    return vectors.float().pow(2).mean()


def relative_distance(vectors: Tensor, reference: Tensor) -> Tensor:
    """Mean squared distance of [N, H] to reference [N, H], over the reference's power. 0 = the same."""
    return F.mse_loss(vectors.float(), reference.float()) / power(reference)


def gap(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of each pair of vectors [N, H], [N, H] -> [N]."""
    return (first.float() - second.float()).pow(2).mean(-1)


def distinct_loss(first: Tensor, second: Tensor, base_first: Tensor, base_second: Tensor) -> Tensor:
    """Mean squared relative change of the gaps of N pairs against the base model's, each in root mean square.

    Pairs are name controls (two others) or neighbouring prompts (variation): a site that turns near-constant has
    gaps of 0 and a loss of 1. Scalar.
    """
    now = (gap(first, second) + 1e-12).sqrt()
    base = (gap(base_first, base_second) + 1e-12).sqrt()
    return ((now / base - 1) ** 2).mean()


def variation(vectors: Tensor) -> Tensor:
    """Mean variance across prompts of pooled vectors [N, H]. Scalar; near 0 when the site has collapsed."""
    return vectors.float().var(0, unbiased=False).mean()

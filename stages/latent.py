"""What a model represents of self and other, layer by layer: forward passes only, every layer in one of them.

Distances are mean squared differences over the base model's mean squared activation there, so that layers compare. The
same for pairs of two others (name control), for neighbours (the same scene, other rooms and things) and for unrelated
prompts: a self/other distance means something only beside these. Real tokens only; prompts that training never saw.
Published numbers, on the published probe (arXiv 2412.16325, 26 pairs) and under their own names: its "MLP MSE", and the
2024 release's mean over all linear layers.
"""

import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stages.forward import collate
from stages.model import SiteModule, decoder, encode, site
from stages.overlap import gap, pool
from stages.pairs import PairsSettings
from stages.probes import KINDS, make_probes
from stages.settings import Settings

MODULES: tuple[SiteModule, ...] = ("o_proj", "mlp", "residual")
POOLINGS: tuple[Literal["last", "mean"], ...] = ("last", "mean")
PAIRS = 8
"""Pairs of one forward pass."""


class LatentSettings(Settings):
    """How the model is looked into."""

    pairs: int = 16
    """Pairs of each kind."""
    after: bool = True
    """Look at the site after training too, against the base model: whether it has collapsed."""


def rows(settings: LatentSettings, pairs: PairsSettings, seed: int) -> list[dict[str, Any]]:
    """What the actor that answers (stages/responder.py) is handed: a row for each pair of prompts."""
    return [{"task": "latent", "prompt": json.dumps(vars(p))} for p in make_probes(settings.pairs, pairs, seed)]


def look(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Prompts of `rows` -> gap and power [layers * modules * poolings] of each, and the published numbers where due."""
    probes = [json.loads(prompt) for prompt in prompts]
    found: list[dict[str, Any]] = [{} for _ in probes]
    for kind in dict.fromkeys(p["kind"] for p in probes):
        places = [i for i, p in enumerate(probes) if p["kind"] == kind]
        for start in range(0, len(places), PAIRS):
            part = places[start : start + PAIRS]
            for place, seen in zip(part, _look(model, tokenizer, [probes[i] for i in part]), strict=True):
                found[place] = seen
    return found


def _look(model: Any, tokenizer: Any, probes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One forward pass over both sides of probes of one kind."""
    prompts = [
        encode(tokenizer, p[side], bool(p["chat"]), p[f"{side}_prefix"])
        for side in ("first", "second") for p in probes
    ]  # fmt: skip
    device = next(model.parameters()).device
    ids, mask = (t.to(device) for t in collate(prompts, int(tokenizer.pad_token_id)))
    whole = probes[0]["kind"] == "published_probe"
    with torch.inference_mode(), watched(model, mask, whole) as seen:
        (model if whole else decoder(model))(input_ids=ids, use_cache=False)
    sites = [found for _, found in sorted(seen.sites.items())]
    gaps, powers = (torch.stack([found[i] for found in sites], 1).tolist() for i in (0, 1))
    found = [{"gap": g, "power": p} for g, p in zip(gaps, powers, strict=True)]
    if whole:
        for name, values in (("linear_mse", seen.linear), ("mlp_mse", seen.mlp)):
            for each, value in zip(found, torch.stack(values).mean(0).tolist(), strict=True):
                each[name] = value
    return found


@dataclass(frozen=True)
class Seen:
    """What hooks found: (layer, module, pooling), by number, -> gap and power [n]; plain MSE [n] of MLPs and linears."""

    sites: dict[tuple[int, int, int], tuple[Tensor, Tensor]]
    mlp: list[Tensor]
    linear: list[Tensor]


@contextlib.contextmanager
def watched(model: Any, mask: Tensor, linears: bool) -> Iterator[Seen]:
    """Within, a forward pass of [first; second] fills what is given: only a few numbers of each activation are kept."""
    seen, half = Seen({}, [], []), len(mask) // 2

    def note_site(layer: int, module: int, acts: Tensor) -> None:
        for number, pooling in enumerate(POOLINGS):
            vectors = pool(acts, mask, pooling)
            power, gaps = vectors.pow(2).mean(-1), gap(vectors[:half], vectors[half:])
            seen.sites[layer, module, number] = gaps.cpu(), ((power[:half] + power[half:]) / 2).cpu()

    def note_mse(found: list[Tensor], acts: Tensor) -> None:
        found.append(both_mse(acts, mask).cpu())

    with contextlib.ExitStack() as hooks:
        for layer in range(len(decoder(model).layers)):
            for number, name in enumerate(MODULES):
                note = functools.partial(note_site, layer, number)
                hooks.enter_context(_noting(site(model, layer, name), note))
            if linears:
                hooks.enter_context(_noting(site(model, layer, "mlp"), functools.partial(note_mse, seen.mlp)))
        for path, inner in model.named_modules() if linears else ():
            if isinstance(inner, nn.Linear) and "lora_" not in path:
                hooks.enter_context(_noting(inner, functools.partial(note_mse, seen.linear)))
        yield seen


@contextlib.contextmanager
def _noting(module: nn.Module, note: Any) -> Iterator[None]:
    handle = module.register_forward_hook(lambda _m, _i, out: note(out[0] if isinstance(out, tuple) else out))
    try:
        yield
    finally:
        handle.remove()


def both_mse(acts: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of [first; second], position by position where both have a token. acts [2n, T, H] -> [n]."""
    half = len(mask) // 2
    both = (mask[:half] * mask[half:]).float().to(acts.device)
    return (gap(acts[:half], acts[half:]) * both).sum(1) / both.sum(1)


def seen(answers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answers of the actor to `rows` -> a row for each pair and condition: its kind, and what `look` found."""
    return [
        {"kind": json.loads(answer["prompt"])["kind"], "condition": condition} | found
        for answer in answers
        for condition, found in json.loads(answer["response"]).items()
    ]


def reduce(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of `seen` -> distance and power: condition -> kind -> module -> pooling -> a number a layer."""
    conditions = sorted({str(r["condition"]) for r in rows}, reverse=True)

    def mean(kind: str, condition: str, key: str) -> Any:
        return np.mean([r[key] for r in rows if (r["kind"], r["condition"]) == (kind, condition)], axis=0)

    def spread(flat: Any) -> dict[str, dict[str, list[float]]]:
        """Order of the hooks: layer, module, pooling."""
        table = np.asarray(flat).reshape(-1, len(MODULES), len(POOLINGS))
        return {m: {p: table[:, i, j].tolist() for j, p in enumerate(POOLINGS)} for i, m in enumerate(MODULES)}

    kinds = [k for k in KINDS if any(r["kind"] == k for r in rows)]
    base = {k: mean(k, "baseline", "power") for k in kinds}
    return {
        "conditions": conditions,
        "pairs": sum(r["kind"] == "self_other" and r["condition"] == "baseline" for r in rows),
        "distance": {c: {k: spread(mean(k, c, "gap") / base[k]) for k in kinds} for c in conditions},
        "power": {c: {k: spread(mean(k, c, "power")) for k in kinds} for c in conditions},
        "published": {
            c: {"paper_mlp_mse": float(mean("published_probe", c, "mlp_mse")),
                "released_linear_mse": float(mean("published_probe", c, "linear_mse"))}
            for c in conditions
        },
    }  # fmt: skip


def specificity(found: Mapping[str, Any], condition: str, module: str, pooling: str) -> list[float]:
    """Layer by layer, self/other distance over name-control distance: 1 means that it is no more than another name."""
    of = found["distance"][condition]
    pairs = zip(of["self_other"][module][pooling], of["name_control"][module][pooling], strict=True)
    return [a / b if b else float("inf") for a, b in pairs]


def propose(found: Mapping[str, Any], module: str, pooling: str, count: int = 3) -> list[int]:
    """Layers at which self and other differ most beyond what another name alone does, in the baseline."""
    of = found["distance"]["baseline"]
    pairs = zip(of["self_other"][module][pooling], of["name_control"][module][pooling], strict=True)
    excess = [a - b for a, b in pairs]
    best = sorted(range(len(excess)), key=lambda layer: -excess[layer])[:count]
    return sorted(layer for layer in best if excess[layer] > 0)


def at_site(found: Mapping[str, Any], layer: int, module: str, pooling: str) -> dict[str, float]:
    """The site after training relative to the base model: 1 = as there; `variation` and `unrelated` near 0 = collapsed."""

    def ratio(key: str, kind: str) -> float:
        now, before = (found[key][c][kind][module][pooling][layer] for c in ("adapter", "baseline"))
        return float(now / before) if before else 1.0

    return {
        "self_other": ratio("distance", "self_other"),
        "control_gap": ratio("distance", "name_control"),
        "variation": ratio("distance", "neighbours"),
        "unrelated": ratio("distance", "unrelated"),
        "norm": ratio("power", "self_other") ** 0.5,
        "specificity_before": specificity(found, "baseline", module, pooling)[layer],
        "specificity_after": specificity(found, "adapter", module, pooling)[layer],
    }

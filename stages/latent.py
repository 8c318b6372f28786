"""What a model represents of self and other, layer by layer: forward passes only, every layer in one of them.

Distances are mean squared differences over the base model's mean squared activation there, so that layers compare. The
same for pairs of two others (name control), for neighbours (the same scene, other rooms and things) and for unrelated
prompts: a self/other distance means something only beside these. Real tokens only; prompts that training never saw.
Published numbers, on the published probe (arXiv 2412.16325, 26 pairs) and under their own names: its "MLP MSE", and the
2024 release's mean over all linear layers.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stages.adapter import load_adapter
from stages.carry import Packed, packed, unpacked
from stages.model import ModelSettings, SiteModule, decoder, encode, load, load_tokenizer, site
from stages.objective import collate
from stages.overlap import gap, pool
from stages.pairs import PairsSettings
from stages.probes import KINDS, make_probes
from stages.resources import cpu_share
from stages.settings import Settings
from stages.split import own_gpus

MODULES: tuple[SiteModule, ...] = ("o_proj", "mlp", "residual")
POOLINGS: tuple[Literal["last", "mean"], ...] = ("last", "mean")


class LatentSettings(Settings):
    """How the model is looked into."""

    pairs: int = 16
    """Pairs of each kind."""
    after: bool = True
    """Look at the site after training too, against the base model: whether it has collapsed."""
    batch_size: int = 8
    """Pairs of one forward pass."""
    cpus: int | None = None
    """CPUs of the actor, and its threads; none means all."""
    gpus: float = 0
    """GPUs of the actor; the model's layers are split over several."""


class Prober:
    """A Ray Data actor: looks into the model, with and without its adapter."""

    def __init__(
        self, model: ModelSettings, adapter: Path | Packed | None, threads: int | None, gpus: float = 0
    ) -> None:
        torch.set_num_threads(threads or 1)
        self.tokenizer = load_tokenizer(model)
        self.model = load(model, own_gpus(gpus))
        self.conditions = ["baseline"]
        with unpacked(adapter) as folder:
            if folder is not None:
                self.model = load_adapter(self.model, folder, model.name)
                self.conditions.append("adapter")
        self.model.eval()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Probes, of one kind or several -> a row for each and condition: gap and power of every site."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        made: list[dict[str, Any]] = []
        for kind in dict.fromkeys(r["kind"] for r in rows):
            of_kind = [r for r in rows if r["kind"] == kind]
            for condition in self.conditions:
                off = condition == "baseline" and len(self.conditions) > 1
                with self.model.disable_adapter() if off else contextlib.nullcontext():
                    found = self.look(of_kind)
                made += [{"kind": kind, "condition": condition} | f for f in found]
        return {key: [row[key] for row in made] for key in made[0]}

    def look(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One forward pass over both sides of every row."""
        prompts = [
            encode(self.tokenizer, r[side], bool(r["chat"]), r[f"{side}_prefix"])
            for side in ("first", "second") for r in rows
        ]  # fmt: skip
        device = next(self.model.parameters()).device
        ids, mask = (t.to(device) for t in collate(prompts, int(self.tokenizer.pad_token_id)))
        whole = rows[0]["kind"] == "published_probe"
        with torch.inference_mode(), watched(self.model, mask, whole) as seen:
            (self.model if whole else decoder(self.model))(input_ids=ids, use_cache=False)
        sites = [found for _, found in sorted(seen.sites.items())]
        gaps, powers = (torch.stack([found[i] for found in sites], 1).numpy() for i in (0, 1))
        empty = np.zeros(len(rows))
        linear = torch.stack(seen.linear).mean(0).numpy() if whole else empty
        mlp = torch.stack(seen.mlp).mean(0).numpy() if whole else empty
        return [
            {"gap": g, "power": p, "linear_mse": float(li), "mlp_mse": float(m)}
            for g, p, li, m in zip(gaps, powers, linear, mlp, strict=True)
        ]


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


def measure(
    settings: LatentSettings, pairs: PairsSettings, model: ModelSettings, adapter: Path | None, seed: int
) -> dict[str, Any]:
    """Look into the model, and with an adapter into it too; see `reduce` for what comes of it."""
    import ray.data

    probes = [vars(p) for p in make_probes(settings.pairs, pairs, seed)]
    cpus = cpu_share(1, settings.cpus, settings.gpus)
    data = ray.data.from_items(probes, override_num_blocks=1)
    looked = data.map_batches(
        Prober,
        fn_constructor_args=(model, packed(adapter), cpus, settings.gpus),
        batch_size=settings.batch_size,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=cpus,
        num_gpus=settings.gpus or None,
    )
    return reduce(looked.take_all())


def reduce(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of the actor -> distance and power: condition -> kind -> module -> pooling -> a number a layer."""
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

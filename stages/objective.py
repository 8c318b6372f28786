"""One training batch to its loss terms: tokens in, one forward pass, what stages/overlap.py computes of it out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stages import overlap
from stages.adapter import lowest_lora_layer
from stages.below import Below
from stages.forward import Forward, collate
from stages.model import decoder, site
from stages.once import ROOM, Once, fitting
from stages.overlap import DistinctSettings, OverlapSettings, RetainSettings

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Reference:
    """What the base model, adapter off, makes of one row: pooled vectors [n, H] a side, and its next-token log-probs."""

    ours: Tensor
    theirs: Tensor
    log_probs: Tensor | None


@dataclass(frozen=True)
class Pass:
    """One forward pass: activations at the site [B, T, H], mask [B, T], last hidden states [B, T, H] or none."""

    acts: Tensor
    mask: Tensor
    hidden: Tensor | None

    def side(self, start: int, stop: int) -> "Pass":
        """The prompts start..stop of the batch."""
        return Pass(
            self.acts[start:stop], self.mask[start:stop], None if self.hidden is None else self.hidden[start:stop]
        )


def _prompts(rows: Sequence[Row]) -> list[tuple[int, ...]]:
    """The sides of rows, one after another."""
    return [tuple(p) for r in rows for p in (r["self_ids"], r["other_ids"]) if len(p)]


class Objective:
    """The training objective of a PeftModel, with the base model's references of the rows that it was told of."""

    def __init__(
        self,
        model: Any,
        pad_id: int,
        overlap: OverlapSettings,
        retain: RetainSettings,
        distinct: DistinctSettings,
        shortcuts: bool = True,
        room: int | None = ROOM,
    ) -> None:
        self.model, self.pad_id = model, pad_id
        self.overlap, self.retain, self.distinct = overlap, retain, distinct
        self.layer = overlap.layer - overlap.layer_base
        self.site = site(model, self.layer, overlap.module)
        self.head = model.get_base_model().get_output_embeddings()
        self.whole = overlap.objective != "activation_mse" or retain.kl_weight > 0
        self.depth = self.layer + 1 if shortcuts and not self.whole else len(decoder(model).layers)
        counted = overlap.padding == "counted"  # then what stands in the padding matters too
        self.shortcuts = shortcuts and not counted
        self.runner = Forward(model)
        self.below = Below(self.runner, min(lowest_lora_layer(model), self.layer) if self.shortcuts else 0, room)
        self.rows: dict[str, Row] = {}
        self.references: Once[str, Reference] = Once(self._base)
        self.power = torch.tensor(1.0)

    def forward(self, prompts: Sequence[Sequence[int]]) -> Pass:
        """Run the prompts up to the site, or through the whole model where logits are needed or no shortcut is taken."""
        device = next(self.model.parameters()).device
        ids, mask = (t.to(device) for t in collate(prompts, self.pad_id, self.overlap.pad_to))
        start, floor = self.below.inputs(prompts, ids)
        lengths = [len(p) for p in prompts]
        acts, hidden = self.runner.run(start, lengths, self.site, self.depth, floor, self.whole or not self.shortcuts)
        if self.overlap.padding == "counted":
            mask = torch.ones_like(mask)
        place = acts.device  # the model may be split: what is computed from here on is computed here
        return Pass(acts, mask.to(place), hidden.to(place) if self.whole and hidden is not None else None)

    @torch.no_grad()
    def learn_shortcuts(self, rows: Sequence[Row], shared: Path | None = None, model: str = "") -> None:
        """Take of the shortcuts those that give the same at the site on some of `rows`: what does not is left.

        Prompts are laid end to end instead of padded; and what the layers below the adapter make of `rows`, which best come
        in the order of their use, is computed once. An architecture that scales whatever embeddings it is given runs from
        the bottom. In the folder `shared` it is kept for other trainings of the same `model` on the same rows, as a sweep's
        trials are.
        """
        prompts = _prompts(rows)
        if not self.shortcuts or not prompts:
            return
        by_length = sorted(prompts, key=len)
        if self.overlap.pad_to is None:
            several = [by_length[-1], by_length[0], by_length[len(prompts) // 2]]
            ids = collate(several, self.pad_id)[0].to(next(self.model.parameters()).device)
            self.runner.learn_end_to_end(ids, [len(p) for p in several], self.site, self.depth)
        self.below.learn(prompts, lambda shortest: self.forward(shortest).acts, shared, model)

    def learn_base(self, rows: Sequence[Row], power_rows: Sequence[Row]) -> None:
        """Take the base model's activation power over both sides of `power_rows`, and hear of which `rows` its vectors will
        be needed: best in the order of their use, since they are computed when they are needed.
        """
        self.rows |= {row["pair_id"]: row for row in (*power_rows, *rows)}
        found = self._base([row["pair_id"] for row in power_rows])
        if found:
            self.power = torch.stack([overlap.power(side) for r in found for side in (r.ours, r.theirs)]).mean()
        self.references.name(fitting((row["pair_id"] for row in rows), self._size, self.below.room))

    def _size(self, row: str) -> int:
        """Bytes, at most, of what the base model makes of a row."""
        sides = [len(self.rows[row][side]) for side in ("self_ids", "other_ids")]
        vectors = sum(map(bool, sides)) if self.overlap.pooling in ("last", "mean") else sum(sides)
        words = self.head.weight.shape[0] if self.retain.kl_weight else 0
        return 4 * (vectors * int(decoder(self.model).config.hidden_size) + words)

    def prepare(self, rows: Sequence[Row]) -> None:
        """Compute what a step on these rows takes from the base model, as far as that is kept and was not done yet."""
        if self.below.floor:
            self.below.kept.ready(_prompts(rows))
        self.rows |= {r["pair_id"]: r for r in rows}
        self.references.ready(r["pair_id"] for r in rows if r["kind"] != "overlap")

    @torch.no_grad()
    def _base(self, ids: Sequence[str]) -> list[Reference]:
        """What the base model makes of rows."""
        if not ids:
            return []
        with self.model.disable_adapter():
            return self._observe([self.rows[i] for i in ids])

    def _observe(self, rows: Sequence[Row]) -> list[Reference]:
        """Site vectors of each row's sides, and the log-probs behind its last token if the KL term wants them."""
        paired = [len(r["other_ids"]) > 0 for r in rows]
        seen = self.forward([*(r["self_ids"] for r in rows), *(r["other_ids"] for r in rows if len(r["other_ids"]))])
        vectors = [
            overlap.pool(seen.acts[i : i + 1], seen.mask[i : i + 1], self.overlap.pooling)
            for i in range(len(seen.acts))
        ]
        log_probs = self._next_words(seen) if self.retain.kl_weight else None
        found, other = [], len(rows)
        for i, is_pair in enumerate(paired):
            theirs = vectors[other] if is_pair else vectors[i][:0]
            other += is_pair
            found.append(Reference(vectors[i], theirs, None if log_probs is None else log_probs[i]))
        return found

    def _next_words(self, seen: Pass) -> Tensor:
        """Log-probabilities of the token behind each prompt's last, [B, V]."""
        assert seen.hidden is not None
        return self._logits(overlap.pool(seen.hidden, seen.mask, "last")).float().log_softmax(-1)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(hidden.to(self.head.weight))
        return logits.to(hidden.device)

    def terms(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The unweighted terms of a batch, and `loss`, their weighted sum. All scalars."""
        self.prepare(rows)
        pairs = [r for r in rows if r["kind"] == "overlap"]
        kept = [r for r in rows if r["kind"] == "retain"]
        controls = [r for r in rows if r["kind"] == "name_control"]
        n, k, c = len(pairs), len(kept), len(controls)
        seen = self.forward(
            [r["self_ids"] for r in [*pairs]] + [r["other_ids"] for r in pairs] + [r["self_ids"] for r in kept]
            + [r["self_ids"] for r in controls] + [r["other_ids"] for r in controls]
        )  # fmt: skip
        name = "next_token" if self.overlap.objective == "next_token" else "overlap"
        found = {name: self._overlap(pairs, seen.side(0, n), seen.side(n, 2 * n))}
        loss = self.overlap.weight * found[name]
        if kept:
            found |= self._retain(kept, seen.side(2 * n, 2 * n + k))
            loss = loss + self.retain.weight * found["retain"] + self.retain.kl_weight * found.get("retain_kl", 0.0)
        if controls:
            ours, theirs = seen.side(2 * n + k, 2 * n + k + c), seen.side(2 * n + k + c, 2 * n + k + 2 * c)
            found["distinct"] = self._distinct(controls, ours, theirs)
            loss = loss + self.distinct.weight * found["distinct"]
        return {"loss": loss, **found}

    def _next_token(self, prompts: Sequence[Sequence[int]], hidden: Tensor) -> Tensor:
        """Language modelling of the prompts, over their real tokens. hidden [B, T, H] of the last layer."""
        ids, mask = (t.to(hidden.device) for t in collate(prompts, self.pad_id, hidden.shape[1]))
        following = mask[:, 1:].bool()
        return overlap.next_token(self._logits(hidden[:, :-1][following]), ids[:, 1:][following])

    def _overlap(self, pairs: Sequence[Row], ours: Pass, theirs: Pass) -> Tensor:
        if self.overlap.objective == "next_token":
            assert ours.hidden is not None
            assert theirs.hidden is not None
            prompts = [*(r["self_ids"] for r in pairs), *(r["other_ids"] for r in pairs)]
            return self._next_token(prompts, torch.cat([ours.hidden, theirs.hidden]))
        if self.overlap.objective == "logit_kl":
            assert ours.hidden is not None
            assert theirs.hidden is not None
            a, b = overlap.hold(self._logits(ours.hidden), self._logits(theirs.hidden), self.overlap.stop_gradient)
            return overlap.logit_kl(a, b, ours.mask, theirs.mask)
        a, b = overlap.hold(ours.acts, theirs.acts, self.overlap.stop_gradient)
        aligned = [(list(r["self_aligned"]), list(r["other_aligned"])) for r in pairs]
        distance = overlap.overlap_mse(a, b, ours.mask, theirs.mask, self.overlap.pooling, aligned)
        return distance / self.power if self.overlap.relative else distance

    def _retain(self, kept: Sequence[Row], seen: Pass) -> dict[str, Tensor]:
        base = self.references([r["pair_id"] for r in kept])
        now = overlap.pool(seen.acts, seen.mask, self.overlap.pooling)
        found = {"retain": F.mse_loss(now, torch.cat([b.ours for b in base])) / self.power}
        if self.retain.kl_weight:
            before = torch.stack([b.log_probs for b in base if b.log_probs is not None])
            found["retain_kl"] = F.kl_div(self._next_words(seen), before, reduction="batchmean", log_target=True)
        return found

    def _distinct(self, controls: Sequence[Row], ours: Pass, theirs: Pass) -> Tensor:
        """Over name-control pairs and neighbouring prompts. Pooled by mean where the pooling keeps every token."""
        base = self.references([r["pair_id"] for r in controls])
        how = self.overlap.pooling if self.overlap.pooling in ("last", "mean") else "mean"
        a, b = overlap.pool(ours.acts, ours.mask, how), overlap.pool(theirs.acts, theirs.mask, how)
        base_a, base_b = (torch.stack([t.float().mean(0) for t in side]) for side in
                          ([r.ours for r in base], [r.theirs for r in base]))  # fmt: skip
        even = len(controls) // 2 * 2
        return overlap.distinct_loss(
            torch.cat([a, a[0:even:2]]), torch.cat([b, a[1:even:2]]),
            torch.cat([base_a, base_a[0:even:2]]), torch.cat([base_b, base_a[1:even:2]]),
        )  # fmt: skip

    @torch.no_grad()
    def monitor(self, controls: Sequence[Row]) -> dict[str, float]:
        """The site on name-control pairs against the base model: 1 = as in the base, near 0 = collapsed."""
        self.model.eval()  # without dropout; a training step goes back to training mode itself
        now, base = self._observe(controls), self.references([r["pair_id"] for r in controls])

        def measures(found: Sequence[Reference]) -> dict[str, Tensor]:
            ours, theirs = (torch.stack([t.float().mean(0) for t in s]) for s in
                            ([f.ours for f in found], [f.theirs for f in found]))  # fmt: skip
            return {
                "control_gap": overlap.gap(ours, theirs).mean(),
                "norm": overlap.power(ours).sqrt(),
                "variation": overlap.variation(ours),
            }

        before = measures(base)
        return {key: float(value / before[key]) for key, value in measures(now).items()}

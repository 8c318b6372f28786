"""The layers below the lowest one that carries LoRA: what they make of a prompt never changes, so it is computed once."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.model import decoder, tap, truncated

BATCH = 16


class Below:
    """Hidden states [T, H] that enter layer `floor`, kept by prompt. With floor 0 there is nothing to keep."""

    def __init__(self, model: Any, floor: int) -> None:
        self.model, self.floor = model, floor
        self.kept: dict[tuple[int, ...], Tensor] = {}

    def share(self, prompts: Sequence[Sequence[int]], folder: Path, model: str) -> Path:
        """Keep what is made of `prompts`, with its file in `folder` for later trainings of the same `model` from there."""
        distinct = list(dict.fromkeys(tuple(p) for p in prompts))
        dtype = next(decoder(self.model).parameters()).dtype
        key = hashlib.sha256(repr((model, self.floor, str(dtype), distinct)).encode()).hexdigest()[:16]
        file = folder / f"below-{key}.safetensors"
        if file.exists():
            states = load_file(file, device=str(self.model.device))["states"]
            self.kept = dict(zip(distinct, states.split([len(p) for p in distinct]), strict=True))
            return file
        self.keep(distinct)
        folder.mkdir(parents=True, exist_ok=True)  # on another node than the driver's it is not there yet
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        save_file({"states": torch.cat([self.kept[p] for p in distinct])}, aside)
        aside.rename(file)
        return file

    def keep(self, prompts: Sequence[Sequence[int]]) -> None:
        """Compute what is not there yet, in the given order and in fixed batches: the same to the last bit each time."""
        missing = list(dict.fromkeys(tuple(p) for p in prompts if tuple(p) not in self.kept)) if self.floor else []
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            for prompt, states in zip(part, self._run(part), strict=True):
                self.kept[prompt] = states[: len(prompt)].clone()

    def inputs(self, prompts: Sequence[Sequence[int]], ids: Tensor) -> dict[str, Tensor]:
        """What layer `floor` is to start from: padded ids [B, T] at the bottom, else hidden states [B, T, H]."""
        if not self.floor:
            return {"input_ids": ids}
        self.keep(prompts)
        states = [self.kept[tuple(p)] for p in prompts]
        padded = states[0].new_zeros(*ids.shape, states[0].shape[-1])  # right of a prompt, so no token of it sees them
        for row, kept in zip(padded, states, strict=True):
            row[: len(kept)] = kept
        return {"inputs_embeds": padded}

    @torch.no_grad()
    def _run(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """The output of layer `floor` - 1, [B, T, H]."""
        ids = torch.zeros((len(prompts), max(map(len, prompts))), dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        body = decoder(self.model)
        with tap(body.layers[self.floor - 1]) as entering, truncated(self.model, self.floor):
            body(input_ids=ids.to(next(body.parameters()).device), use_cache=False)
        return entering[0]

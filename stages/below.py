"""The layers below the lowest one that carries LoRA: what they make of a prompt never changes, so it is computed once."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.forward import Forward, collate
from stages.model import decoder
from stages.once import Once, fitting


class Below:
    """Hidden states [T, H] that enter layer `floor`, kept by prompt as far as `room` goes. With floor 0 none are."""

    def __init__(self, forward: Forward, floor: int, room: int | None) -> None:
        self.forward, self.floor, self.room = forward, floor, room
        self.kept: Once[tuple[int, ...], Tensor] = Once(self._run)

    def fit(self, prompts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Those of the prompts, best in the order of their use, that can be kept: others run from the bottom."""
        body = decoder(self.forward.model)
        token = body.config.hidden_size * next(body.parameters()).element_size()
        return fitting(prompts, lambda prompt: len(prompt) * token, self.room)

    def forget(self) -> None:
        """Keep nothing of what was computed so far, as it was only to try."""
        self.kept = Once(self._run)

    def share(self, folder: Path, model: str) -> Path:
        """Keep what is made of the named prompts, with its file in `folder` for later trainings of the same `model`."""
        distinct = list(self.kept.groups)
        dtype = next(decoder(self.forward.model).parameters()).dtype
        key = hashlib.sha256(repr((model, self.floor, str(dtype), distinct)).encode()).hexdigest()[:16]
        file = folder / f"below-{key}.safetensors"
        if file.exists():
            states = load_file(file, device=str(self.forward.model.device))["states"]
            self.kept.values |= zip(distinct, states.split([len(p) for p in distinct]), strict=True)
            return file
        folder.mkdir(parents=True, exist_ok=True)  # on another node than the driver's it is not there yet
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        save_file({"states": torch.cat(self.kept(distinct))}, aside)
        aside.rename(file)
        return file

    def inputs(self, prompts: Sequence[Sequence[int]], ids: Tensor) -> tuple[Tensor, int]:
        """What to start from, and at which layer: padded ids [B, T] at the bottom, else hidden states [B, T, H]."""
        keys = [tuple(p) for p in prompts]
        if not self.floor or any(key not in self.kept.groups for key in keys):
            return ids, 0
        states = self.kept(keys)
        padded = states[0].new_zeros(*ids.shape, states[0].shape[-1])  # right of a prompt, so no token of it sees them
        for row, kept in zip(padded, states, strict=True):
            row[: len(kept)] = kept
        return padded, self.floor

    @torch.no_grad()
    def _run(self, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        """The output of layer `floor` - 1 for each prompt."""
        body = decoder(self.forward.model)
        ids = collate(prompts, 0)[0].to(next(body.parameters()).device)
        lengths = [len(p) for p in prompts]
        states, _ = self.forward.run(ids, lengths, body.layers[self.floor - 1], self.floor)
        return [row[:n].clone() for row, n in zip(states, lengths, strict=True)]

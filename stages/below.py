"""The layers below the lowest one that carries LoRA: what they make of a prompt never changes, so it is computed once."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.forward import Forward, collate, same
from stages.model import decoder
from stages.once import Once, fitting

Prompt = tuple[int, ...]


class Below:
    """Hidden states [T, H] that enter layer `floor`, kept by prompt as far as `room` goes. With floor 0 none are."""

    def __init__(self, forward: Forward, floor: int, room: int | None) -> None:
        self.forward, self.floor, self.room = forward, floor, room
        self.kept: Once[Prompt, Tensor] = Once(self._run)

    def learn(
        self, prompts: Sequence[Prompt], acts: Callable[[list[Prompt]], Tensor], shared: Path | None, model: str
    ) -> None:
        """Keep what is made of `prompts`, best in the order of their use, as many as fit: others run from the bottom.

        So do all if `acts`, the activations [B, T, H] that a pass of some prompts comes to, are not the same both ways. In
        the folder `shared` they are kept for later trainings of the same `model`. Raises RuntimeError if what lies there is
        not the same.
        """
        body, floor = decoder(self.forward.model), self.floor
        token = body.config.hidden_size * next(body.parameters()).element_size()
        fit = fitting(prompts, lambda prompt: len(prompt) * token, self.room)
        shortest = sorted(fit, key=len)[:2]
        if not floor or not shortest:
            return
        lengths = [len(p) for p in shortest]
        straight = acts(shortest)  # nothing is named yet
        self.kept.name(shortest)
        alike = same(acts(shortest), straight, lengths)
        self.forget()
        if not alike:
            self.floor = 0
            return
        self.kept.name(fit)
        if shared is not None:
            file = self.share(shared, model)
            if not same(acts(shortest), straight, lengths):
                self.forget()
                raise RuntimeError(f"{file} is not what this model makes of its prompts: remove it")

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

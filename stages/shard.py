"""FSDP2 over a frozen base, 4-bit or not: each worker holds its share of every layer and gathers one layer at a time.

Not run on a GPU yet; docs/cluster.md has what is known.
"""

from typing import Any

import torch
import torch.distributed
from torch import nn

from stages.forward import truncated
from stages.model import decoder


def shard(model: Any, whole: nn.Module, device: torch.device | str) -> None:
    """Leave this worker its share of every decoder layer's frozen weights, and bring the model to `device`.

    Trained weights stay on every worker, so that a step and a checkpoint are those of plain data parallelism. So does the
    layer `whole`, into which the loss looks: FSDP gathers a layer again only for a gradient that enters at its output.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(torch.device(device).type, (torch.distributed.get_world_size(),))
    for layer in decoder(model).layers:
        layer.to(device)  # one after another: the device never holds two that are not shared out
        if layer is not whole:
            trained = {p for p in layer.parameters() if p.requires_grad}
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    with truncated(model, 0):  # embeddings, head and norms
        model.to(device)

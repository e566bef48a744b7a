"""A small network with the warp behind it, as it is exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnreg.architecture import build_network
from nnreg.inference.torchscript import Registering, example


def registering(ndim: int, name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Network `name` with random weights that move something, and two images of noise that it takes."""
    torch.manual_seed(0)
    stages = {"strides": [(1,) * ndim, (2,) * ndim], "kernel_sizes": [(3,) * ndim] * 2, "features_per_stage": [4, 6], "blocks_per_stage": [1, 1]}
    network = build_network(name, channels=1, ndim=ndim, deep_supervision=False, **stages)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    whole = Registering([network]).eval().requires_grad_(False)
    images = example(2, 1, (9, 12, 10)[:ndim])
    return whole, images

"""Gated MLPs over windows (Tu et al. 2022), several window sizes weighed against each other, as CorrMLP uses them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nnreg.architecture.custom.parts import conv

REDUCTION = 4
SLOPE = 0.2


def channels_last(module: nn.Module, features: Tensor) -> Tensor:
    """A module of the last axis applied to the channels of (B, C, *spatial)."""
    return module(features.movedim(1, -1)).movedim(-1, 1)


class WindowMLP(nn.Module):
    """A gated MLP that mixes the voxels of every window, (B, *spatial, C) to the same.

    Parameters
    ----------
    features
        C.
    window
        Voxels per axis; sizes that it does not divide are padded with zeros at their end.
    """

    def __init__(self, features: int, window: Sequence[int]) -> None:
        super().__init__()
        self.window = tuple(window)
        voxels = prod(self.window)
        self.norm, self.gate_norm = nn.LayerNorm(features), nn.LayerNorm(features)
        self.widen, self.narrow = nn.Linear(features, 2 * features), nn.Linear(features, features)
        self.mix = nn.Linear(voxels, voxels)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape."""
        shape = features.shape[1:-1]
        padding = [side for size, unit in zip(reversed(shape), reversed(self.window)) for side in (0, -size % unit)]
        padded = nnf.pad(features, [0, 0, *padding])
        windows = self._split(padded)
        value, gate = nnf.gelu(self.widen(self.norm(windows))).chunk(2, dim=-1)
        gate = self.mix(self.gate_norm(gate).transpose(-1, -2)).transpose(-1, -2)
        joined = self._joined(self.narrow(value * (gate + 1)) + windows, padded.shape)
        return joined[(slice(None), *(slice(0, size) for size in shape))]

    def _split(self, features: Tensor) -> Tensor:
        """(B, *spatial, C) to (B, windows, voxels, C)."""
        ndim = len(self.window)
        for axis, unit in enumerate(self.window):
            features = features.unflatten(1 + 2 * axis, (-1, unit))  # a count of windows, then the place within
        order = [0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1]
        return features.permute(order).flatten(1, ndim).flatten(2, ndim + 1)

    def _joined(self, windows: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of `_split`."""
        ndim = len(self.window)
        counts = [size // unit for size, unit in zip(shape[1:-1], self.window)]
        features = windows.unflatten(2, self.window).unflatten(1, counts)
        order = [0, *(place for axis in range(ndim) for place in (1 + axis, 1 + ndim + axis)), 2 * ndim + 1]
        features = features.permute(order)
        for axis in range(ndim):
            features = features.flatten(1 + axis, 2 + axis)
        return features


class MultiWindowMLP(nn.Module):
    """Window MLPs side by side, weighed per channel by what they return on average, then convolutions with channel attention."""

    def __init__(self, ndim: int, features: int, windows: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.branches = nn.ModuleList(WindowMLP(features, window) for window in windows)
        narrow = max(1, features // REDUCTION)
        self.weigh = nn.Sequential(nn.Linear(features, narrow), nn.GELU(), nn.Linear(narrow, len(windows) * features))
        self.project = nn.Linear(features, features)
        self.convolution_norm = nn.LayerNorm(features)
        self.convolutions = nn.Sequential(conv(ndim, features, features), nn.LeakyReLU(SLOPE), conv(ndim, features, features))
        self.attention = nn.Sequential(conv(ndim, features, narrow, 1), nn.ReLU(), conv(ndim, narrow, features, 1), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *spatial) to the same."""
        last = features.movedim(1, -1)
        normed = self.norm(last)
        mixed = [branch(normed) for branch in self.branches]
        mean = torch.stack(mixed).sum(dim=0).flatten(1, -2).mean(dim=1)
        shares = self.weigh(mean).unflatten(1, (-1, len(mixed))).softmax(dim=-1)  # (B, C, branches)
        ones = (1,) * (features.ndim - 2)
        weighed = sum(branch * shares[..., index].reshape(shares.shape[0], *ones, -1) for index, branch in enumerate(mixed))
        last = self.project(weighed) + last
        convolved = self.convolutions(self.convolution_norm(last).movedim(-1, 1))
        weights = self.attention(convolved.mean(dim=tuple(range(2, convolved.ndim)), keepdim=True))
        return convolved * weights + last.movedim(-1, 1)

"""Sums and means over the processes (ranks) of a distributed training, each of which holds a part of the batch. In one process nothing happens here.

A loss may say ``splits_over_ranks``: True if the mean over ranks of the losses of their parts, weighted by their samples, is the loss of the whole batch; False
if it is not; None if its parts decide. One that says nothing is not known to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

_whole: ContextVar[bool] = ContextVar("whole_batches", default=False)


@contextlib.contextmanager
def whole_batches() -> Iterator[None]:
    """Within, a batch is whole and this rank's alone, as in a validation whose batches are shared out."""
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def is_shared() -> bool:
    """Whether the batch is one of several parts."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1 and not _whole.get()


def over_ranks(*sums: Tensor) -> Sequence[Tensor]:
    """Sums over all ranks, with gradient."""
    return [_Summed.apply(values) for values in sums] if is_shared() else sums


class _Summed(torch.autograd.Function):
    """A sum over ranks. What each rank makes of it depends on every part: gradients are summed in their turn."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total: Tensor = _Summed.apply(gradients[0])
        return total


def mean_over_ranks(mean: Tensor, count: Tensor | int) -> Tensor:
    """The mean over all ranks of what `mean` (a scalar) is the mean of here, over `count` things; a plain number is the same for every sample."""
    if isinstance(count, int) or not is_shared():
        return mean
    number = count.detach().to(mean.dtype)
    (both,) = over_ranks(torch.stack([mean * number, number]))
    return both[0] / both[1].detach().clamp(min=torch.finfo(mean.dtype).tiny)


def unsplittable(loss: Any) -> list[str]:
    """Names of what in a loss, or a sum of losses, is not known to split over ranks."""
    splits = getattr(loss, "splits_over_ranks", None if isinstance(loss, (nn.ModuleList, nn.ModuleDict)) else False)
    if splits is None:
        return [name for part in loss.children() for name in unsplittable(part)]
    return [] if splits else [getattr(loss, "__name__", type(loss).__name__)]

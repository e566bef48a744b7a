"""Batches of samples that depend on (seed, split, index) alone, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nnreg.errors import ConfigurationError, NnRegError, TrainingError
from nnreg.parallel import SPAWN, is_out_of_memory


class EpochSampler(Sampler[int]):
    """The consecutive indices of one epoch; a resumed training continues where the killed one would have been."""

    def __init__(self, per_epoch: int) -> None:
        self.per_epoch = per_epoch
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * self.per_epoch, (self.epoch + 1) * self.per_epoch))

    def __len__(self) -> int:
        return self.per_epoch


class SharedSampler(EpochSampler):
    """Those indices of an epoch that one of several processes takes: of the `chosen` batches the samples in `part`."""

    def __init__(self, batch_size: int, batches: int, *, chosen: range, part: range) -> None:
        super().__init__(batch_size * batches)
        self.batch_size, self.chosen, self.part = batch_size, chosen, part

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.per_epoch
        return iter([first + batch * self.batch_size + sample for batch in self.chosen for sample in self.part])

    def __len__(self) -> int:
        return len(self.chosen) * len(self.part)


def build_loader(
    dataset: Dataset[dict[str, Tensor]], *, batch_size: int, batches: int, workers: int, pin_memory: bool, sampler: EpochSampler | None = None
) -> DataLoader[Any]:
    """A loader of `batches` batches per epoch, or of what `sampler` takes of them; set ``loader.sampler.epoch`` before each."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler or EpochSampler(batch_size * batches),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        multiprocessing_context=SPAWN if workers > 0 else None,
        collate_fn=collate,
    )


def told_by_workers(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader, with the failures of its workers in one line.

    Raises
    ------
    NnRegError
        A worker's own.
    TrainingError
        If a worker was killed, or memory was not enough.
    """
    try:
        yield from loader
    except NnRegError as error:
        # torch puts the worker's traceback before the message
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) if str(error).startswith("Caught ") else error from error
    except (RuntimeError, MemoryError) as error:
        if "DataLoader worker" not in str(error) and not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        raise TrainingError(
            f"a process that loads data ended ({reason}). The system kills one when memory runs out: use fewer (--num_workers 0) and go on with -c."
        ) from error


def keep_resident(samples: Dataset[dict[str, Tensor]], device: torch.device) -> None:
    """Let samples keep their cases on the device, where they are augmented too.

    Raises
    ------
    ConfigurationError
        If they cannot.
    """
    keep = getattr(samples, "keep_on", None)
    if keep is None:
        raise ConfigurationError(
            f"gpu.resident: {type(samples).__name__} cannot be kept on a device, only whole cases of registration can. Leave gpu.resident out."
        )
    keep(device)


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the entries that every sample has; entries of different length (keypoints) only fit a batch of one."""
    shared = [name for name in samples[0] if all(name in sample and sample[name].shape == samples[0][name].shape for sample in samples)]
    return {name: torch.stack([sample[name] for sample in samples]) for name in shared}


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on `device`; copies from pinned memory do not block."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

"""One training by several processes (ranks), each with its part of every batch, by torch's DistributedDataParallel.

Losses and weights are those of one process with the same batches: a rank takes its samples by their index, losses take their sums over all ranks
(:mod:`nnreg.losses.ranks`), validation batches are shared out and their figures put together in order.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nnreg.devices import device_named
from nnreg.errors import ConfigurationError, TrainingError
from nnreg.training.dataloading.loaders import EpochSampler, SharedSampler
from nnreg.training.runtime_utils.reading import read_terms

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # that torchrun sets
SILENCE = timedelta(minutes=30)  # a process that is alive and says nothing for so long hangs
LONGEST_VALIDATION = timedelta(days=7)  # the others wait for the first
BREAKS = ("gloo", "connection", "nccl", "timed out", "socket")  # in messages about a process that cannot be reached


class LostProcessError(TrainingError):
    """Another process of the training cannot be reached: it ended, or hangs."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, as one of them sees them.

    Attributes
    ----------
    rank, size : its number, and how many there are
    local_rank, local_size : on this host
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of_environment(cls) -> Ranks:
        """As torchrun says it, or ``nnreg_train -num_gpus``; one process where nobody says anything.

        Raises
        ------
        ConfigurationError
            If a variable is no number.
        """
        if any(name not in os.environ for name in VARIABLES):
            return ALONE
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        try:
            rank, size, local_rank, local_size = (int(os.environ.get(name, os.environ["WORLD_SIZE"])) for name in names)
        except ValueError as error:
            raise ConfigurationError(f"RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE must be numbers: {error}. Start with torchrun.") from error
        return cls(rank, size, local_rank, local_size)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this process: a GPU each, or processors.

        Raises
        ------
        ConfigurationError
            If there are not as many, or torch was built without what joins them.
        """
        if self.size == 1:
            return device_named(name)
        check_devices(name, self.local_size)
        return torch.device("cpu") if name == "cpu" else torch.device("cuda", self.local_rank)

    def part(self, batch_size: int) -> range:
        """Which samples of a batch are this rank's. Parts differ by one sample at most."""
        return range(self.rank * batch_size // self.size, (self.rank + 1) * batch_size // self.size)

    def shares(self, batch_size: int, batches: int, *, whole: bool) -> tuple[int, EpochSampler]:
        """Samples per step of this rank, and their indices: a part of every batch, or every size-th batch as a `whole`."""
        if whole:
            return batch_size, SharedSampler(batch_size, batches, chosen=range(self.rank, batches, self.size), part=range(batch_size))
        part = self.part(batch_size)
        return len(part), SharedSampler(batch_size, batches, chosen=range(batches), part=part)

    # -- what follows is said to the other processes, and heard of them -------------------------------------------------------------

    def connect(self, device: torch.device) -> None:
        """Join the other processes; waits for them."""
        if self.size == 1 or is_joined():
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # figures go by gloo, from processor to processor, wherever gradients go
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        distributed.init_process_group(backend, rank=self.rank, world_size=self.size, timeout=SILENCE)

    def gathered(self, value: Any) -> list[Any]:
        """What each rank gives, by rank."""
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def agreed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The entries that every part of a batch has, as a batch keeps those that every sample has."""
        shapes = {name: tuple(value.shape[1:]) for name, value in batch.items()}
        others = self.gathered(shapes)
        return {name: value for name, value in batch.items() if all(other.get(name) == shapes[name] for other in others)}

    def averaged(self, terms: Sequence[Mapping[str, Tensor]], batch_size: int) -> list[dict[str, Tensor]]:
        """Of each training step the means over ranks, weighted by their samples."""
        weight = len(self.part(batch_size)) / batch_size
        parts = self.gathered([{name: value * weight for name, value in step.items()} for step in read_terms(terms)])
        return [{name: torch.tensor(sum(step[name] for step in steps), dtype=torch.float64) for name in steps[0]} for steps in zip(*parts, strict=True)]

    def in_order(self, terms: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Of all validation batches what was found, in the order of their index."""
        parts = self.gathered([{name: value.detach().cpu() for name, value in step.items()} for step in terms])
        return [parts[index % self.size][index // self.size] for index in range(sum(map(len, parts)))]

    def check_same(self, what: str, value: Any) -> None:
        """Raise a TrainingError unless every rank has the same value."""
        found = self.gathered(value)
        if any(other != found[0] for other in found):
            raise TrainingError(f"the processes do not have the same {what}: {', '.join(map(str, found))}. Give all hosts the same folders and versions.")

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """What the first process does within, the others wait for."""
        group = distributed.new_group(backend="gloo", timeout=LONGEST_VALIDATION) if self.size > 1 else None
        yield
        if group is not None:
            distributed.barrier(group=group)


ALONE = Ranks()


def is_joined() -> bool:
    """Whether this process has found the others."""
    return distributed.is_available() and distributed.is_initialized()


class Replica:
    """Network and objective of a rank: called with its part of a batch, it gives loss and terms, and backward shares the gradients.

    Parameters
    ----------
    ranks
        Connected.
    network, objective
        What is trained.
    batch_size
        Of all ranks together.
    """

    def __init__(self, ranks: Ranks, network: nn.Module, objective: Callable[..., Any], batch_size: int) -> None:
        self.ranks = ranks
        self.scored = _Scored(network, objective, len(ranks.part(batch_size)) * ranks.size / batch_size)
        self.shared: DistributedDataParallel | None = None

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and detached terms of this rank's part."""
        here = self.ranks.agreed(batch)
        if self.shared is None:
            self.shared = self._wrapped(here)
        found: tuple[Tensor, dict[str, Tensor]] = self.shared(here)
        return found

    def _wrapped(self, batch: dict[str, Tensor]) -> DistributedDataParallel:
        """The step with its gradients shared. Where a first loss reaches every parameter, nobody looks in every step for those that it does not."""
        gpus = {value.device.index for value in batch.values() if value.device.type == "cuda"}
        with torch.random.fork_rng(devices=gpus):  # what the first step draws is drawn by it
            loss, _ = self.scored(batch)
        reached = _reached(loss)
        unused = any(parameter.requires_grad and id(parameter) not in reached for parameter in self.scored.parameters())
        anywhere = any(self.ranks.gathered(unused))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer versions of torch have another name for broadcast_buffers
            return DistributedDataParallel(self.scored, find_unused_parameters=anywhere, broadcast_buffers=False)


def _reached(loss: Tensor) -> set[int]:
    """The ``id`` of every parameter that has a gradient of a loss: they stand at the ends of its graph."""
    waiting, seen, found = [loss.grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.add(id(getattr(node, "variable", None)))
        waiting += [further for further, _ in node.next_functions]
    return found


class _Scored(nn.Module):
    """The whole step of a rank as one module: an objective may call the network more than once, and any of its methods."""

    def __init__(self, network: nn.Module, objective: Callable[..., Any], weight: float) -> None:
        super().__init__()
        self.network, self.objective, self.weight = network, objective, weight

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss, whose gradient counts by the rank's share of the samples, and terms."""
        loss, terms = self.objective(self.network, batch)
        if self.weight != 1:  # the value stays
            loss = loss + (self.weight - 1) * (loss - loss.detach())
        return loss, terms


def check_devices(name: str, processes: int) -> None:
    """Refuse what `processes` processes of one host cannot share.

    Raises
    ------
    ConfigurationError
        More processes than GPUs, a device that only one process can have, or a torch without gloo or NCCL.
    """
    kind = "cuda" if name == "auto" else name
    if kind not in ("cpu", "cuda"):
        raise ConfigurationError(f"-device {name}: several processes train on GPUs, one each, or on processors. Use -device cuda or -device cpu.")
    if not (distributed.is_available() and distributed.is_gloo_available()):
        raise ConfigurationError("this torch was built without gloo, by which processes talk. Train with one process, or install another build of torch.")
    if kind == "cuda" and processes > torch.cuda.device_count():
        raise ConfigurationError(
            f"{processes} processes need {processes} GPUs, torch sees {torch.cuda.device_count()} here. "
            "Lower their number, or train on processors with -device cpu."
        )
    if kind == "cuda" and not distributed.is_nccl_available():
        raise ConfigurationError("this torch was built without NCCL, by which GPUs share gradients. Train with one process, or install a build that has it.")


@contextlib.contextmanager
def left_in_order(ranks: Ranks) -> Iterator[None]:
    """Around what several processes do together; nothing of one.

    Raises
    ------
    LostProcessError
        If another process ended or hangs.
    """
    if ranks.size == 1:
        yield
        return
    with told():
        yield
    distributed.destroy_process_group()


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Say in a line that another process is lost.

    Raises
    ------
    LostProcessError
        In place of what torch raises.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in BREAKS):
            raise
        reason = str(error).splitlines()[0][-120:]
        raise LostProcessError(f"another process of the training cannot be reached ({reason}). Look at its message; go on with -c.") from error

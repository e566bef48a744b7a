"""Memory of a training step, found without allocating any: the network runs on torch's meta device, which has shapes and no numbers.

A closed form per network would drift from its code, and nobody would write one for a network of their own. Here every tensor that torch
would make in a forward and backward pass is counted while it lives, whatever the network, gradient checkpointing included.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnreg.architecture.backbone import DenseNetwork
from nnreg.errors import ConfigurationError

GB = 1024**3
KEPT_COPIES = 3  # the weights and Adam's two moments
FIXED_GB = 0.2  # libraries, as nnreg.planning.memory has it
# they work in a layout of their own: what they read and return is copied while they do (oneDNN; cuDNN takes about as much)
CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
BLOCK = 16  # channels of such a copy come in blocks of so many, the last one filled up: a copy of few features is several times as large as they


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one training step.

    Attributes
    ----------
    passes
        Largest sum of what lives at one time in a forward and backward pass, gradients of the weights included, the weights themselves not.
    parameters
        Number of weights.
    outputs
        Spatial shape of everything the network returns.
    """

    passes: int
    parameters: int
    outputs: tuple[tuple[int, ...], ...]

    @property
    def gb(self) -> float:
        """Peak of the step in GB (2^30 bytes): both passes, the weights, two moments of Adam, and what the libraries take."""
        return (self.passes + 4 * KEPT_COPIES * self.parameters) / GB + FIXED_GB


class _Living(TorchDispatchMode):
    """Counts the bytes of storages from the operation that makes them to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self.now = self.peak = 0

    def ignore(self, tensor: Tensor) -> None:
        """Not to be counted: it was there before."""
        self.known.add(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        if func in CONVOLUTIONS:
            # the backward pass has what it reads as copies, or the gradient it returns in the place of the input, not both
            copies = sum(_copied(leaf) for leaf in (*args, result) if isinstance(leaf, Tensor))
            self.peak = max(self.peak, self.now + copies)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self.known:
            return
        size = storage.nbytes()
        self.known.add(storage)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


class _Attention(torch.autograd.Function):
    """Attention as fused kernels keep it: what comes in and what goes out, no matrix of all pairs of tokens."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """An empty tensor of the result's shape."""
        result = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, *_gradient: Any) -> tuple[Tensor, ...]:
        """Empty gradients."""
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


class _Fused(TorchFunctionMode):
    """On the meta device torch takes attention apart; processors and GPUs have one kernel for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _Attention.apply(*args[:3], *(named[name] for name in ("query", "key", "value")[len(args) :]))
        return func(*args, **named)


def _copied(tensor: Tensor) -> int:
    """Bytes of a convolution's copy of what it reads or returns."""
    size = tensor.numel() * tensor.element_size()
    channels = tensor.shape[1] if tensor.ndim > 2 else 1
    # one to three channels, an image's, are read as they are
    return size if channels <= 3 else size // channels * math.ceil(channels / BLOCK) * BLOCK


def without_numbers(build: Callable[[], nn.Module]) -> nn.Module:
    """The network that `build` makes, on the meta device; its weights are allocated only where its constructor computes with tensors."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError):
        return build().to("meta")


def training_memory(build: Callable[[], nn.Module], shape: Sequence[int], *, channels: int, batch_size: int = 1) -> TrainingMemory | None:
    """Memory of one training step of the registration network that `build` makes, nothing allocated.

    Parameters
    ----------
    build
        Makes the network.
    shape, channels, batch_size
        Of the images.

    Returns
    -------
    TrainingMemory or None
        None if the network's course depends on the numbers it computes, so that it cannot run without them.

    Raises
    ------
    ConfigurationError
        If images of that shape are too small for the network: one voxel of its deepest map spans twice their size or more.
    """
    images = {name: torch.empty(batch_size, channels, *shape, device="meta") for name in ("fixed", "moving")}
    return _measured(without_numbers(build).train(), images, shape)


def dense_training_memory(build: Callable[[], nn.Module], shape: Sequence[int], *, channels: int, batch_size: int = 1) -> TrainingMemory | None:
    """As :func:`training_memory`, of a network that is called with one image and returns logits."""
    return _measured(without_numbers(build).train(), torch.empty(batch_size, channels, *shape, device="meta"), shape)


def _all_decoded(network: nn.Module, images: Any) -> tuple[Any, Any]:
    """Logits, and the maps of further decoders, if the network has such."""
    if isinstance(network, DenseNetwork) and len(network.decoders):
        return network.with_auxiliary(images)
    return network(images), None


def _check_depth(network: nn.Module, shape: Sequence[int]) -> None:
    """A network takes any image, for one small case must not stop a prediction; to train on padding for the most part is a mistake."""
    stride = getattr(network, "coarsest_stride", None)
    if stride is not None and all(2 * size <= step for size, step in zip(shape, stride)):
        raise ConfigurationError(
            f"network {type(network).__name__} cannot work on images of {'x'.join(map(str, shape))} voxels: one of its deepest map stands for "
            f"{'x'.join(map(str, stride))}. Use fewer stages, or a larger grid or patch."
        )


def _measured(network: nn.Module, images: Any, shape: Sequence[int]) -> TrainingMemory | None:
    _check_depth(network, shape)
    living = _Living()
    for tensor in (*network.parameters(), *network.buffers(), *tree_leaves(images)):
        living.ignore(tensor)
    try:
        with torch.device("meta"), _Fused(), living:
            outputs, further = (network(**images), None) if isinstance(images, dict) else _all_decoded(network, images)
            total = sum(output.float().square().sum() for output in tree_leaves([outputs, further] if further else outputs))
            total.backward()
    except (ValueError, RuntimeError, NotImplementedError) as error:
        if "meta tensor" in str(error):
            return None
        raise ConfigurationError(
            f"network {type(network).__name__} cannot work on images of {'x'.join(map(str, shape))} voxels: {str(error).splitlines()[0]} "
            "Use fewer stages, or a larger grid or patch."
        ) from error
    weights = sum(parameter.numel() for parameter in network.parameters())
    return TrainingMemory(living.peak, weights, tuple(tuple(output.shape[2:]) for output in tree_leaves(outputs)))

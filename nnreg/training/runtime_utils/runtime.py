"""Devices, precision and random states of a run."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nnreg.errors import ConfigurationError, TrainingError
from nnreg.planning.training_options import Precision

FIRST_WITH_BF16 = (8, 0)  # compute capability


def autocast_type(device: torch.device, precision: Precision = "auto") -> torch.dtype | None:
    """The half precision of a training, None for full precision.

    Parameters
    ----------
    device
    precision
        ``auto``: bfloat16 on a GPU that has it, float16 on other CUDA devices, full precision elsewhere. ``bf16`` and ``fp16`` ask for one.

    Raises
    ------
    ConfigurationError
        For float16 anywhere but on CUDA: without a gradient scaler, which is CUDA's, gradients vanish.
    """
    if precision == "off" or (precision == "auto" and device.type != "cuda"):
        return None
    if precision == "fp16" and device.type != "cuda":
        raise ConfigurationError(f"mixed_precision is fp16, which needs CUDA, the device is {device.type}. Use bf16, auto or off.")
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and has_bf16(device)) else torch.float16


def has_bf16(device: torch.device) -> bool:
    """Whether a CUDA device computes in bfloat16 itself: from compute capability 8.0 (Ampere) on, and AMD's. Older ones emulate it, slower than float32."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= FIRST_WITH_BF16


@contextlib.contextmanager
def fastest_convolutions(device: torch.device, deterministic: bool = False) -> Iterator[None]:
    """On CUDA, while inside, cuDNN tries its algorithms on every new shape and keeps the fastest: worth it where shapes stay. Not where bits must."""
    if device.type != "cuda" or deterministic:
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def channels_last(network: torch.nn.Module) -> None:
    """Keep the weights of convolutions with their channels side by side in memory; the features that they make follow."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters():
        if weight.ndim in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.ndim])


def autocast(device: torch.device, precision: Precision = "auto") -> contextlib.AbstractContextManager[Any]:
    """Mixed precision as :func:`autocast_type` chooses it."""
    dtype = autocast_type(device, precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def prediction_precision(device: torch.device, trained: Precision) -> Precision:
    """Precision of a prediction with what was trained in `trained`: full stays full, float16 stays float16, where the device has it."""
    if trained == "fp16":
        return "fp16" if device.type == "cuda" else "off"
    return "off" if trained == "off" else "auto"


def needs_scaler(device: torch.device, precision: Precision = "auto") -> bool:
    """Whether gradients underflow without scaling (float16)."""
    return autocast_type(device, precision) is torch.float16


@contextlib.contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Only algorithms that give the same bits again, while inside.

    Raises
    ------
    TrainingError
        If torch has no such algorithm for something the training does.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when the first CUDA context is made
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise TrainingError(f"deterministic: {str(error).splitlines()[0]} Train on a CPU, or without --set deterministic=true.") from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def seed_everything(seed: int) -> None:
    """Seed every generator that a training may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party augmentations draw from the global generator
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Random states as tensors and plain values, for a checkpoint."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """The inverse of :func:`random_state`."""
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])

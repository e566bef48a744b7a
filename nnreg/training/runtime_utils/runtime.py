"""Devices, precision and random states of a run."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import numpy as np
import torch

from nnreg.errors import ConfigurationError


def device_named(name: str) -> torch.device:
    """The device, proved to be there.

    Parameters
    ----------
    name
        ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto`` (a GPU if there is one).

    Raises
    ------
    ConfigurationError
        If the name is no device or the machine has none of the kind.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"-device {name!r} is no device. Use cpu, cuda, cuda:1 or mps.") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigurationError(
            f"-device {name}: torch sees {torch.cuda.device_count()} CUDA devices here. Use -device cpu, or install a CUDA build of torch."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigurationError("-device mps: torch sees no Apple GPU here. Use -device cpu.")
    return device


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision on CUDA (bfloat16 where the GPU has it, else float16 with a gradient scaler); nothing elsewhere."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.autocast("cuda", dtype=torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)


def needs_scaler(device: torch.device) -> bool:
    """Whether gradients underflow without scaling (float16)."""
    return device.type == "cuda" and not torch.cuda.is_bf16_supported()


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

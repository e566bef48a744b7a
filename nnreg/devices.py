"""Devices of torch by their names."""

from __future__ import annotations

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

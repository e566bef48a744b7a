"""Where the deformable part of a registration is computed."""

from __future__ import annotations

from typing import Any

from nnreg.errors import ConfigurationError

CPU, TORCH, CUDA = "cpu", "torch", "cuda"


def engine_device(name: str) -> Any:
    """The device of torch; None for the compiled kernels, which need no torch.

    Parameters
    ----------
    name
        ``cpu``, ``cuda`` or ``cuda:1``; ``torch`` runs on the processor what ``cuda`` runs on a GPU, to compare with.

    Raises
    ------
    ConfigurationError
        If the name is another or torch sees no such device.
    """
    if name == CPU:
        return None
    if name != TORCH and name.split(":")[0] != CUDA:
        raise ConfigurationError(f"-device {name!r}: the engine runs on cpu, cuda or cuda:1.")
    from nnreg.devices import device_named

    return device_named(CPU if name == TORCH else name)


def engine_part(name: str) -> str:
    """What the engine takes of the device of a prediction: a GPU of CUDA that was asked for by name, else the processor."""
    return name if name.split(":")[0] == CUDA else CPU

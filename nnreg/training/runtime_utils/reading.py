"""Numbers of many steps, read from the device at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def read_terms(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The terms of every step as plain numbers: one transfer per device and type for all of them, where reading each would wait for each.

    Examples
    --------
    >>> read_terms([{"loss": torch.tensor(0.5), "dice": torch.tensor(1.0)}, {"loss": 2.0}])
    [{'loss': 0.5, 'dice': 1.0}, {'loss': 2.0}]
    """
    tensors = {id(value): value for step in steps for value in step.values() if isinstance(value, Tensor)}
    alike: dict[Any, list[int]] = {}
    for key, value in tensors.items():
        alike.setdefault((value.device, value.dtype), []).append(key)
    read: dict[int, float] = {}
    for keys in alike.values():
        read.update(zip(keys, torch.stack([tensors[key].detach().reshape(()) for key in keys]).tolist(), strict=True))
    return [{name: read[id(value)] if id(value) in read else float(value) for name, value in step.items()} for step in steps]

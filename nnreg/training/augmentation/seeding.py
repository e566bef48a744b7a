"""A scope in which libraries that draw from numpy's and torch's global generators are reproducible."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed both global generators, and put them back as they were."""
    numpy_state = np.random.get_state()  # noqa: NPY002  batchgeneratorsv2 draws from it
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU alone: manual_seed would seed the GPUs too
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002

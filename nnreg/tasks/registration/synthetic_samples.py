"""Training pairs made on the fly, for a training without arrays on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from nnreg.dataset.synthetic import GENERATORS, SyntheticEllipsoids
from nnreg.errors import ConfigurationError
from nnreg.planning.registration.plans import RegistrationConfiguration


class SyntheticSamples(Dataset[dict[str, Tensor]]):
    """Pairs of a generator. An epoch goes through them in an order of its own, which depends on the seed alone.

    Parameters
    ----------
    settings
        ``name`` of a generator and its arguments.
    configuration
        Its grid is the size of the images, its seed orders them.
    length
        Samples per epoch; indices beyond it are valid (later epochs).
    """

    def __init__(self, settings: Mapping[str, Any], configuration: RegistrationConfiguration, length: int) -> None:
        self.source = build_generator(settings, configuration)
        self.length, self.seed = length, configuration.training.seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``fixed``, ``moving`` and what the network sees of them, (C, *grid); with a deformed pair labels and the true ``field`` too."""
        if index < 0:
            raise IndexError(index)
        turn, place = divmod(index, len(self.source))
        chosen = int(np.random.default_rng([self.seed, turn]).permutation(len(self.source))[place])
        sample = {name: value for name, value in self.source[chosen].items() if name != "inverse_field"}
        return {**sample, "fixed_input": sample["fixed"], "moving_input": sample["moving"]}


def build_generator(settings: Mapping[str, Any], configuration: RegistrationConfiguration) -> SyntheticEllipsoids:
    """The generator that ``training.synthetic`` names.

    Raises
    ------
    ConfigurationError
        No name, an unknown one, an argument it does not take.
    """
    arguments = dict(settings)
    if "name" not in arguments:
        raise ConfigurationError(f"training.synthetic: a generator has no name. Give one of {', '.join(GENERATORS)}.")
    generator = GENERATORS[arguments.pop("name")]
    try:
        return generator(configuration.grid, **arguments)
    except TypeError as error:
        raise ConfigurationError(f"training.synthetic: {error}.") from error

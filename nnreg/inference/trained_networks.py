"""Networks of one or several folds, and the field they give for a preprocessed pair."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnreg.engine.device import CPU
from nnreg.geometry import AffineMap, FieldMap, Transform
from nnreg.geometry.transform import Stage
from nnreg.planning.plans import Configuration, Plans
from nnreg.preprocessing.registration.storage import PreprocessedCase
from nnreg.training.runtime_utils.memory import release_memory
from nnreg.training.runtime_utils.runtime import autocast, prediction_precision


@dataclass(frozen=True)
class PairTransforms:
    """What a prediction is: the whole map and its pre-alignment alone, fixed world to moving world; notes go into ``prediction.json``."""

    transform: Transform
    alignment: Transform
    notes: dict[str, Any] = field(default_factory=dict)


class Predictor:
    """Fields from networks.

    Parameters
    ----------
    plans, configuration
        What the networks were trained with.
    networks
        One per fold; their displacements are averaged.
    device
        Where they run.
    save_probabilities
        Whether a validation keeps the probabilities that label maps are made of, for ensembles.
    held_out
        Whether a validation is of cases that the networks were not trained on.
    engine
        Name of the device on which the engine goes on from the networks, or is compared with them (`nnreg.engine.device.engine_part`).
    """

    def __init__(
        self,
        *,
        plans: Plans,
        configuration: Configuration,
        networks: Sequence[nn.Module],
        device: torch.device,
        save_probabilities: bool = False,
        held_out: bool = True,
        engine: str = CPU,
    ) -> None:
        self.plans, self.configuration, self.networks, self.device = plans, configuration, list(networks), device
        self.save_probabilities, self.held_out, self.engine = save_probabilities, held_out, engine

    def stages(self, *, fixed: PreprocessedCase, moving: PreprocessedCase) -> tuple[Stage, ...]:
        """Mean displacement of the networks, on the voxels they decode it at, continued beyond the working grid until it has faded out."""
        images = {role: torch.from_numpy(np.ascontiguousarray(case.image))[None].to(self.device) for role, case in (("fixed", fixed), ("moving", moving))}
        fields = self._fields(images)
        # detached: a network of one's own may return a view of a parameter, which keeps its gradient even in inference mode
        mean = FieldMap(torch.stack(fields).mean(dim=0)[0].detach().cpu().numpy(), fixed.properties.working)
        strides = {tuple(getattr(network, "field_stride", (1,) * mean.ndim)) for network in self.networks}
        stride = strides.pop() if len(strides) == 1 else (1,) * mean.ndim
        return mean.thinned(stride).faded_out()

    def _fields(self, images: dict[str, Tensor]) -> list[Tensor]:
        """The field of every network. Where the GPU's memory is too small, this pair and those after it are predicted on the CPU: a field has no tiles.

        A warning says so.
        """
        try:
            with torch.inference_mode(), autocast(self.device, prediction_precision(self.device, self.configuration.training.mixed_precision)):
                return [network(**images)[0].float() for network in self.networks]
        except torch.OutOfMemoryError:
            if self.device.type == "cpu":
                raise
        free, grid = release_memory(self.device), "x".join(map(str, images["fixed"].shape[2:]))
        said = f"{self.device}: a pair of {grid} voxels does not fit into its memory{free}. It is predicted on the CPU, which takes longer."
        warnings.warn(said, stacklevel=2)
        self.device = torch.device("cpu")
        self.networks = [network.to(self.device) for network in self.networks]
        return self._fields({name: image.to(self.device) for name, image in images.items()})

    def transforms(self, *, fixed: PreprocessedCase, moving: PreprocessedCase) -> PairTransforms:
        """The map between the native worlds of a pair."""
        into_working = AffineMap(np.asarray(np.linalg.inv(np.asarray(fixed.properties.to_native))))
        out_of_working = AffineMap(np.asarray(moving.properties.to_native))
        alignment = Transform((into_working, out_of_working), self.configuration.ndim)
        return PairTransforms(
            transform=Transform((into_working, *self.stages(fixed=fixed, moving=moving), out_of_working), self.configuration.ndim),
            alignment=alignment.simplified(),
        )

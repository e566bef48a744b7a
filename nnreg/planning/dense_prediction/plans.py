"""Plans of dense prediction: the same file, with nnU-Net's patch and cascade in place of the alignment."""

from __future__ import annotations

from dataclasses import dataclass, field

from nnreg.planning.dense_prediction.fingerprint import MapValues
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.planning.plans import Configuration, Plans
from nnreg.planning.registration.engine_settings import Optimisation, Tuning


@dataclass(frozen=True, kw_only=True)
class DenseConfiguration(Configuration):
    """``2d``, ``3d_lowres``, ``3d_fullres`` or ``3d_cascade_fullres``, all axes transposed as the plans say.

    Attributes
    ----------
    patch_size : voxels per axis; also the `grid`, which is what a network sees of an image
    median_image_size_in_voxels
        Of the training images, cropped and resampled.
    batch_dice
        Whether Dice sums over the batch before it divides.
    previous_stage, next_stage
        Of a cascade: the configuration whose prediction is an input, and the one that takes this one's.
    """

    patch_size: tuple[int, ...]
    median_image_size_in_voxels: tuple[float, ...]
    batch_dice: bool
    resampling: Resampling
    previous_stage: str | None = None
    next_stage: str | None = None
    grid: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", self.patch_size)

    @property
    def use_mask_for_norm(self) -> tuple[bool, ...]:
        """Per channel, whether only nonzero voxels are normalised."""
        return tuple(bool(scheme.kwargs.get("use_mask", False)) for scheme in self.normalization)


@dataclass(frozen=True, kw_only=True)
class DensePlans(Plans):
    """The plans file of dense prediction. Images stay where they are: no alignment, no reference, axes as the file has them.

    Attributes
    ----------
    transpose_forward
        Array axis that each planned axis is; spacings, patches and shapes of the configurations are in this order.
    orientation : letters, image axis x first
        Images are turned to it before anything else, and predictions back; empty: they stay as they are stored.
    targets
        Continuous target to the values of each of its channels in training: how they are normalised, and brought back.
    """

    transpose_forward: tuple[int, ...]
    targets: dict[str, tuple[MapValues, ...]] = field(default_factory=dict)
    configurations: dict[str, DenseConfiguration]  # type: ignore[assignment]  # dict is invariant, but plans are frozen
    pre_alignment: str = field(default="none", init=False)
    alignment_target: str = field(default="group", init=False)
    alignment_spacing: tuple[float, ...] = field(default=(), init=False)
    reference_case: str | None = field(default=None, init=False)
    orientation: str = ""
    optimisation: Optimisation = field(default=Optimisation(), init=False)
    tuning: Tuning | None = field(default=None, init=False)

    @property
    def transpose_backward(self) -> tuple[int, ...]:
        """The inverse of `transpose_forward`."""
        return tuple(self.transpose_forward.index(axis) for axis in range(len(self.transpose_forward)))

    def configuration(self, name: str) -> DenseConfiguration:
        """The configuration `name`.

        Raises
        ------
        PlansError
            If the plans have none of that name.
        """
        super().configuration(name)
        return self.configurations[name]

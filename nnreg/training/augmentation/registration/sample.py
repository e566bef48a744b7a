"""One training sample: a pair of images on the working grid and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nnreg.errors import GeometryError


@dataclass(frozen=True, eq=False)
class PairSample:
    """A pair on one grid, without batch axis. Augmentation returns a new one; tensors are never changed in place.

    Attributes
    ----------
    fixed, moving : Tensor, shape (C, *spatial), float32
        The images that the loss compares.
    fixed_input, moving_input : Tensor, shape (C, *spatial), float32
        The images that the network sees: the same ones, or with other contrast, noise and sharpness.
    fixed_labels, moving_labels : Tensor, shape (1, *spatial), integers, optional
    fixed_mask, moving_mask : Tensor, shape (1, *spatial), optional
        Not zero where the image is valid.
    fixed_keypoints, moving_keypoints : Tensor, shape (N, ndim), float32, optional
        Voxels, array axis order; row i of one corresponds to row i of the other.
    field, inverse_field : Tensor, shape (ndim, *spatial), float32, optional
        The true displacement from the fixed to the moving image and back, voxels; NaN where it is not known.
    """

    fixed: Tensor
    moving: Tensor
    fixed_input: Tensor
    moving_input: Tensor
    fixed_labels: Tensor | None = None
    moving_labels: Tensor | None = None
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    fixed_keypoints: Tensor | None = None
    moving_keypoints: Tensor | None = None
    field: Tensor | None = None
    inverse_field: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.fixed.shape[1:]
        for name in ("moving", "fixed_input", "moving_input", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "field", "inverse_field"):
            value = getattr(self, name)
            if value is not None and value.shape[1:] != shape:
                raise GeometryError(f"{name} has shape {tuple(value.shape)}, the fixed image {tuple(self.fixed.shape)}: a sample lies on one grid.")

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.fixed.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the grid."""
        return tuple(self.fixed.shape[1:])

"""nnU-Net's arithmetic of resampling: the new shape, and which axis is resampled by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ANISOTROPIC = 3.0  # nnU-Net: coarsest over finest spacing above which slices are resampled one by one


@dataclass(frozen=True)
class Resampling:
    """How arrays change their spacing.

    Attributes
    ----------
    data_order, labels_order, probabilities_order
        Order of the interpolation of images, of each label's mask, and of predicted probabilities on their way back.
    between_slices_order
        Along the coarse axis, where that is resampled by itself.
    separate_axis
        Whether it is: always, never, or (None) where the spacing says so, see :func:`separate_axis`.
    """

    data_order: int = 3
    labels_order: int = 1
    probabilities_order: int = 1
    between_slices_order: int = 0
    separate_axis: bool | None = None


def new_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Shape of an image after resampling from `spacing` to `target` mm.

    Examples
    --------
    >>> new_shape((20, 320, 320), (3.6, 0.62, 0.62), (3.0, 0.6, 0.6))
    (24, 331, 331)
    """
    # in this order, and rounding halves to even: nnU-Net's own last digit
    return tuple(round(float(old) / float(new) * int(size)) for size, old, new in zip(shape, spacing, target, strict=True))


def separate_axis(spacing: Sequence[float], target: Sequence[float]) -> int | None:
    """The axis across which slices are resampled one by one, None if all axes are resampled together.

    It is the coarsest axis of the current spacing, if that is anisotropic, else of the target spacing; none if several are equally coarse.

    Examples
    --------
    >>> separate_axis((5.0, 1.0, 1.0), (1.0, 1.0, 1.0)), separate_axis((0.24, 1.25, 1.25), (1.0, 1.0, 1.0))
    (0, None)
    """
    for values in (spacing, target):
        if max(values) / min(values) > ANISOTROPIC:
            coarsest = [axis for axis, value in enumerate(values) if value == max(values)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None

"""Squared correlation in small windows: images of one contrast, whatever their shading."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnreg.arrays import Floats, Mask, ShortIntegers
from nnreg.engine.grids import Level, volume_of
from nnreg.engine.prepared_image import PreparedImage
from nnreg.engine.similarities import SIMILARITIES, EngineSimilarity
from nnreg.engine.similarity_terms import ChannelGroup
from nnreg.kernels import volumes
from nnreg.kernels.backend import as_number, library, zeros
from nnreg.kernels.correlation import Windows, joined

FLOOR = 1e-3  # variance of the fixed image (in [0, 1]) below which a window counts less
# the same of the warped one: lower, so that windows of low contrast gain nothing by more of it. With one floor for both two images that are one were moved
# apart by up to 1.6 voxels; brains, hippocampi, slices and hearts end as near with either
WARPED_FLOOR = 1e-5
# voxels of a level. Found by trial, on three pairs of brains: Dice + 0.003 at an SDlogJ of + 0.01. That linear sampling blurs what falls between voxels, and
# that smoothing both images hides it, is our guess at why. Stained slices under nmi lost by it
SMOOTHING = 0.5


class LocalCorrelation:
    """Squared correlation in boxes, mean over voxels and channels."""

    def __init__(self, fixed: Floats, radii: tuple[int, int, int]) -> None:
        self.fixed, self.radii = fixed, radii
        self.mask: Mask | None = None

    def restrict(self, valid: Floats | None) -> None:
        """See :class:`nnreg.engine.similarity_terms.Term`."""
        self.mask = None if valid is None else valid > 0
        self.__dict__.pop("windows", None)

    @functools.cached_property
    def windows(self) -> list[Windows]:
        """Of each channel, computed when first asked for: a level is restricted before it is compared."""
        size, found = _size(self.radii), list[Windows]()
        for channel in self.fixed:
            like = found[0] if found else None
            found.append(Windows.of(channel, self.radii, floor=FLOOR * size, other_floor=WARPED_FLOOR * size, mask=self.mask, like=like))
        return found

    @property
    def ranges(self) -> ShortIntegers | None:
        """Where warped channels have a say, as :func:`nnreg.kernels.volumes.sample` takes it; None for everywhere."""
        return joined([windows.ranges for windows in self.windows])

    def __call__(self, warped: Floats, gradient: Floats) -> float:
        """See :class:`nnreg.engine.similarity_terms.Term`."""
        share, channels = 1 / len(self.windows), zip(self.windows, warped, gradient, strict=True)
        return sum(windows.correlation(image, out, skip=True, share=share)[0] for windows, image, out in channels)


class LocalCorrelationOnDevice:
    """:class:`LocalCorrelation` of tensors, by what the loss of that name uses on their device: the Triton kernel, or torch."""

    def __init__(self, fixed: Any, radii: tuple[int, int, int]) -> None:
        from nnreg.losses.lncc import quickest_on

        self.fixed, self.size = fixed, _size(radii)
        self.window = tuple(2 * radius + 1 for radius in radii)
        self.compute = quickest_on(fixed.device)
        self.restrict(None)

    def restrict(self, valid: Any) -> None:
        """See :class:`nnreg.engine.similarity_terms.Term`."""
        self.mask = None if valid is None else (valid > 0).expand_as(self.fixed)

    def __call__(self, warped: Any, gradient: Any) -> Any:
        """See :class:`nnreg.engine.similarity_terms.Term`."""
        floors = {"smooth_dr": FLOOR * self.size, "warped_dr": WARPED_FLOOR * self.size}
        value, slope = self.compute(self.fixed, warped, self.window, mask=self.mask, **floors)
        gradient.copy_(slope)
        return as_number(value)


class SeveralWindows:
    """The sum of local correlations of the same channels, in windows of several widths: small ones say where an edge is, wide ones which edge it is."""

    def __init__(self, terms: Sequence[LocalCorrelation | LocalCorrelationOnDevice]) -> None:
        self.terms = terms
        self.slope: Any = None

    def restrict(self, valid: Any) -> None:
        """See :class:`nnreg.engine.similarity_terms.Term`."""
        for term in self.terms:
            term.restrict(valid)

    @property
    def ranges(self) -> ShortIntegers | None:
        """See :class:`LocalCorrelation`: the widest windows reach what all others do."""
        widest = self.terms[-1]
        return widest.ranges if isinstance(widest, LocalCorrelation) else None

    def __call__(self, warped: Floats, gradient: Floats) -> float:
        """See :class:`nnreg.engine.similarity_terms.Term`."""
        if self.slope is None:
            self.slope = library(gradient).empty_like(gradient)
        value = self.terms[0](warped, gradient)
        for term in self.terms[1:]:
            value = value + term(warped, self.slope)
            gradient += self.slope
        return value


def middle_intensities(image: Floats) -> Floats:
    """How near each value is to the middle of the window of its image.

    Correlation knows nothing of how bright a window is: cortex between fluid and white matter looks there like a mixture of the two. Here it is a ridge.
    """
    return volumes.middle(image)


def local_correlation(level: Level, *radii: float) -> ChannelGroup:
    """Both images of a level and their features, smoothed a little, under local correlation; with several radii under the sum of it in these windows.

    Windows are about ``2 radius + 1`` of the level's voxels wide, with at least one neighbour along an axis that is as thick as that.
    """
    fixed, moving = (smoothed(side, SMOOTHING * level.spacing) for side in (level.fixed, level.moving))
    terms = [correlated(fixed, level, radius) for radius in radii]
    return ChannelGroup(terms[0] if len(terms) == 1 else SeveralWindows(terms), moving)


def correlated(fixed: Floats, level: Level, radius: float) -> LocalCorrelation | LocalCorrelationOnDevice:
    """The term for channels of a level, in windows of :func:`local_correlation`."""
    radii = tuple(max(1, round(radius * level.spacing / step)) if np.isfinite(step) else 0 for step in level.steps)
    term = LocalCorrelation if isinstance(fixed, np.ndarray) else LocalCorrelationOnDevice
    return term(fixed, (radii[0], radii[1], radii[2]))


def _size(radii: tuple[int, int, int]) -> float:
    """Voxels of a window."""
    return float(np.prod([2 * radius + 1 for radius in radii]))


def smoothed(side: PreparedImage, width: float) -> Floats:
    """The image of a side and its features as a volume, smoothed by a Gaussian of `width` mm."""
    # an image of two axes is a volume of one plane, which has nothing to be smoothed across
    sigma = [width / step for step in side.space.spacing]
    widths = 0.0 if len(sigma) == 2 else sigma[0], sigma[-2], sigma[-1]
    volumes_of_side = [volume_of(channels) for channels in (side.image, side.features) if channels is not None]
    result = zeros((sum(map(len, volumes_of_side)), *volumes_of_side[0].shape[1:]), side.image)
    start = 0
    for volume in volumes_of_side:
        volumes.smooth(volume, widths, out=result[start : start + len(volume)])
        start += len(volume)
    return result


def _groups(level: Level, *radii: float) -> list[ChannelGroup]:
    return [local_correlation(level, *radii)]


SIMILARITIES["lncc"] = EngineSimilarity("lncc", _groups, windowed=True, several_windows=True, features=middle_intensities, on_device=True)

"""nnU-Net's rules for spacing, axes, patch and the coarser companion. The order of operations is nnU-Net's own, to the last digit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nnreg.errors import PlansError
from nnreg.planning.decision import Decision, rule, text
from nnreg.planning.dense_prediction.fingerprint import DenseFingerprint
from nnreg.planning.dense_prediction.resampling import new_shape
from nnreg.planning.topology import Topology, topology

ANISOTROPIC = 3.0  # a spacing so many times the others, on an axis with so many times fewer voxels
ANISOTROPIC_PERCENTILE = 10
FIRST_PATCH_3D, FIRST_PATCH_2D = 256**3, 2048**2  # voxels that the first patch has before it is clipped
LOWRES_BELOW = 0.25  # share of the median image that a patch shows, below which a coarser companion is tried
LOWRES_STEP = 1.03
LOWRES_GAIN = 2.0  # a companion with more than half the voxels is dropped
UNEQUAL = 2.0  # axes so many times finer than the coarsest are coarsened first


@rule("dense_spacing")
def target_spacing(fingerprint: DenseFingerprint) -> Decision[tuple[float, ...]]:
    """Median per axis; the 10th percentile along a much coarser axis with few voxels, but not finer than the others."""
    spacings = fingerprint.spacings()
    target = np.percentile(spacings, 50, axis=0)
    size = np.percentile(fingerprint.shapes(), 50, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    finest = float(max(target[others]))
    reason = f"median of {len(spacings)} images"
    if target[worst] > ANISOTROPIC * finest and size[worst] * ANISOTROPIC < min(size[others]):
        tenth = float(np.percentile(spacings[:, worst], ANISOTROPIC_PERCENTILE))
        target[worst] = tenth if tenth >= finest else finest + min(1e-5, 0.01 * finest)  # nnU-Net's, but for spacings below a micrometre
        reason += f"; axis {worst} is more than {ANISOTROPIC:g} times coarser with {ANISOTROPIC:g} times fewer voxels: 10th percentile"
    return Decision(tuple(target.tolist()), f"{reason}: {text(target.tolist())} mm")


@rule("dense_transposition")
def transposition(spacing: Sequence[float]) -> Decision[tuple[int, ...]]:
    """The coarsest axis first, the others in their order: slices of the 2d configuration are cut across it."""
    first = int(np.argmax(spacing))
    order = (first, *(axis for axis in range(3) if axis != first))
    return Decision(order, f"axis {first} is the coarsest ({spacing[first]:.3g} mm)")


@rule("dense_median_shape")
def median_shape(fingerprint: DenseFingerprint, spacing: Sequence[float], order: Sequence[int]) -> Decision[tuple[float, ...]]:
    """Median over the cases of the shape after cropping and resampling."""
    shapes = [new_shape(image.shape_after_crop, image.spacing, spacing) for image in fingerprint.images.values()]
    value = np.median(shapes, axis=0)[list(order)]
    return Decision(tuple(value.tolist()), f"median of {len(shapes)} images cropped and resampled to {text(spacing)} mm")


def first_patch(spacing: Sequence[float], median: Sequence[float]) -> tuple[float, ...]:
    """As large as ever useful: the aspect ratio of a cube in mm, at most the median image (then perhaps half a voxel)."""
    aspect = 1 / np.asarray(spacing, dtype=np.float64)
    volume = FIRST_PATCH_3D if len(spacing) == 3 else FIRST_PATCH_2D
    scaled = aspect * (volume / np.prod(aspect)) ** (1 / len(spacing))
    return tuple(max(1.0, min(round(float(size)), float(limit))) for size, limit in zip(scaled, median, strict=True))


@dataclass(frozen=True)
class PatchPlan:
    """A patch, its network's topology, and the elements of its feature maps."""

    topology: Topology
    elements: int

    @property
    def patch(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return self.topology.patch


@rule("dense_patch")
def patch(spacing: Sequence[float], median: Sequence[float], elements: Callable[[Topology], int], limit: float) -> Decision[PatchPlan]:
    """The largest patch whose network has at most `limit` elements: the axis that shows most of the image shrinks first.

    Raises
    ------
    PlansError
        If nothing is left of the patch.
    """
    shape = topology(spacing, first_patch(spacing, median))
    count, begun, steps = elements(shape), shape.patch, 0
    while count > limit:
        shown = [size / extent for size, extent in zip(shape.patch, median, strict=True)]
        # among equals the last, as a stable sort leaves it
        axis = max(range(len(shown)), key=lambda candidate: (shown[candidate], candidate))
        # nnU-Net steps by the divisor of the patch that is one step smaller: 256 becomes 224, not 192
        divisor = topology(spacing, _shrunk(shape.patch, axis, shape.divisor[axis])).divisor[axis]
        shape = topology(spacing, _shrunk(shape.patch, axis, divisor))
        count, steps = elements(shape), steps + 1
    reason = f"{text(begun)} at first (a cube in mm, clipped to the median image of {text(median)}, rounded up to what the pooling divides)"
    reason += f"; {steps} steps smaller along the axis shown most" if steps else ""
    return Decision(PatchPlan(shape, count), f"{reason}, so that {count} elements of feature maps are at most {limit:.0f}")


def _shrunk(size: Sequence[int], axis: int, step: int) -> tuple[int, ...]:
    result = [extent - step if index == axis else extent for index, extent in enumerate(size)]
    if result[axis] < 1:
        raise PlansError("no patch fits the memory target (-gpu_memory_target). Allow more.")
    return tuple(result)


@dataclass(frozen=True)
class Companion:
    """A coarser configuration: its spacing, median shape, exact number of voxels, and patch."""

    spacing: tuple[float, ...]
    median: tuple[int, ...]
    voxels: float
    patch: Decision[PatchPlan]


@rule("dense_lowres")
def companion(
    spacing: Sequence[float], median: Sequence[float], full: PatchPlan, plan_patch: Callable[[Sequence[float], Sequence[float]], Decision[PatchPlan]]
) -> Decision[Companion | None]:
    """A coarser configuration, if a patch shows less than a quarter of the median image: spacing grows until it shows a quarter."""
    fine, extent = np.asarray(spacing, dtype=np.float64), np.asarray(median, dtype=np.float64)
    voxels_full = voxels = float(np.prod(extent))
    shown = float(np.prod(full.patch, dtype=np.float64))
    share = f"the patch shows {shown / voxels_full:.0%} of the median image"
    coarse, found = fine.copy(), None
    while shown / voxels < LOWRES_BELOW:
        finer = max(coarse) / coarse > UNEQUAL
        coarse[finer if finer.any() else slice(None)] *= LOWRES_STEP
        shape = fine / coarse * extent
        voxels = float(np.prod(shape))
        rounded = tuple(max(1, round(float(size))) for size in shape)
        found = Companion(tuple(coarse.tolist()), rounded, voxels, plan_patch(coarse.tolist(), rounded))
        shown = float(np.prod(found.patch.value.patch, dtype=np.float64))
    if found is None:
        return Decision(None, f"{share}, a quarter is enough")
    if voxels_full / voxels < LOWRES_GAIN:
        return Decision(None, f"{share}, but a coarser one that shows a quarter would have more than half the voxels")
    return Decision(found, f"{share}, less than a quarter; coarsened in steps of 3 %, axes more than twice finer first, to {text(found.spacing)} mm")

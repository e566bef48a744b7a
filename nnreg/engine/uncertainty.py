"""How far a map may be wrong, voxel by voxel: what other registrations of the same pair say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter

from nnreg.arrays import Floats
from nnreg.engine.options import EngineOptions
from nnreg.engine.presets import SMOOTHNESS
from nnreg.engine.registration import register_as
from nnreg.engine.result import Annotations, Registration
from nnreg.geometry import FieldMap, Space, Transform

PRESET = "fast"  # of the registrations beside the first: they need its weaknesses, not its last step
STIFFER, LOOSER = 1.6, 0.7  # of the smoothness of the first; not tuned
BLUR = 2.0  # voxels of the finest axis over which both measures are averaged: one voxel alone tells little of where it came from


def uncertainty_map(result: Registration) -> Floats:
    """An estimate of the error of a registration at every voxel of the fixed grid, mm.

    The mean of two distances: from where a point began after it went through the map and back through a registration of the moving onto the fixed image
    that knows nothing of the first; and between two registrations that start as the first did, of which one is stiffer and one is looser. Errors that all of
    them share, such as a fold of a cortex matched with its neighbour both ways, are not seen.

    Parameters
    ----------
    result : Registration
        Of which all options, masks, labels and landmarks are used again. After linear alignment only, the way back alone counts.

    Returns
    -------
    array, shape fixed.space.shape, float32, mm
    """
    space = result.fixed.space
    found = _length(result.transform.then(_back(result)), space)
    if result.field is not None:
        stiff, loose = (_again(result, factor) for factor in (STIFFER, LOOSER))
        found = np.asarray((found + _apart(stiff, loose, space)) / 2, dtype=np.float32)
    blur = [BLUR * min(space.spacing) / step for step in space.spacing]
    return np.asarray(gaussian_filter(found, blur, mode="nearest"), dtype=np.float32)


def _back(result: Registration) -> Transform:
    """A registration of the moving onto the fixed image: aligned anew, or from the inverse of the start that was given."""
    truth, options = result.annotations, result.options
    swapped = Annotations(truth.moving_labels, truth.fixed_labels, truth.moving_points, truth.fixed_points)
    if swapped.fixed_labels is not None and swapped.moving_labels is None:
        swapped = replace(swapped, fixed_labels=None)  # labels of one side are carried along, they guide nothing
    initial = None if result.alignment is not None else result.start.inverse()
    # what is known on the fixed grid only cannot be asked of the other direction
    again = replace(_plain(result, options), constraints=replace(options.constraints, preserve=None, restrict=None))
    return register_as((result.moving, result.fixed), result.masks[::-1], swapped, again, initial).transform


def _again(result: Registration, factor: float) -> Transform:
    smoothness = float(np.clip(factor * result.options.smoothness, *SMOOTHNESS))
    options = replace(_plain(result, result.options), smoothness=smoothness)
    return register_as((result.fixed, result.moving), result.masks, result.annotations, options, result.start).transform


def _plain(result: Registration, options: EngineOptions) -> EngineOptions:
    """The options with the similarity that was chosen, and with the cheapest preset."""
    return replace(options, preset=PRESET, symmetric=None, similarity=options.similarity if result.field is None else result.similarity)


def _length(transform: Transform, space: Space) -> Floats:
    moved = transform.sampled_on(space).in_mm(np.float32)
    return np.asarray(np.sqrt(np.einsum("...i,...i->...", moved, moved)), dtype=np.float32)


def _apart(one: Transform, other: Transform, space: Space) -> Floats:
    difference = one.sampled_on(space).displacement - other.sampled_on(space).displacement
    return _length(Transform((FieldMap(difference, space),), space.ndim), space)

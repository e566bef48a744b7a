"""How atlases are weighted where they disagree: all alike, by the likeness of patches, or such that errors they make together do not add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter

from nnreg.arrays import Mask
from nnreg.groups.fusion.blocks import NOWHERE, Ballot, Box, Patches, Three, WarpedAtlases, places_of, shifts_within
from nnreg.registry import Registry

DOUBT = 0.01  # added to one minus the correlation of patches: one that fits exactly does not decide alone


@dataclass(frozen=True)
class FusionSettings:
    """What the weights are found with.

    Attributes
    ----------
    patch, search : voxels per axis
        Radius of patches, and how far a patch of an atlas is searched for.
    alpha, beta
        Of joint label fusion (Wang et al. 2013): what is added to every atlas's own expected error, and the power of the errors made together.
    sharpness
        Power of the likeness in a locally weighted vote.
    """

    patch: Three
    search: Three
    alpha: float = 0.1
    beta: float = 2.0
    sharpness: float = 2.0


Weigh = Callable[[Box, Mask, WarpedAtlases, FusionSettings], Ballot]

METHODS = Registry[Weigh]("fusion method")


@METHODS.register("majority")
def majority(core: Box, disputed: Mask, warped: WarpedAtlases, settings: FusionSettings) -> Ballot:
    """Every atlas counts alike."""
    shape = (len(warped.labels), *disputed.shape)
    return Ballot(np.ones(shape, np.float32), np.zeros(shape, np.int32), shifts_within(NOWHERE))


@METHODS.register("weighted")
def weighted(core: Box, disputed: Mask, warped: WarpedAtlases, settings: FusionSettings) -> Ballot:
    """By the likeness of the patches around a voxel: an inverse power of their squared difference (Artaechevarria et al. 2009)."""
    patches = Patches.around(core, warped, settings.patch, NOWHERE)
    chosen, score = patches.best_shifts()
    return Ballot((1 + DOUBT - score) ** np.float32(-settings.sharpness), chosen, patches.shifts)


@METHODS.register("joint")
def joint(core: Box, disputed: Mask, warped: WarpedAtlases, settings: FusionSettings) -> Ballot:
    """Joint label fusion: each atlas with the patch that fits best nearby, weighted by how likely atlases err together (Wang et al. 2013)."""
    region = core.grown(settings.patch)
    patches = Patches.around(region, warped, settings.patch, settings.search)
    chosen, _ = patches.best_shifts()
    near = maximum_filter(np.pad(disputed, [(radius, radius) for radius in settings.patch]), [2 * radius + 1 for radius in settings.patch])
    weights = patches.joint_weights(places_of(near), chosen, settings.alpha, settings.beta)
    return Ballot(weights, chosen, patches.shifts, settings.search, settings.patch)

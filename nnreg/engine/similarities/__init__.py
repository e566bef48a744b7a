"""What the refinement raises, one module for each: ``lncc_mse.py`` registers ``lncc+mse``, because a module cannot be named with a plus.

The names are known without importing the modules, which need compiled kernels. Installed packages add theirs by entry points ``nnreg.similarities``.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nnreg.arrays import Doubles, Floats
from nnreg.engine.names import AUTO
from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.registry import Registry, entry_point_names, load_entry_point

if TYPE_CHECKING:
    from nnreg.engine.intensities import Scales
    from nnreg.engine.prepared_image import PreparedImage
    from nnreg.engine.similarity_terms import ChannelGroup

ENTRY_POINTS = "nnreg.similarities"


@dataclass(frozen=True)
class EngineSimilarity:
    """A similarity and how the refinement has to treat it.

    Attributes
    ----------
    name : str
        As in plans and on the command line.
    groups : callable (level, radius) -> list of ChannelGroup
        The image channels of a level with what compares them, the group that the registration is judged by first. `radius` is half the window of
        local correlation in voxels of the level, for those that have one.
    smoothing : float
        Factor on the widths of the Gaussians on updates and field.
    step : float
        Factor on the longest vector of an update.
    fewest_voxels : int
        A coarse level of fewer is left out.
    same_axes : bool
        Whether features follow the axes of a grid: the moving image is then resampled onto the fixed grid, linear alignment applied.
    windowed : bool
        Whether `radius` changes anything: ``nnreg_tune`` then tries other windows.
    several_windows : bool
        Whether `groups` also takes several radii, the smallest first, to compare in windows of all of them.
    across_contrasts : bool
        Whether it compares images of different contrasts: ``nnreg_tune`` then tries it on those too.
    features : callable (image) -> features, optional
        What else of an image (C, *grid) is compared, (K, *grid). It is made before anything is pooled, and pooled with the image.
    on_device : bool
        Whether `groups` and its terms also take torch tensors, as levels hold them with ``-device cuda``; a value is then a tensor, and nothing is read back.
    """

    name: str
    groups: Callable[..., list[ChannelGroup]]
    smoothing: float = 1.0
    step: float = 1.0
    fewest_voxels: int = 0
    same_axes: bool = False
    windowed: bool = False
    several_windows: bool = False
    across_contrasts: bool = False
    features: Callable[[Floats], Floats] | None = None
    on_device: bool = False

    def scales(self, fixed: PreparedImage, moving: PreparedImage, world: Doubles) -> tuple[Scales, Scales]:
        """What the features of both images of a pair are made of: see :func:`nnreg.engine.intensities.common_scales`."""
        if self.features is None:
            return (1.0,) * fixed.channels, (1.0,) * moving.channels
        from nnreg.engine.intensities import common_scales

        return common_scales(fixed, moving, world)

    def prepared(self, side: PreparedImage, scales: Scales) -> PreparedImage:
        """An image of a pair before it is pooled, with the features that are compared: they depend on how bright a value is, so both sides need one scale."""
        if self.features is None:
            return side.plain()
        return replace(side, make_features=functools.partial(_scaled_features, self.features, scales))

    def prepared_pair(self, fixed: PreparedImage, moving: PreparedImage, world: Doubles) -> tuple[PreparedImage, PreparedImage]:
        """Both images of a pair, `world` leading from the fixed to the moving one as far as they are aligned."""
        scales = self.scales(fixed, moving, world)
        return self.prepared(fixed, scales[0]), self.prepared(moving, scales[1])


def _scaled_features(features: Callable[[Floats], Floats], scales: Scales, image: Floats) -> Floats:
    from nnreg.engine.intensities import scaled

    return features(scaled(image, scales))


SIMILARITIES: Registry[EngineSimilarity] = Registry("similarity")
"""Those that were asked for so far, and what Python code registers; :func:`similarity_names` knows all."""


def similarity_names() -> list[str]:
    """Every similarity that can be asked for: ours, registered ones, those of installed packages."""
    return sorted({*_own(), *SIMILARITIES, *entry_point_names(ENTRY_POINTS)})


def similarity_choices() -> list[str]:
    """What may stand in plans and on the command line: ``auto`` too."""
    return [AUTO, *similarity_names()]


def find_similarity(name: str) -> EngineSimilarity:
    """The similarity `name`.

    Raises
    ------
    ConfigurationError
        If there is none of that name, if an installed package gives a name that is taken, or if what it gives is no similarity.
    """
    own, outside = _own(), entry_point_names(ENTRY_POINTS)
    if name in own:
        importlib.import_module(f"{__name__}.{own[name]}")
    if name not in outside:
        if name not in SIMILARITIES:
            raise ConfigurationError(f"similarity {name!r} is unknown; {did_you_mean(name, similarity_choices())}")
        return SIMILARITIES[name]
    found = load_entry_point("similarity", ENTRY_POINTS, name, taken=SIMILARITIES)
    if not isinstance(found, EngineSimilarity) or found.name != name:
        what = f"the similarity {found.name!r}" if isinstance(found, EngineSimilarity) else f"a {type(found).__name__}"
        raise ConfigurationError(f"entry point {name!r} in {ENTRY_POINTS} is {what}, expected an EngineSimilarity named {name!r}. Mend or remove its package.")
    return found


def _own() -> dict[str, str]:
    """Name to module."""
    return {module.name.replace("_", "+"): module.name for module in pkgutil.iter_modules(__path__)}

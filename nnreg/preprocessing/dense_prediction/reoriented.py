"""Images as plans with an ``orientation`` see them, whole or box by box."""

from __future__ import annotations

import numpy as np

from nnreg.geometry import Space
from nnreg.geometry.axis_permutation import AxisPermutation
from nnreg.imageio import Image, LazyImage
from nnreg.imageio.reoriented import TurnedImage
from nnreg.planning.orientation import reoriented, turn_of


def turn_for(space: Space, wanted: str) -> AxisPermutation | None:
    """How an image is turned to run as `wanted` says; None where nothing is wanted, and for a plane, which has no third axis to be turned about."""
    return turn_of(space, wanted) if wanted and space.ndim == 3 else None


def turned_image(image: Image, wanted: str) -> Image:
    """The image on the grid through the same voxels whose axes run as `wanted` says."""
    turn = turn_for(image.space, wanted)
    if turn is None:
        return image
    return Image(np.ascontiguousarray(turn.seen(image.array)), reoriented(image.space, wanted), image.notes)


def turned_lazily(image: LazyImage, wanted: str) -> LazyImage:
    """The same of an image on disk: boxes of the result are read from where they are stored."""
    turn = turn_for(image.space, wanted)
    return image if turn is None else TurnedImage(image.files, reoriented(image.space, wanted), turn)

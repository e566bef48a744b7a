"""A map to a template made better: the descent of the engine, gone on with from the whole map so far instead of begun anew.

The displacement that was found is what the smoothing of the field acts on, as in one long registration, so it does not get rougher from round to round; the
image is sampled under the whole map, once. The longest step gets shorter from round to round: steps of a fixed length would never let a template rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnreg.arrays import Doubles, Floats
from nnreg.engine.evidence import gather
from nnreg.engine.failure import Failure, judge
from nnreg.engine.grids import as_map, carried, pyramid
from nnreg.engine.prepared_image import PreparedImage, prepare
from nnreg.engine.presets import Preset, schedule
from nnreg.engine.refine import Settings, refine
from nnreg.engine.similarities import find_similarity
from nnreg.geometry import AffineMap, Transform
from nnreg.imageio import Image

FEWEST_ITERATIONS = 10  # on the grid of a round, at most: the preset `fast` has 2 at the finest spacing, for a registration that ends there
FEW_VOXELS, MOST_TIMES = 100_000, 4.0  # smaller levels get up to so many times the iterations, because they cost less
# of the longest step, from round to round on one grid. A mean image is not quite where registrations to it come to rest: on 15 slices of brains they moved on
# together by 0.13 voxels a round under five steps of 0.3 voxels, by 0.04 under 0.075, and the mean changed by less than 0.1 % of its range
SHORTER = 0.2


@dataclass(frozen=True, eq=False)
class Found:
    """What a round found of one image: the displacement (ndim, D, H, W) on the template's grid and the similarity that it reached."""

    field: Floats
    similarity: float


@dataclass(frozen=True, eq=False)
class Pair:
    """The mean image and one of the group, prepared.

    Attributes
    ----------
    fixed, moving : PreparedImage
    matrix : array, shape (ndim+1, ndim+1)
        Affine part of the map, from the template's to the image's world.
    similarity : str
    """

    fixed: PreparedImage
    moving: PreparedImage
    matrix: Doubles
    similarity: str

    @classmethod
    def of(cls, mean: tuple[Image, Image | None], image: tuple[Image, Image | None], matrix: Doubles, similarity: str) -> Pair:
        """From images and masks.

        Raises
        ------
        RegistrationError
            If one of them is constant.
        """
        sides = [prepare(one.array, one.space, None if mask is None else mask.array, role) for (one, mask), role in ((mean, "mean"), (image, "moving"))]
        return cls(sides[0], sides[1], matrix, similarity)

    def refined(self, start: Floats | None, preset: Preset, factor: int, number: int) -> Found:
        """Go on from `start`, or through all coarser levels where there is none.

        Parameters
        ----------
        start : array, shape (ndim, D, H, W), voxels, optional
        preset : Preset
        factor
            Of the template's spacing: what the grid of the round is.
        number
            Of the round on its grid, from 1.
        """
        factors = (1,) if start is not None else schedule(preset, self.fixed.space).factors
        by = find_similarity(self.similarity)
        levels = pyramid(*by.prepared_pair(self.fixed, self.moving, self.matrix), self.matrix, factors)
        levels = [level.resampled() for level in levels] if by.same_axes else levels
        field = levels[0].empty_field() if start is None else start
        similarity = float("nan")
        for index, level in enumerate(levels):
            if index:
                field = carried(field, levels[index - 1].fixed.space, level.fixed.space)
            count = _iterations(preset, factor * factors[index], level.fixed.space.voxels)
            settings = Settings.of(preset, by, count, step=SHORTER ** (number - 1))
            found = refine(level, field, by.groups(level, preset.radius), settings)
            field, similarity = found.field, found.history[-1]
        return Found(field, similarity)

    def failure(self, field: Floats) -> Failure:
        """How likely the map with this displacement is wrong."""
        transform = Transform((as_map(field, self.fixed.space), AffineMap(self.matrix)), self.fixed.space.ndim)
        return judge(gather(self.fixed, self.moving, transform, self.similarity))


def _iterations(preset: Preset, factor: int, voxels: int) -> int:
    """At most, on a level of so many times the template's spacing."""
    table = dict(zip((8, 4, 2, 1), preset.iterations, strict=True))
    count = max(FEWEST_ITERATIONS, table.get(factor, preset.iterations[0]))
    return round(count * min(MOST_TIMES, max(1.0, (FEW_VOXELS / voxels) ** 0.5)))

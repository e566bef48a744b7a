"""Which atlases are used for an image: those most like it after linear alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnreg import metrics
from nnreg.engine import align
from nnreg.errors import NnRegError
from nnreg.files import read_json, write_json
from nnreg.geometry import Transform, resample_image
from nnreg.groups.fusion.atlases import Atlas
from nnreg.groups.maps import made_from
from nnreg.groups.members import Member
from nnreg.imageio import Image
from nnreg.parallel import run_all

USUAL = 15  # atlases that are registered where nothing else is asked for: each costs a registration, and the last of many brings little; not tuned
COMPARED = 64  # voxels along the longest axis of the grid that aligned images are compared on
UNLIKE = -1.0  # an atlas that cannot be aligned


@dataclass(frozen=True)
class Aligned:
    """How like an image an atlas is, and the linear map from the image's world to the atlas's."""

    similarity: float
    matrix: tuple[tuple[float, ...], ...] | None

    @property
    def start(self) -> Transform | None:
        """The map, where one was found."""
        return None if self.matrix is None else Transform.affine(np.asarray(self.matrix))


@dataclass(frozen=True)
class Selection:
    """The comparison of an image with atlases, kept in a file for a run that goes on."""

    image: Member
    path: Path

    def run(self, atlases: Sequence[Atlas], *, processes: int = 1) -> dict[str, Aligned]:
        """Atlases by name, the most similar first."""
        known = self._known(atlases)
        jobs = [(self.image, atlas) for atlas in atlases if atlas.name not in known]
        for (_, atlas), aligned in run_all(_compare, jobs, processes=processes, name=_name):
            known[atlas.name] = {"made_from": self._made_from(atlas), "similarity": aligned.similarity, "matrix": aligned.matrix}
        write_json(self.path, known)
        found = {name: Aligned(entry["similarity"], _rows(entry["matrix"])) for name, entry in known.items()}
        return dict(sorted(found.items(), key=lambda item: (-item[1].similarity, item[0])))

    def _known(self, atlases: Sequence[Atlas]) -> dict[str, Any]:
        kept = read_json(self.path) if self.path.is_file() else {}
        return {atlas.name: kept[atlas.name] for atlas in atlases if kept.get(atlas.name, {}).get("made_from") == self._made_from(atlas)}

    def _made_from(self, atlas: Atlas) -> dict[str, str]:
        return made_from((self.image, atlas.member), "selection")


def _name(pair: tuple[Member, Atlas]) -> str:
    return f"{pair[0].name}__{pair[1].name}"


def _rows(matrix: Sequence[Sequence[float]] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if matrix is None else tuple(tuple(row) for row in matrix)


def _compare(pair: tuple[Member, Atlas]) -> Aligned:
    image, atlas = pair[0].image(), pair[1].member.image()
    masks = pair[0].mask_map(image), pair[1].member.mask_map(atlas)
    try:
        found = align(
            fixed=image.array,
            fixed_space=image.space,
            moving=atlas.array,
            moving_space=atlas.space,
            fixed_mask=None if masks[0] is None else masks[0].array,
            moving_mask=None if masks[1] is None else masks[1].array,
        )
    except NnRegError:
        return Aligned(UNLIKE, None)
    return Aligned(_likeness(image, atlas, Transform.affine(found.matrix)), _rows(found.matrix.tolist()))


def _likeness(image: Image, atlas: Image, transform: Transform) -> float:
    """Mean correlation of the channels on a coarse grid."""
    factor = max(1.0, max(image.space.shape) / COMPARED)
    grid = image.space.with_spacing([step * factor for step in image.space.spacing])
    fixed = resample_image(image.array, moving=image.space, fixed=grid, antialias=True)
    warped = resample_image(atlas.array, moving=atlas.space, fixed=grid, transform=transform)
    found = float(np.mean([metrics.ncc(one, other) for one, other in zip(fixed, warped, strict=True)]))
    return found if np.isfinite(found) else UNLIKE

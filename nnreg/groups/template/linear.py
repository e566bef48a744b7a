"""The linear part of a template: every image aligned to one of them, then to their mean, and the middle of the alignments found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.arrays import Doubles
from nnreg.engine.affine import align_sides
from nnreg.engine.prepared_image import prepare_shown
from nnreg.errors import NnRegError
from nnreg.files import read_json, write_json
from nnreg.geometry import Space, apply_matrix
from nnreg.groups.template.mean_image import MeanImage
from nnreg.groups.template.options import TemplateOptions
from nnreg.groups.template.subjects import Subject
from nnreg.imageio import Image

MARGIN = 0.03  # of the size of what the images show, kept around it on each side


@dataclass(frozen=True)
class Alignment:
    """One image aligned to what it is asked to be aligned to.

    Attributes
    ----------
    subject : Subject
    reference : Subject or MeanFile
    options : TemplateOptions
    path
        Of the record.
    """

    subject: Subject
    reference: Subject | MeanFile
    options: TemplateOptions
    path: Path

    @property
    def name(self) -> str:
        """What is told while it works."""
        return f"align {self.subject.name}"

    def run(self) -> None:
        """Make the record, where it is not there."""
        if not self.path.is_file():
            write_json(self.path, self._found())

    def record(self) -> dict[str, Any]:
        """``matrix`` and ``because``; ``failed`` alone, where that is skipped."""
        return dict(read_json(self.path))

    def _found(self) -> dict[str, Any]:
        try:
            return self._aligned()
        except NnRegError as error:
            if not self.options.skip_failures:
                raise type(error)(f"{self.subject.name}: {error}") from error
            return {"failed": str(error).splitlines()[0]}

    def _aligned(self) -> dict[str, Any]:
        (fixed, fixed_mask), (moving, moving_mask) = self.reference.pooled(0.0), self.subject.pooled(0.0)
        one = prepare_shown(fixed.array, fixed.space, None if fixed_mask is None else fixed_mask.array, "fixed")
        other = prepare_shown(moving.array, moving.space, None if moving_mask is None else moving_mask.array, "moving")
        found = align_sides(one, other, kind=self.options.alignment)
        return {"matrix": found.matrix, "because": found.because}


@dataclass(frozen=True)
class MeanFile:
    """A mean image in a file, as something to align to."""

    path: Path
    space: Space

    def pooled(self, finest: float) -> tuple[Image, Image | None]:
        """Image and mask, as they are: `finest` is that of their grid."""
        mean = MeanImage.load(self.path, self.space)
        return mean.image(), mean.mask()


def template_space(reference: Subject, subjects: Sequence[Subject], matrices: Sequence[Doubles], spacing: float | None) -> Space:
    """The grid of a template: turned as the reference, around what an image of the group shows in the median.

    Parameters
    ----------
    reference : Subject
    subjects, matrices
        Images, and the maps from the template's world to theirs.
    spacing : mm, optional
        By default the reference's.
    """
    ndim = reference.space.ndim
    steps = reference.space.spacing if spacing is None else (spacing,) * ndim
    start = Space((1,) * ndim, steps, (0.0,) * ndim, reference.space.direction)
    corners = [
        start.to_index(apply_matrix(np.asarray(np.linalg.inv(matrix), np.float64), subject.shown.corners()))
        for subject, matrix in zip(subjects, matrices, strict=True)
    ]
    low, high = (np.median([end(points, axis=0) for points in corners], axis=0) for end in (np.min, np.max))
    margin = np.ceil(MARGIN * (high - low)) + 1
    shape = np.ceil(high - low + 2 * margin).astype(int) + 1
    return Space(tuple(shape.tolist()), steps, tuple(start.to_world(low - margin).tolist()), reference.space.direction)

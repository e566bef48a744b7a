"""One round of a template: every image registered to the mean, the mean of the maps taken out of them, a new mean.

A map goes from the template's world to an image's: the displacement on the template's grid, then the image's affine matrix. With the mean displacement u of a
round, ``x -> x + u(x)`` goes from the template to the middle of the images. Its inverse is put before every map, whose displacements then have the mean zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.arrays import Doubles, Floats
from nnreg.engine.grids import as_map, carried
from nnreg.engine.prepared_image import foreground, prepare
from nnreg.errors import NnRegError, RegistrationError, WriteError
from nnreg.files import atomic_path, read_json, write_json
from nnreg.geometry import AffineMap, Space, Transform, resample_image
from nnreg.groups.template.mean_image import MeanImage
from nnreg.groups.template.options import TemplateOptions
from nnreg.groups.template.refinement import Pair
from nnreg.groups.template.subjects import Subject
from nnreg.kernels import volumes
from nnreg.kernels.inversion import inverted_volume


def save(path: Path, array: Floats) -> None:
    """An array, whole or not at all."""
    with atomic_path(path) as temporary:
        np.save(temporary, array)


@dataclass(frozen=True)
class Shape:
    """A folder with the state of a template between two steps: the mean image, and of each image the displacement (ndim, D, H, W).

    Attributes
    ----------
    folder
    space : Space
    deformed
        Whether there are displacements; before the first round there are none.
    """

    folder: Path
    space: Space
    deformed: bool = True

    @property
    def mean(self) -> Path:
        """The mean image; it is written last."""
        return self.folder / "mean.npz"

    def field(self, subject: Subject) -> Path:
        """The displacement of an image."""
        return self.folder / "fields" / f"{subject.name}.npy"

    def warped(self, subject: Subject) -> Path:
        """The image on the template's grid, with its weight."""
        return self.folder / "warped" / f"{subject.name}.npy"

    def transform(self, subject: Subject, matrix: Doubles) -> Transform:
        """From the template's to an image's world."""
        affine = AffineMap(matrix)
        if not self.deformed:
            return Transform((affine,), self.space.ndim)
        return Transform((as_map(np.load(self.field(subject)), self.space), affine), self.space.ndim)


@dataclass(frozen=True)
class Place:
    """Bring one image to another state: its displacement through the inverse of the mean one, onto another grid; then the image itself.

    Attributes
    ----------
    subject, matrix
    old, new : Shape
    recentre
        File of the inverse of the mean displacement, on the old grid.
    raw
        File of the displacement, if it is not that of `old`.
    """

    subject: Subject
    matrix: Doubles
    old: Shape
    new: Shape
    recentre: Path | None = None
    raw: Path | None = None

    @property
    def name(self) -> str:
        """What is told while it works."""
        return f"place {self.subject.name}"

    def run(self) -> None:
        """Make both files, where they are not there; the warped image is written last."""
        if self.new.warped(self.subject).is_file():
            return
        if self.new.deformed:
            save(self.new.field(self.subject), self._field())
        image, mask = self.subject.pooled(min(self.new.space.spacing))
        weight = np.ones((1, *image.space.shape), np.float32) if mask is None else mask.array.astype(np.float32)
        values = np.concatenate([self.subject.scale.common(image.array), weight])
        transform = self.new.transform(self.subject, self.matrix)
        save(self.new.warped(self.subject), resample_image(values, moving=image.space, fixed=self.new.space, transform=transform, outside=0.0))

    def _field(self) -> Floats:
        field: Floats = np.load(self.old.field(self.subject) if self.raw is None else self.raw)
        if self.recentre is not None:
            field = volumes.compose(field, np.load(self.recentre))
        return carried(field, self.old.space, self.new.space)


@dataclass(frozen=True)
class Register:
    """Register one image to the mean of a state, from the map that it has.

    Attributes
    ----------
    subject, matrix, shape, options
    factor, number
        Which grid and which round on it.
    folder
        Takes ``NAME.npy``, the displacement, and ``NAME.json``, what was measured.
    """

    subject: Subject
    matrix: Doubles
    shape: Shape
    options: TemplateOptions
    factor: int
    number: int
    folder: Path

    @property
    def name(self) -> str:
        """What is told while it works."""
        return f"register {self.subject.name}"

    @property
    def field(self) -> Path:
        """The displacement that was found."""
        return self.folder / f"{self.subject.name}.npy"

    def record(self) -> dict[str, Any]:
        """What was measured; ``failed`` where it failed and that is skipped."""
        return dict(read_json(self.folder / f"{self.subject.name}.json"))

    def run(self) -> None:
        """Make both files, where they are not there; the record is written last."""
        record = self.folder / f"{self.subject.name}.json"
        if record.is_file():
            return
        try:
            measures = self._registered()
        except WriteError:
            raise
        except NnRegError as error:
            if not self.options.skip_failures:
                raise type(error)(f"{self.subject.name}: {error}") from error
            measures = {"failed": str(error).splitlines()[0]}
        write_json(record, measures)

    def _registered(self) -> dict[str, Any]:
        mean = MeanImage.load(self.shape.mean, self.shape.space)
        target = mean.image(sharpen=self.options.sharpen), mean.mask()
        engine = self.options.engine()
        pair = Pair.of(target, self.subject.pooled(min(self.shape.space.spacing)), self.matrix, engine.similarity)
        start = np.load(self.shape.field(self.subject)) if self.shape.deformed else None
        found = pair.refined(start, engine.spent(self.shape.space.ndim), self.factor, self.number)
        measures = {"similarity": found.similarity}
        if start is None:
            failure = pair.failure(found.field)
            if failure.likely and not self.options.accept_likely_failed:
                reasons = "; ".join(failure.reasons)
                raise RegistrationError(
                    f"its registration to the mean image likely failed ({reasons}). Use --skip_failures, or --accept_likely_failed if it is right."
                )
            measures["failure_probability"] = failure.probability
        save(self.field, found.field)
        return measures


def recentre(fields: Sequence[Path], shape: Shape, path: Path) -> dict[str, float]:
    """Write the inverse of the mean displacement of a round; how long that displacement is.

    Returns
    -------
    dict
        ``drift``, the mean length over the foreground of the mean image, and ``largest_drift``, voxels.
    """
    total: Doubles | None = None
    for file in fields:
        field = np.load(file)
        total = field.astype(np.float64) if total is None else total + field
    assert total is not None
    mean = (total / len(fields)).astype(np.float32)
    save(path, inverted_volume(mean))
    image = MeanImage.load(shape.mean, shape.space)
    body = foreground(prepare(image.array, shape.space, None, "mean")).reshape(mean.shape[1:]) > 0.5
    length = np.sqrt(np.square(mean.astype(np.float64)).sum(axis=0))
    seen = length[body] if body.any() else length.ravel()
    return {"drift": float(seen.mean()), "largest_drift": float(seen.max())}

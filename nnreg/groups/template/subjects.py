"""The images of a template: measured once, in an order that their names do not change, pooled to the grid they are needed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnreg.arrays import Floats
from nnreg.engine.prepared_image import PreparedImage, foreground, moments, prepare
from nnreg.errors import DatasetError
from nnreg.files import content_digest
from nnreg.geometry import Space
from nnreg.groups.members import Member
from nnreg.groups.template.mean_image import Scale
from nnreg.imageio import Image
from nnreg.padding import shown, slices

LEAST_GAIN = 0.1  # of the window: a foreground that differs less from the background is scaled by the window


@dataclass(frozen=True)
class Subject:
    """One image of the group and what was measured of it.

    Attributes
    ----------
    member : Member
    digest : str
        Of the content of its files, whatever they are called.
    radii : tuple of float
        Logarithms of the half axes of its foreground, mm, largest last.
    scale : Scale
    box : tuple
        First index and the one after the last, per axis, of what it shows.
    space : Space
    """

    member: Member
    digest: str
    radii: tuple[float, ...]
    scale: Scale
    box: tuple[tuple[int, int], ...]
    space: Space

    @property
    def name(self) -> str:
        """Of the case."""
        return self.member.name

    @property
    def shown(self) -> Space:
        """The grid of what it shows."""
        return self.space.part(self.box)

    def pooled(self, finest: float) -> tuple[Image, Image | None]:
        """Image and mask by means over blocks of voxels: no axis finer than `finest` mm, as nearly as whole blocks come."""
        image = self.member.image()
        mask = self.member.mask_map(image)
        whole = None if mask is None else (mask.array[0] != 0).astype(np.float32)
        spacing = [max(step, finest) for step in image.space.spacing]
        found = PreparedImage(np.ascontiguousarray(image.array, dtype=np.float32), whole, image.space).pooled(spacing)
        inside = None if found.mask is None else Image((found.mask > 0.5).astype(np.uint8)[None], found.space)
        return Image(found.image, found.space), inside


def check_alike(subject: Subject, first: Subject) -> None:
    """Raise a DatasetError unless two images have the same number of axes and of channels."""
    axes, channels = (subject.space.ndim, first.space.ndim), (len(subject.scale.low), len(first.scale.low))
    if axes[0] != axes[1]:
        raise DatasetError(f"{subject.member.files[0]}: has {axes[0]} axes, {first.member.files[0]} has {axes[1]}. A group has images of one kind, 2D or 3D.")
    if channels[0] != channels[1]:
        raise DatasetError(
            f"{subject.member.files[0]}: has {channels[0]} channels, {first.member.files[0]} has {channels[1]}. Give every image the same channels."
        )


def measure(member: Member, *, scale: bool = True) -> Subject:
    """Read one image and measure it.

    Raises
    ------
    NnRegError
        If a file cannot be read, the image is constant, or its mask lies on another grid or is empty.
    """
    image = member.image()
    mask = member.mask_map(image)
    member.label_map(image)  # refused before the work, not after it
    inside = None if mask is None else mask.array[0] != 0
    prepared = prepare(image.array, image.space, None if mask is None else mask.array, member.name)
    weights = foreground(prepared)
    body = weights > 0.5
    _, spread = moments(weights, image.space)
    radii = np.log(np.sqrt(np.maximum(np.linalg.eigvalsh(spread), 1e-12)))
    box = shown(image.array).tight
    digest = content_digest((*member.files, member.mask), names=False)
    as_is = Scale((0.0,) * image.channels, (1.0,) * image.channels)
    found = _scale(image.array, body, inside, box) if scale else as_is
    return Subject(member, digest, tuple(radii.tolist()), found, box, image.space)


def _scale(array: Any, body: Any, inside: Any, box: tuple[tuple[int, int], ...]) -> Scale:
    """Background and foreground per channel, robust against what is bright or dark by itself."""
    low, gain = [], []
    within = slices(box)[1:]
    for channel in np.asarray(array, dtype=np.float32):
        around = channel[within] if inside is None else channel[inside]
        start, end = (float(value) for value in np.percentile(around, (0.5, 99.5)))
        middle = float(np.median(channel[body])) - start if body.any() else 0.0
        low.append(start)
        gain.append(middle if middle > LEAST_GAIN * (end - start) else max(end - start, 1e-12))
    return Scale(tuple(low), tuple(gain))


def mean_scale(subjects: Sequence[Subject]) -> Scale:
    """What the template's intensities are written in."""
    lows, gains = (np.asarray([getattr(subject.scale, name) for subject in subjects], np.float64) for name in ("low", "gain"))
    return Scale(tuple(lows.mean(axis=0).tolist()), tuple(gains.mean(axis=0).tolist()))


def ordered(subjects: Sequence[Subject]) -> list[Subject]:
    """By what the files hold, so that renaming them changes nothing."""
    return sorted(subjects, key=lambda subject: (subject.digest, subject.name))


def candidates(subjects: Sequence[Subject]) -> list[Subject]:
    """As references to align to: those of the most usual size and proportions first."""
    radii = np.asarray([subject.radii for subject in subjects])
    away: Floats = np.abs(radii - np.median(radii, axis=0)).sum(axis=1)
    return [subjects[index] for index in np.argsort(away, kind="stable")]

"""What the planner knows of a dataset: each image measured once, nothing decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.documents import understood
from nnreg.errors import PlansError
from nnreg.files import read_json, write_json
from nnreg.geometry.space import Space
from nnreg.planning import orientation
from nnreg.planning.registration.pair_fingerprint import PairFingerprint
from nnreg.typed import from_mapping, to_mapping

SCHEMA_VERSION = 3
FILE_NAME = "dataset_fingerprint.json"


@dataclass(frozen=True)
class ChannelStatistics:
    """Intensities of one channel on the foreground.

    Attributes
    ----------
    background
        Intensity outside the foreground.
    hounsfield
        Whether they look like CT numbers.
    """

    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_01: float
    percentile_99: float
    percentile_99_5: float
    background: float
    hounsfield: bool

    @classmethod
    def of(cls, values: npt.NDArray[np.floating], *, background: float, hounsfield: bool) -> ChannelStatistics:
        """Measure intensities (N,)."""
        low, first, median, last, high = np.percentile(values, (0.5, 1, 50, 99, 99.5))
        return cls(
            mean=float(values.mean()),
            median=float(median),
            std=float(values.std()),
            minimum=float(values.min()),
            maximum=float(values.max()),
            percentile_00_5=float(low),
            percentile_01=float(first),
            percentile_99=float(last),
            percentile_99_5=float(high),
            background=background,
            hounsfield=hounsfield,
        )


@dataclass(frozen=True)
class ImageFingerprint:
    """One image.

    Attributes
    ----------
    shape, spacing, origin, direction
        Its grid, as in :class:`nnreg.geometry.Space`.
    orientation : letters, image axis x first
    foreground_found
        False if no background could be told apart; then the whole image is foreground.
    foreground_low, foreground_high : voxels, array axis order, half open
    foreground_faces : share of the first and the last face of each axis that is foreground
    centre_of_mass : world mm (x first), of the foreground
    labelled_low, labelled_high : voxels, array axis order, half open
        Box around everything labelled; None without labels.
    file_bytes
        Size of its image files.
    digest
        Of the content of all files of the case: whether they have changed. Empty in fingerprints of before, where the size had to tell.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    orientation: str
    foreground_found: bool
    foreground_low: tuple[int, ...]
    foreground_high: tuple[int, ...]
    foreground_faces: tuple[tuple[float, float], ...]
    foreground_fraction: float
    centre_of_mass: tuple[float, ...]
    channels: tuple[ChannelStatistics, ...]
    integer: bool
    subject: str
    labels: bool
    keypoints: int | None
    mask: bool
    file_bytes: int
    labelled_low: tuple[int, ...] | None = None
    labelled_high: tuple[int, ...] | None = None
    digest: str = ""

    @property
    def space(self) -> Space:
        """Its grid."""
        return Space(self.shape, self.spacing, self.origin, self.direction)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def ordered(self, values: tuple[float, ...] | tuple[int, ...], wanted: str) -> npt.NDArray[np.float64]:
        """Per-axis `values` in the axis order of an image of orientation `wanted`."""
        return np.asarray(values, dtype=float)[list(orientation.permutation(self.orientation, wanted))]

    def foreground_extent(self, wanted: str | None = None) -> npt.NDArray[np.float64]:
        """Size of the foreground box in mm, in the axis order of `wanted` (its own if absent)."""
        extent = tuple((high - low) * spacing for low, high, spacing in zip(self.foreground_low, self.foreground_high, self.spacing, strict=True))
        return self.ordered(extent, wanted or self.orientation)


@dataclass(frozen=True)
class Fingerprint:
    """The dataset.

    Attributes
    ----------
    pairing, pair_count, atlas
        As dataset.json has them; how many ordered pairs the training cases give.
    groups : tuples of cases that belong together (connected by pairs), first fixed case first; only with pairing ``pairs`` and ``groups``
    images : case to its measurements, training cases in order
    intensities : per channel, pooled over the same number of foreground voxels of each image
    pairs
        A sample of the pairs, registered quickly; None where none was measured.
    unit
        Of lengths: "px" where no image file says anything of its size, else "mm".
    """

    dataset_name: str
    channel_names: tuple[str, ...]
    pairing: str
    pair_count: int
    atlas: str | None
    groups: tuple[tuple[str, ...], ...]
    images: dict[str, ImageFingerprint]
    intensities: tuple[ChannelStatistics, ...]
    pairs: PairFingerprint | None = None
    unit: str = "mm"
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return next(iter(self.images.values())).ndim

    @cached_property  # asked for of every group of cases
    def orientation(self) -> str:
        """The orientation most images have: the axis order of everything planned."""
        return orientation.commonest([image.orientation for image in self.images.values()])

    @property
    def subjects(self) -> int:
        """Number of subjects."""
        return len({image.subject for image in self.images.values()})

    def spacings(self) -> npt.NDArray[np.float64]:
        """(cases, ndim) mm, in the common axis order."""
        return np.stack([image.ordered(image.spacing, self.orientation) for image in self.images.values()])

    def shapes(self) -> npt.NDArray[np.float64]:
        """(cases, ndim) voxels, in the common axis order."""
        return np.stack([image.ordered(image.shape, self.orientation) for image in self.images.values()])

    def foreground_extents(self) -> npt.NDArray[np.float64]:
        """(cases, ndim) mm, in the common axis order."""
        return np.stack([image.foreground_extent(self.orientation) for image in self.images.values()])

    def same_grid(self, cases: tuple[str, ...] | None = None) -> bool:
        """Whether the given cases (all if absent) lie on one and the same grid."""
        spaces = [self.images[case].space for case in cases or tuple(self.images)]
        return all(spaces[0].same_as(space) for space in spaces[1:])

    @classmethod
    def read(cls, path: Path | str) -> Fingerprint:
        """Read and validate.

        Raises
        ------
        PlansError
            Missing or damaged file, unknown or missing key, wrong type, another schema version.
        """
        content = read_json(path, PlansError)
        if isinstance(content, dict) and content.get("schema_version") != SCHEMA_VERSION:
            found = content.get("schema_version")
            raise PlansError(f"{path}: schema_version is {found!r}, this nnReg reads {SCHEMA_VERSION}. Extract it again: nnreg_extract_fingerprint --clean.")
        with understood(path, PlansError):
            return from_mapping(cls, content, where=str(path), error=PlansError)

    def write(self, path: Path | str) -> None:
        """Write the fingerprint, whole or not at all."""
        write_json(path, to_mapping(self))

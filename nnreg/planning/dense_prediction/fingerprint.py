"""What the planner of dense prediction knows of a dataset: nnU-Net's fingerprint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.documents import understood
from nnreg.errors import PlansError
from nnreg.files import read_json, write_json
from nnreg.typed import from_mapping, to_mapping

SCHEMA_VERSION = 1
FILE_NAME = "dataset_fingerprint_dense.json"


@dataclass(frozen=True)
class Intensities:
    """Of one channel, on labelled foreground, pooled over the training cases; every case counts the same."""

    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True)
class MapValues:
    """Values of one channel of a continuous target where they are known, every training case counting the same.

    Attributes
    ----------
    mean, std, minimum, maximum
        A network learns the difference from the mean in standard deviations.
    outside
        Mean outside the box around what is not 0 in the images, which no network sees; 0 where there is no such voxel.
    dtype
        Of the files: ``uint8``, ``uint16`` or ``float32`` for anything else.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    outside: float
    dtype: str


@dataclass(frozen=True)
class DenseImage:
    """One training case. Always three axes: a 2D image is one slice of a spacing far above that of its plane.

    Attributes
    ----------
    spacing : mm, array axis order
    shape_after_crop : voxels of the box around what is not 0 in any channel
    relative_size : voxels of that box over those of the image, padding left out
    file_bytes
        Of image and labels.
    digest
        Of the content of all files of the case: whether they have changed. Empty in fingerprints of before, where the size had to tell.
    """

    spacing: tuple[float, float, float]
    shape_after_crop: tuple[int, int, int]
    relative_size: float
    file_bytes: int
    digest: str = ""


@dataclass(frozen=True)
class DenseFingerprint:
    """The dataset.

    Attributes
    ----------
    heads
        Entries of ``labels``, background and ignore included: what nnU-Net counts as outputs when it plans.
    regions
        Whether an entry of ``labels`` holds several values.
    training_cases
        ``numTraining`` of ``dataset.json``.
    images : case to its measurements
    intensities : per channel
    maps : continuous target to the values of each of its channels
    """

    dataset_name: str
    channel_names: tuple[str, ...]
    heads: int
    regions: bool
    training_cases: int
    images: dict[str, DenseImage]
    intensities: tuple[Intensities, ...]
    maps: dict[str, tuple[MapValues, ...]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def has_labels(self) -> bool:
        """Whether any output is a label."""
        return self.heads > sum(len(channels) for channels in self.maps.values())

    def spacings(self) -> npt.NDArray[np.float64]:
        """(cases, 3) mm."""
        return np.asarray([image.spacing for image in self.images.values()], dtype=np.float64)

    def shapes(self) -> npt.NDArray[np.int64]:
        """(cases, 3) voxels, after cropping."""
        return np.asarray([image.shape_after_crop for image in self.images.values()], dtype=np.int64)

    @property
    def relative_size(self) -> float:
        """Median share of the image that cropping leaves."""
        return float(np.median([image.relative_size for image in self.images.values()]))

    @classmethod
    def read(cls, path: Path | str) -> DenseFingerprint:
        """Read and validate.

        Raises
        ------
        PlansError
            Missing or damaged file, unknown or missing key, wrong type, another schema version.
        """
        content = read_json(path, PlansError)
        if isinstance(content, dict) and content.get("schema_version") != SCHEMA_VERSION:
            raise PlansError(f"{path}: schema_version is {content.get('schema_version')!r}, expected {SCHEMA_VERSION}. Extract the fingerprint again.")
        with understood(path, PlansError):
            return from_mapping(cls, content, where=str(path), error=PlansError)

    def write(self, path: Path | str) -> None:
        """Write the fingerprint, whole or not at all."""
        write_json(path, to_mapping(self))

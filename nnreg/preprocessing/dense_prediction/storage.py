"""Preprocessed cases of dense prediction on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Integers
from nnreg.dataset.labels import Label
from nnreg.documents import understood
from nnreg.errors import PreprocessingError
from nnreg.files import read_json, write_json
from nnreg.geometry.space import Space
from nnreg.planning.dense_prediction.foreground import Box, volume_spacing
from nnreg.preprocessing.dense_prediction.locations import read_locations, write_locations
from nnreg.preprocessing.registration.storage import ENDING, IMAGE, LABELS, MASK, PreparedFolder, open_array, write_array

SCHEMA_VERSION: Final = 1
LOCATIONS, MAPS = "_locations.npz", "_maps"
SUFFIXES = (".json", f"{IMAGE}{ENDING}", f"{LABELS}{ENDING}", f"{MASK}{ENDING}", f"{MAPS}{ENDING}", LOCATIONS)


@dataclass(frozen=True)
class DenseProperties:
    """How arrays lie in the image they come from; shapes and box in the transposed order of axes.

    Attributes
    ----------
    case : str
    native : Space
        Of the files.
    shape_before_crop : voxels per axis
        A 2D image is a single slice.
    box
        First and one past the last index per axis of what was kept.
    """

    case: str
    native: Space
    shape_before_crop: tuple[int, ...]
    box: Box

    @property
    def shape_after_crop(self) -> tuple[int, ...]:
        """Voxels per axis of what was kept, before it was resampled."""
        return tuple(high - low for low, high in self.box)

    def spacing(self, transpose_forward: Sequence[int]) -> tuple[float, ...]:
        """mm, in the transposed order of axes, before resampling."""
        native = volume_spacing(self.native.spacing)
        return tuple(native[axis] for axis in transpose_forward)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "case": self.case,
            "native": self.native.to_dict(),
            "shape_before_crop": list(self.shape_before_crop),
            "box": [list(sides) for sides in self.box],
            "shape_after_crop": list(self.shape_after_crop),
        }

    @classmethod
    def from_dict(cls, content: Any, where: str) -> DenseProperties:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        PreprocessingError
            If a key is missing or the file is of another version.
        """
        if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION or "box" not in content:
            raise PreprocessingError(f"{where}: is not a case of dense prediction, schema version {SCHEMA_VERSION}. Preprocess the dataset again.")
        with understood(where, PreprocessingError, "Preprocess the dataset again."):
            box = tuple((int(low), int(high)) for low, high in content["box"])
            return cls(content["case"], Space.from_dict(content["native"]), tuple(content["shape_before_crop"]), box)


@dataclass(frozen=True, eq=False)
class DenseCase:
    """A preprocessed case.

    Attributes
    ----------
    image : array, shape (C, D, H, W), float32
    labels : array, shape (T, D, H, W), int16
        -1 outside the nonzero region; 0 inside it where the case has no labels.
    locations
        Label or region to voxels (N, 3) of the array; empty without labels.
    properties : DenseProperties
    mask : array, shape (T, D, H, W), int16, optional
        1 where a target is to be learnt.
    maps : array, shape (M, D, H, W), float32, optional
        Normalised values of the continuous targets, NaN where unknown.
    """

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int16]
    properties: DenseProperties
    locations: dict[Label, Integers] = field(default_factory=dict)
    mask: npt.NDArray[np.int16] | None = None
    maps: npt.NDArray[np.float32] | None = None

    def save(self, folder: Path, patch: Sequence[int]) -> None:
        """Write the case, cut for reading patches of that size; the JSON comes last, so that a case with a JSON is whole."""
        case = self.properties.case
        write_array(folder / f"{case}{IMAGE}{ENDING}", self.image, patch)
        write_array(folder / f"{case}{LABELS}{ENDING}", self.labels, patch)
        for suffix, array in ((MASK, self.mask), (MAPS, self.maps)):
            path = folder / f"{case}{suffix}{ENDING}"
            if array is not None:
                write_array(path, array, patch)
            else:
                path.unlink(missing_ok=True)
        write_locations(folder / f"{case}{LOCATIONS}", self.locations)
        write_json(folder / f"{case}.json", self.properties.to_dict())


class OpenCase(NamedTuple):
    """Arrays on disk, read slice by slice: ``image[:, a:b, c:d, e:f]`` is a numpy array, and only its blocks are decompressed.

    Attributes
    ----------
    image : blosc2 array, shape (C, D, H, W), float32
    labels : blosc2 array, shape (T, D, H, W), int16
    """

    image: Any
    labels: Any


class DenseDataset(PreparedFolder):
    """Cases of dense prediction: arrays that are read in parts, and the voxels of their labels."""

    def properties(self, case: str) -> DenseProperties:
        """Where a case comes from.

        Raises
        ------
        PreprocessingError
            If there is no such case.
        """
        path = self.folder / f"{case}.json"
        return DenseProperties.from_dict(read_json(path, PreprocessingError), str(path))

    def open(self, case: str) -> OpenCase:
        """The arrays of a case; nothing is read but their headers.

        Raises
        ------
        PreprocessingError
            If a file is missing or damaged.
        """
        return OpenCase(*(open_array(self.folder / f"{case}{suffix}{ENDING}") for suffix in (IMAGE, LABELS)))

    def mask(self, case: str) -> Any | None:
        """Where each target is to be learnt (1 there), as :meth:`open` gives the labels; None if that is everywhere."""
        return self._optional(case, MASK)

    def maps(self, case: str) -> Any | None:
        """Normalised values of the continuous targets (M, D, H, W), as :meth:`open` gives the image; None where there are none."""
        return self._optional(case, MAPS)

    def _optional(self, case: str, suffix: str) -> Any | None:
        path = self.folder / f"{case}{suffix}{ENDING}"
        return open_array(path) if path.is_file() else None

    def locations(self, case: str) -> dict[Label, Integers]:
        """Label or region to voxels (N, 3) of the arrays.

        Raises
        ------
        PreprocessingError
            If the file is missing or damaged.
        """
        return read_locations(self.folder / f"{case}{LOCATIONS}")

"""Preprocessed cases on disk: blosc2 arrays and a JSON with their geometry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles
from nnreg.deflate import DamagedError
from nnreg.documents import understood
from nnreg.errors import PreprocessingError
from nnreg.files import atomic_path, read_json, write_json
from nnreg.geometry.space import Space
from nnreg.preprocessing.chunks import chunks_and_blocks
from nnreg.seal import is_sealed, seal

if TYPE_CHECKING:
    from nnreg.dataset import Pair

SCHEMA_VERSION = 1
IMAGE, LABELS, MASK = "", "_seg", "_mask"
ENDING = ".b2nd"
FIELD = f"_field{ENDING}"  # after the name of a pair


@dataclass(frozen=True, eq=False)
class Properties:
    """Where a preprocessed case comes from.

    Attributes
    ----------
    case : str
    native, working : Space
        The grid of its files and the grid of its arrays.
    to_native : array, shape (ndim+1, ndim+1)
        From the working world to the case's native world, mm, x first.
    alignment
        ``kind``, ``similarity_before``, ``similarity_after``, ``because``, and the ``frame`` it was aligned to.
    keypoints : array, shape (N, ndim), optional
        Voxels of the working grid, array axis order.
    """

    case: str
    native: Space
    working: Space
    to_native: Doubles
    alignment: dict[str, Any] = field(default_factory=dict)
    keypoints: Doubles | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "case": self.case,
            "native": self.native.to_dict(),
            "working": self.working.to_dict(),
            "to_native": self.to_native.tolist(),
            "alignment": self.alignment,
            "keypoints": None if self.keypoints is None else self.keypoints.tolist(),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any], where: str) -> Properties:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        PreprocessingError
            If a key is missing or the file is of another version.
        """
        if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
            raise PreprocessingError(f"{where}: is not a case of schema version {SCHEMA_VERSION}. Preprocess the dataset again.")
        with understood(where, PreprocessingError, "Preprocess the dataset again."):
            native, working = Space.from_dict(content["native"]), Space.from_dict(content["working"])
            points = content["keypoints"]
            return cls(
                case=content["case"],
                native=native,
                working=working,
                to_native=np.asarray(content["to_native"], dtype=float),
                alignment=content["alignment"],
                keypoints=None if points is None else np.asarray(points, dtype=float).reshape(-1, working.ndim),
            )


@dataclass(frozen=True, eq=False)
class PreprocessedCase:
    """A case on the working grid.

    Attributes
    ----------
    image : array, shape (C, *grid), float32
    labels : array, shape (1, *grid), int16, optional
    mask : array, shape (1, *grid), uint8, optional
    properties : Properties
    """

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int16] | None
    mask: npt.NDArray[np.uint8] | None
    properties: Properties

    def save(self, folder: Path) -> None:
        """Write the case; the JSON comes last, so that a case with a JSON is whole."""
        case = self.properties.case
        for suffix, array in ((IMAGE, self.image), (LABELS, self.labels), (MASK, self.mask)):
            if array is not None:
                write_array(folder / f"{case}{suffix}{ENDING}", array)
        write_json(folder / f"{case}.json", self.properties.to_dict())


def write_array(path: Path, array: npt.NDArray[Any], patch: Sequence[int] | None = None) -> None:
    """Write a (C, *spatial) array as blosc2, cut for reading patches of size `patch` (the whole of it if absent)."""
    import blosc2

    chunks, blocks = chunks_and_blocks(array.shape, patch or array.shape[1:], array.itemsize)
    with atomic_path(path) as temporary:
        blosc2.asarray(np.ascontiguousarray(array), urlpath=str(temporary), mode="w", chunks=chunks, blocks=blocks, cparams=_compression())
        seal(temporary)


def _compression() -> dict[str, Any]:
    import blosc2

    # measured on hearts: LZ4HC takes three times as long for images 3 % smaller, Zstandard makes them 20 % smaller and takes three times as long to read
    return {"codec": blosc2.Codec.LZ4, "clevel": 9, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}


@contextlib.contextmanager
def create_array(path: Path, shape: Sequence[int], dtype: npt.DTypeLike, patch: Sequence[int], fill: Any) -> Iterator[Any]:
    """A blosc2 array full of `fill` to be written box by box (``array[:, a:b, c:d, e:f] = values``); it is at `path` when the block ends without an error."""
    import blosc2

    kind = np.dtype(dtype)
    chunks, blocks = chunks_and_blocks(shape, patch, kind.itemsize)
    with atomic_path(path) as temporary:
        yield blosc2.full(tuple(shape), kind.type(fill), dtype=kind, urlpath=str(temporary), mode="w", chunks=chunks, blocks=blocks, cparams=_compression())
        seal(temporary)


def open_array(path: Path) -> Any:
    """A stored array, of which only the blocks that are asked for are read.

    Raises
    ------
    PreprocessingError
        If the file is missing or damaged: its bytes are compared with their checksum when it is first opened.
    """
    import blosc2

    if not path.is_file():
        raise PreprocessingError(f"{path}: does not exist. Preprocess the dataset again.")
    with _damage_told(path):
        if not is_sealed(path):
            raise ValueError("its checksum is not there")
        return blosc2.open(str(path), mode="r", dparams={"nthreads": 1})


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a whole blosc2 array.

    Raises
    ------
    PreprocessingError
        If the file is missing or damaged.
    """
    stored = open_array(path)
    with _damage_told(path):
        return np.asarray(stored[:])


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError, DamagedError) as error:
        raise PreprocessingError(f"{path}: is damaged ({str(error).splitlines()[0]}). Remove it and preprocess the dataset again.") from error


class PreparedFolder:
    """The preprocessed cases of one configuration.

    Parameters
    ----------
    folder
        ``nnReg_preprocessed/DatasetXXX_Name/<data_identifier>``.

    Raises
    ------
    PreprocessingError
        If the folder is missing.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise PreprocessingError(f"{self.folder}: does not exist. Run nnreg_plan_and_preprocess first.")

    @property
    def cases(self) -> list[str]:
        """Names of the finished cases, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.json") if not path.name.startswith("."))


class PreprocessedDataset(PreparedFolder):
    """Cases of a registration: whole arrays and their geometry."""

    @property
    def any_labels(self) -> bool:
        """Whether a case has labels."""
        return any(True for _ in self.folder.glob(f"*{LABELS}{ENDING}"))

    def properties(self, case: str) -> Properties:
        """Geometry of a case.

        Raises
        ------
        PreprocessingError
            If there is no such case.
        """
        path = self.folder / f"{case}.json"
        return Properties.from_dict(read_json(path, PreprocessingError), str(path))

    def has_labels(self, case: str) -> bool:
        """Whether a case has labels."""
        return (self.folder / f"{case}{LABELS}{ENDING}").is_file()

    def has_true_field(self, pair: Pair) -> bool:
        """Whether the true displacement of a pair is known."""
        return (self.folder / f"{pair.name}{FIELD}").is_file()

    def true_field(self, pair: Pair) -> npt.NDArray[np.float32] | None:
        """The true displacement of a pair (ndim, *grid), voxels, NaN where it is not known; None if it is nowhere."""
        return read_array(self.folder / f"{pair.name}{FIELD}") if self.has_true_field(pair) else None

    def load(self, case: str) -> PreprocessedCase:
        """Arrays and geometry of a case.

        Raises
        ------
        PreprocessingError
            If there is no such case, or a file is missing or damaged.
        """
        properties = self.properties(case)
        labels, mask = (self._optional(case, suffix) for suffix in (LABELS, MASK))
        return PreprocessedCase(read_array(self.folder / f"{case}{IMAGE}{ENDING}"), labels, mask, properties)

    def _optional(self, case: str, suffix: str) -> npt.NDArray[Any] | None:
        path = self.folder / f"{case}{suffix}{ENDING}"
        return read_array(path) if path.is_file() else None

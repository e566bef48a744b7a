"""``CASE.npz`` as nnU-Net names it: probabilities (K, *native), written and read class by class, so that no more than one is in memory."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from nnreg.arrays import Floats
from nnreg.errors import ImageError, PredictionError
from nnreg.files import atomic_path
from nnreg.imageio.promises import check_member, damage_told

ENDING = ".npz"
MEMBER = "probabilities.npy"


def write_probabilities(path: Path, classes: Iterable[npt.NDArray[np.floating]], shape: Sequence[int]) -> None:
    """Write probabilities, whole or not at all.

    Parameters
    ----------
    path
        Ending in ``.npz``; ``numpy.load(path)["probabilities"]`` gives float32 of `shape`.
    classes
        One array (*spatial) after the other.
    shape : (K, *spatial)
    """
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(MEMBER, "w", force_zip64=True) as file,
    ):
        npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": tuple(map(int, shape))})
        for probability in classes:
            file.write(np.ascontiguousarray(probability, dtype=np.float32).tobytes())


class Probabilities:
    """The probabilities of a case in a file.

    Parameters
    ----------
    path
        ``CASE.npz``.

    Attributes
    ----------
    shape : (K, *spatial)

    Raises
    ------
    PredictionError
        If the file is missing or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._damage_told(), self._opened() as file:
            self.shape, self._dtype = _header(file, path)
            check_member(path, self.shape, self._dtype, zipfile.ZipFile(path).getinfo(MEMBER))

    def classes(self) -> Iterator[Floats]:
        """One array (*spatial) after the other."""
        size = int(np.prod(self.shape[1:])) * self._dtype.itemsize
        with self._damage_told(), self._opened() as file:
            _header(file, self.path)
            for _ in range(self.shape[0]):
                content = file.read(size)
                if len(content) < size:
                    raise PredictionError(f"{self.path}: is cut short. Predict the case again with --save_probabilities.")
                yield np.frombuffer(content, self._dtype).reshape(self.shape[1:]).astype(np.float32, copy=False)

    @contextlib.contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            with damage_told():
                yield
        except (ValueError, ImageError) as error:
            reason = str(error).removeprefix(f"{self.path}: ").rstrip(".")
            raise PredictionError(f"{self.path}: is damaged ({reason}). Predict the case again with --save_probabilities.") from error

    def _opened(self) -> zipfile.ZipExtFile:
        try:
            return zipfile.ZipFile(self.path).open(MEMBER)  # type: ignore[return-value]  # opened for reading
        except FileNotFoundError as error:
            raise PredictionError(f"{self.path}: does not exist. Predict with --save_probabilities (training: --npz).") from error
        except (zipfile.BadZipFile, KeyError) as error:
            raise PredictionError(f"{self.path}: holds no probabilities ({error}). Predict the case again with --save_probabilities.") from error


def _header(file: zipfile.ZipExtFile, path: Path) -> tuple[tuple[int, ...], np.dtype[np.floating]]:
    version = npy.read_magic(file)
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if fortran or dtype.kind != "f" or len(shape) < 3:
        raise PredictionError(f"{path}: holds {dtype} of shape {shape}, expected probabilities (classes, *grid) in rows. Predict the case again.")
    return shape, dtype

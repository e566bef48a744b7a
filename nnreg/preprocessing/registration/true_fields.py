"""True displacements of training pairs on the working grid, for losses that compare fields with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnreg.errors import PreprocessingError
from nnreg.files import read_object, write_json
from nnreg.parallel import run_all
from nnreg.preprocessing.registration.storage import FIELD, PreprocessedDataset, Properties, write_array

if TYPE_CHECKING:
    from nnreg.dataset import Pair, RawDataset
    from nnreg.geometry import FieldMap

MADE_FOR = ".true_fields.json"  # hidden: what lies beside the arrays with an open name is a case


def place_true_fields(raw: RawDataset, folder: Path, *, processes: int = 1) -> int:
    """Write the true field of every training pair that has one in ``fieldsTr``, in either direction; what is there and still true stays.

    Parameters
    ----------
    raw
        The dataset.
    folder
        Of one configuration's arrays, all cases finished.
    processes
        Workers.

    Returns
    -------
    int
        How many pairs have one.

    Raises
    ------
    DatasetError
        If a file holds no displacement field.
    """
    marker = folder / MADE_FOR
    before: dict[str, str] = read_object(marker, PreprocessingError) if marker.is_file() else {}
    if not before and not (raw.folder / "fieldsTr").is_dir():
        return 0
    ways = {way.name: way for pair in raw.pairs() for way in (pair, pair.swapped)}
    work = _Work(raw, folder)
    now = {name: made_for for name, way in ways.items() if (made_for := work.made_for(way)) is not None}
    for name in set(before) - set(now):
        (folder / f"{name}{FIELD}").unlink(missing_ok=True)
    unfinished = [ways[name] for name in now if now[name] != before.get(name) or not (folder / f"{name}{FIELD}").is_file()]
    if unfinished:
        # what is written over is not true until it is whole
        write_json(marker, {name: key for name, key in before.items() if now.get(name) == key})
    for _ in run_all(work, unfinished, processes=processes, name=_name):
        pass
    write_json(marker, now)
    return len(now)


def _name(pair: Pair) -> str:
    return pair.name


@dataclass(frozen=True)
class _Work:
    """Picklable: one pair."""

    raw: RawDataset
    folder: Path

    def made_for(self, pair: Pair) -> str | None:
        """Digest of what its array depends on; None if its true field is not known."""
        path = self.raw.field_path(pair)
        if path is None:
            return None
        stat = path.stat()
        sides = self._sides(pair)
        depends = [stat.st_size, stat.st_mtime_ns, sides[0].working.to_dict(), *(side.to_native.tolist() for side in sides)]
        return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]

    def __call__(self, pair: Pair) -> None:
        truth = self.raw.true_field(pair)
        if truth is not None:
            write_array(self.folder / f"{pair.name}{FIELD}", on_working_grid(truth, *self._sides(pair)))

    def _sides(self, pair: Pair) -> Sequence[Properties]:
        data = PreprocessedDataset(self.folder)
        return data.properties(pair.fixed), data.properties(pair.moving)


def on_working_grid(truth: FieldMap, fixed: Properties, moving: Properties) -> npt.NDArray[np.float32]:
    """The true map between two images as they lie on the working grid, aligned.

    Parameters
    ----------
    truth
        From the fixed to the moving native world.
    fixed, moving
        Where the preprocessed images come from.

    Returns
    -------
    array, shape (ndim, *grid), voxels of the working grid
        NaN where the true field's grid does not reach.
    """
    from nnreg.geometry import AffineMap, Transform, resample_image

    out_of_working, into_working = AffineMap(fixed.to_native), AffineMap(moving.to_native).inverse()
    field = Transform((out_of_working, truth, into_working), truth.ndim).sampled_on(fixed.working).displacement
    everywhere = np.ones((1, *truth.space.shape), np.float32)
    known = resample_image(everywhere, moving=truth.space, fixed=fixed.working, transform=Transform((out_of_working,), truth.ndim), outside=0.0)
    return np.where(known > 0, field, np.float32(np.nan))

"""Synthetic pairs as a dataset folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nnreg.dataset.keypoints import write_keypoints
from nnreg.dataset.pairs import Pair
from nnreg.dataset.raw import RawDataset
from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.dataset.synthetic import STRUCTURES, SyntheticEllipsoids
from nnreg.errors import DatasetError
from nnreg.files import folder_to_write, writable_folder
from nnreg.geometry import FieldMap, Space, Transform, warp_points
from nnreg.geometry.itk import write_itk
from nnreg.imageio import write_image
from nnreg.parallel import run_all
from nnreg.workspace import Workspace

ENDING = ".nii.gz"
PREFIX = "ellipsoids"


@dataclass(frozen=True)
class SyntheticPlan:
    """What is written: everything a worker needs to make pair `i`."""

    folder: Path
    pairs: int
    test_pairs: int
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    seed: int
    keypoints: int
    options: dict[str, Any]

    def pair(self, number: int) -> Pair:
        """The names of pair `number`; the held-out ones come after the training ones."""
        return Pair(f"{PREFIX}_{number:03d}_fixed", f"{PREFIX}_{number:03d}_moving")


def write_synthetic_dataset(
    folder: Path | str,
    *,
    pairs: int = 12,
    test_pairs: int = 4,
    shape: Sequence[int] = (48, 48, 48),
    spacing: Sequence[float] | None = None,
    seed: int = 0,
    keypoints: int = 0,
    processes: int = 1,
    on_progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> RawDataset:
    """Write deformed pairs with their exact truth as a dataset.

    Parameters
    ----------
    folder
        ``nnReg_raw/DatasetXXX_Name``; it must not exist.
    pairs, test_pairs
        Number of training pairs (``imagesTr``) and held-out pairs (``imagesTs``).
    shape, spacing : array axis order, 2D or 3D; spacing in mm, 1 if absent
    seed
        The same seed gives the same files.
    keypoints
        Corresponding landmarks per pair, in ``keypointsTr`` and ``keypointsTs``.
    processes
        Workers.
    on_progress
        Called with (done, total, pair).
    **options
        Of :class:`nnreg.dataset.synthetic.SyntheticEllipsoids`: noise_std, max_displacement, structures ...

    Returns
    -------
    RawDataset
        With images, labels and, in ``fieldsTr`` and ``fieldsTs``, the true displacement of both directions (ITK, mm).

    Raises
    ------
    DatasetError
        If the folder exists, or an option makes no sense.
    """
    folder = Path(folder)
    if folder.exists():
        raise DatasetError(f"{folder}: exists already. Remove it, or choose another dataset id.")
    if pairs < 1 or test_pairs < 0 or keypoints < 0:
        raise DatasetError(f"{pairs} pairs, {test_pairs} test pairs and {keypoints} keypoints cannot be made. Ask for one pair or more.")
    _generator(tuple(shape), pairs, seed, "train", options)  # an option that makes no sense is told before anything is written
    space = Space.plain(tuple(shape), tuple(spacing) if spacing is not None else None)
    writable_folder(folder.parent)
    # under another name until it is whole: an interrupted run leaves no half dataset behind
    with folder_to_write(folder) as part:
        plan = SyntheticPlan(part, pairs, test_pairs, space.shape, space.spacing, seed, keypoints, dict(options))
        for done, (number, _) in enumerate(run_all(partial(_write_pair, plan), range(pairs + test_pairs), processes=processes), start=1):
            if on_progress is not None:
                on_progress(done, pairs + test_pairs, plan.pair(number).name)
        _spec(plan, folder.name).write(part / FILE_NAME)
        part.rename(folder)
    return RawDataset.open(folder)


def dataset_folder(workspace: Workspace, number: int, name: str) -> Path:
    """Where a new dataset goes: ``nnReg_raw/DatasetXXX_Name``.

    Raises
    ------
    DatasetError
        If the id is no number from 1 to 999, the name has signs that folders should not have, or another dataset has the id.
    """
    full = f"Dataset{number:03d}_{name}"
    if not 0 <= number <= 999 or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise DatasetError(f"dataset {number} {name!r}: expected an id from 0 to 999 and a name of letters, digits, '_', '-' and '.'.")
    taken = [other for other in workspace.datasets() if int(other[7:10]) == number and other != full]
    if taken:
        raise DatasetError(f"dataset id {number} belongs to {taken[0]} already. Choose another id.")
    return workspace.raw / full


def _generator(shape: tuple[int, ...], count: int, seed: int, split: str, options: dict[str, Any]) -> SyntheticEllipsoids:
    return SyntheticEllipsoids(shape, num_samples=count, seed=seed, split=split, deform=True, **options)


def _write_pair(plan: SyntheticPlan, number: int) -> None:
    testing = number >= plan.pairs
    suffix, index = ("Ts", number - plan.pairs) if testing else ("Tr", number)
    sample = _generator(plan.shape, index + 1, plan.seed, "test" if testing else "train", plan.options)[index]
    pair, space = plan.pair(number), Space.plain(plan.shape, plan.spacing)
    for case, role in ((pair.fixed, "fixed"), (pair.moving, "moving")):
        write_image(plan.folder / f"images{suffix}" / f"{case}_0000{ENDING}", sample[role].numpy(), space)
        write_image(plan.folder / f"labels{suffix}" / f"{case}{ENDING}", sample[f"{role}_labels"].numpy().astype(np.uint8), space)
    write_true_fields(plan.folder / f"fields{suffix}", pair, sample, space)
    if plan.keypoints:
        _write_keypoints(plan, pair, suffix, sample, number)


def write_true_fields(folder: Path, pair: Pair, sample: Mapping[str, Tensor], space: Space) -> None:
    """The displacements of a deformed sample, in both directions, as the files of a dataset."""
    for way, field in ((pair, sample["field"]), (pair.swapped, sample["inverse_field"])):
        write_itk(folder / f"{way.name}{ENDING}", Transform((FieldMap(field.numpy(), space),), space.ndim), space)


def _write_keypoints(plan: SyntheticPlan, pair: Pair, suffix: str, sample: dict[str, Any], number: int) -> None:
    """Random voxels of the fixed body, and where the true field takes them."""
    rng = np.random.default_rng([plan.seed, len(plan.shape), number])
    inside = np.argwhere(sample["fixed_labels"][0].numpy() > 0)
    chosen = inside[rng.choice(len(inside), plan.keypoints, replace=len(inside) < plan.keypoints)]
    points = sample["field"].new_tensor(chosen.tolist())[None]
    moved = warp_points(points, sample["field"][None])
    for case, values in ((pair.fixed, points), (pair.moving, moved)):
        write_keypoints(plan.folder / f"keypoints{suffix}" / f"{case}.csv", values[0].flip(-1).numpy())


def _spec(plan: SyntheticPlan, name: str) -> DatasetSpec:
    every = [plan.pair(number) for number in range(plan.pairs + plan.test_pairs)]
    labels: dict[str, int | tuple[int, ...]] = {"background": 0, "body": 1}
    labels |= {f"structure_{i}": i + 1 for i in range(1, plan.options.get("structures", STRUCTURES) + 1)}
    return DatasetSpec(
        channel_names={"0": "synthetic"},
        labels=labels,
        numTraining=2 * plan.pairs,
        file_ending=ENDING,
        pairing="pairs",
        pairs=tuple(every),
        groups={case: f"{PREFIX}_{number:03d}" for number, pair in enumerate(every) for case in (pair.fixed, pair.moving)},
        name=name,
        description=f"Ellipsoids deformed by a known flow; nnreg_synthesize, seed {plan.seed}. The true displacements lie in fieldsTr and fieldsTs.",
    )

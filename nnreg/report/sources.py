"""Where the images are that a results folder speaks of: it holds what was made of them, not the images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnreg.dataset import RawDataset
from nnreg.dataset.label_files import folder_beside, read_label_map
from nnreg.errors import EvaluationError
from nnreg.evaluation.registration.folder import TRANSFORM_FILE
from nnreg.geometry.itk import read_itk
from nnreg.imageio import ENDINGS, Image, is_image_file, is_large, read_channels, read_image
from nnreg.report.folder import UNCERTAINTY, Item, Results
from nnreg.report.tiles import PairImages, Pictures, Size, case_pictures, pair_pictures

if TYPE_CHECKING:
    from nnreg.workspace import Workspace


@dataclass(frozen=True)
class Sources:
    """Where to look for the images and labels of cases, in this order.

    Attributes
    ----------
    images
        Folders of ``CASE_0000.ending``.
    labels
        Folders of ``CASE.ending``.
    raw
        The dataset, for its own cases.
    """

    images: tuple[Path, ...] = ()
    labels: tuple[Path, ...] = ()
    raw: RawDataset | None = None

    def image(self, case: str, files: Sequence[str]) -> Image | None:
        """The image of a case, whose `files` are known by name; None where it is not found."""
        for folder in self.images:
            paths = [folder / name for name in files]
            if paths and all(path.exists() for path in paths):
                return read_channels(paths)
        if self.raw is not None and case in (*self.raw.cases, *self.raw.test_cases):
            paths = list(self.raw.image_paths(case))
            return read_channels(paths) if all(path.exists() for path in paths) else None
        return None

    def label_map(self, case: str) -> Image | None:
        """The labels of a case, None where there are none."""
        for folder in self.labels:
            for ending in ENDINGS:
                if is_image_file(folder / f"{case}{ending}"):
                    return read_label_map(folder / f"{case}{ending}")
        if self.raw is not None and case in (*self.raw.cases, *self.raw.test_cases):
            path = self.raw.label_path(case)
            return None if path is None or not path.exists() else read_label_map(path)
        return None


def sources_of(
    results: Results, *, images: Path | None = None, labels: Path | None = None, raw: RawDataset | None = None, workspace: Workspace | None = None
) -> Sources:
    """Where the images of a results folder are: as asked for, else as the results themselves say, else in the raw dataset of `workspace`.

    Raises
    ------
    EvaluationError
        If a folder that was asked for does not exist.
    """
    for folder in (images, labels):
        if folder is not None and not folder.is_dir():
            raise EvaluationError(f"{folder}: no such folder. Give the folder of the images, or of their labels.")
    named = results.record.get("images_folder")
    recorded = Path(named) if isinstance(named, str) else None
    places = (images, recorded, Path() if results.alone else None)
    found = tuple(folder for folder in places if folder is not None and folder.is_dir())
    beside = (folder_beside(folder, "labels") for folder in found)
    return Sources(found, tuple(folder for folder in (labels, *beside) if folder is not None), raw or _dataset(results, workspace))


def _dataset(results: Results, workspace: Workspace | None) -> RawDataset | None:
    """The raw dataset of the name that the results say, if the workspace has it."""
    name = results.dataset_name
    return None if workspace is None or name is None or not (workspace.raw / name).is_dir() else RawDataset.open(workspace.raw / name)


def pictures_of(item: Item, results: Results, sources: Sources, size: Size) -> Pictures:
    """The slices of a pair or a case; those of the moving image alone where the others are not found.

    Raises
    ------
    NnRegError
        If a result is missing or damaged.
    """
    if results.registers:
        return pair_pictures(_pair(item, results, sources), size)
    predicted = _predicted(item)
    if is_large([predicted]) or not _holds_labels(predicted):
        return Pictures([])
    image, labels = sources.image(item.fixed, item.record.get("images", [])), read_label_map(predicted)
    truth = item.record.get("reference_file")
    known = read_label_map(Path(truth)) if isinstance(truth, str) and Path(truth).is_file() else sources.label_map(item.fixed)
    return case_pictures(image or labels, labels, known, size)


def _predicted(item: Item) -> Path:
    """The label map of a case; of several targets (``CASE_TARGET``) the first."""
    several = [path for path in sorted(item.folder.glob(f"{item.name}_*")) if is_image_file(path) and path.name.endswith(tuple(ENDINGS))]
    found = [*_found(item.folder, item.name), *several]
    if not found:
        raise EvaluationError(f"{item.folder}: has no label map of {item.name!r}, though prediction.json names it. Predict it again.")
    return found[0]


def _holds_labels(path: Path) -> bool:
    """Whether a prediction is of labels, not of continuous values."""
    values = read_image(path).array
    return len(values) == 1 and (np.issubdtype(values.dtype, np.integer) or bool((values == np.round(values)).all()))


def _pair(item: Item, results: Results, sources: Sources) -> PairImages:
    warped = next(iter(_found(item.folder, "warped")), None)
    if warped is None:
        raise EvaluationError(f"{item.folder}: has no warped image, though its transform is there, so it is half finished. Make the results again.")
    fixed, moving = (sources.image(name, files) for name, files in zip((item.fixed, item.moving), _files(item, results), strict=True))
    labels = _labels(item, results, sources)
    uncertainty = item.folder / UNCERTAINTY
    return PairImages(
        warped=read_image(warped),
        fixed=fixed,
        moving=moving,
        transform=read_itk(item.folder / TRANSFORM_FILE),
        fixed_labels=labels[0],
        moving_labels=labels[1],
        warped_labels=next((read_label_map(path) for path in _found(item.folder, "warped_labels")), None),
        uncertainty=read_image(uncertainty) if uncertainty.is_file() else None,
    )


def _files(item: Item, results: Results) -> tuple[list[str], list[str]]:
    """File names of both images, channel by channel."""
    keys = ("fixed", "moving") if results.alone else ("fixed_images", "moving_images")
    fixed, moving = (item.record.get(key, []) for key in keys)
    return list(fixed), list(moving)


def _labels(item: Item, results: Results, sources: Sources) -> list[Image | None]:
    if not results.alone:
        return [sources.label_map(item.fixed), sources.label_map(item.moving)]
    named = [item.record.get(f"{side}_labels") for side in ("fixed", "moving")]
    return [read_label_map(Path(path)) if isinstance(path, str) and Path(path).is_file() else None for path in named]


def _found(folder: Path, stem: str) -> list[Path]:
    return [folder / f"{stem}{ending}" for ending in ENDINGS if is_image_file(folder / f"{stem}{ending}")]

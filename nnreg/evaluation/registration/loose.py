"""Images and label maps that belong to no dataset, as evaluation asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnreg.dataset import RawDataset
from nnreg.dataset.keypoints import ENDING as KEYPOINT_ENDING
from nnreg.dataset.pair import Pair
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import EvaluationError
from nnreg.evaluation.registration.folder import PREDICTION_FILE, read_prediction
from nnreg.imageio import ENDINGS, Image, ending_of, is_image_file, read_channels


class LooseImages(RawDataset):
    """The images that ``prediction.json`` names, and what a folder knows of them: label maps ``CASE.ending``, landmarks ``CASE.csv``.

    Parameters
    ----------
    predictions
        Output of ``nnreg_predict``.
    labels
        The folder.

    Raises
    ------
    EvaluationError
        If one of the folders is missing, or the images are no longer where they were.
    """

    def __init__(self, predictions: Path, labels: Path) -> None:
        if not labels.is_dir():
            raise EvaluationError(f"{labels}: no such folder. Give the folder of the label maps CASE.nii.gz.")
        self.labels, self.images = labels, _images(predictions)
        first = next(iter(self.images.values()))
        channels = {str(number): f"channel {number}" for number in range(len(first))}
        content = {"channel_names": channels, "labels": {}, "numTraining": len(self.images), "file_ending": ending_of(first[0]), "task": "registration"}
        super().__init__(predictions, DatasetSpec.from_dict(content, where=str(predictions / PREDICTION_FILE)), list(self.images), [])
        if all(self.label_path(case) is None and self.keypoints_path(case) is None for case in self.cases):
            names = ", ".join(self.cases[:4])
            raise EvaluationError(f"{labels}: holds no label map of any case ({names}). Call them CASE.nii.gz, as the images without _0000.")

    @property
    def name(self) -> str:
        """Of the dataset that the pairs were predicted for."""
        return str(read_prediction(self.folder).get("dataset", self.folder.absolute().name))

    def image_paths(self, case: str) -> tuple[Path, ...]:
        """Files of a case."""
        return self.images[case]

    def read_image(self, case: str) -> Image:
        """All channels of a case."""
        return read_channels(self.images[case])

    def label_path(self, case: str, target: str = "") -> Path | None:
        """Its label map."""
        return next((path for ending in ENDINGS if is_image_file(path := self.labels / f"{case}{ending}")), None)

    def mask_path(self, case: str, target: str = "") -> Path | None:
        """None is known."""
        return None

    def keypoints_path(self, case: str) -> Path | None:
        """Its landmarks."""
        path = self.labels / f"{case}{KEYPOINT_ENDING}"
        return path if path.is_file() else None

    def field_path(self, pair: Pair) -> Path | None:
        """None is known."""
        return None


def _images(predictions: Path) -> dict[str, tuple[Path, ...]]:
    """Case to its files, as the prediction recorded them."""
    content = read_prediction(predictions)
    folder = Path(str(content.get("images_folder", "")))
    found = {case: files for entry in content["pairs"] for case, files in _sides(entry, folder)}
    for case, files in found.items():
        for path in files or (folder / case,):
            if not path.exists() or not files:
                raise EvaluationError(f"{path}: does not exist, but case {case!r} was registered from it. Put the images back, or predict again.")
    return found


def _sides(entry: Mapping[str, Any], folder: Path) -> list[tuple[str, tuple[Path, ...]]]:
    return [(entry[side], tuple(folder / name for name in entry.get(f"{side}_images", []))) for side in ("fixed", "moving")]


__all__ = ["LooseImages"]

"""A dataset from Python: from images in memory or in files to plans, trained folds and predictions."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.dataset.label_files import whole_numbers
from nnreg.dataset.raw import RawDataset
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.synthetic_writer import dataset_folder
from nnreg.dataset.writing import NewCase, write_case, write_dataset
from nnreg.errors import DatasetError
from nnreg.evaluation.evaluation import evaluate
from nnreg.groups.training_guides import predict_by_plans
from nnreg.imageio import Image
from nnreg.imageio.convert import as_image, on_grid_of
from nnreg.inference.prediction import predict
from nnreg.planning.plans import OPTIMISE, Plans
from nnreg.preprocessing import plan_and_preprocess, read_plans
from nnreg.progress import progress_bar
from nnreg.task import DEFAULT_TASK, TASKS
from nnreg.training.configs.lookup import DEFAULT_TRAINER
from nnreg.training.execution.run import train
from nnreg.training.run_folders import DEFAULT_PLANS
from nnreg.training.trainer.parts import Listeners
from nnreg.workspace import Workspace

Given = Any  # what nnreg.imageio.convert.as_image takes


@dataclass(frozen=True)
class Dataset:
    """A raw dataset in a workspace, and what is done with it; each method is the command of its name.

    Attributes
    ----------
    workspace : Workspace
    name : str
        ``DatasetXXX_Name``.

    Examples
    --------
    >>> dataset = Dataset.from_images("work", {"a": "a.nii.gz", "b": "b.nii.gz"})  # doctest: +SKIP
    >>> dataset.plan().recommended  # doctest: +SKIP
    'optimise'
    """

    workspace: Workspace
    name: str

    @classmethod
    def open(cls, workspace: Path | str, dataset: int | str) -> Dataset:
        """A dataset that is there, by its id or name.

        Raises
        ------
        WorkspaceError
            If there is none, or several have the id.
        """
        found = Workspace.resolve(workspace)
        return cls(found, found.dataset_name(dataset))

    @classmethod
    def from_images(
        cls,
        workspace: Path | str,
        images: Mapping[str, Given | Sequence[Given]],
        *,
        labels: Mapping[str, Given] | None = None,
        number: int = 1,
        name: str = "Images",
        spacing: Sequence[float] | None = None,
        **spec: Any,
    ) -> Dataset:
        """Write a raw dataset from images.

        Parameters
        ----------
        workspace
            Folder of all data, plans and results; made if absent.
        images
            Case to image, or to one image per channel: paths, arrays with `spacing`, images of SimpleITK, torch or nibabel.
        labels
            Case to label map; arrays lie on the grid of the image.
        number, name
            The dataset becomes ``Dataset001_Images``.
        spacing : mm, array axis order
            Of arrays.
        **spec
            Keys of ``dataset.json``: task, pairing, pairs, groups, atlas, channel_names, labels as ``label_names`` ...

        Raises
        ------
        DatasetError
            Labels of a case without image, the dataset exists, keys that contradict each other.
        ImageError
            An array without spacing.
        """
        unknown = sorted(set(labels or {}) - set(images))
        if unknown:
            raise DatasetError(f"labels: case {unknown[0]!r} has no image. Found images of {', '.join(list(images)[:8])}.")
        cases = {case: _case(case, given, (labels or {}).get(case), spacing) for case, given in images.items()}
        first = next(iter(cases.values()))
        channels = sum(image.channels for image in first.images if isinstance(image, Image))
        content = {
            "channel_names": {str(channel): f"channel_{channel}" for channel in range(channels)},
            "labels": spec.pop("label_names", None) or _label_names(cases),
            "task": DEFAULT_TASK,
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
            **spec,
        }
        place = Workspace.resolve(workspace)
        return cls(place, write_dataset(dataset_folder(place, number, name), cases, DatasetSpec.from_dict(content, where="dataset.json")).name)

    @property
    def raw(self) -> RawDataset:
        """Its images and labels."""
        return RawDataset.open(self.workspace.raw / self.name)

    @property
    def plans(self) -> Plans:
        """Its plans.

        Raises
        ------
        PlansError
            If it was not planned.
        """
        return read_plans(self.workspace.preprocessed / self.name, DEFAULT_PLANS, self.name)

    def plan(self, **options: Any) -> Plans:
        """Fingerprint, plans and arrays: as :func:`nnreg.plan_and_preprocess`."""
        return plan_and_preprocess(self.workspace, self.name, **options)

    def train(
        self, configuration: str | None = None, fold: int | str = 0, *, epochs: int | None = None, progress: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Train a fold and return its validation summary.

        Parameters
        ----------
        configuration
            ``3d_fullres``, ``2d``, ...; by default what the plans have for training.
        fold
            Its number, or ``all``.
        epochs
            In place of the planned number.
        progress
            Whether to show a bar, in notebooks too.
        **options
            As in :func:`nnreg.train`: trainer, overrides, device, continue_training ...
        """
        overrides = dict(options.pop("overrides", None) or {}) | ({} if epochs is None else {"epochs": epochs})
        if progress:
            options["listeners"] = Listeners(step=progress_bar("training", everywhere=True))
        return train(self.workspace, self.name, configuration or self._to_train(), fold, overrides=overrides, **options)

    def predict(
        self,
        images: Path | str | Mapping[str, Given | Sequence[Given]],
        output: Path | str,
        *,
        configuration: str | None = None,
        spacing: Sequence[float] | None = None,
        progress: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Apply the trained model, or register by the engine where the plans recommend that and nothing is trained.

        Parameters
        ----------
        images
            Folder of ``CASE_0000.ending`` files; or case to image, or to one image per channel, as in :meth:`from_images`.
        output
            Where the predictions go.
        configuration
            That is trained, or ``optimise`` for the engine; by default what the plans recommend.
        spacing : mm, array axis order
            Of arrays.
        progress
            Whether to show a bar, in notebooks too.
        **options
            As in :func:`nnreg.predict`; of the engine `device`, `pairs` and `options`.

        Returns
        -------
        dict
            The content of ``prediction.json``.
        """
        if progress:
            options["on_progress"] = progress_bar("predicting", everywhere=True)
        if not isinstance(images, Mapping):
            return self._predict(Path(images), Path(output), configuration, options)
        with tempfile.TemporaryDirectory() as temporary:
            for name, given in images.items():
                write_case(Path(temporary), name, replace(_case(name, given, None, spacing), test=True), len(self.raw.spec.channel_names))
            return self._predict(Path(temporary) / "imagesTs", Path(output), configuration, options)

    def evaluate(self, predictions: Path | str, **options: Any) -> dict[str, Any]:
        """Figures of a folder of predictions by the labels, keypoints and fields of this dataset: as :func:`nnreg.evaluate`."""
        return evaluate(Path(predictions), self.raw, **options)

    def _predict(self, images: Path, output: Path, configuration: str | None, options: dict[str, Any]) -> dict[str, Any]:
        model = None if configuration == OPTIMISE else self._model(configuration or self._to_train())
        if model is None or (configuration is None and self.plans.recommended == OPTIMISE and not model.is_dir()):
            return predict_by_plans(self.plans, self.raw, images, output, **options)
        if TASKS[self.raw.spec.task].registers_pairs:
            options.setdefault("raw", self.raw.folder)  # whose labels may guide the engine
        return predict(model, images, output, **options)

    def _model(self, configuration: str) -> Path:
        return self.workspace.model_folder(self.name, DEFAULT_TRAINER, DEFAULT_PLANS, configuration)

    def _to_train(self) -> str:
        plans = self.plans
        return plans.recommended if plans.recommended != OPTIMISE else plans.to_train


def _case(name: str, given: Given, labels: Given | None, spacing: Sequence[float] | None) -> NewCase:
    channels = given if isinstance(given, (list, tuple)) else [given]
    images = [as_image(channel, spacing=spacing, name=f"case {name}") for channel in channels]
    if labels is None:
        return NewCase(images)
    what = f"labels of case {name}"
    return NewCase(images, whole_numbers(on_grid_of(images[0], labels, name=what), Path(what)))


def _label_names(cases: Mapping[str, NewCase]) -> dict[str, int]:
    """A name for every value that is there; none where there are no labels."""
    values = sorted({int(value) for case in cases.values() if isinstance(case.labels, Image) for value in np.unique(case.labels.array)} | {0})
    return {} if len(values) == 1 else {"background": 0} | {f"label_{value}": value for value in values if value}


__all__ = ["Dataset"]

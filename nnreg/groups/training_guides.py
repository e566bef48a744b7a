"""Labels of a dataset's training cases, fused onto other images, guide the engine where the plans say so; and the predictions that need them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.dataset import RawDataset
from nnreg.dataset.pairs import Pair
from nnreg.engine.device import engine_part
from nnreg.engine.options import EngineOptions
from nnreg.errors import NnRegError, PredictionError
from nnreg.groups.fusion.atlases import atlases_of
from nnreg.groups.fusion.labelling import fuse_members, meaning_beside
from nnreg.groups.fusion.one_image import FuseOptions, Fusion
from nnreg.groups.fusion.registrars import EngineRegistrar
from nnreg.groups.members import Member
from nnreg.inference.predictor import TrainedModel
from nnreg.inference.registration import predict
from nnreg.inference.registration.cases import CaseSource, NewImages, TrainingCases
from nnreg.inference.registration.models import Fused, PlannedEngine, TrainedPairs
from nnreg.inference.registration.predict import PredictOptions
from nnreg.planning.plans import Plans
from nnreg.planning.registration.engine_settings import Optimisation
from nnreg.planning.registration.plans import registration_plans
from nnreg.progress import Progress
from nnreg.workspace import Workspace

PRESET = "default"  # of the registrations of atlases: brains at 2 mm, four people: Dice of the fused labels 0.709 in 39 processor seconds, fast 0.701 in 29
WITHOUT = "To predict without them: --guides none"


@dataclass(frozen=True)
class TrainingGuides:
    """Training cases as atlases; see :class:`nnreg.inference.registration.predict.GuideMaker`.

    Attributes
    ----------
    raw
        The raw dataset; it is opened when labels are needed.
    settings
        Of the engine: how many cases, and how they are registered.
    among
        The cases that may be taken; None for all.
    device
        Of the engine.
    """

    raw: Path
    settings: Optimisation
    among: Sequence[str] | None = None
    device: str = "cpu"

    def __call__(self, source: CaseSource, cases: Sequence[str], output: Path, *, processes: int = 1, on_progress: Progress) -> Fused:
        """Write labels of the cases.

        Raises
        ------
        PredictionError
            If the dataset is not here, or no image can be labelled.
        """
        atlases, own = self._atlases(), self.settings
        # aligned affinely whatever the plans say of pairs: these may be of one subject, atlases are not
        engine = EngineOptions(preset=PRESET, similarity=own.similarity, radius=own.radius, smoothness=own.smoothness, device=self.device)
        options = FuseOptions(atlases_used=own.guides, pictures=False)
        found = atlases_of(atlases, self.raw, fewest=options.fewest)
        fusion = Fusion(found, output, options, EngineRegistrar(engine), meaning_beside(self.raw / "imagesTr"), processes)

        def guiding(done: int, total: int, what: str) -> None:
            on_progress(done, total, f"labels that guide, {what}")

        content = fuse_members(fusion, [Member(case, tuple(source.paths(case))) for case in cases], on_progress=guiding)
        failed = {case: str(record["failed"]) for case, record in content["cases"].items() if "failed" in record}
        if len(failed) == len(cases):
            raise PredictionError(f"labels of training cases could be brought onto none of the images. {next(iter(failed.values())).rstrip('.')}. {WITHOUT}.")
        return Fused(tuple(atlas.name for atlas in found.atlases), failed)

    def _atlases(self) -> list[Member]:
        """Cases with labels, evenly spaced among all by name."""
        if not self.raw.is_dir():
            raise PredictionError(
                f"optimisation.guides of the plans is {self.settings.guides}: labels of that many training cases guide the engine, but {self.raw} is not here. "
                f"Name the workspace that has it. {WITHOUT}."
            )
        raw = RawDataset.open(self.raw)
        labelled = [case for case in (raw.cases if self.among is None else self.among) if raw.label_path(case) is not None]
        if len(labelled) < 2:
            raise PredictionError(f"{self.raw}: {len(labelled)} training cases have labels, 2 or more are needed to guide the engine. {WITHOUT}.")
        places = np.unique(np.linspace(0, len(labelled) - 1, min(self.settings.guides, len(labelled))).round().astype(int))
        return [
            Member(case, raw.image_paths(case), raw.label_path(case), raw.mask_path(case) if self.settings.use_masks else None)
            for case in (labelled[place] for place in places)
        ]


def guided(source: TrainingCases, pairs: Sequence[Pair], guides: TrainingGuides, folder: Path, on_progress: Progress) -> TrainingCases:
    """Validation cases with labels that guide the engine, as a prediction has them; what cannot be labelled is warned of, a training that is done goes on."""
    try:
        fused = guides(source, predict.cases_of(pairs), folder, on_progress=on_progress)
    except NnRegError as error:
        warnings.warn(f"The engine is compared without labels that guide it: {error}", stacklevel=2)
        return source
    for case, reason in fused.failed.items():
        warnings.warn(f"Pairs of {case} are compared without labels that guide: {reason}", stacklevel=2)
    return TrainingCases(source.raw, source.data.folder, folder)


def guides_of(model: TrainedPairs | PlannedEngine, raw: Path | None = None) -> TrainingGuides:
    """The training cases of a model's dataset: of `raw`, else of the workspace in use."""
    return TrainingGuides(raw or Workspace.resolve().raw / model.dataset_name, model.settings, device=engine_part(model.device))


def predict_folder(model: TrainedModel, images: Path, output: Path, *, raw: Path | None = None, **wanted: Any) -> dict[str, Any]:
    """:func:`nnreg.inference.registration.predict.predict_folder` with the training cases at hand.

    Parameters
    ----------
    model, images, output, **wanted
        As there.
    raw
        The raw dataset, whose labels guide the engine where the plans say so; by default that of the workspace in use.
    """
    return predict.predict_folder(model, images, output, make_guides=guides_of(TrainedPairs(model), raw), **wanted)


def predict_by_plans(
    plans: Plans, raw: RawDataset, images: Path, output: Path, *, device: str = "auto", pairs: Sequence[Pair] | None = None, **wanted: Any
) -> dict[str, Any]:
    """Register the images of a folder by the engine with the settings of plans; nothing is trained.

    Parameters
    ----------
    plans, raw
        Of the dataset, whose labels guide the engine where the plans say so.
    images, output
        Folder of ``CASE_0000.ending`` files, and where the results go.
    device
        Of the engine; a GPU of CUDA that is named.
    pairs
        By the dataset's pairing if None.
    **wanted
        `options`, `on_note` and `on_progress` of :func:`nnreg.inference.registration.predict.register_images`.

    Returns
    -------
    dict
        The content of ``prediction.json``.
    """
    model = PlannedEngine(registration_plans(plans), raw.spec, device)
    new = NewImages(images, pairs=pairs, atlas_images=atlas_images_of(raw))
    return predict.register_images(model, new, output, make_guides=guides_of(model, raw.folder), **wanted)


def predict_dataset(
    plans: Plans,
    raw: RawDataset,
    model: TrainedModel | None,
    images: Path,
    output: Path,
    *,
    device: str = "auto",
    on_note: Callable[[str], None] = lambda text: None,
    on_progress: Progress = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """Register images of a dataset as its plans recommend, by `model` or, without one, by the engine on `device`; finished pairs are kept.

    Returns
    -------
    list of dict
        The pairs of ``prediction.json``.
    """
    heard: dict[str, Any] = {"options": PredictOptions(continue_prediction=True), "on_note": on_note, "on_progress": on_progress}
    if model is None:
        return list(predict_by_plans(plans, raw, images, output, device=device, **heard)["pairs"])
    trained, new = TrainedPairs(model), NewImages(images, atlas_images=atlas_images_of(raw))
    return list(predict.register_images(trained, new, output, make_guides=guides_of(trained, raw.folder), **heard)["pairs"])


def atlas_images_of(raw: RawDataset) -> dict[str, list[Path]]:
    """The atlas of the dataset, which new images are registered to."""
    return {} if raw.spec.atlas is None else {raw.spec.atlas: list(raw.image_paths(raw.spec.atlas))}

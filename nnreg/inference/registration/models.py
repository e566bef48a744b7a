"""What registers new pairs of images: a trained model, or the engine with the settings of plans alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nnreg.dataset.label_files import folder_beside
from nnreg.dataset.spec import DatasetSpec
from nnreg.devices import device_named
from nnreg.engine.device import engine_part
from nnreg.inference.predictor import TrainedModel
from nnreg.inference.registration.cases import FolderCases, NewImages
from nnreg.inference.registration.method import mapper_named, method_of
from nnreg.inference.registration.pair_predictors import EnginePredictor, PairMapper
from nnreg.planning.decision import Decision
from nnreg.planning.plans import OPTIMISE
from nnreg.planning.registration.engine_settings import Optimisation
from nnreg.planning.registration.plans import RegistrationPlans, registration_plans
from nnreg.preprocessing.registration.preprocessor import Preprocessor


@dataclass(frozen=True)
class Fused:
    """Labels that training cases gave other images.

    Attributes
    ----------
    atlases
        The training cases.
    failed
        Images that they could not label, with the reasons.
    """

    atlases: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Where predicted pairs come from, as ``prediction.json`` says it.

    Attributes
    ----------
    dataset, model
        Names.
    method
        Of ``METHODS``, and why it was chosen; None where there was no choice.
    guides
        Folder of labels that guide the engine, if there is one.
    fused
        How these were made, where training cases have them.
    """

    dataset: str
    model: str
    method: Decision[str] | None = None
    guides: Path | None = None
    fused: Fused | None = None

    def told(self) -> dict[str, Any]:
        """The entries of ``prediction.json``."""
        chosen = {} if self.method is None else {"method": self.method.value, "because": self.method.because}
        guides: dict[str, Any] = {} if self.guides is None else {"guides_folder": str(self.guides.absolute())}
        if self.fused is not None:
            guides |= {"guides_fused_from": list(self.fused.atlases), "without_guides": self.fused.failed}
        return {"dataset": self.dataset, "model": self.model} | chosen | guides


class PairModel(Protocol):
    """Registers new pairs of images."""

    @property
    def spec(self) -> DatasetSpec:
        """dataset.json of the training data."""
        ...

    @property
    def settings(self) -> Optimisation:
        """Of the engine."""
        ...

    def source(self, images: NewImages) -> FolderCases:
        """The images, as this model reads them."""
        ...

    def mapper(self, method: str | None) -> tuple[PairMapper, Origin]:
        """What finds the map of a pair; `method` is what was asked for, None for the best."""
        ...


@dataclass(frozen=True)
class TrainedPairs:
    """A trained model, by what the validation of its folds found best: network, refined network or engine."""

    model: TrainedModel

    @property
    def spec(self) -> DatasetSpec:
        """See :class:`PairModel`."""
        return self.model.folder.spec

    @property
    def settings(self) -> Optimisation:
        """See :class:`PairModel`."""
        return self._plans.optimisation

    @property
    def dataset_name(self) -> str:
        """Of the training data."""
        return self._plans.dataset_name

    @property
    def device(self) -> str:
        """As it was named."""
        return self.model.device

    @property
    def _plans(self) -> RegistrationPlans:
        return registration_plans(self.model.folder.plans)

    def source(self, images: NewImages) -> FolderCases:
        """See :class:`PairModel`."""
        folder, plans = self.model.folder, self._plans
        preprocessor = Preprocessor.from_folder(plans, folder.configuration_name, folder.path)
        return _cases(images, self.spec, preprocessor, plans.configuration(folder.configuration_name).ndim)

    def mapper(self, method: str | None) -> tuple[PairMapper, Origin]:
        """See :class:`PairModel`."""
        predictor, settings, folder = self.model.predictor(), self.settings, self.model.folder
        if method is not None:
            chosen = Decision(method, "asked for by --method")
        else:
            supervised = bool(predictor.configuration.training.supervision)
            chosen = method_of(folder.path, list(self.model.folds) or folder.folds(), settings, supervised=supervised)
        return mapper_named(chosen.value, predictor, settings), Origin(self.dataset_name, folder.path.name, chosen)


@dataclass(frozen=True)
class PlannedEngine:
    """The engine with the settings of plans, pair by pair: nothing is trained, no checkpoint is needed.

    Raises
    ------
    ConfigurationError
        If there is no such device; a GPU of CUDA that is named refines the levels, ``auto`` leaves them on the processor.
    """

    plans: RegistrationPlans
    spec: DatasetSpec
    device: str = "auto"

    def __post_init__(self) -> None:
        device_named(self.device)

    @property
    def settings(self) -> Optimisation:
        """See :class:`PairModel`."""
        return self.plans.optimisation

    @property
    def dataset_name(self) -> str:
        """Of the plans."""
        return self.plans.dataset_name

    def source(self, images: NewImages) -> FolderCases:
        """See :class:`PairModel`."""
        ndims = {configuration.ndim for configuration in self.plans.configurations.values()}
        return _cases(images, self.spec, None, ndims.pop() if len(ndims) == 1 else None)

    def mapper(self, method: str | None) -> tuple[PairMapper, Origin]:
        """See :class:`PairModel`; there is one method."""
        return EnginePredictor(self.settings, engine_part(self.device)), Origin(self.dataset_name, f"{OPTIMISE}__{self.plans.plans_name}")


def _cases(images: NewImages, spec: DatasetSpec, preprocessor: Preprocessor | None, ndim: int | None) -> FolderCases:
    labels = images.labels or folder_beside(images.folder, "labels")
    return FolderCases(images.folder, labels, spec, preprocessor, images.atlas_images, ndim, images.guides, guides_of_all=images.guides_of_all)

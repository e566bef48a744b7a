"""What registers an atlas to an image: the engine, or a trained model as ``nnreg_predict`` uses it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nnreg.dataset.pair import Pair
from nnreg.engine.failure import LIKELY
from nnreg.engine.options import EngineOptions
from nnreg.files import content_digest
from nnreg.geometry import Transform
from nnreg.groups.maps import register_members
from nnreg.groups.members import Member


@dataclass(frozen=True, eq=False)
class Found:
    """A map from an image to an atlas.

    Attributes
    ----------
    transform
        From the image's world to the atlas's.
    failed
        Why it is not to be trusted; None if nothing speaks against it.
    told
        Measures for the record.
    """

    transform: Transform
    failed: str | None = None
    told: dict[str, Any] = field(default_factory=dict)


class Registrar(Protocol):
    """Registers atlases to images; its ``repr`` says all that its maps depend on, and it can be sent to other processes."""

    def find(self, image: Member, atlas: Member, start: Transform | None) -> Found:
        """The map from an image to an atlas; `start` is a linear alignment that was found already."""
        ...


@dataclass(frozen=True)
class EngineRegistrar:
    """The engine.

    Attributes
    ----------
    options
    accept_likely_failed
        Whether a map that likely failed by what is measured of it, or lowered the similarity, is used all the same.
    """

    options: EngineOptions
    accept_likely_failed: bool = False

    def find(self, image: Member, atlas: Member, start: Transform | None) -> Found:
        """See :class:`Registrar`."""
        found = register_members(image, atlas, self.options, start)
        reason = None
        if not found.succeeded and not self.accept_likely_failed:
            reason = "; ".join(found.failure.reasons) if found.failure.likely else "the similarity fell below that of the start"
        told = {"failure_probability": round(found.failure_probability, 4), "similarity": found.similarity_after}
        return Found(found.transform, reason, told)


ENGINE = EngineRegistrar(EngineOptions())
"""The engine as it comes."""


@dataclass(frozen=True, repr=False)
class ModelRegistrar:
    """A trained model: network, refined network or engine, by what its validation found best. Labels that guide are not used: atlases are what makes them.

    Attributes
    ----------
    folder
        ``TRAINER__PLANS__CONFIGURATION``.
    images
        Folder of the images that atlases are registered to.
    accept_likely_failed
        As in :class:`EngineRegistrar`.
    folds, checkpoint, trainer, device
        As in :class:`nnreg.inference.predictor.TrainedModel`.
    """

    folder: Path
    images: Path
    folds: tuple[str, ...] = ()
    checkpoint: str = "checkpoint_final.pth"
    trainer: str | None = None
    device: str = "auto"
    accept_likely_failed: bool = False

    def __repr__(self) -> str:
        """With the content of plans and checkpoints: a model that was trained on gives other maps."""
        return f"model {self.folder.name} of {_digest(self.folder, self.folds, self.checkpoint)}{', likely failed ones too' * self.accept_likely_failed}"

    def find(self, image: Member, atlas: Member, start: Transform | None) -> Found:
        """See :class:`Registrar`; a model aligns by itself, as its plans say."""
        from nnreg.inference.registration.cases import NewImages

        model, mapper = _opened(self)
        name = f"atlas {atlas.name}"  # no image of the folder can be called so
        source = model.source(NewImages(self.images, atlas_images={name: list(atlas.files)}))
        found = mapper.transforms(Pair(image.name, name), source)
        probability = found.notes.get("failure_probability")
        reason = (
            None
            if probability is None or probability < LIKELY or self.accept_likely_failed
            else f"the registration likely failed (probability {probability:.2f})"
        )
        return Found(found.transform, reason, dict(found.notes))


@functools.lru_cache(maxsize=1)
def _digest(folder: Path, folds: tuple[str, ...], checkpoint: str) -> str:
    of_folds = [f"fold_{fold}" for fold in folds] or sorted(path.name for path in folder.glob("fold_*"))
    return content_digest([folder / "plans.json", *(folder / fold / checkpoint for fold in of_folds)])


@functools.lru_cache(maxsize=1)
def _opened(registrar: ModelRegistrar) -> tuple[Any, Any]:
    """The model and what finds maps by it, once in a process."""
    from nnreg.inference.predictor import ModelFolder, TrainedModel
    from nnreg.inference.registration.models import TrainedPairs

    folder = ModelFolder.open(registrar.folder)
    model = TrainedPairs(TrainedModel(folder, registrar.folds, registrar.checkpoint, registrar.trainer, registrar.device))
    return model, model.mapper(None)[0]

"""Where the map of a pair comes from: a network, the engine, or the engine going on from a network. What is written is the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nnreg.dataset.pairs import Pair
from nnreg.engine import Registration, register
from nnreg.errors import RegistrationError
from nnreg.geometry import Transform
from nnreg.inference.predictor import PairTransforms, Predictor
from nnreg.inference.registration.cases import CaseSource, NativeSource
from nnreg.planning.registration.engine_settings import Optimisation


class PairMapper(Protocol):
    """Finds the map of a pair."""

    def transforms(self, pair: Pair, source: CaseSource) -> PairTransforms:
        """The map between the native worlds of the pair."""
        ...


@dataclass(frozen=True)
class NetworkPredictor:
    """Networks on the working grid."""

    predictor: Predictor

    def transforms(self, pair: Pair, source: CaseSource) -> PairTransforms:
        """See :class:`PairMapper`."""
        return self.predictor.transforms(fixed=source.preprocessed(pair.fixed, frame=pair.fixed), moving=source.preprocessed(pair.moving, frame=pair.fixed))


@dataclass(frozen=True)
class EnginePredictor:
    """The engine, pair by pair, with the plan's settings, on a device by its name."""

    settings: Optimisation
    device: str = "cpu"

    def transforms(self, pair: Pair, source: CaseSource) -> PairTransforms:
        """See :class:`PairMapper`."""
        found = run_engine(pair, source, self.settings, preset=self.settings.preset, device=self.device)
        return PairTransforms(found.transform, found.start, {"succeeded": found.succeeded, **_judged(found)})


@dataclass(frozen=True)
class Refined:
    """The engine, from where another mapper ended; where that does not raise the similarity, what was there stays."""

    first: PairMapper
    settings: Optimisation
    preset: str
    device: str = "cpu"

    def transforms(self, pair: Pair, source: CaseSource) -> PairTransforms:
        """See :class:`PairMapper`."""
        start = self.first.transforms(pair, source)
        found = run_engine(pair, source, self.settings, preset=self.preset, initial=start.transform, device=self.device)
        transform = found.transform if found.rose else start.transform
        return PairTransforms(transform, start.alignment, start.notes | {"refined": found.rose, **_judged(found)})


def run_engine(pair: Pair, source: NativeSource, settings: Optimisation, *, preset: str, initial: Transform | None = None, device: str = "cpu") -> Registration:
    """Register a pair of a source as the plans say.

    Raises
    ------
    RegistrationError
        Naming the pair and what it lacks.
    """
    both = (pair.fixed, pair.moving)
    masks = [source.mask(case) if settings.use_masks else None for case in both]
    guides = [source.guide(case) for case in both]
    labels = [guide if guide is not None else source.labels(case) if settings.use_labels else None for case, guide in zip(both, guides, strict=True)]
    points = [source.keypoints_voxel(case) if settings.use_keypoints else None for case in both]
    # what one side lacks cannot guide the other
    labels = labels if all(side is not None for side in labels) else [None, None]
    points = points if all(side is not None for side in points) else [None, None]
    try:
        return register(
            fixed=source.image(pair.fixed),
            moving=source.image(pair.moving),
            fixed_mask=masks[0],
            moving_mask=masks[1],
            fixed_labels=labels[0],
            moving_labels=labels[1],
            fixed_points=points[0],
            moving_points=points[1],
            initial=initial,
            preset=preset,
            similarity=settings.similarity,
            alignment=settings.alignment,
            radius=settings.radius,
            smoothness=settings.smoothness,
            symmetric=settings.symmetric,
            device=device,
        )
    except RegistrationError as error:
        raise RegistrationError(f"pair {pair.name}: {error}") from error


def _judged(found: Registration) -> dict[str, object]:
    similarity = {"measure": found.similarity, "aligned": found.similarity_before, "after": found.similarity_after}
    return {"similarity": similarity, "failure_probability": round(found.failure_probability, 4)}

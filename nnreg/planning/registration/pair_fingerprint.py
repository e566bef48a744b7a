"""What the planner knows of pairs: a few of them registered quickly, each measured before and after. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nnreg.typed import FORMERLY

MEASURES = ("ncc", "lncc", "nmi", "mind")  # figures of the fingerprint, which rules read; not the similarities that the engine has


@dataclass(frozen=True)
class Stages:
    """One measure where the headers put the images, after linear alignment, and after the pilot field; None where it does not exist.

    Attributes
    ----------
    header, aligned, after : float or None
    """

    header: float | None = field(metadata={FORMERLY: "before"})
    aligned: float | None
    after: float | None


@dataclass(frozen=True)
class Percentiles:
    """How a quantity is spread over the voxels of the body."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Trial:
    """What one similarity does for a pair, from the pilot's alignment on: mean Dice of the labels and median distance of the keypoints, where there are any."""

    similarity: str
    dice: float | None
    keypoint_mm: float | None

    @property
    def error(self) -> float | None:
        """What is left to gain: one minus the Dice, or the distance of the keypoints where there are no labels."""
        return self.keypoint_mm if self.dice is None else 1 - self.dice


@dataclass(frozen=True)
class PairMeasurement:
    """One pair, registered by the engine's fast preset on copies of bounded size; labels, keypoints and masks only measure.

    Attributes
    ----------
    fixed, moving
        Cases.
    files
        A digest of the files of both cases when they were measured.
    header_overlap
        Share of the fixed field of view that the headers put inside the moving one.
    field_of_view_mismatch
        How much shorter the shorter field of view is along the axis where they differ most: 0 alike, 0.5 half as long.
    centre_offset_mm
        Between the centres of the two foregrounds, by the headers.
    alignment_kind
        Linear map that was kept: ``none``, ``centre``, ``rigid`` or ``affine``.
    alignment_mm
        Median distance it moves the body.
    displacement_mm
        Of the pilot field inside the body.
    similarity
        ``ncc``: correlation inside the body, as mean squares see it; ``lncc``: signed local correlation well inside the body; ``nmi``: normalised mutual
        information; ``mind``: one minus the mean square difference of self-similarity maps. All on one coarse grid.
    dice, keypoint_mm
        Mean Dice of the labels and median distance of the keypoints, where both cases have them.
    sdlogj, folding_percent
        Of the pilot field.
    mass_change
        Intensity above background inside the body after the pilot, volume change counted, over that of the fixed image, less one.
    foreground, mask_coverage
        Share of the fixed image that is body, and that its mask covers (1 without a mask).
    left_right_symmetry
        Dice of the labelled region of the fixed case (its body without labels) and its mirror image.
    labelled_change
        Share of the squared difference of the aligned images that lies where labels are, within the reach of the pilot's displacements around their box; of
        pairs with labels.
    seconds
        Processor time of the thread that registered and measured.
    succeeded
        Whether the pilot left the similarity no lower than where it started.
    trials
        The pilot's own similarity, then others, each judged by labels or keypoints; of the first pairs only, and where both cases have them.
    """

    fixed: str
    moving: str
    files: str
    header_overlap: float
    field_of_view_mismatch: float
    centre_offset_mm: float
    alignment_kind: str
    alignment_mm: float
    displacement_mm: Percentiles
    similarity: dict[str, Stages]
    dice: Stages | None
    keypoint_mm: Stages | None
    sdlogj: float | None
    folding_percent: float | None
    mass_change: float | None
    foreground: float
    mask_coverage: float
    left_right_symmetry: float | None
    seconds: float
    succeeded: bool
    trials: tuple[Trial, ...] = ()
    labelled_change: float | None = None


@dataclass(frozen=True)
class PairFailure:
    """A pair that could not be registered, and why."""

    fixed: str
    moving: str
    files: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class PairFingerprint:
    """The pairs that were measured.

    Attributes
    ----------
    measured : tuple of PairMeasurement, in the seeded order of the sample
    failed : tuple of PairFailure
    budget_seconds
        What measuring was allowed to take.
    """

    measured: tuple[PairMeasurement, ...]
    failed: tuple[PairFailure, ...] = ()
    budget_seconds: float = 60.0

    @property
    def count(self) -> int:
        """How many pairs could be registered."""
        return len(self.measured)

    @property
    def all(self) -> list[PairMeasurement | PairFailure]:
        """Those that could be registered, then those that could not."""
        return [*self.measured, *self.failed]

    def median(self, value: Callable[[PairMeasurement], float | None]) -> float | None:
        """Median of `value` over the pairs that have it; None if none has."""
        found = [number for pair in self.measured if (number := value(pair)) is not None]
        return float(np.median(found)) if found else None

    def largest(self, value: Callable[[PairMeasurement], float | None]) -> float | None:
        """Largest `value` of the pairs that have it; None if none has."""
        found = [number for pair in self.measured if (number := value(pair)) is not None]
        return float(np.max(found)) if found else None

    def similarity(self, measure: str, stage: str) -> float | None:
        """Median of one of :data:`MEASURES` at ``header``, ``aligned`` or ``after``."""
        return self.median(lambda pair: getattr(pair.similarity[measure], stage) if measure in pair.similarity else None)

"""How the engine registers pairs of a dataset, and what was measured of the alternatives to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

OPTIMISE = "optimise"  # stands where a configuration's name may stand: every pair goes through the engine, nothing is trained
Measure = Literal["dice", "keypoint_mm"]
NETWORK, REFINED, ENGINE = "network", "refined", "engine"
METHODS = (NETWORK, REFINED, ENGINE)
"""What may predict a pair once a network is trained: it alone, the engine going on from its field, the engine alone. The cheapest first."""


@dataclass(frozen=True)
class Optimisation:
    """How the engine registers a pair of the dataset: instead of a network, or after one.

    Attributes
    ----------
    preset, similarity, alignment
        As :func:`nnreg.engine.register` takes them.
    radius, smoothness
        As :func:`nnreg.engine.register` takes them: window of local correlation (None: the preset's), and how much less the field may bend.
    symmetric
        Whether every level, the finest too, is refined in both directions; None: as the preset has it.
    use_masks, use_labels, use_keypoints
        What guides it, where both images have it.
    guides
        How many training cases are atlases: their labels, fused onto each image, guide the engine and measure nothing. 0: none.
    refinement
        Preset that goes on from a network's field; None: the network's field is the result.
    because
        Field name to the rule and the measured numbers that led to its value.
    """

    preset: str = "default"
    similarity: str = "auto"
    alignment: str = "affine"
    radius: float | None = None
    smoothness: float = 1.0
    symmetric: bool | None = None
    use_masks: bool = True
    use_labels: bool = False
    use_keypoints: bool = False
    guides: int = 0
    refinement: str | None = "fast"
    because: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One alternative over all compared pairs.

    Attributes
    ----------
    name
        ``planned``, what it changes (``similarity nmi``), or the network (``trained 3d_fullres (nnRegTrainer)``).
    changes
        Field of :class:`Optimisation` to the value that differs from the planned one.
    configuration
        Of the network; None: the engine alone.
    accuracy, robust30
        Mean of the measure over all pairs, and over the worst 30 % of them.
    sdlogj
        Mean over the pairs.
    folding_percent
        Of the pair that folds most.
    seconds
        Median per pair.
    rank
        Mean of the ranks by accuracy, robust30 and sdlogj, 1 the best; None: disqualified.
    problem
        Why it is disqualified.
    """

    name: str
    accuracy: float | None
    robust30: float | None
    sdlogj: float | None
    folding_percent: float | None
    seconds: float | None
    changes: dict[str, str] = field(default_factory=dict)
    configuration: str | None = None
    rank: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Tuning:
    """What ``nnreg_tune`` measured.

    Attributes
    ----------
    measure
        Of the accuracy: ``dice`` (mean over labels) or ``keypoint_mm`` (mean distance).
    pairs
        Names of the training pairs that every alternative was measured on.
    files
        Digest of their files.
    scores
        Best first.
    planned, planned_recommended, planned_because
        The settings that the rules had decided, which alternatives differ from; and what they had recommended, and why.
    """

    measure: Measure
    pairs: tuple[str, ...]
    files: str
    scores: tuple[Score, ...]
    planned: Optimisation
    planned_recommended: str
    planned_because: str

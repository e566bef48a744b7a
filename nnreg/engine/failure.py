"""How likely a registration failed: a logistic model of its evidence, with fixed coefficients.

``benchmarks/failure.py`` makes sound and broken pairs of real images, fits the coefficients on one half of the people and reports the other half.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LIKELY = 0.5  # probability from which a registration counts as failed
MOST_REASONS = 3
REACH = 3.0  # half widths beyond its middle at which an indicator stops to count more: no single one decides alone


@dataclass(frozen=True)
class Evidence:
    """Measures of one registration. Lengths are in radii: the root mean square distance of the fixed foreground from its centre.

    Attributes
    ----------
    backward_alignment : float
        Root mean square distance, over the fixed foreground, of the linear part of the map from the inverse of an alignment that was searched for from the
        moving to the fixed image; infinite where none was found.
    round_trip : float
        Mean distance from where it began of what goes through the map, and back through a short registration of the moving onto the fixed image that starts
        from the inverse of the linear part.
    stretch : float
        Largest absolute logarithm of a singular value of the linear part.
    turn : float
        One minus the cosine of the angle by which the linear part turns the world: 0 to 2; 0 for images of two axes, which are turned any way on a scanner.
    similarity_gain : float
        Logarithm of how much further apart the self-similarity maps of both images are a little aside than where they were brought to: what unrelated images
        gain is near 0.
    edges : float
        How far the gradients of both images are parallel or opposite: 1, and 0 for unrelated ones.
    """

    backward_alignment: float
    round_trip: float
    stretch: float
    turn: float
    similarity_gain: float
    edges: float


@dataclass(frozen=True)
class Indicator:
    """One measure in the model.

    Attributes
    ----------
    middle, width : float
        It counts nothing at `middle`, half way between sound and broken pairs, and its weight at `middle` + `width`, where broken ones are. A negative width
        belongs to a measure that falls when registrations fail.
    weight : float
    logarithm : bool
        Whether the measure is taken as its logarithm.
    told : str
        The reason that a user is given, with the value as ``{:.2g}``.
    """

    middle: float
    width: float
    weight: float
    logarithm: bool
    told: str

    def standing(self, value: float) -> float:
        """Where a value lies: below 0 on the side of sound pairs. Not measured is 0."""
        if np.isnan(value):
            return 0.0
        taken = float(np.log(max(value, 1e-6))) if self.logarithm else value
        return float(np.clip((taken - self.middle) / self.width, -REACH, REACH))


# Fitted by benchmarks/failure.py; registration_engine.md, "Did it fail?", has what they reach on people that nothing was fitted on
INTERCEPT = -0.09
INDICATORS = {
    "backward_alignment": Indicator(
        -1.728, 1.749, 1.528, True, "an alignment from the moving to the fixed image ends {:.2g} body radii from the inverse of this one"
    ),
    "round_trip": Indicator(-2.97, 0.749, 0.809, True, "registered back, points of the body end {:.2g} body radii from where they began"),
    "stretch": Indicator(0.131, 0.1, 0.628, False, "linear alignment stretches or shrinks much (logarithm {:.2g})"),
    "turn": Indicator(0.003, 0.707, 1.209, False, "linear alignment turns the image far from its header (one minus cosine {:.2g})"),
    "similarity_gain": Indicator(0.992, -1.29, 0.712, False, "the images are hardly more alike where they were brought to than aside (gain {:.2g})"),
    "edges": Indicator(0.568, -0.402, 1.416, False, "edges of the two images are not parallel (agreement {:.2g})"),
}


@dataclass(frozen=True)
class Failure:
    """Whether a registration likely failed.

    Attributes
    ----------
    probability : float
        0 to 1: of pairs as in the calibration, were a third of them broken.
    evidence : Evidence
    """

    probability: float
    evidence: Evidence

    @property
    def likely(self) -> bool:
        """Whether the registration counts as failed."""
        return self.probability >= LIKELY

    @property
    def reasons(self) -> tuple[str, ...]:
        """What speaks most for a failure, the strongest first."""
        values = asdict(self.evidence)
        found = sorted(((_counts(name, values[name]), name) for name in INDICATORS), reverse=True)
        return tuple(INDICATORS[name].told.format(values[name]) for count, name in found[:MOST_REASONS] if count > 0)

    def content(self) -> dict[str, Any]:
        """Plain values for JSON; what is not finite is None."""
        values = {name: round(value, 4) if np.isfinite(value) else None for name, value in asdict(self.evidence).items()}
        return {"probability": round(self.probability, 4), "reasons": list(self.reasons) if self.likely else [], **values}


def judge(evidence: Evidence) -> Failure:
    """The probability that a registration with this evidence failed."""
    values = asdict(evidence)
    logit = INTERCEPT + sum(_counts(name, values[name]) for name in INDICATORS)
    return Failure(float(1 / (1 + np.exp(-logit))), evidence)


def _counts(name: str, value: float) -> float:
    return INDICATORS[name].weight * INDICATORS[name].standing(value)

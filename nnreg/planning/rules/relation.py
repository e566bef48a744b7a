"""How the two images of a pair relate: what the pilot registrations say about contrast and motion."""

from __future__ import annotations

import numpy as np

from nnreg.planning.fingerprint import Fingerprint
from nnreg.planning.pair_fingerprint import PairFingerprint, PairMeasurement
from nnreg.planning.rules.decision import Decision, counted, rule

SAME_CONTRAST = 0.45  # signed local correlation inside the body: the engine's own line between one contrast and two
AFTER_PILOT = 0.5  # the same after the pilot: stained sections of one block come to 0.37 to 0.47, slices of brains to 0.52 to 0.65, hippocampi to 0.59 and 0.65
HARD_PILOT, HARD_INSIDE = 0.3, 0.6  # with less, where the pilot falls short, if bright is bright in both: slices of brains 0.33 with 0.68
SAME_SCALE = 0.8  # correlation inside the body: with little texture, shading alone tells that intensities mean the same
FEW_DIFFERENT, FEWEST_DIFFERENT = 0.2, 2  # share of pairs, and pairs: fewer are odd ones
ASTRAY = 0.1  # of Dice, lost by linear alignment: it took a wrong turn
ONE, SCALE, DIFFERENT, MIXED = "one contrast", "one scale", "different contrasts", "mixed contrasts"


@rule("modality_relation")
def modality_relation(fingerprint: Fingerprint) -> Decision[str]:
    """What the two images of a pair have in common, by the measured pairs at their best stage.

    One contrast: the local correlation well inside the body is 0.45 or more by headers or aligned, or 0.5 after the pilot. One scale: it is not, but the
    correlation inside the body is 0.8 or more (little texture). One contrast too: 0.3 after the pilot with a correlation inside the body of 0.6. Else
    different contrasts. Mixed contrasts: a fifth of the pairs or more, two at least, but not all, are of different contrasts. Pairs whose labels say that
    alignment took a wrong turn do not count. Without pairs the names of the channels say.
    """
    pairs = fingerprint.pairs
    if pairs is None or not pairs.count:
        mixed = [name for name in fingerprint.channel_names if "/" in name]
        if mixed:
            return Decision(DIFFERENT, f"no pair was measured; channel {mixed[0]!r} holds several modalities")
        return Decision(ONE, "no pair was measured; every channel holds one modality")
    kinds = [_relation(pair) for pair in trusted(pairs)]
    local, inside = (float(np.median([_best(pair, measure) for pair in trusted(pairs)])) for measure in ("lncc", "ncc"))
    measured = f"{counted(pairs.count, 'pair')}: median local correlation {local:.2f} well inside the body, correlation {inside:.2f}"
    if max(FEWEST_DIFFERENT, FEW_DIFFERENT * len(kinds)) <= kinds.count(DIFFERENT) < len(kinds):
        return Decision(MIXED, f"{measured}; {kinds.count(DIFFERENT)} of them of different contrasts (local correlation below {SAME_CONTRAST:g})")
    value = max((ONE, SCALE, DIFFERENT), key=kinds.count)
    why = {
        ONE: f"local structures look alike (from {SAME_CONTRAST:g} aligned, {AFTER_PILOT:g} after the pilot)",
        SCALE: f"little texture, but bright is bright in both (from {SAME_SCALE:g})",
        DIFFERENT: "what is bright in one is not in the other",
    }
    return Decision(value, f"{measured}: {why[value]}")


def _relation(pair: PairMeasurement) -> str:
    local, inside = pair.similarity["lncc"], _best(pair, "ncc")
    after = local.after or 0.0
    if max(local.before or 0.0, local.aligned or 0.0) >= SAME_CONTRAST or after >= AFTER_PILOT:
        return ONE
    if inside >= SAME_SCALE:
        return SCALE
    return ONE if after >= HARD_PILOT and inside >= HARD_INSIDE else DIFFERENT


def _best(pair: PairMeasurement, measure: str) -> float:
    stages = pair.similarity[measure]
    return max(stages.before or 0.0, stages.aligned or 0.0, stages.after or 0.0)


def trusted(pairs: PairFingerprint) -> list[PairMeasurement]:
    """The pairs that the pilot did not lead astray, as far as labels tell; all if they say so of every one."""
    return [pair for pair in pairs.measured if not _led_astray(pair)] or list(pairs.measured)


def _led_astray(pair: PairMeasurement) -> bool:
    dice = pair.dice
    return dice is not None and dice.before is not None and dice.aligned is not None and dice.aligned < dice.before - ASTRAY


def expected_displacement(fingerprint: Fingerprint) -> float | None:
    """Displacement (mm) that 99 % of the body stays below in the measured pair that moves most, None without pairs."""
    return None if fingerprint.pairs is None else fingerprint.pairs.largest(lambda pair: pair.displacement_mm.p99)

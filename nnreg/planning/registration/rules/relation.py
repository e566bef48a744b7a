"""How the two images of a pair relate: what the pilot registrations say about contrast and motion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnreg.arrays import Doubles
from nnreg.imageio.contrast import contrast_named, told_apart
from nnreg.planning.decision import Decision, counted, rule
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.pair_fingerprint import PairFingerprint, PairMeasurement

SAME_CONTRAST = 0.45  # signed local correlation inside the body: the engine's own line between one contrast and two
CERTAIN = 0.77  # from here on it is one contrast, whatever suits it: brains, hearts and lungs of one contrast have 0.77 to 0.99
AFTER_PILOT = 0.5  # the same after the pilot: stained sections of one block come to 0.37 to 0.47, slices of brains to 0.52 to 0.65, hippocampi to 0.59 and 0.65
HARD_PILOT, HARD_INSIDE = 0.3, 0.6  # with less, where the pilot falls short, if bright is bright in both: slices of brains 0.33 with 0.68
SAME_SCALE = 0.8  # correlation inside the body: with little texture, shading alone tells that intensities mean the same
FEW_DIFFERENT, FEWEST_DIFFERENT = 0.2, 2  # share of pairs, and pairs: fewer are odd ones
FEWEST_TRIED, MOSTLY = 3, 0.75  # pairs that every similarity was tried on, and the share of them that must agree
BETTER = 0.02  # of the error that labels or keypoints see: less comes by chance
ASTRAY = 0.1  # of Dice, lost by linear alignment: it took a wrong turn
ONE, SCALE, DIFFERENT, MIXED = "one contrast", "one scale", "different contrasts", "mixed contrasts"
# the engine's similarity for each; where contrasts are mixed the pilot's own choice for each pair
SUITS = {ONE: "lncc", SCALE: "mse", DIFFERENT: "nmi+gradient"}


@rule("modality_relation")
def modality_relation(fingerprint: Fingerprint) -> Decision[str]:
    """What the two images of a pair have in common, by the measured pairs at their best stage.

    One contrast: the local correlation well inside the body is 0.45 or more by headers or aligned, or 0.5 after the pilot. One scale: it is not, but the
    correlation inside the body is 0.8 or more (little texture). One contrast too: 0.3 after the pilot with a correlation inside the body of 0.6. Else different
    contrasts, and so are cases that are named after two. Mixed contrasts: a fifth of the pairs or more, two at least, but not all, are of different contrasts.
    Pairs whose labels say that alignment took a wrong turn do not count, and an image that ends 2 % nearer by labels (else keypoints) under local correlation
    than under mutual information is of one contrast. Where labels (else keypoints) of three pairs or more end 2 % nearer under local correlation, mean squares
    or mutual information than under the similarity that follows from this, and no farther in three quarters of the pairs, the images are taken for what suits
    that one: one contrast, one scale or, if no pair at all ends farther and the local correlation is below 0.77, different contrasts. Without pairs the names
    of the channels say.
    """
    pairs = fingerprint.pairs
    if pairs is None or not pairs.count:
        mixed = [name for name in fingerprint.channel_names if "/" in name]
        if mixed:
            return Decision(DIFFERENT, f"no pair was measured; channel {mixed[0]!r} holds several modalities")
        return Decision(ONE, "no pair was measured; every channel holds one modality")
    seen = _seen(pairs)
    return _tried(trusted(pairs), seen) or seen


def _seen(pairs: PairFingerprint) -> Decision[str]:
    """What the similarities of the measured pairs say."""
    kinds = _relations(trusted(pairs))
    local, inside = (_median(trusted(pairs), measure) for measure in ("lncc", "ncc"))
    count = sum(map(_named_apart, trusted(pairs)))
    named = f", or named after two, as {counted(count, 'pair')}" if count else ""
    measured = f"{counted(pairs.count, 'pair')}: median local correlation {local:.2f} well inside the body, correlation {inside:.2f}"
    if max(FEWEST_DIFFERENT, FEW_DIFFERENT * len(kinds)) <= kinds.count(DIFFERENT) < len(kinds):
        return Decision(MIXED, f"{measured}; {kinds.count(DIFFERENT)} of them of different contrasts (local correlation below {SAME_CONTRAST:g}{named})")
    value = max((ONE, SCALE, DIFFERENT), key=kinds.count)
    why = {
        ONE: f"local structures look alike (from {SAME_CONTRAST:g} aligned, {AFTER_PILOT:g} after the pilot)",
        SCALE: f"little texture, but bright is bright in both (from {SAME_SCALE:g})",
        DIFFERENT: f"what is bright in one is not in the other{named}",
    }
    return Decision(value, f"{measured}: {why[value]}")


def _relations(measured: Sequence[PairMeasurement]) -> list[str]:
    """Of each pair.

    An image that looks unlike the others, but by its labels is one contrast with one of them, is so with all: it shows another section, say.
    """
    kinds = [_relation(pair) for pair in measured]
    unlike = {case for pair, kind in zip(measured, kinds, strict=True) if kind == DIFFERENT and _denied(pair) for case in (pair.fixed, pair.moving)}
    return [ONE if kind == DIFFERENT and {pair.fixed, pair.moving} & unlike else kind for pair, kind in zip(measured, kinds, strict=True)]


def _denied(pair: PairMeasurement) -> bool:
    """Whether labels (else keypoints) of a pair end clearly nearer under local correlation than under what suits different contrasts."""
    if not _compared([pair]):
        return False
    one, different = (float(_errors([pair], SUITS[relation])[0]) for relation in (ONE, DIFFERENT))
    return one < (1 - BETTER) * different


def _tried(measured: Sequence[PairMeasurement], seen: Decision[str]) -> Decision[str] | None:
    """What suits the similarity that did best, if it did clearly better than the one that follows from what was `seen`."""
    tried = _compared(measured)
    if len(tried) < FEWEST_TRIED:
        return None
    usual = _errors(tried, SUITS.get(seen.value))
    # mutual information does well on one contrast too: pilots of much deformed phantoms of 64 voxels ended nearer under it, with a correlation of 0.97
    possible = [relation for relation in SUITS if relation != DIFFERENT or _median(measured, "lncc") < CERTAIN]
    errors = {relation: _errors(tried, SUITS[relation]) for relation in possible}
    best = min(errors, key=lambda relation: float(errors[relation].mean()))
    gains = usual - errors[best]
    # what looks alike is called different only if no pair says otherwise
    agreeing = 1.0 if best == DIFFERENT else MOSTLY
    if best == seen.value or gains.mean() < BETTER * usual.mean() or (gains >= 0).mean() < agreeing:
        return None
    left = ", ".join(f"{values.mean():.3f} under {SUITS[relation]}" for relation, values in errors.items())
    return Decision(
        best,
        f"{_judge(tried)} after quick pilots of {counted(len(tried), 'pair')}: {left}; that outweighs what similarities say ({seen.value}: {seen.because})",
    )


def shared_scale(fingerprint: Fingerprint) -> str | None:
    """Why intensities of one contrast can be compared as they are, None if nothing says so: mean squares alone end no farther than local correlation.

    Within 2 %, on labels (else keypoints) of three measured pairs or more. That one person's images came from one scanner would not be enough: a coil nearer to
    the one side, a lung filled with air, change what is bright.
    """
    pairs = fingerprint.pairs
    tried = [] if pairs is None else _compared(trusted(pairs))
    if len(tried) < FEWEST_TRIED:
        return None
    squares, local = (float(_errors(tried, SUITS[relation]).mean()) for relation in (SCALE, ONE))
    if squares > (1 + BETTER) * local:
        return None
    return f"{_judge(tried)} after quick pilots of {counted(len(tried), 'pair')}: {squares:.3f} under mean squares, {local:.3f} under local correlation"


def _with_trials(measured: Sequence[PairMeasurement]) -> list[PairMeasurement]:
    return [pair for pair in measured if pair.trials and all(trial.error is not None for trial in pair.trials)]


def _compared(measured: Sequence[PairMeasurement]) -> list[PairMeasurement]:
    """Those that every similarity was tried on: an earlier version tried others."""
    wanted = set(SUITS.values())
    return [pair for pair in _with_trials(measured) if wanted <= {trial.similarity for trial in pair.trials}]


def _judge(tried: Sequence[PairMeasurement]) -> str:
    return "one minus the Dice of labels" if tried[0].trials[0].dice is not None else "mm between keypoints"


def _errors(tried: Sequence[PairMeasurement], similarity: str | None) -> Doubles:
    """Under a similarity; of the pilot's own choice where it is None."""
    return np.array([next(trial.error for trial in pair.trials if similarity in (None, trial.similarity)) for pair in tried], dtype=float)


def _named_apart(pair: PairMeasurement) -> bool:
    """Whether its cases are named after two contrasts: T1 and FLAIR of one head look as much alike as T1 before and after agent."""
    return told_apart(contrast_named(pair.fixed), contrast_named(pair.moving))


def _relation(pair: PairMeasurement) -> str:
    if _named_apart(pair):
        return DIFFERENT
    local, inside = pair.similarity["lncc"], _best(pair, "ncc")
    after = local.after or 0.0
    if max(local.header or 0.0, local.aligned or 0.0) >= SAME_CONTRAST or after >= AFTER_PILOT:
        return ONE
    if inside >= SAME_SCALE:
        return SCALE
    return ONE if after >= HARD_PILOT and inside >= HARD_INSIDE else DIFFERENT


def _median(measured: Sequence[PairMeasurement], measure: str) -> float:
    """Over pairs, each at its best stage."""
    return float(np.median([_best(pair, measure) for pair in measured]))


def _best(pair: PairMeasurement, measure: str) -> float:
    stages = pair.similarity[measure]
    return max(stages.header or 0.0, stages.aligned or 0.0, stages.after or 0.0)


def trusted(pairs: PairFingerprint) -> list[PairMeasurement]:
    """The pairs that the pilot did not lead astray, as far as labels tell; all if they say so of every one."""
    return [pair for pair in pairs.measured if not _led_astray(pair)] or list(pairs.measured)


def _led_astray(pair: PairMeasurement) -> bool:
    dice = pair.dice
    return dice is not None and dice.header is not None and dice.aligned is not None and dice.aligned < dice.header - ASTRAY


def expected_displacement(fingerprint: Fingerprint) -> float | None:
    """Displacement (mm) that 99 % of the body stays below in the measured pair that moves most, None without pairs."""
    return None if fingerprint.pairs is None else fingerprint.pairs.largest(lambda pair: pair.displacement_mm.p99)

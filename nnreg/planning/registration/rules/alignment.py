"""How images are brought together before anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nnreg.engine.names import ALIGNMENTS
from nnreg.errors import PlansError
from nnreg.planning.decision import Decision, counted, rule, text
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.pair_fingerprint import PairFingerprint, PairMeasurement, Stages
from nnreg.planning.registration.rules.relation import trusted

ALIGNMENT_VOXELS = 64  # along the longest axis: pose needs no more, and a pair takes seconds
ALREADY_CENTRED = 0.02  # of the foreground's extent: images aligned by someone else agree this well
ALREADY_SIZED = 0.03
WITHIN_SUBJECT = ("pairs", "groups")
IN_PLACE = 0.02  # of the body's extent: 3 to 4 mm of a head, as sets aligned by others have [evidence: linear alignment]
DEFORMED, MOSTLY = 0.1, 0.5  # within a subject: of the body's extent, and of the pilot's gain. Less is tissue that deformed, not a body that moved
BETTER_DICE = 0.01  # what linear alignment must add to the Dice of images on one grid: less comes by chance


@rule("alignment_target")
def alignment_target(fingerprint: Fingerprint) -> Decision[str]:
    """One frame for the dataset (pairing all, atlas), or one per group of pairs (pairs, groups)."""
    if fingerprint.pairing in WITHIN_SUBJECT:
        return Decision(
            "group", f"pairing {fingerprint.pairing!r}: only the images of one of the {len(fingerprint.groups)} groups are compared with each other"
        )
    return Decision("dataset", f"pairing {fingerprint.pairing!r}: any image may meet any other, so all share one frame")


@rule("orientation")
def orientation(fingerprint: Fingerprint) -> Decision[str]:
    """Axis order of the working grids: what most images have, so that most are not turned."""
    value = fingerprint.orientation
    count = sum(image.orientation == value for image in fingerprint.images.values())
    return Decision(value, f"{count} of {len(fingerprint.images)} images run this way")


@rule("pre_alignment")
def pre_alignment(fingerprint: Fingerprint) -> Decision[str]:
    """The freest linear map that a measured pair kept; what does not improve the similarity of a case is not kept.

    None where images lie on one grid and linear alignment moves the body by at most 2 % of its extent in every pair, adds no more than 0.01 to the Dice of the
    labels or, without labels, nothing to a correlation; nor where images of one subject lie on one grid and it moves the body by at most 10 % and explains less
    than half of what the pilot gains.
    Without measured pairs: affine between subjects; rigid within one; none where images of a group lie on one grid, or a dataset is on one grid with
    foregrounds that agree within 2 % in place and 3 % in size.
    """
    if fingerprint.pairs is not None and fingerprint.pairs.count:
        return _measured_alignment(fingerprint, fingerprint.pairs)
    if fingerprint.pairing in WITHIN_SUBJECT:
        if all(fingerprint.same_grid(group) for group in fingerprint.groups):
            return Decision("none", "the images of each group lie on the same grid: one scan session, their headers align them")
        return Decision("rigid", "images of one subject on different grids: pose may differ, size and shape do not; kept only where it improves the similarity")
    offset, spread = _pose_spread(fingerprint)
    if fingerprint.same_grid() and offset < ALREADY_CENTRED and spread < ALREADY_SIZED:
        return Decision("none", f"all images lie on one grid, their foregrounds agree in place ({offset:.1%}) and size ({spread:.1%}): aligned already")
    return Decision("affine", "different subjects differ in pose and size; kept only where it improves the similarity")


def _measured_alignment(fingerprint: Fingerprint, pairs: PairFingerprint) -> Decision[str]:
    """`pre_alignment` by what the engine's alignment did to the measured pairs."""
    extent = float(np.median(fingerprint.foreground_extents(), axis=0).max())
    furthest = pairs.largest(lambda pair: pair.alignment_mm) or 0.0
    # images of one frame are resampled onto one grid: headers must put them there before anything may be left out
    together = fingerprint.same_grid() if not fingerprint.groups else all(fingerprint.same_grid(group) for group in fingerprint.groups)
    moved = f"linear alignment moves the body of {counted(pairs.count, 'pair')} by up to {furthest:.1f} mm of its {extent:.0f}"
    if together and furthest <= IN_PLACE * extent:
        return Decision("none", f"{moved}: aligned already (up to {IN_PLACE:.0%})")
    useless = _useless(pairs) if together else None
    if useless is not None:
        return Decision("none", f"{moved}, but {useless}: the headers align as well")
    share = _share(pairs) if together and fingerprint.pairing in WITHIN_SUBJECT and furthest <= DEFORMED * extent else None
    if share is not None and share < MOSTLY:
        # on the demo a network that starts from the headers ends at 0.86 voxel instead of 1.35, Dice 0.82 instead of 0.80
        return Decision("none", f"{moved} and explains {share:.0%} of what the pilot gains: one subject whose tissue deformed, better left to the network")
    kept = [pair.alignment_kind for pair in trusted(pairs)]
    value = max(kept, key=ALIGNMENTS.index)
    if value == "none":
        value = "rigid" if fingerprint.pairing in WITHIN_SUBJECT else "affine"
    counts = ", ".join(f"{kept.count(kind)} {kind}" for kind in ALIGNMENTS if kind in kept)
    return Decision(value, f"{moved}; kept: {counts}. Each case keeps only what improves its similarity")


def _useless(pairs: PairFingerprint) -> str | None:
    """What says that alignment is of no use to images that lie on one grid: the Dice of the labels, else either correlation; None if nothing does."""
    dice = _gain(pairs, lambda pair: pair.dice)
    if dice is not None:
        return None if dice > BETTER_DICE else f"adds {dice:.3f} to the Dice of the labels"
    for name in ("ncc", "lncc"):
        gain = _gain(pairs, lambda pair, name=name: pair.similarity.get(name))  # type: ignore[misc]
        if gain is not None and gain <= 0:
            return f"adds {gain:.3f} to the {'correlation' if name == 'ncc' else 'local correlation'}"
    return None


def _share(pairs: PairFingerprint) -> float | None:
    """Median share of the pilot's gain, in Dice of the labels or else in correlation, that linear alignment makes alone; None if nothing is gained."""

    def share(pair: PairMeasurement) -> float | None:
        stages = pair.dice or pair.similarity["ncc"]
        if stages.header is None or stages.aligned is None or stages.after is None or stages.after <= stages.header:
            return None
        return (stages.aligned - stages.header) / (stages.after - stages.header)

    return pairs.median(share)


def _gain(pairs: PairFingerprint, measure: Callable[[PairMeasurement], Stages | None]) -> float | None:
    """Median of what linear alignment adds to a measure."""

    def gain(pair: PairMeasurement) -> float | None:
        stages = measure(pair)
        return None if stages is None or stages.aligned is None or stages.header is None else stages.aligned - stages.header

    return pairs.median(gain)


def _pose_spread(fingerprint: Fingerprint) -> tuple[float, float]:
    """Largest distance of a foreground's centre from the median one, and of its extent from the median one, relative to that extent."""
    extents = fingerprint.foreground_extents()
    middle = np.median(extents, axis=0)
    centres = np.stack([image.centre_of_mass for image in fingerprint.images.values()])
    offset = np.linalg.norm(centres - np.median(centres, axis=0), axis=1).max() / middle.max()
    return float(offset), float(np.abs(extents / middle - 1).max())


@rule("alignment_spacing")
def alignment_spacing(fingerprint: Fingerprint, spacing: Sequence[float]) -> Decision[tuple[float, ...]]:
    """About 64 voxels along the longest axis, nowhere finer than the target spacing."""
    longest = float(np.median(fingerprint.foreground_extents(), axis=0).max())
    isotropic = longest / ALIGNMENT_VOXELS
    value = tuple(max(isotropic, float(target)) for target in spacing)
    return Decision(value, f"{ALIGNMENT_VOXELS} voxels along the longest axis ({longest:.0f} mm), not finer than the target {text(spacing)} mm")


@rule("reference_case")
def reference_case(fingerprint: Fingerprint) -> Decision[str | None]:
    """The atlas; else the case whose foreground is nearest the median size along its worst axis; none for groups."""
    if fingerprint.pairing in WITHIN_SUBJECT:
        return Decision(None, "each group has a frame of its own: its first fixed case")
    if fingerprint.pairing == "atlas":
        if fingerprint.atlas not in fingerprint.images:
            raise PlansError(f"{fingerprint.dataset_name}: the atlas {fingerprint.atlas!r} is not among the training cases. Mend 'atlas' in dataset.json.")
        return Decision(fingerprint.atlas, "the atlas")
    extents = fingerprint.foreground_extents()
    median = np.median(extents, axis=0)
    distance = np.abs(np.log(extents / median)).max(axis=1)
    cases = list(fingerprint.images)
    best = min(range(len(cases)), key=lambda index: (distance[index], cases[index]))
    return Decision(cases[best], f"its foreground ({text(extents[best].tolist())} mm) is nearest the median ({text(median.tolist())} mm) in every axis")

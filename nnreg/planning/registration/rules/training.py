"""How the network is trained."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from nnreg.planning.decision import Decision, counted, rule, text
from nnreg.planning.plans import LossTerm
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.rules.relation import DIFFERENT, MIXED, SCALE

WINDOW_MM = 9.0  # chosen on brains
NARROWEST, WIDEST = 5, 9  # voxels of the finest axis; chosen on brains, the wider as VoxelMorph and VFA have it
SMALLEST_WINDOW = 3  # a voxel and its neighbours: less is no window
DIFFUSION_WEIGHT = 1.0  # beside local correlation, as in the published trainings of SITReg, VFA and TransMorph
MSE_WEIGHT = 0.05  # not tuned: mean squares of intensities in [0, 1] are small, 0.01 to 0.05
MIND_WEIGHT = 0.1  # not tuned: mean squares of self-similarity maps are some ten times smaller than one minus a correlation
POINT_CASES = 20  # with keypoints; not tuned: no measurement with fewer is recorded
LABELLED_CASES = 10  # slices of brains, seven people to learn from: as far as the engine after 800 steps, 0.015 farther once refined
LABELS_PER_STEP = 8  # one-hot maps that a step may warp: 36 at full size are 1 GB. Where there are more labels, the overlap is taken from the label maps
SYMMETRIC = 0.8  # Dice of left and mirrored right; not tuned: brains have 0.93
DICE_WEIGHT = 1.0  # beside local correlation and diffusion of weight 1: TransMorph's training on OASIS, ncc_1_dsc_1_diffusion_1
POINT_WEIGHT = 0.1  # per mm; not tuned
LEARNING_RATE = 1e-3  # chosen on brains: 1e-4 learns as well, ten times slower
SMALL_GRID = 64**3  # voxels; not tuned
ITERATIONS, VALIDATION_ITERATIONS = 250, 50  # of an epoch; nnU-Net's (Isensee et al., Nature Methods 2021)
# not tuned: published trainings took 120,000 steps on OASIS (24 x 5000), 60,000 on LUMIR (30 x 2000), 5,000 on lungs
VISITS, FEWEST_STEPS, MOST_STEPS = 1000, 20_000, 120_000
POLY_EXPONENT = 0.9  # nnU-Net's
GRADIENT_CLIP = 1.0  # of the norm; not tuned


@rule("similarity")
def similarity(relation: str, spacing: Sequence[float], grid: Sequence[int]) -> Decision[tuple[LossTerm, ...]]:
    """Local correlation for one contrast, mean squares for one scale, MIND-SSC for different or mixed contrasts.

    The window of the local correlation has the same physical width along every axis, about 9 mm where that is 5 to 9 voxels of the finest axis.
    """
    if relation == SCALE:
        return Decision((LossTerm("mse"),), f"{relation}: with little texture a local correlation would weigh noise, mean squares do not")
    if relation in (DIFFERENT, MIXED):
        return Decision((LossTerm("mind"),), f"{relation}: self-similarity does not depend on contrast [evidence: MIND-SSC 2013]")
    finest = min(max(_odd(WINDOW_MM / min(spacing)), NARROWEST), WIDEST)
    wanted = [finest * min(spacing) / step for step in spacing]
    window = tuple(_odd(min(width, size / 2)) for width, size in zip(wanted, grid, strict=True))
    term = LossTerm("lncc", 1.0, {"window": list(window)})
    return Decision(
        (term,),
        f"{relation}: intensities correlate locally; {WINDOW_MM:g} mm are {finest} voxels of the finest axis, as wide along the others: {text(window)}",
    )


def _odd(width: float) -> int:
    return max(SMALLEST_WINDOW, 2 * int((width - 1) / 2 + 0.5) + 1)


@rule("regularisation")
def regularisation(relation: str) -> Decision[tuple[LossTerm, ...]]:
    """Squared gradient of the field, weighted by what the similarity is worth: 1 with local correlation, 0.05 with mean squares, 0.1 with MIND."""
    weight, why = {
        SCALE: (MSE_WEIGHT, "mean squares of intensities in [0, 1] are small: 0.01 to 0.05 [evidence: VoxelMorph 2019]"),
        DIFFERENT: (MIND_WEIGHT, "mean squares of self-similarity maps are some ten times smaller than one minus a correlation"),
    }.get(
        DIFFERENT if relation == MIXED else relation,
        (DIFFUSION_WEIGHT, "with local correlation: what SITReg, VFA and TransMorph settled on [evidence: diffusion weight]"),
    )
    return Decision((LossTerm("diffusion", weight),), f"weight {weight:g}: {why}")


@rule("supervision")
def supervision(fingerprint: Fingerprint) -> Decision[tuple[LossTerm, ...]]:
    """Labels teach where there are 10 cases or more and every one has them, keypoints where there are 20; else they serve the evaluation.

    Labels: soft Dice of all that a pair has, weight 1. Keypoints, if those of the images of a pair are as many: the distance of the mapped ones, weight 0.1
    per mm.
    """
    images = fingerprint.images.values()
    labels = _taught(sum(image.labels for image in images), len(images), LABELLED_CASES, "labels", "OASIS rises from 0.82 to 0.86 [evidence: TransMorph 2022]")
    points = _taught(
        sum(bool(image.keypoints) for image in images), len(images), POINT_CASES, "keypoints", "lungs come from 6.5 to 4.5 mm [evidence: Lung250M-4B 2023]"
    )
    if points.value and not _corresponding(fingerprint):
        points = Decision(False, "keypoints of a pair differ in number, so their rows do not correspond: kept for evaluation")
    terms = [LossTerm("soft_dice", DICE_WEIGHT)] * labels.value + [LossTerm("keypoints", POINT_WEIGHT)] * points.value
    told = [labels.because, points.because] if any(image.keypoints for image in images) else [labels.because]
    return Decision(tuple(terms), "; ".join(told if terms else ["unsupervised", *told]))


def drawn_labels(supervision: Sequence[LossTerm]) -> int:
    """Label maps that a step warps under the terms that the rule plans."""
    return LABELS_PER_STEP if any(term.name == "soft_dice" for term in supervision) else 0


def _taught(count: int, cases: int, least: int, what: str, evidence: str) -> Decision[bool]:
    if count == cases and count >= least:
        return Decision(True, f"all {cases} cases have {what}, {least} or more: {evidence}")
    why = "only some have them" if 0 < count < cases else f"{least} or more are needed to learn from"
    return Decision(False, f"{count} of {cases} cases have {what} ({why}), which are kept for evaluation")


def _corresponding(fingerprint: Fingerprint) -> bool:
    """Whether the images that make pairs with each other have as many keypoints."""
    groups = fingerprint.groups or (tuple(fingerprint.images),)
    return all(len({fingerprint.images[case].keypoints for case in group}) == 1 for group in groups)


@rule("deep_supervision_weights")
def deep_supervision_weights(fields: int) -> Decision[tuple[float, ...]]:
    """Halved from level to level, the coarsest kept."""
    total = sum(0.5**level for level in range(fields))
    value = tuple(0.5**level / total for level in range(fields))
    return Decision(value, f"{fields} fields, each level half the finer one's; the coarsest stays, because it does the work when motion is large")


@rule("batch_size")
def batch_size(grid: Sequence[int], memory_of_one: float, target: float) -> Decision[int]:
    """Two ordered pairs a step on grids up to 64^3 voxels, one on larger ones; what the memory target allows."""
    voxels = prod(grid)
    wanted = 2 if voxels <= SMALL_GRID else 1
    value = max(1, min(wanted, int(target / memory_of_one)))
    return Decision(
        value,
        f"{voxels} voxels, {memory_of_one:.2g} GB a pair: {value} ordered pair{'s' if value > 1 else ''} in a step; instance normalisation needs no more",
    )


@rule("length")
def length(fingerprint: Fingerprint) -> Decision[tuple[int, int, int]]:
    """Epochs, iterations and validation iterations: each pair is seen about 1000 times, 20,000 steps at least and 120,000 at most, in epochs of 250."""
    steps = min(max(VISITS * fingerprint.pair_count, FEWEST_STEPS), MOST_STEPS)
    return Decision(
        (steps // ITERATIONS, ITERATIONS, VALIDATION_ITERATIONS),
        f"{counted(fingerprint.pair_count, 'pair')}, each about {VISITS} times within {FEWEST_STEPS} to {MOST_STEPS} steps: "
        "OASIS took 120,000, LUMIR 60,000, lungs 5,000 to converge [evidence: training lengths]",
    )


@rule("optimizer")
def optimizer() -> Decision[dict[str, Any]]:
    """Adam 1e-3, polynomial schedule, gradients clipped at 1."""
    value = {
        "optimizer": "adam",
        "learning_rate": LEARNING_RATE,
        "weight_decay": 0.0,
        "gradient_clip": GRADIENT_CLIP,
        "lr_schedule": "poly",
        "lr_schedule_kwargs": {"exponent": POLY_EXPONENT},
    }
    return Decision(
        value,
        f"Adam at {LEARNING_RATE:g}, which a poly schedule brings to zero (1e-4 learns as well, ten times slower), gradients clipped at {GRADIENT_CLIP:g}",
    )


@rule("augmentation")
def augmentation(fingerprint: Fingerprint, pre_alignment: str) -> Decision[dict[str, dict[str, Any]]]:
    """One pose for both images, a small one for the moving image alone, intensities for each image by itself.

    Mirrored left to right, unless left and right of the measured bodies overlap by less than 0.8; every way for colour sections, which have no left. The pose
    of the moving image alone is 5 degrees, 5 % in size and 2.5 % in place; half of that where pairs were measured to be aligned already.
    """
    axes, symmetry = _mirror_axes(fingerprint)
    share = 0.5 if pre_alignment == "none" and fingerprint.pairs is not None else 1.0
    value: dict[str, dict[str, Any]] = {
        "spatial": {"rotation_degrees": 10.0, "log_scale": 0.1, "shift_fraction": 0.05, "mirror_axes": list(axes)},
        # 5 degrees, 5 % and 2.5 %: what SITReg's training on NLST draws. The shared pose above is not tuned
        "relative_affine": {"rotation_degrees": 5.0 * share, "log_scale": 0.05 * share, "shift_fraction": 0.025 * share},
        "intensity": {},
    }
    pose = "half the usual, because the images were measured to be aligned already" if share < 1 else "what alignment leaves over"
    return Decision(value, f"one pose for both images, {symmetry}; a small extra one for the moving image ({pose}); intensities drawn for each image")


def _mirror_axes(fingerprint: Fingerprint) -> tuple[tuple[int, ...], str]:
    """Array axes along which bodies look alike: left-right; every axis of a colour section, which has no left. And why."""
    letters = tuple(reversed(fingerprint.orientation))
    if fingerprint.ndim == 2 and len(fingerprint.channel_names) == 3:
        return (0, 1), "mirrored along both axes: a section has no left"
    symmetry = None if fingerprint.pairs is None else fingerprint.pairs.median(lambda pair: pair.left_right_symmetry)
    if symmetry is not None and symmetry < SYMMETRIC:
        return (), f"not mirrored: left and right overlap by {symmetry:.2f}, below {SYMMETRIC:g}"
    told = "" if symmetry is None else f" (they overlap by {symmetry:.2f})"
    return tuple(axis for axis, letter in enumerate(letters) if letter in "LR"), f"mirrored left to right{told}"

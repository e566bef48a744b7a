"""Registering pairs one by one: with which settings, whether after a network, and whether instead of one."""

from __future__ import annotations

import numpy as np

from nnreg.engine.names import AUTO, in_colours
from nnreg.planning.decision import Decision, counted, rule
from nnreg.planning.plans import OPTIMISE
from nnreg.planning.registration.duration import readable_duration
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.rules.alignment import WITHIN_SUBJECT
from nnreg.planning.registration.rules.relation import DIFFERENT, MIXED, ONE, SUITS, expected_displacement, shared_scale
from nnreg.planning.registration.rules.training import supervision

WINDOWED = ONE, MIXED  # relations of which pairs are compared in the windows that 'accurate' has two of
FEWEST_SUBJECTS = 10  # LUMIR: networks trained on 10 subjects still beat VoxelMorph on 3384 [evidence: registration designs 2025]
FEWEST_PAIRS = 15  # given pairs: trained networks had 0.40 and 0.50 on eight MR-CT pairs, an optimiser 0.735 [evidence: AbdomenMRCT re-run]
FEWEST_DIFFERENT = 30  # subjects of different contrasts: the same, with more to learn from as little
SOLVED_DICE = 0.9  # mean Dice of the pilot from which labels are about as good as two people agree
GUIDING = 10  # training cases whose labels guide: measured with 10 and 15; more cost a registration each
CARRIED_DICE = 0.4  # of the pilot; measured at 0.48 (slices of brains) and above; below, not tuned
LARGEST_GUIDED = 10  # million voxels; measured up to 6
LEAST_MOTION = 0.5  # voxels of the working spacing that 99 % of the body stay below in the pair that moves most
SOLVED_VOXELS = 1.0  # median keypoint error of the pilot, in voxels of the working spacing


@rule("optimise_preset")
def preset(fingerprint: Fingerprint, relation: str) -> Decision[str]:
    """``accurate``, more iterations and two windows in up to twice the time, between subjects of one contrast; else ``default``."""
    if fingerprint.pairing in WITHIN_SUBJECT:
        return Decision("default", f"pairing {fingerprint.pairing!r}: hearts of 20 patients end as near with it as with 'accurate'")
    if relation not in WINDOWED:
        return Decision("default", f"{relation}: 'accurate' adds windows of local correlation")
    gained = "Dice + 0.0024 on six pairs of brains in 1.7 times the time, + 0.0015 on ten of heads; smoother on hippocampi and slices"
    return Decision("accurate", f"{relation}, other subjects: {gained}")


@rule("optimise_similarity")
def engine_similarity(fingerprint: Fingerprint, relation: str) -> Decision[str]:
    """Local correlation for one contrast, mean squares for one scale, mutual information with edges for different contrasts; where pairs differ, each its own.

    Pictures in colours (2D, three channels) of different contrasts get mutual information alone.

    Local correlation gets mean squares beside it where, after the quick pilots, these alone end no farther (within 2 %, three pairs or more): on images whose
    brightness differs from side to side they lose 0.01 to 0.02 of Dice, on others they gain as much.
    """
    if relation == MIXED:
        return Decision(AUTO, f"{relation}: the engine tells them apart pair by pair")
    shared = shared_scale(fingerprint) if relation == ONE else None
    if shared is not None:
        return Decision("lncc+mse", f"{relation}, and intensities that can be compared as they are ({shared})")
    if relation == DIFFERENT and in_colours(fingerprint.ndim, len(fingerprint.channel_names)):
        return Decision("nmi", f"{relation} of pictures in colours, such as stained sections, whose edges do not correspond; decided once for the dataset")
    value = SUITS[relation]
    told = " (measured on T1, T2 and FLAIR under known warps: smaller errors than mutual information alone)" if relation == DIFFERENT else ""
    return Decision(value, f"{relation}{told}; decided once for the dataset, so that one odd pair is not registered otherwise")


@rule("optimise_alignment")
def engine_alignment(pre_alignment: str) -> Decision[str]:
    """What preprocessing would use: the freest linear map that the pairs need."""
    return Decision(pre_alignment, "the pre-alignment of the plans, pair by pair instead of to a frame; kept only where it helps")


@rule("optimise_symmetric")
def symmetric(fingerprint: Fingerprint) -> Decision[bool | None]:
    """Every level in both directions within a subject, which was nearer and smoother on lungs; between subjects as the preset has it."""
    if fingerprint.pairing in WITHIN_SUBJECT:
        return Decision(True, f"pairing {fingerprint.pairing!r}: every level in both directions, the finest too (lungs 1.60 -> 1.52 millimetres, and smoother)")
    return Decision(None, f"pairing {fingerprint.pairing!r}: as the preset has it; slices of brains lose 0.003 of Dice where the finest level is symmetric too")


@rule("optimise_use_masks")
def use_masks(fingerprint: Fingerprint) -> Decision[bool]:
    """Masks are used where a case has one: outside them nothing is compared."""
    count = sum(image.mask for image in fingerprint.images.values())
    return Decision(count > 0, f"{count} of {len(fingerprint.images)} training cases have a mask" + (": what lies outside is not compared" if count else ""))


@rule("optimise_use_labels")
def use_labels(fingerprint: Fingerprint) -> Decision[bool]:
    """Never by default: labels of the images to be registered are what the result is measured with."""
    count = sum(image.labels for image in fingerprint.images.values())
    return Decision(
        False, f"{count} of {len(fingerprint.images)} cases have labels, kept for evaluation: a Dice of labels that guided says little. Edit to use them"
    )


@rule("optimise_use_keypoints")
def use_keypoints(fingerprint: Fingerprint) -> Decision[bool]:
    """Never by default, as labels."""
    count = sum(image.keypoints is not None for image in fingerprint.images.values())
    return Decision(False, f"{count} of {len(fingerprint.images)} cases have keypoints, kept for evaluation. Edit to use them")


@rule("optimise_guides")
def guides(fingerprint: Fingerprint, relation: str) -> Decision[int]:
    """Ten training cases guide, where so many subjects of one contrast have labels that the pilot brings onto each other (median Dice 0.4); else none.

    Within a subject none: labels of other subjects were not measured to help there. Nor in images of more than 10 million voxels, where each would take long.
    """
    labelled = len({image.subject for image in fingerprint.images.values() if image.labels})
    have = f"{labelled} subjects with labels"
    if fingerprint.pairing in WITHIN_SUBJECT:
        return Decision(0, f"pairing {fingerprint.pairing!r}: labels of other subjects were not measured to help within one")
    if labelled < GUIDING:
        return Decision(0, f"{have}: fewer than {GUIDING} were not measured to help")
    if relation != ONE:
        return Decision(0, f"{relation}: labels are fused where images of atlases look like the one to be labelled")
    voxels = float(np.median(np.prod(fingerprint.shapes(), axis=1))) / 1e6
    if voxels > LARGEST_GUIDED:
        told = "fusing labels onto one of 6 million takes two minutes of a processor core, and beyond nothing was measured"
        return Decision(0, f"images of {voxels:.0f} million voxels: {told}")
    dice = None if fingerprint.pairs is None else fingerprint.pairs.median(lambda pair: pair.dice.after if pair.dice else None)
    if dice is None or dice < CARRIED_DICE:
        told = "no measured pair has labels" if dice is None else f"the pilot brings labels to a median Dice of {dice:.2f}"
        return Decision(0, f"{told}, {CARRIED_DICE:g} is asked for: labels that atlases cannot carry, such as lesions, would guide astray")
    return Decision(
        GUIDING,
        f"{have}, which the pilot brings to a median Dice of {dice:.2f}: those of {GUIDING} are fused onto each image and guide the engine "
        "(brains at 2 millimetres: Dice 0.593 -> 0.604, nearer in 20 of 20 pairs; hippocampi 0.743 -> 0.777, slices of brains 0.499 -> 0.518; "
        "an image of 6 million voxels takes two minutes of a processor core) [evidence: labels that guide]",
    )


@rule("refinement")
def refinement(relation: str) -> Decision[str | None]:
    """Preset that may refine what a network predicts: ``fast``. The validation of a fold finds out whether it helps."""
    return Decision(
        "fast",
        "the engine goes on from the network's field: on the demo 38 to 49 % of the remaining error is left after half a second; most needed where motion is "
        "large, images are unlike those trained on or contrasts differ [evidence: uniGradICON 2024]; the validation of a fold finds out whether it helps",
    )


@rule("recommended")
def train_or_optimise(
    fingerprint: Fingerprint, relation: str, spacing: float, finest: str, accelerator: bool | None, seconds: float | None = None
) -> Decision[str]:
    """The finest configuration, or `optimise`: no network, each pair by itself.

    Optimise where there is too little to learn from (fewer than 10 subjects, 15 given pairs of 10 images, or 30 subjects of different contrasts), where the
    pilot already does what training promises (median Dice 0.9 or keypoints within a voxel) or nothing moves by a voxel. Without a GPU, train where labels
    or keypoints teach and a training of an hour fits this machine's processor, by the seconds that a step was measured to take.
    """
    done = _too_few(fingerprint, relation) or _solved(fingerprint, spacing)
    if done is not None:
        return Decision(OPTIMISE, done)
    if accelerator is not False:
        enough = f"{counted(fingerprint.subjects, 'subject')} and {counted(fingerprint.pair_count, 'pair')} are enough to train on"
        return Decision(finest, f"{enough}; the finest configuration that fits the memory target")
    taught = "labels or keypoints of all cases teach more than a similarity can [evidence: taught networks]"
    if not supervision(fingerprint).value:
        return Decision(
            OPTIMISE,
            "no GPU was found here, and without labels in all of 10 cases or more, or keypoints in all of 20, a network learns no more than the engine's "
            f"own similarity, in hours to days. With a GPU: train {finest}, or plan with -device cuda; --time_budget plans one for this processor all the same",
        )
    if seconds is None:
        return Decision(OPTIMISE, f"{taught}, but no GPU was found here and no training of an hour was planned for this processor")
    return Decision(finest, f"{taught}, and {readable_duration(seconds)} of this machine's processor, validation included, are enough for it")


def _solved(fingerprint: Fingerprint, spacing: float) -> str | None:
    """Why nothing is left for training to do, by the measured pairs."""
    pairs = fingerprint.pairs
    if pairs is None or not pairs.count:
        return None
    dice = pairs.median(lambda pair: pair.dice.after if pair.dice else None)
    points = pairs.median(lambda pair: pair.keypoint_mm.after if pair.keypoint_mm else None)
    moved = expected_displacement(fingerprint)
    if dice is not None and dice >= SOLVED_DICE:
        return f"the quick pilot already reaches a median Dice of {dice:.2f}: training promises no more than {SOLVED_DICE:g}"
    if points is not None and points <= SOLVED_VOXELS * spacing:
        return f"the quick pilot already brings keypoints within {points:.2f} mm, {points / spacing:.1f} voxels: training promises no more"
    if moved is not None and moved < LEAST_MOTION * spacing:
        return f"after linear alignment nothing moves by more than {moved:.2f} mm, {moved / spacing:.1f} voxels: there is nothing to learn"
    return None


def _too_few(fingerprint: Fingerprint, relation: str) -> str | None:
    subjects, pairs, images = fingerprint.subjects, fingerprint.pair_count, len(fingerprint.images)
    if relation in (DIFFERENT, MIXED) and subjects < FEWEST_DIFFERENT:
        return f"{counted(subjects, 'subject')} of different contrasts: below {FEWEST_DIFFERENT} an optimiser is better [evidence: AbdomenMRCT re-run]"
    if fingerprint.pairing in WITHIN_SUBJECT and pairs < FEWEST_PAIRS:
        return f"{counted(pairs, 'pair')}: fewer than {FEWEST_PAIRS} teach a network less than an optimiser knows [evidence: AbdomenMRCT re-run]"
    if fingerprint.pairing in WITHIN_SUBJECT and images < FEWEST_SUBJECTS:
        # five sections of one block make twenty ordered pairs, and still show a network next to nothing
        few = f"fewer than {FEWEST_SUBJECTS} images are too few to train on [evidence: registration designs 2025]"
        return f"{counted(pairs, 'pair')} of {counted(images, 'image')}: {few}"
    if fingerprint.pairing not in WITHIN_SUBJECT and subjects < FEWEST_SUBJECTS:
        return f"{counted(subjects, 'subject')}: fewer than {FEWEST_SUBJECTS} are too few to train on [evidence: registration designs 2025]"
    return None

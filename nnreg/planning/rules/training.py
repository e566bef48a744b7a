"""How the network is trained."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from nnreg.planning.fingerprint import Fingerprint
from nnreg.planning.plans import LossTerm
from nnreg.planning.rules.decision import Decision, rule, text

WINDOW_MM = 9.0
NARROWEST, WIDEST = 5, 9  # voxels of the finest axis
SMALLEST_WINDOW = 3
DIFFUSION_WEIGHT = 1.0
LEARNING_RATE = 1e-3
SMALL_GRID = 64**3
EPOCHS, ITERATIONS, VALIDATION_ITERATIONS = 1000, 250, 50
POLY_EXPONENT = 0.9
GRADIENT_CLIP = 1.0


@rule("similarity")
def similarity(fingerprint: Fingerprint, spacing: Sequence[float], grid: Sequence[int]) -> Decision[tuple[LossTerm, ...]]:
    """Local correlation over a window of the same physical width along every axis, about 9 mm where that is 5 to 9 voxels."""
    finest = min(max(_odd(WINDOW_MM / min(spacing)), NARROWEST), WIDEST)
    wanted = [finest * min(spacing) / step for step in spacing]
    window = tuple(_odd(min(width, size / 2)) for width, size in zip(wanted, grid, strict=True))
    term = LossTerm("lncc", 1.0, {"window": list(window)})
    return Decision(
        (term,),
        f"one modality: intensities correlate locally; {WINDOW_MM:g} mm are {finest} voxels of the finest axis, as wide along the others: {text(window)}",
    )


def _odd(width: float) -> int:
    return max(SMALLEST_WINDOW, 2 * int((width - 1) / 2 + 0.5) + 1)


@rule("regularisation")
def regularisation() -> Decision[tuple[LossTerm, ...]]:
    """Squared gradient of the field."""
    return Decision(
        (LossTerm("diffusion", DIFFUSION_WEIGHT),), "weight 1 with local correlation: what SITReg, VFA and TransMorph settled on (registration_anchors 18)"
    )


@rule("supervision")
def supervision(fingerprint: Fingerprint) -> Decision[tuple[LossTerm, ...]]:
    """None: unsupervised; labels serve the evaluation."""
    labelled = sum(image.labels for image in fingerprint.images.values())
    return Decision((), f"unsupervised; {labelled} of {len(fingerprint.images)} cases have labels, which are kept for evaluation")


@rule("deep_supervision_weights")
def deep_supervision_weights(fields: int) -> Decision[tuple[float, ...]]:
    """Halved from level to level, the coarsest kept."""
    total = sum(0.5**level for level in range(fields))
    value = tuple(0.5**level / total for level in range(fields))
    return Decision(value, f"{fields} fields, each level half the finer one's; the coarsest stays, because it does the work when motion is large")


@rule("batch_size")
def batch_size(grid: Sequence[int], memory_of_one: float, target: float) -> Decision[int]:
    """Two ordered pairs a step on small grids, one on large ones."""
    voxels = prod(grid)
    wanted = 2 if voxels <= SMALL_GRID else 1
    value = max(1, min(wanted, int(target / memory_of_one)))
    return Decision(
        value,
        f"{voxels} voxels, {memory_of_one:.2g} GB a pair: {value} ordered pair{'s' if value > 1 else ''} in a step; instance normalisation needs no more",
    )


@rule("length")
def length(fingerprint: Fingerprint) -> Decision[tuple[int, int, int]]:
    """Epochs, iterations and validation iterations: nnU-Net's."""
    return Decision(
        (EPOCHS, ITERATIONS, VALIDATION_ITERATIONS), f"nnU-Net's 1000 epochs of 250 iterations; {fingerprint.pair_count} training pairs are drawn at random"
    )


@rule("optimizer")
def optimizer() -> Decision[dict[str, Any]]:
    """Adam with a polynomial schedule."""
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
    """Shared pose changes, a small pose of the moving image alone, and intensities drawn for each image."""
    value: dict[str, dict[str, Any]] = {
        "spatial": {"rotation_degrees": 10.0, "log_scale": 0.1, "shift_fraction": 0.05, "mirror_axes": list(_mirror_axes(fingerprint))},
        "relative_affine": {"rotation_degrees": 5.0, "log_scale": 0.05, "shift_fraction": 0.025},
        "intensity": {},
    }
    return Decision(value, "one pose for both images, a small extra one for the moving image (what alignment leaves over), intensities drawn for each image")


def _mirror_axes(fingerprint: Fingerprint) -> tuple[int, ...]:
    """Array axes along which bodies look alike: left-right; every axis of a colour section, which has no left."""
    letters = tuple(reversed(fingerprint.orientation))
    if fingerprint.ndim == 2 and len(fingerprint.channel_names) == 3:
        return (0, 1)
    return tuple(axis for axis, letter in enumerate(letters) if letter in "LR")

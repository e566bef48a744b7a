"""One pair measured by the engine: a quick registration of bounded copies, and what it says about the pair."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnreg.arrays import Mask
from nnreg.engine import Annotations, Registration, register
from nnreg.engine.choose_similarity import CHOICE_VOXELS
from nnreg.engine.grids import SMALLEST, volume_of
from nnreg.engine.mind import mind
from nnreg.engine.prepared_image import PreparedImage, foreground, prepare
from nnreg.engine.similarity import MutualInformation, inner_correlation
from nnreg.geometry import Space, Transform, resample_image, resample_labels
from nnreg.imageio import Image
from nnreg.metrics import dice, ncc
from nnreg.planning.orientation import permutation
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.pair_fingerprint import PairMeasurement, Percentiles, Stages, Trial
from nnreg.planning.registration.rules.relation import SUITS

if TYPE_CHECKING:
    from nnreg.dataset import Case, Pair, RawDataset

LARGEST_COPY = 1_500_000  # voxels: a pair takes seconds, and displacements in mm need no more
USUAL_CHANNELS = 4  # images of more get smaller copies
MOST_CHANNELS = 8  # that similarities are measured on
PRESET = "fast"
TRIED = tuple(SUITS.values())  # the planner compares these


def measure_pair(raw: RawDataset, fingerprint: Fingerprint, pair: Pair, files: str, *, trials: bool = False) -> PairMeasurement:
    """Register a training pair quickly and measure it; with `trials` under every similarity, where labels or keypoints can tell which is best.

    Raises
    ------
    RegistrationError
        If the pair cannot be registered.
    NnRegError
        If a file cannot be read.
    """
    started = time.thread_time()
    fixed, moving = _bounded(raw.read_case(pair.fixed)), _bounded(raw.read_case(pair.moving))
    truth = _truth(fixed, moving)
    found = register(fixed=fixed.image, moving=moving.image, fixed_mask=fixed.mask, moving_mask=moving.mask, guided=False, preset=PRESET)
    measures = found.measured_by(truth)
    tried = _trials(fixed, moving, found, truth) if trials else ()
    body = foreground(prepare(fixed.image.array, fixed.image.space, None if fixed.mask is None else fixed.mask.array, "fixed")) > 0.5
    images = fingerprint.images[pair.fixed], fingerprint.images[pair.moving]
    return PairMeasurement(
        fixed=pair.fixed,
        moving=pair.moving,
        files=files,
        header_overlap=_overlap(fixed.image.space, moving.image.space),
        field_of_view_mismatch=_mismatch(*images),
        centre_offset_mm=float(np.linalg.norm(np.subtract(images[0].centre_of_mass, images[1].centre_of_mass))),
        alignment_kind=found.alignment.kind if found.alignment is not None else "none",
        alignment_mm=_moved(found.start, fixed.image.space, body),
        displacement_mm=_percentiles(found, body),
        similarity=_similarities(fixed, moving, found),
        dice=_stages(measures.get("dice"), "mean"),
        keypoint_mm=_stages(measures.get("tre_mm"), "median"),
        sdlogj=_finite(measures.get("sdlogj")),
        folding_percent=_finite(measures.get("folding_percent")),
        mass_change=_mass_change(fixed.image, found, body, [channel.background for channel in images[0].channels]),
        foreground=images[0].foreground_fraction,
        mask_coverage=1.0 if fixed.mask is None else float((fixed.mask.array != 0).mean()),
        left_right_symmetry=_symmetry(body if fixed.labels is None else fixed.labels.array[0] > 0, fingerprint.images[pair.fixed].orientation),
        seconds=round(time.thread_time() - started, 3),
        succeeded=not found.fell,
        trials=tried,
        labelled_change=_labelled_change(fixed, moving, found, body),
    )


def _trials(fixed: Case, moving: Case, found: Registration, truth: Annotations) -> tuple[Trial, ...]:
    """The pilot's own similarity, and the others from its alignment on; none without labels and keypoints."""
    first = _trial(found, truth)
    if first.error is None or found.similarity not in TRIED:
        return ()

    def under(similarity: str) -> Registration:
        return register(
            fixed=fixed.image,
            moving=moving.image,
            fixed_mask=fixed.mask,
            moving_mask=moving.mask,
            guided=False,
            initial=found.start,
            preset=PRESET,
            similarity=similarity,
        )

    return (first, *(_trial(under(name), truth) for name in TRIED if name != found.similarity))


def _trial(found: Registration, truth: Annotations) -> Trial:
    measures = found.measured_by(truth)
    dice, points = _stages(measures.get("dice"), "mean"), _stages(measures.get("tre_mm"), "median")
    return Trial(found.similarity, None if dice is None else dice.after, None if points is None else points.after)


def _bounded(case: Case) -> Case:
    """The case with at most LARGEST_COPY voxels: means over blocks of its image, the rest by nearest neighbour; keypoints in its voxels."""
    image = case.image
    side = PreparedImage(np.ascontiguousarray(image.array, dtype=np.float32), None, image.space).pooled_by(_factors(image.space, image.channels))
    mask = _sampled(case.mask, side.space)
    points = case.keypoints_voxel
    if points is not None:
        # x first, as the engine wants them
        points = side.space.to_index(image.space.to_world(np.asarray(points)[:, ::-1]))[:, ::-1]
    return replace(
        case,
        image=Image(side.image, side.space),
        labels=_sampled(case.labels, side.space),
        mask=None if mask is not None and not mask.array.any() else mask,
        keypoints_voxel=points,
    )


def _coarse(case: Case, role: str) -> PreparedImage:
    """The windowed image on the grid that contrasts are told apart on."""
    space = case.image.space
    side = prepare(case.image.array, space, None if case.mask is None else case.mask.array, role)
    step = float(np.prod(space.extent) / CHOICE_VOXELS) ** (1 / space.ndim)
    return side.pooled((step,) * space.ndim)


def _factors(space: Space, channels: int) -> tuple[int, ...]:
    """Whole blocks that bring a grid below LARGEST_COPY voxels (fewer with many channels), finer axes first."""
    largest = LARGEST_COPY * min(1.0, USUAL_CHANNELS / channels)
    factors = np.ones(space.ndim, dtype=int)
    shape, spacing = np.asarray(space.shape), np.asarray(space.spacing)
    while np.prod(shape // factors) > largest:
        room = shape // (factors + 1) >= SMALLEST
        if not room.any():
            break
        factors[int(np.argmin(np.where(room, factors * spacing, np.inf)))] += 1
    return tuple(int(factor) for factor in factors)


def _sampled(labels: Image | None, space: Space) -> Image | None:
    if labels is None or labels.space.same_as(space):
        return labels
    return Image(resample_labels(labels.array, moving=labels.space, fixed=space), space)


def _truth(fixed: Case, moving: Case) -> Annotations:
    """What both cases have; keypoints only if there are as many."""
    labels = (fixed.labels, moving.labels) if fixed.labels is not None and moving.labels is not None else (None, None)
    points = fixed.keypoints_voxel, moving.keypoints_voxel
    if points[0] is None or points[1] is None or len(points[0]) != len(points[1]) or not len(points[0]):
        points = None, None
    return Annotations(labels[0], labels[1], points[0], points[1])


def _overlap(fixed: Space, moving: Space) -> float:
    """Share of the voxels of `fixed`, every few of them, that lie inside `moving`."""
    axes = [np.linspace(0, size - 1, min(size, 24)) for size in fixed.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, fixed.ndim)
    inside = moving.to_index(fixed.to_world(index))
    within = (inside >= -0.5) & (inside <= np.asarray(moving.shape) - 0.5)
    return float(within.all(axis=1).mean())


def _mismatch(fixed: Any, moving: Any) -> float:
    sizes = [np.asarray(image.space.extent) for image in (fixed, moving)]
    sizes[1] = sizes[1][list(permutation(moving.orientation, fixed.orientation))]
    return float(1 - (np.minimum(*sizes) / np.maximum(*sizes)).min())


def _moved(start: Transform, space: Space, body: Mask) -> float:
    """Median distance (mm) that a map moves the body."""
    index = np.argwhere(body)
    points = space.to_world(index[:: max(1, len(index) // 5000)])
    return float(np.median(np.linalg.norm(start.map_points(points) - points, axis=1))) if len(points) else 0.0


def _percentiles(found: Registration, body: Mask) -> Percentiles:
    field = found.field_on_fixed()
    if field is None or not body.any():
        return Percentiles(0.0, 0.0, 0.0)
    steps = np.asarray(field.space.spacing, np.float32).reshape(-1, *(1,) * body.ndim)
    lengths = np.sqrt(((field.displacement * steps) ** 2).sum(axis=0))[body]
    return Percentiles(*(float(value) for value in np.percentile(lengths, (50, 95, 99))))


def _similarities(fixed: Case, moving: Case, found: Registration) -> dict[str, Stages]:
    """Every measure at every stage, on the grid that the engine tells contrasts apart on."""
    target, source = (_some_channels(side) for side in (_coarse(fixed, "fixed"), _coarse(moving, "moving")))
    body = foreground(target) > 0.5
    volume = volume_of(target.image)
    maps, information = mind(volume), MutualInformation(volume)
    everywhere = np.ones(volume.shape[1:], np.float32)
    inside = body.reshape(volume.shape[1:])
    rows = []
    for transform in (Transform.identity(target.space.ndim), found.start, found.transform):
        array = resample_image(source.image, moving=source.space, fixed=target.space, transform=transform)
        warped = volume_of(np.asarray(array, np.float32))
        rows.append(
            {
                "ncc": float(np.mean([ncc(one, other, body) for one, other in zip(target.image, array, strict=True)])),
                "lncc": inner_correlation(volume, warped, inside),
                "nmi": information(np.clip(warped, 0, 1), everywhere)[0],
                "mind": 1 - float(np.mean((maps - mind(warped))[:, inside] ** 2)) if inside.any() else float("nan"),
            }
        )
    return {name: Stages(*(_finite(row[name]) for row in rows)) for name in rows[0]}


def _labelled_change(fixed: Case, moving: Case, found: Registration, body: Mask) -> float | None:
    """Share of the squared difference of the aligned images in the box of their labels and what the pilot's displacements reach around it."""
    if fixed.labels is None or moving.labels is None:
        return None
    target, source = (_some_channels(_coarse(side, role)) for side, role in ((fixed, "fixed"), (moving, "moving")))
    array = resample_image(source.image, moving=source.space, fixed=target.space, transform=found.start)
    change = np.square(np.asarray(array, np.float32) - target.image).sum(axis=0, dtype=np.float64)
    shown = resample_labels(fixed.labels.array, moving=fixed.labels.space, fixed=target.space) != 0
    shown |= resample_labels(moving.labels.array, moving=moving.labels.space, fixed=target.space, transform=found.start) != 0
    where = np.argwhere(shown.reshape(change.shape))
    if not len(where) or not change.any():
        return None
    reach = np.ceil(_percentiles(found, body).p99 / np.asarray(target.space.spacing)).astype(int)
    low, high = np.maximum(where.min(axis=0) - reach, 0), where.max(axis=0) + 1 + reach
    return float(change[tuple(slice(first, last) for first, last in zip(low, high, strict=True))].sum() / change.sum())


def _some_channels(side: PreparedImage) -> PreparedImage:
    """At most MOST_CHANNELS of an image, evenly spread."""
    chosen = np.unique(np.linspace(0, side.channels - 1, min(side.channels, MOST_CHANNELS)).round().astype(int))
    return PreparedImage(np.ascontiguousarray(side.image[chosen]), side.mask, side.space)


def _stages(measure: dict[str, Any] | None, key: str) -> Stages | None:
    return None if measure is None else Stages(*(_finite(measure[stage][key]) for stage in ("header", "aligned", "after")))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _mass_change(fixed: Image, found: Registration, body: Mask, background: list[float]) -> float | None:
    """Of the mean channel; None where the fixed body has no intensity above its background."""
    field = found.field_on_fixed()
    if field is None or min(fixed.space.shape) < 2 or not body.any():
        return None

    level = np.asarray(background, np.float32).reshape(-1, *(1,) * fixed.ndim)
    before = float((fixed.array - level).mean(axis=0)[body].sum(dtype=np.float64))
    growth = field.determinants()
    linear = np.eye(fixed.ndim + 1) if found.alignment is None else found.alignment.matrix
    after = float(((found.warped.array - level).mean(axis=0) * growth)[body].sum(dtype=np.float64)) * abs(float(np.linalg.det(linear)))
    return after / before - 1 if before else None


def _symmetry(region: Mask, orientation: str) -> float | None:
    """Dice of a region with its mirror image, left to right about its centre; None in a plane that has no left."""
    letters = tuple(reversed(orientation))
    axis = next((axis for axis, letter in enumerate(letters) if letter in "LR"), None)
    if axis is None or not region.any():
        return None
    occupied = np.flatnonzero(region.any(axis=tuple(other for other in range(region.ndim) if other != axis)))
    cut = region.take(range(int(occupied[0]), int(occupied[-1]) + 1), axis=axis).astype(np.int16)
    return float(dice(cut, np.flip(cut, axis).copy(), [1])[1])

"""One pair: everything that can be measured, on the native grid of the fixed image, before and after.

Three stages are told apart. ``header``: the images where their headers put them. ``aligned``: after the pre-alignment that preceded the network.
``after``: after the whole transform. What deformable registration is worth is the step from ``aligned`` to ``after``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnreg import metrics
from nnreg.arrays import Doubles
from nnreg.dataset.raw import Case
from nnreg.errors import EvaluationError
from nnreg.geometry import FieldMap, Space, Transform, resample_image, resample_labels
from nnreg.metrics.additional import AdditionalMetric, additional_metrics

if TYPE_CHECKING:
    from nnreg.imageio import Image

NAN = float("nan")


def with_corresponding_keypoints(fixed: Case, moving: Case) -> tuple[Case, Case]:
    """Both cases, without keypoints where they have not as many: those of different people need not correspond."""
    counts = {None if case.keypoints_voxel is None else len(case.keypoints_voxel) for case in (fixed, moving)}
    return (fixed, moving) if len(counts) == 1 else (replace(fixed, keypoints_voxel=None), replace(moving, keypoints_voxel=None))


def evaluate_pair(
    *,
    fixed: Case,
    moving: Case,
    transform: Transform,
    aligned: Transform,
    labels: Sequence[int] | None = None,
    truth: FieldMap | None = None,
    surface: bool = True,
    additional: bool = True,
) -> dict[str, Any]:
    """Measure one pair.

    Parameters
    ----------
    fixed, moving : Case
        The mask of the fixed one restricts similarity and the figures of the field.
    transform, aligned : Transform
        Fixed world to moving world: the whole map, and the pre-alignment alone.
    labels
        Which label values to score; by default all but 0 that either map has.
    truth : FieldMap, optional
        The true map, fixed world to moving world.
    surface
        Whether to measure surface distances, which take most of the time.
    additional
        Whether to measure what :func:`nnreg.metrics.additional_metrics` has, beside ours.

    Returns
    -------
    dict
        ``metrics``: name to number, ``dice_header, dice_aligned, dice_after``, likewise ``hd95_mm``, ``asd_mm``, ``ncc``, ``tre_mm``,
        ``tre_median_mm``, ``epe`` (voxels of the fixed grid), ``epe_mm``, ``epe_labels`` (voxels, where the fixed image has a label), and of
        the whole map ``sdlogj``, ``folding_count``, ``folding_percent``, ``ndv_percent``, ``grad_l2``. ``labels``: label to the per-label numbers.
        ``labels_lost``: labels that the transform left nothing of, whose surface distance is infinite and not part of any mean. What cannot be
        measured is NaN, what was not given is left out.

    Raises
    ------
    EvaluationError
        If dimensions, or the numbers of keypoints, differ.
    ConfigurationError
        If an additional metric cannot be used.
    """
    space = fixed.image.space
    _check(fixed, moving, transform)
    stages = {"header": Transform.identity(space.ndim), "aligned": aligned, "after": transform}
    mask = None if fixed.mask is None else _on_grid(fixed.mask, space)
    result: dict[str, Any] = {"metrics": {}, "labels": {}, "labels_lost": []}
    for stage, value in _similarity(fixed.image, moving.image, stages, mask).items():
        result["metrics"][f"ncc_{stage}"] = value
    if fixed.labels is not None and moving.labels is not None:
        result["labels"], result["labels_lost"] = _label_scores(fixed.labels, moving.labels, stages, labels, surface)
        result["metrics"].update(_label_means(result["labels"]))
    if fixed.keypoints_mm is not None and moving.keypoints_mm is not None:
        result["metrics"].update(_landmarks(fixed.keypoints_mm, moving.keypoints_mm, stages))
    field = transform.sampled_on(space)
    result["metrics"].update(_regularity(field, mask))
    if truth is not None:
        result["metrics"].update(_truth(truth, {**stages, "after": field}, mask, None if fixed.labels is None else _on_grid(fixed.labels, space)))
    for more in additional_metrics() if additional else ():
        _add(more, result, fixed, moving, stages, field, mask)
    return result


def _check(fixed: Case, moving: Case, transform: Transform) -> None:
    dimensions = {"fixed image": fixed.image.space.ndim, "moving image": moving.image.space.ndim, "transform": transform.ndim}
    if len(set(dimensions.values())) > 1:
        found = ", ".join(f"{name} {n}D" for name, n in dimensions.items())
        raise EvaluationError(f"a pair has one number of dimensions, found {found}.")
    if fixed.keypoints_mm is not None and moving.keypoints_mm is not None and len(fixed.keypoints_mm) != len(moving.keypoints_mm):
        raise EvaluationError(
            f"keypoints correspond row by row, found {len(fixed.keypoints_mm)} in the fixed and {len(moving.keypoints_mm)} in the moving image."
        )


def _on_grid(mask: Image, space: Space) -> npt.NDArray[np.bool_]:
    """A mask on the fixed grid, boolean (*spatial)."""
    array = mask.array if mask.space.same_as(space) else resample_labels(mask.array, moving=mask.space, fixed=space)
    return np.asarray(array[0] != 0)


def _similarity(fixed: Image, moving: Image, stages: Mapping[str, Transform], mask: npt.NDArray[np.bool_] | None) -> dict[str, float]:
    """Mean correlation over channels at every stage; nothing where the channels cannot be compared one with one."""
    if fixed.array.shape[0] != moving.array.shape[0]:
        return {}
    result = {}
    for stage, transform in stages.items():
        warped = resample_image(moving.array, moving=moving.space, fixed=fixed.space, transform=transform)
        result[stage] = float(np.mean([metrics.ncc(one, other, mask) for one, other in zip(fixed.array, warped, strict=True)]))
    return result


def _label_scores(
    fixed: Image, moving: Image, stages: Mapping[str, Transform], labels: Sequence[int] | None, surface: bool
) -> tuple[dict[str, dict[str, float]], list[int]]:
    """Per label: Dice, HD95 and average surface distance at every stage; and the labels of which nothing is left after it all."""
    space = fixed.space
    target, source = _integers(fixed.array), _integers(moving.array)
    wanted = sorted(set(labels) if labels is not None else {*np.unique(target).tolist(), *np.unique(source).tolist()} - {0})
    scores: dict[str, dict[str, float]] = {str(label): {} for label in wanted}
    lost: list[int] = []
    for stage, transform in stages.items():
        warped = resample_labels(source, moving=moving.space, fixed=space, transform=transform)
        for label, value in metrics.dice(target, warped, wanted, moving=source).items():
            scores[str(label)][f"dice_{stage}"] = value
        if stage == "after":
            left = set(np.unique(warped).tolist())
            lost = [label for label in wanted if not np.isnan(scores[str(label)]["dice_after"]) and label not in left]
        if not surface:
            continue
        for label, distances in metrics.surface_distances(target, warped, wanted, space.spacing, moving=source).items():
            scores[str(label)][f"hd95_mm_{stage}"] = NAN if distances is None else distances.hausdorff(95)
            scores[str(label)][f"asd_mm_{stage}"] = NAN if distances is None else distances.average
    return scores, lost


def _integers(labels: npt.NDArray[np.generic]) -> npt.NDArray[np.integer]:
    """Labels as integers: some programs store them as floats."""
    if np.issubdtype(labels.dtype, np.integer):
        return np.asarray(labels)
    whole = np.asarray(labels, dtype=np.float64)
    if not (whole == np.round(whole)).all():
        raise EvaluationError(f"labels are whole numbers, found {float(whole[whole != np.round(whole)][0]):g}. Resample label maps by nearest neighbour.")
    return whole.astype(np.int64)


def _label_means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    names = list(next(iter(scores.values()), {}))
    return {name: finite_mean([label[name] for label in scores.values()]) for name in names}


def finite_mean(values: Sequence[float]) -> float:
    """Mean of the finite values, NaN without any."""
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array)]
    return float(array.mean()) if array.size else NAN


def _landmarks(fixed: Doubles, moving: Doubles, stages: Mapping[str, Transform]) -> dict[str, float]:
    result = {}
    for stage, transform in stages.items():
        distances = metrics.point_distances(transform.map_points(fixed), moving)
        result[f"tre_mm_{stage}"] = float(distances.mean()) if distances.size else NAN
        result[f"tre_median_mm_{stage}"] = float(np.median(distances)) if distances.size else NAN
    return result


def _regularity(field: FieldMap, mask: npt.NDArray[np.bool_] | None) -> dict[str, float]:
    """Figures of the whole map on the fixed grid; its affine part is in it, and scales volumes but folds nothing."""
    displacement = field.displacement
    folded, percent = metrics.folding(displacement, mask)
    return {
        "sdlogj": metrics.sdlogj(displacement, mask),
        "folding_count": folded,
        "folding_percent": percent,
        "ndv_percent": metrics.non_diffeomorphic_volume(displacement, mask),
        "grad_l2": metrics.grad_l2(displacement, spacing=field.space.spacing),
    }


def _truth(
    truth: FieldMap, stages: Mapping[str, Transform | FieldMap], mask: npt.NDArray[np.bool_] | None, labelled: npt.NDArray[np.bool_] | None
) -> dict[str, float]:
    space = next(stage.space for stage in stages.values() if isinstance(stage, FieldMap))
    true = truth if truth.space.same_as(space) else Transform((truth,), space.ndim).sampled_on(space)
    result = {}
    for name, stage in stages.items():
        field = stage if isinstance(stage, FieldMap) else stage.sampled_on(space)
        result[f"epe_{name}"] = metrics.endpoint_error(field.displacement, true.displacement, mask=mask)
        result[f"epe_mm_{name}"] = metrics.endpoint_error(field.displacement, true.displacement, spacing=space.spacing, mask=mask)
        if labelled is not None:
            inside = labelled if mask is None else labelled & mask
            result[f"epe_labels_{name}"] = metrics.endpoint_error(field.displacement, true.displacement, mask=inside)
    return result


def _add(
    more: AdditionalMetric,
    result: dict[str, Any],
    fixed: Case,
    moving: Case,
    stages: Mapping[str, Transform],
    field: FieldMap,
    mask: npt.NDArray[np.bool_] | None,
) -> None:
    """Measure one metric beside ours, where the pair has what it needs, and put its numbers into the result."""
    metric, figures, space = more.metric, result["metrics"], fixed.image.space
    if metric.needs == "field":
        figures[metric.name] = more(displacement=field.displacement, mask=mask, spacing=space.spacing)
        return
    for stage in metric.stages:
        key = f"{metric.name}_{stage}"
        # warped once more than for our figures: few have such metrics, and each stage of an image is large
        if metric.needs == "images" and fixed.image.channels == moving.image.channels:
            warped = resample_image(moving.image.array, moving=moving.image.space, fixed=space, transform=stages[stage])
            channels = zip(fixed.image.array, warped, strict=True)
            figures[key] = more.mean({"fixed": one, "warped": other, "mask": mask, "spacing": space.spacing} for one, other in channels)
        if metric.needs == "labels" and fixed.labels is not None and moving.labels is not None:
            target, grid = _integers(fixed.labels.array), fixed.labels.space
            moved = resample_labels(_integers(moving.labels.array), moving=moving.labels.space, fixed=grid, transform=stages[stage])
            for label, scores in result["labels"].items():
                # as with ours: a label that one of both images lacks is not scored, one that was lost is
                one, other = target[0] == int(label), moved[0] == int(label)
                scores[key] = NAN if np.isnan(scores["dice_after"]) else more(reference=one, prediction=other, spacing=grid.spacing)
            figures[key] = finite_mean([scores[key] for scores in result["labels"].values()])
        if metric.needs == "points" and fixed.keypoints_mm is not None and moving.keypoints_mm is not None:
            figures[key] = more(mapped=stages[stage].map_points(fixed.keypoints_mm), target=moving.keypoints_mm, spacing=space.spacing)

"""Dice of fused labels where the true ones are known, beside that of each atlas alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnreg import metrics
from nnreg.arrays import AnyArray

Label = int | tuple[int, ...]


def overlaps(truth: AnyArray, found: AnyArray, labels: Sequence[Label]) -> dict[str, float]:
    """Dice of each label, or region of several."""
    single = [label for label in labels if isinstance(label, int)]
    result = {str(label): value for label, value in metrics.dice(truth, found, single).items()}
    for region in labels:
        if not isinstance(region, int):
            result["+".join(map(str, region))] = metrics.dice(np.isin(truth, region).astype(np.uint8), np.isin(found, region).astype(np.uint8), [1])[1]
    return result


def scored(truth: AnyArray, found: AnyArray, alone: Mapping[str, AnyArray], labels: Sequence[Label]) -> dict[str, Any]:
    """Overlap of fused labels with the true ones.

    Parameters
    ----------
    truth, found : arrays of one shape
    alone : atlas to its warped labels
    labels
        What counts: labels or regions; those that are not in `truth` do not.

    Returns
    -------
    dict
        ``mean`` and ``labels`` of the fused map; ``alone``: mean of each atlas; ``best_single``: the atlas with the highest, its mean, and by how much each
        label of the fused map lies above its own.
    """
    true = set(np.unique(truth).tolist())
    there = [label for label in labels if true.intersection([label] if isinstance(label, int) else label)]
    fused = overlaps(truth, found, there)
    each = {name: overlaps(truth, array, there) for name, array in alone.items()}
    means = {name: mean_of(values) for name, values in each.items()}
    best = max(means, key=lambda name: means[name])
    gain = {label: fused[label] - each[best][label] for label in fused}
    return {"mean": mean_of(fused), "best_single": {"atlas": best, "mean": means[best], "gain": gain}, "alone": means, "labels": fused}


def mean_of(values: Mapping[str, float]) -> float:
    """Mean of those that are numbers; NaN without any."""
    finite = [value for value in values.values() if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")

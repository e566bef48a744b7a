"""Pictures of a predicted label map: the image, what was predicted, and where the truth is known what differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Integers
from nnreg.evaluation.registration.pictures import panel_height, scaled, sheet, show, window
from nnreg.evaluation.slices import page, planes
from nnreg.geometry import resample_image

if TYPE_CHECKING:
    from nnreg.geometry import Space
    from nnreg.imageio import Image

OPACITY = 0.55
RIGHT, EXTRA, MISSED = "#2ca02c", "#d62728", "#1f77b4"
PALETTE = ("#e6194b", "#ffe119", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#008080", "#9a6324", "#fabebe")


def overview_of_labels(path: Path | str, image: Image, labels: Integers, *, truth: Image | None = None, names: Sequence[tuple[int, str]] = ()) -> None:
    """Draw a case in one PNG: through the middle of what was predicted, axial, coronal and sagittal; one view in 2D.

    Parameters
    ----------
    path
        ``.png``; written whole or not at all.
    image : Image
        Native. Three channels of bytes are shown in colour, of other images the first channel.
    labels : array, shape (*image.space.shape)
    truth : Image, optional
        Labels on the same grid: shown too, and where they differ.
    names
        Label values and what they are called, for the headline.
    """
    maps = [labels, *([] if truth is None else [truth.array[0]])]
    shown = planes(image, middle_of_labels(labels) if labels.any() else None)
    titles = ("image", "prediction", *(() if truth is None else ("truth", "green right, red extra, blue missed")))
    greys = window(image.array)
    with sheet(path, [panel_height(space.shape, space.spacing) for _, space in shown], titles, _headline(labels, names)) as axes:
        for row, (name, space) in enumerate(shown):
            _draw_view(axes[row], image, maps, space, greys)
            axes[row][0].set_ylabel(name, fontsize=9)


def middle_of_labels(labels: Integers) -> list[int]:
    """The labelled slice nearest to the middle of all that is labelled, per axis."""
    result = []
    for axis in range(labels.ndim):
        found = np.flatnonzero(labels.any(axis=tuple(other for other in range(labels.ndim) if other != axis)))
        result.append(int(found[np.abs(found - found.mean()).argmin()]))
    return result


def _draw_view(axes: Any, image: Image, maps: Sequence[Integers], space: Space, greys: tuple[float, float]) -> None:
    aspect = space.spacing[-2] / space.spacing[-1]
    colour = image.channels == 3 and image.array.dtype == np.uint8
    picture = scaled(page(resample_image(image.array, moving=image.space, fixed=space)), greys)
    # the views are slices of the grid itself: sampling is picking
    slices = [np.rint(page(resample_image(found[None], moving=image.space, fixed=space, outside=0))[0]).astype(int) for found in maps]
    for axis in axes:
        show(axis, picture, aspect, colour=colour)
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, found in zip(axes[1:], slices):
        _overlay(axis, found, aspect)
    if len(slices) == 2:
        predicted, true = slices
        for where, tint in (((predicted == true) & (true > 0), RIGHT), ((predicted != true) & (predicted > 0), EXTRA), ((predicted == 0) & (true > 0), MISSED)):
            _tint(axes[3], where, tint, aspect)


def _overlay(axis: Any, labels: Integers, aspect: float) -> None:
    from matplotlib.colors import ListedColormap

    shown = np.ma.masked_where(labels <= 0, (labels - 1) % len(PALETTE))
    axis.imshow(shown, cmap=ListedColormap(PALETTE), vmin=0, vmax=len(PALETTE) - 1, alpha=OPACITY, aspect=aspect, interpolation="nearest")


def _tint(axis: Any, where: npt.NDArray[np.bool_], tint: str, aspect: float) -> None:
    from matplotlib.colors import ListedColormap

    axis.imshow(np.ma.masked_where(~where, where), cmap=ListedColormap([tint]), alpha=OPACITY, aspect=aspect, interpolation="nearest")


def _headline(labels: Integers, names: Sequence[tuple[int, str]]) -> str:
    """How much of which label there is."""
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    called = dict(names)
    parts = [f"{called.get(int(value), int(value))}: {count} voxels" for value, count in zip(values, counts, strict=True)]
    return ", ".join(parts[:6]) + (f" and {len(parts) - 6} more" if len(parts) > 6 else "") if parts else "nothing was found"

"""Pictures of predicted values: the image, what was predicted, and where the truth is known how much they differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnreg import metrics
from nnreg.arrays import Floats
from nnreg.evaluation.registration.pictures import panel_height, scaled, sheet, show, window
from nnreg.evaluation.slices import page, planes
from nnreg.geometry import resample_image

if TYPE_CHECKING:
    from nnreg.geometry import Space
    from nnreg.imageio import Image

SHARE = 0.25  # of the window: a difference that is wholly red or blue


def overview_of_values(path: Path | str, image: Image, values: Floats, *, truth: Image | None = None) -> None:
    """Draw a case in one PNG: axial, coronal and sagittal through its middle; one view in 2D. Of several channels the first.

    Parameters
    ----------
    path
        ``.png``; written whole or not at all.
    image : Image
        Native. Three channels of bytes are shown in colour, of other images the first channel.
    values : array, shape (C, *image.space.shape)
    truth : Image, optional
        True values on the same grid: shown too, and the difference (red: predicted too high), in one window of greys with the prediction.
    """
    maps = [values[:1], *([] if truth is None else [truth.array[:1].astype(np.float32)])]
    known = maps[-1][np.isfinite(maps[-1])]
    greys = window(image.array), window(known) if known.size else (0.0, 1.0)
    titles = ("image", "prediction", *(() if truth is None else ("truth", "prediction - truth")))
    shown = planes(image)
    with sheet(path, [panel_height(space.shape, space.spacing) for _, space in shown], titles, _headline(maps)) as axes:
        for row, (name, space) in enumerate(shown):
            _draw_view(axes[row], image, maps, space, greys)
            axes[row][0].set_ylabel(name, fontsize=9)


def _draw_view(axes: Any, image: Image, maps: list[Floats], space: Space, greys: tuple[tuple[float, float], tuple[float, float]]) -> None:
    aspect = space.spacing[-2] / space.spacing[-1]
    colour = image.channels == 3 and image.array.dtype == np.uint8
    picture = scaled(page(resample_image(image.array, moving=image.space, fixed=space)), greys[0])
    # the views are slices of the grid itself: sampling is picking
    slices = [page(resample_image(found, moving=image.space, fixed=space, outside=0))[0] for found in maps]
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    show(axes[0], picture, aspect, colour=colour)
    for axis, found in zip(axes[1:], slices):
        axis.imshow(found, cmap="gray", vmin=greys[1][0], vmax=greys[1][1], aspect=aspect, interpolation="nearest")
    if len(slices) == 2:
        limit = SHARE * (greys[1][1] - greys[1][0])
        axes[3].imshow(slices[0] - slices[1], cmap="bwr", vmin=-limit, vmax=limit, aspect=aspect, interpolation="nearest")


def _headline(maps: list[Floats]) -> str:
    """What there is in numbers."""
    found = f"predicted {np.nanmin(maps[0]):.4g} to {np.nanmax(maps[0]):.4g}, mean {np.nanmean(maps[0]):.4g}"
    if len(maps) == 1:
        return found
    known = np.isfinite(maps[1])
    return f"{found}; mean absolute error {metrics.mae(maps[1], maps[0], known):.4g}"

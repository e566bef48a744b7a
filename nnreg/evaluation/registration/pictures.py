"""Pictures of a registered pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnreg import metrics
from nnreg.arrays import Reals
from nnreg.evaluation.slices import View, views
from nnreg.files import atomic_path
from nnreg.geometry import FieldMap, Space, Transform

if TYPE_CHECKING:
    from nnreg.imageio import Image

WIDTH = 2.3  # inches of a panel
GRID_LINES = 28  # along the longer side
RESOLUTION = 110  # dots per inch
SAMPLE = 300_000  # values that percentiles are taken of
FOLD_COLOUR = "#00ff40"
COLUMNS = ("fixed", "moving (affine part)", "warped", "difference before", "difference after", "grid in the moving image", "Jacobian")


def overview_of_transform(path: Path | str, fixed: Image, moving: Image, warped: Image, transform: Transform, *, unit: str = "mm") -> None:
    """Draw a pair: fixed, moving and warped image, differences, deformed grid and Jacobian, in one PNG.

    Parameters
    ----------
    path
        ``.png``; written whole or not at all.
    fixed, moving : Image
        Native images. Three channels of bytes are shown in colour, of other images the first channel.
    warped : Image
        The moving image on the fixed grid.
    transform : Transform
        Fixed to moving world.
    unit
        Of lengths: "px" for images without a physical one.
    """
    colour = fixed.array.shape[0] == 3 and fixed.array.dtype == np.uint8
    shown = views(fixed=fixed, moving=moving, warped=warped, transform=transform)
    windows = window(fixed.array), window(moving.array)
    heights = [panel_height(view.determinant.shape, view.spacing) for view in shown]
    with sheet(path, heights, COLUMNS, _headline(shown, unit), font=10, left=0.015) as axes:
        for row, view in enumerate(shown):
            _draw_view(axes[row], view, windows, colour=colour)


def overview(path: Path | str, fixed: Reals, moving: Reals, warped: Reals, field: Reals, spacing: tuple[float, ...] | None = None) -> None:
    """Like :func:`overview_of_transform` for arrays (C, *spatial) on one grid and a field (ndim, *spatial) in its voxels."""
    from nnreg.imageio import Image

    space = Space.plain(fixed.shape[1:], spacing)
    transform = Transform((FieldMap(np.asarray(field, dtype=np.float32), space),), space.ndim)
    overview_of_transform(path, Image(fixed, space), Image(moving, space), Image(warped, space), transform)


@contextmanager
def sheet(path: Path | str, heights: Sequence[float], titles: Sequence[str], headline: str, *, font: int = 8, left: float = 0.03) -> Iterator[Any]:
    """Yield the axes of a page of panels, a row per height (inches) and a column per title; on leaving it is written as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = sum(heights) + 0.75
    figure = Figure(figsize=(WIDTH * len(titles), total), dpi=RESOLUTION, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), len(titles), squeeze=False, gridspec_kw={"height_ratios": list(heights)})
    yield axes
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9 if len(title) < 30 else 8)
    figure.suptitle(headline, fontsize=font, y=1 - 0.08 / total)
    figure.subplots_adjust(left=left, right=0.995, bottom=0.01, top=1 - 0.6 / total, wspace=0.03, hspace=0.04)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def panel_height(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Inches of a panel that shows the last two axes of a grid undistorted."""
    rows, columns = (size * step for size, step in zip(shape[-2:], spacing[-2:], strict=True))
    return float(WIDTH * rows / columns)


def window(image: npt.NDArray[np.generic]) -> tuple[float, float]:
    """Darkest and brightest grey: robust, and without the padding or air that is the image's minimum."""
    values = np.asarray(image, dtype=np.float32)
    above = values[values > values.min()]
    if not above.size:
        return float(values.min()), float(values.min()) + 1
    low, high = (float(bound) for bound in np.percentile(above[:: max(1, above.size // SAMPLE)], (0.5, 99.5)))
    return low, high if high > low else low + 1


def _draw_view(axes: Any, view: View, windows: tuple[tuple[float, float], tuple[float, float]], *, colour: bool) -> None:
    aspect = view.spacing[0] / view.spacing[1]
    fixed, moving, warped = (
        scaled(image, window) for image, window in zip((view.fixed, view.moving, view.warped), (windows[0], windows[1], windows[1]), strict=True)
    )
    for axis, image in zip(axes[:3], (fixed, moving, warped), strict=True):
        show(axis, image, aspect, colour=colour)
    grey_fixed, grey_moving, grey_warped = (_grey(image, colour) for image in (fixed, moving, warped))
    for axis, image in zip(axes[3:5], (grey_moving, grey_warped), strict=True):
        axis.imshow(grey_fixed - image, cmap="RdBu_r", vmin=-0.6, vmax=0.6, aspect=aspect, interpolation="nearest")
    axes[5].imshow(grey_moving, cmap="gray", vmin=0, vmax=1.6, aspect=aspect)
    _draw_grid(axes[5], view)
    _draw_jacobian(axes[6], view, aspect)
    axes[0].set_ylabel(view.name, fontsize=9)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])


def scaled(image: Reals, window: tuple[float, float]) -> Reals:
    """Grey values between 0 and 1."""
    return np.clip((image - window[0]) / (window[1] - window[0]), 0, 1)


def _grey(image: Reals, colour: bool) -> Reals:
    return image.mean(axis=0) if colour else image[0]


def show(axis: Any, image: Reals, aspect: float, *, colour: bool) -> None:
    """Draw a scaled image (C, rows, columns)."""
    if colour and image.shape[0] == 3:
        axis.imshow(np.moveaxis(image, 0, -1), aspect=aspect)
    else:
        axis.imshow(image[0], cmap="gray", vmin=0, vmax=1, aspect=aspect)


def _draw_grid(axis: Any, view: View) -> None:
    """Where lines of the fixed grid lie in the moving image."""
    from matplotlib.collections import LineCollection

    rows, columns = view.determinant.shape
    step = max(2, round(max(rows, columns) / GRID_LINES))
    down, right = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    position = np.stack([right + view.field[1], down + view.field[0]], axis=-1)
    lines = [*position[step // 2 :: step], *position[:, step // 2 :: step].transpose(1, 0, 2)]
    axis.add_collection(LineCollection(lines, colors="#ffb000", linewidths=0.5))
    axis.set_xlim(-0.5, columns - 0.5)
    axis.set_ylim(rows - 0.5, -0.5)


def _draw_jacobian(axis: Any, view: View, aspect: float) -> None:
    """Growth in red and shrinkage in blue, halving to doubling; folds in green."""
    from matplotlib.colors import ListedColormap

    folded = view.determinant <= 0
    logarithm = np.log2(np.where(folded, 1, view.determinant))
    axis.imshow(np.clip(logarithm, -1, 1), cmap="coolwarm", vmin=-1, vmax=1, aspect=aspect, interpolation="nearest")
    axis.imshow(np.ma.masked_where(~folded, folded), cmap=ListedColormap([FOLD_COLOUR]), aspect=aspect, interpolation="nearest")


def _headline(shown: list[View], unit: str) -> str:
    """What the slices say in numbers."""
    parts = []
    comparable = all(view.fixed.shape == view.moving.shape for view in shown)
    if comparable:
        before, after = (np.mean([metrics.ncc(view.fixed, getattr(view, name)) for view in shown]) for name in ("moving", "warped"))
        parts.append(f"correlation {before:.3f} → {after:.3f}")
    longest = max(float(np.hypot(*(part * step for part, step in zip(view.field, view.spacing, strict=True))).max()) for view in shown)
    folds = 100 * np.mean(np.concatenate([(view.determinant <= 0).ravel() for view in shown]))
    parts.append(f"largest in-plane deformation {longest:.1f} {unit}")
    parts.append(f"folded {folds:.2f} % (green)")
    return "in these slices: " + ", ".join(parts) + "; Jacobian: red is larger in the moving image (up to 2 ×), blue smaller"

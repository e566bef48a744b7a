"""Pictures of a registered pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnreg import metrics
from nnreg.arrays import Bytes, Reals
from nnreg.evaluation.registration.panels import COOL_WARM, RED_BLUE, coloured, page_of, panel_width, stretched, with_lines
from nnreg.evaluation.slices import View, views
from nnreg.files import atomic_path
from nnreg.geometry import FieldMap, Space, Transform

if TYPE_CHECKING:
    from nnreg.imageio import Image

INCHES = 2.3  # of a panel of a sheet
GRID_LINES = 28  # along the longer side
RESOLUTION = 110  # dots per inch
SAMPLE = 300_000  # values that percentiles are taken of
MOST_AIR = 8  # as many values, of which most may be air, are looked at for them
DIFFERENCE, DIMMED = 0.6, 1.6  # of the grey values: what is full red, and what is white under the grid
EFFORT = 3  # of 0 to 9, of the compression: at 6 the file is 3 % smaller, and takes twice as long
FOLD_COLOUR, GRID_COLOUR = (0, 255, 64), (255, 176, 0)
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
    width = panel_width(max(view.determinant.shape[1] for view in shown))
    rows = [_panels(view, windows, width, colour=colour) for view in shown]
    with atomic_path(path) as temporary:
        page_of(rows, [view.name for view in shown], COLUMNS, _headline(shown, unit)).save(temporary, format="PNG", compress_level=EFFORT)


def overview(path: Path | str, fixed: Reals, moving: Reals, warped: Reals, field: Reals, spacing: tuple[float, ...] | None = None) -> None:
    """Like :func:`overview_of_transform` for arrays (C, *spatial) on one grid and a field (ndim, *spatial) in its voxels."""
    from nnreg.imageio import Image

    space = Space.plain(fixed.shape[1:], spacing)
    transform = Transform((FieldMap(np.asarray(field, dtype=np.float32), space),), space.ndim)
    overview_of_transform(path, Image(fixed, space), Image(moving, space), Image(warped, space), transform)


@contextmanager
def sheet(path: Path | str, heights: Sequence[float], titles: Sequence[str], headline: str, *, font: int = 8, left: float = 0.03) -> Iterator[Any]:
    """Yield the axes of a page of panels, a row per height (widths of a panel) and a column per title; on leaving it is written as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = INCHES * sum(heights) + 0.75
    figure = Figure(figsize=(INCHES * len(titles), total), dpi=RESOLUTION, facecolor="white")
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
    """Height of a panel that shows the last two axes of a grid undistorted, for one of its width."""
    rows, columns = (size * step for size, step in zip(shape[-2:], spacing[-2:], strict=True))
    return float(rows / columns)


def window(image: npt.NDArray[np.generic]) -> tuple[float, float]:
    """Darkest and brightest grey: robust, and without the padding or air that is the image's minimum."""
    step = max(1, image.size // (MOST_AIR * SAMPLE))
    values = np.asarray(image.reshape(-1)[::step], dtype=np.float32)
    above = values[values > float(image.min())]
    if not above.size:
        return float(values.min()), float(values.min()) + 1
    low, high = (float(bound) for bound in np.percentile(above[:: max(1, above.size // SAMPLE)], (0.5, 99.5)))
    return low, high if high > low else low + 1


def _panels(view: View, windows: tuple[tuple[float, float], tuple[float, float]], width: int, *, colour: bool) -> list[Bytes]:
    """What :data:`COLUMNS` names, in colours."""
    fixed, moving, warped = (
        scaled(image, window) for image, window in zip((view.fixed, view.moving, view.warped), (windows[0], windows[1], windows[1]), strict=True)
    )
    grey_fixed, grey_moving, grey_warped = (_grey(image, colour) for image in (fixed, moving, warped))
    size = max(1, round(width * panel_height(view.determinant.shape, view.spacing))), width
    images = [_image_panel(image, colour) for image in (fixed, moving, warped)]
    differences = [coloured((grey_fixed - image) / (2 * DIFFERENCE) + 0.5, RED_BLUE) for image in (grey_moving, grey_warped)]
    plain = [stretched(panel, size) for panel in (*images, *differences, coloured(grey_moving / DIMMED), _jacobian_panel(view))]
    return [*plain[:5], with_lines(plain[5], _grid_lines(view, size), GRID_COLOUR), plain[6]]


def _image_panel(image: Reals, colour: bool) -> Bytes:
    if colour and image.shape[0] == 3:
        return np.asarray(np.rint(255 * np.moveaxis(image, 0, -1)), np.uint8)
    return coloured(image[0])


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


def _grid_lines(view: View, size: tuple[int, int]) -> list[npt.NDArray[np.floating]]:
    """Where lines of the fixed grid lie in the moving image, pixels of its panel."""
    (rows, columns), (height, width) = view.determinant.shape, size
    step = max(2, round(max(rows, columns) / GRID_LINES))
    down, right = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    position = np.stack([(right + view.field[1] + 0.5) * (width / columns), (down + view.field[0] + 0.5) * (height / rows)], axis=-1)
    return [*position[step // 2 :: step], *position[:, step // 2 :: step].transpose(1, 0, 2)]


def _jacobian_panel(view: View) -> Bytes:
    """Growth in red and shrinkage in blue, halving to doubling; folds in green."""
    folded = view.determinant <= 0
    result = coloured(np.log2(np.where(folded, 1, view.determinant)) / 2 + 0.5, COOL_WARM)
    result[folded] = FOLD_COLOUR
    return result


def _headline(shown: list[View], unit: str) -> str:
    """What the slices say in numbers."""
    parts = []
    comparable = all(view.fixed.shape == view.moving.shape for view in shown)
    if comparable:
        before, after = (np.mean([metrics.ncc(view.fixed, getattr(view, name)) for view in shown]) for name in ("moving", "warped"))
        parts.append(f"correlation {before:.3f} to {after:.3f}")
    longest = max(float(np.hypot(*(part * step for part, step in zip(view.field, view.spacing, strict=True))).max()) for view in shown)
    folds = 100 * np.mean(np.concatenate([(view.determinant <= 0).ravel() for view in shown]))
    parts.append(f"largest in-plane deformation {longest:.1f} {unit}")
    parts.append(f"folded {folds:.2f} % (green)")
    return "in these slices: " + ", ".join(parts) + "; Jacobian: red is larger in the moving image (at most twice), blue smaller"

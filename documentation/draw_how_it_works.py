"""Draw the pictures of how_it_works.md: a synthetic pair whose true map is known, registered by nnReg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

import nnreg
from nnreg.dataset.synthetic import SyntheticEllipsoids
from nnreg.engine import Registration
from nnreg.geometry import Transform

HERE = Path(__file__).parent
SHAPE = (96, 112)
EVERY = 6  # voxels between drawn lines


def main() -> None:
    """Register and draw."""
    sample = SyntheticEllipsoids(SHAPE, num_samples=1, deform=True, seed=5, max_displacement=7.0, control_spacing=48, noise_std=0.01)[0]
    fixed, moving = sample["fixed"].numpy(), sample["moving"].numpy()
    truth = sample["field"].numpy()
    result = nnreg.register(fixed, moving, spacing=(1, 1), alignment="rigid", similarity="lncc")
    draw_pair(HERE / "how_it_works_pair.png", fixed[0], moving[0], result)
    draw_stages(HERE / "how_it_works_stages.png", result, truth, body=sample["fixed_labels"][0].numpy() > 0)


def draw_pair(path: Path, fixed: npt.NDArray[np.float32], moving: npt.NDArray[np.float32], result: Registration) -> None:
    """Fixed image with a regular grid, moving image with the same grid carried along, warped image."""
    displacement = result.transform.sampled_on(result.fixed.space).displacement
    figure, axes = _figure(3)
    for axis, image, title in zip(axes, (fixed, moving, result.warped.array[0]), ("fixed", "moving, with the fixed grid", "warped"), strict=True):
        axis.imshow(image, cmap="gray")
        axis.set_title(title, fontsize=10)
    for axis, field in ((axes[0], np.zeros_like(displacement)), (axes[1], displacement)):
        rows, columns = np.indices(SHAPE)
        position = np.stack([columns + field[1], rows + field[0]], axis=-1)
        lines = [*position[EVERY // 2 :: EVERY], *position[:, EVERY // 2 :: EVERY].transpose(1, 0, 2)]
        axis.add_collection(LineCollection(lines, colors="#ffb000", linewidths=0.6))
        axis.set_xlim(-0.5, SHAPE[1] - 0.5)
        axis.set_ylim(SHAPE[0] - 0.5, -0.5)
    figure.savefig(path)


def draw_stages(path: Path, result: Registration, truth: npt.NDArray[np.float32], body: npt.NDArray[np.bool_]) -> None:
    """How far each point is from where it belongs, by stage."""
    space = result.fixed.space
    stages = {"by the headers": Transform.identity(2), "aligned": result.start, "deformed": result.transform}
    figure, axes = _figure(3)
    for axis, (name, transform) in zip(axes, stages.items(), strict=True):
        error = np.linalg.norm(transform.sampled_on(space).displacement - truth, axis=0)
        axis.imshow(np.where(body, error, np.nan), cmap="viridis", vmin=0, vmax=6)
        axis.set_title(f"{name}: {error[body].mean():.2f} voxels in the mean", fontsize=10)
    figure.savefig(path)


def _figure(count: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(3.2 * count, 3.1), dpi=80, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.9, wspace=0.03)
    for axis in axes:
        axis.set_axis_off()
    return figure, axes


if __name__ == "__main__":
    main()

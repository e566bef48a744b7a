"""Tiny raw datasets on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from nnreg.geometry import Space
from nnreg.imageio import write_image
from nnreg.workspace import Workspace

NAME = "Dataset007_Tiny"


def _phantom(shape: tuple[int, ...], seed: int = 0, radius: float = 0.7, centre: float = 0.0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    inside = sum(((axis - centre) / radius) ** 2 for axis in grid) < 1
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    texture = 400 + 150 * texture / np.abs(texture).max()
    return np.where(inside, texture, 0).astype(np.float32)[None]


@pytest.fixture
def phantom() -> Callable[..., npt.NDArray[np.float32]]:
    """``phantom(shape, seed=0, radius=0.7, centre=0.0)``: a textured ellipsoid on a zero background, (1, *shape)."""
    return _phantom


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace.resolve(tmp_path / "workspace")


@pytest.fixture
def write_dataset(workspace: Workspace) -> Callable[..., Path]:
    """``write_dataset({case: (array, space)}, labels={case: array}, pairing="all", ...)``: a raw dataset with the id 7."""

    def write(
        images: dict[str, tuple[npt.NDArray[Any], Space]],
        *,
        labels: dict[str, npt.NDArray[Any]] | None = None,
        keypoints: dict[str, npt.NDArray[Any]] | None = None,
        channels: tuple[str, ...] = ("T1",),
        **spec: Any,
    ) -> Path:
        folder = workspace.raw / NAME
        for case, (array, space) in images.items():
            for channel, values in enumerate(array):
                write_image(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", values[None], space)
        for case, values in (labels or {}).items():
            write_image(folder / "labelsTr" / f"{case}.nii.gz", values, images[case][1])
        for case, points in (keypoints or {}).items():
            (folder / "keypointsTr").mkdir(exist_ok=True)
            np.savetxt(folder / "keypointsTr" / f"{case}.csv", points, delimiter=",")
        content = {
            "channel_names": {str(index): name for index, name in enumerate(channels)},
            "labels": {"background": 0, "inner": 1} if labels else {},
            "numTraining": len(images),
            "file_ending": ".nii.gz",
            "pairing": "all",
        }
        (folder / "dataset.json").write_text(json.dumps(content | spec))
        return folder

    return write

"""A reader of napari (npe2): results of nnReg as layers. Found by its manifest ``napari.yaml``; needs napari only where napari calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nnreg.arrays import Doubles
    from nnreg.geometry import Space, Transform
    from nnreg.report.folder import Item

Layer = tuple[Any, dict[str, Any], str]
"""Data, what it is shown with, and napari's name of the kind of layer."""
MARKS = ("measures.json", "prediction.json", "transform.h5")  # one of them is in every folder of results
MOST_VECTORS = 20_000


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[Layer]] | None:
    """The reader, if `path` is a folder of results (output of nnreg_register or nnreg_predict, or one pair of it) or a file of one; else None."""
    folder = _folder(path)
    return read_layers if any((folder / mark).is_file() for mark in MARKS) else None


def read_layers(path: str | Sequence[str]) -> list[Layer]:
    """Every pair of a folder: fixed and warped image, labels, landmarks of the fixed image, the field as vectors; all on the fixed grid, in its units.

    Raises
    ------
    NnRegError
        If the folder is half finished.
    """
    from nnreg.report.folder import read_results
    from nnreg.report.sources import sources_of
    from nnreg.report.viewer import images_of

    folder = _folder(path)
    alone = (folder / "transform.h5").is_file() and not (folder / "measures.json").is_file()
    results = read_results(folder.parent if alone else folder)
    items = [item for item in results.items if not alone or item.folder.name == folder.name]
    sources, several = sources_of(results), len(items) > 1
    return [layer for item in items for layer in _layers(item, images_of(item, results, sources), f"{item.name}: " if several else "")]


def _folder(path: str | Sequence[str]) -> Path:
    first = Path(path if isinstance(path, str) else path[0])
    return first if first.is_dir() else first.parent


def _layers(item: Item, images: dict[str, Path], before: str) -> list[Layer]:
    from nnreg.dataset.keypoints import read_keypoints
    from nnreg.geometry.itk import read_itk
    from nnreg.imageio import read_image

    layers: list[Layer] = []
    shown = {role: read_image(path) for role, path in images.items() if role != "moving"}
    space = shown["warped"].space if "warped" in shown else next(iter(shown.values())).space
    for role, image in shown.items():
        labels = role.endswith("labels")
        for channel, values in enumerate(image.array):
            name = f"{before}{role.replace('_', ' ')}{f' {channel}' if image.channels > 1 else ''}"
            layers.append((values.astype(np.int32) if labels else values, {"name": name, "scale": image.space.spacing}, "labels" if labels else "image"))
    points = item.record.get("fixed_points")
    if isinstance(points, str) and Path(points).is_file():
        layers.append((read_keypoints(points)[:, ::-1], {"name": f"{before}landmarks", "scale": space.spacing, "size": 3}, "points"))
    if (item.folder / "transform.h5").is_file():
        layers.append((vectors(read_itk(item.folder / "transform.h5"), space), {"name": f"{before}field", "scale": space.spacing, "visible": False}, "vectors"))
    return layers


def vectors(transform: Transform, space: Space, most: int = MOST_VECTORS) -> Doubles:
    """Where points of a grid go: start and displacement of about `most` voxels at even steps.

    Returns
    -------
    array, shape (N, 2, ndim)
        Voxels of the grid, array axis order.
    """
    displacement = transform.sampled_on(space).displacement
    step = max(1, int(np.ceil((space.voxels / most) ** (1 / space.ndim))))
    every = tuple(slice(step // 2, None, step) for _ in space.shape)
    starts = np.stack(np.meshgrid(*[np.arange(size)[part] for size, part in zip(space.shape, every, strict=True)], indexing="ij"), axis=-1)
    moved = np.moveaxis(displacement[(slice(None), *every)], 0, -1)
    return np.stack([starts.reshape(-1, space.ndim).astype(np.float64), moved.reshape(-1, space.ndim)], axis=1)


__all__ = ["get_reader", "read_layers", "vectors"]

"""``debug.png`` or ``debug.gif``: what the network makes of the first validation batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nnreg.files import atomic_path

GAP = 2  # pixels between panels
FRAME_MILLISECONDS = 120
LARGEST = 64  # slices of a gif; more are passed over evenly


def grey(image: Tensor) -> npt.NDArray[np.uint8]:
    """An image (*spatial) as bytes, its smallest value black and its largest white."""
    values = image.detach().float().cpu().numpy()
    low, high = float(values.min()), float(values.max())
    return np.asarray(255 * (values - low) / max(high - low, 1e-12), dtype=np.uint8)


def middle(images: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.uint8]]:
    """Every image in grey; of a volume the slice in the middle of the first axis."""
    return {name: grey(image if image.ndim == 2 else image[len(image) // 2]) for name, image in images.items()}


def draw(images: Mapping[str, Tensor], folder: Path, name: str = "debug") -> Path:
    """Write the images (*spatial, all of one shape) side by side: ``debug.png`` of slices, ``debug.gif`` through the first axis of volumes."""
    from PIL import Image

    panels = [grey(image) for image in images.values()]
    flat = panels[0].ndim == 2
    volumes = [panel[None] if flat else panel for panel in panels]
    gap = np.full((*volumes[0].shape[:2], GAP), 255, np.uint8)
    row = np.concatenate([part for volume in volumes for part in (volume, gap)][:-1], axis=2)
    chosen = np.unique(np.linspace(0, len(row) - 1, min(len(row), LARGEST)).astype(int))
    frames = [Image.fromarray(row[index]) for index in chosen]
    path = folder / f"{name}.{'png' if flat else 'gif'}"
    with atomic_path(path) as temporary:
        if flat:
            frames[0].save(temporary, format="PNG")
        else:
            frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=FRAME_MILLISECONDS, loop=0)
    return path

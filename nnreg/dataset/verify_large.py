"""The integrity check of a case that does not fit into memory: every chunk is read once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nnreg.dataset.labels import unique
from nnreg.dataset.large import open_large, open_large_labels, refuse_unfinite
from nnreg.dataset.raw import RawDataset
from nnreg.dataset.spec import FILE_NAME
from nnreg.imageio import open_image
from nnreg.imageio.files import check_same_space


@dataclass
class LargeFindings:
    """What one large case gave: as text, what must be mended and what should be known."""

    ndim: int
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_large(raw: RawDataset, case: str) -> LargeFindings:
    """Read the image and its labels and mask block by block.

    Raises
    ------
    NnRegError
        For what keeps the case from being read: damaged chunks, NaN and infinity, another grid.
    """
    image = open_large(raw, case)
    found = LargeFindings(image.space.ndim)
    volume = image.volume()
    low, high = np.inf, -np.inf
    for box in volume.boxes():
        block = volume.read(box)
        refuse_unfinite(block, image.path)
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    if low == high:
        found.notes.append(f"{image.path}: is constant, there is nothing to learn")
    if any(raw.label_path(case, target) for target in ("", *raw.spec.targets)):
        labels = open_large_labels(raw, case, image)
        allowed = {0, *raw.spec.foreground} | ({raw.spec.ignore} if raw.spec.ignore is not None else set())
        unknown = sorted({value for box in volume.boxes() for value in unique(labels.read(box))} - allowed) if raw.spec.labels else []
        if unknown:
            values = ", ".join(map(str, unknown[:8])) + (" ..." if len(unknown) > 8 else "")
            found.problems.append(f"{labels.paths[0]}: holds the values {values}, which labels in {FILE_NAME} does not name. Add them or mend the file.")
    mask = raw.mask_path(case)
    if mask is not None:
        check_same_space(open_image(mask).space, mask, image.space, image.path)
    return found

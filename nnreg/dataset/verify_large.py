"""The integrity check of a case that does not fit into memory: every chunk is read once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnreg.dataset.continuous import KNOWN, Continuous, check_any_known
from nnreg.dataset.labels import unique
from nnreg.dataset.large import open_large, open_large_labels, open_large_masks, refuse_unfinite
from nnreg.dataset.raw import RawDataset
from nnreg.dataset.spec import FILE_NAME
from nnreg.dataset.target_spec import targets_of


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
        named = raw.spec.labels or all(target.labels for target in targets_of(raw.spec).values() if not target.is_continuous)
        seen: list[set[int]] = [set() for _ in labels.paths]
        for box in volume.boxes():
            for index, (values, target) in enumerate(zip(seen, labels.read(box), strict=True)):
                values |= {int(np.isfinite(labels.values(index, box)).any())} if labels.is_continuous(index) else set(unique(target))
        for path, output, values in zip(labels.paths, labels.outputs, seen, strict=True):
            if isinstance(output, Continuous):
                check_any_known(KNOWN in values, path)
            elif named and (unknown := sorted(values - set(output.allowed))):
                found.problems.append(_told(path, unknown))
    open_large_masks(raw, case, image)
    return found


def _told(path: Path, unknown: list[int]) -> str:
    values = ", ".join(map(str, unknown[:8])) + (" ..." if len(unknown) > 8 else "")
    return f"{path}: holds the values {values}, which labels in {FILE_NAME} does not name. Add them or mend the file."

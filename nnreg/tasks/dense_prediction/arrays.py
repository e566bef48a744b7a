"""Stored arrays, read in parts. Stands in for preprocessing.dense.storage."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Stored:
    image: Any
    labels: Any


class DenseDataset:
    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @property
    def cases(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def open(self, case: str) -> Stored:
        import blosc2

        return Stored(*(blosc2.open(str(self.folder / f"{case}{suffix}.b2nd"), mode="r", dparams={"nthreads": 1}) for suffix in ("", "_seg")))

    def locations(self, case: str) -> dict[Any, Any]:
        with np.load(self.folder / f"{case}_locations.npz") as content:
            return {tuple(key) if isinstance(key := json.loads(name), list) else key: content[name] for name in content.files}

"""The three roots of a workspace, resolved once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnreg.errors import WorkspaceError

DATASET_PATTERN = re.compile(r"^Dataset(\d{3})_(\S+)$")
VARIABLES = ("nnReg_raw", "nnReg_preprocessed", "nnReg_results")
DEFAULT_ROOT = "nnReg_workspace"


@dataclass(frozen=True)
class Workspace:
    """Where raw data, preprocessed arrays and results live.

    Attributes
    ----------
    raw, preprocessed, results : Path
        The three roots. They are made when something is first written into them.
    """

    raw: Path
    preprocessed: Path
    results: Path

    @classmethod
    def resolve(cls, root: Path | str | None = None, environment: Mapping[str, str] = os.environ) -> Workspace:
        """Roots below `root` if given, else from ``nnReg_raw``, ``nnReg_preprocessed``, ``nnReg_results``, else below ``./nnReg_workspace``.

        A root that its variable does not name lies in the default folder, so setting only ``nnReg_raw`` works.
        """
        base = Path(root) if root is not None else Path(DEFAULT_ROOT)
        named = {} if root is not None else environment
        return cls(*(Path(named.get(variable) or base / variable).expanduser().absolute() for variable in VARIABLES))

    def dataset_name(self, dataset: int | str) -> str:
        """Full folder name of a dataset given as ``1``, ``"001"`` or ``"Dataset001_Brain"``.

        Raises
        ------
        WorkspaceError
            If no root knows the id, or two names share it.
        """
        text = str(dataset)
        known = self.datasets()
        if DATASET_PATTERN.match(text):
            if text not in known:
                raise WorkspaceError(f"{text}: no such dataset in {self.raw}, {self.preprocessed} or {self.results}. {self._known_text(known)}")
            return text
        if not text.isdigit():
            raise WorkspaceError(f"dataset {text!r}: expected an id such as 001 or a folder name such as Dataset001_Brain. {self._known_text(known)}")
        matches = [name for name in known if int(name[7:10]) == int(text)]
        if not matches:
            raise WorkspaceError(
                f"dataset {text}: no folder Dataset{int(text):03d}_* in {self.raw}, {self.preprocessed} or {self.results}. {self._known_text(known)}"
            )
        if len(matches) > 1:
            raise WorkspaceError(f"dataset {text}: several folders share this id ({', '.join(matches)}). Rename or remove all but one.")
        return matches[0]

    def datasets(self) -> list[str]:
        """Sorted names of all datasets in any of the roots."""
        names = {entry.name for root in (self.raw, self.preprocessed, self.results) if root.is_dir() for entry in root.iterdir() if entry.is_dir()}
        return sorted(name for name in names if DATASET_PATTERN.match(name))

    def raw_folder(self, dataset: int | str) -> Path:
        """``nnReg_raw/DatasetXXX_Name``."""
        return self.raw / self.dataset_name(dataset)

    def preprocessed_folder(self, dataset: int | str) -> Path:
        """``nnReg_preprocessed/DatasetXXX_Name``."""
        return self.preprocessed / self.dataset_name(dataset)

    def results_folder(self, dataset: int | str) -> Path:
        """``nnReg_results/DatasetXXX_Name``."""
        return self.results / self.dataset_name(dataset)

    def model_folder(self, dataset: int | str, trainer: str, plans: str, configuration: str) -> Path:
        """``nnReg_results/DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION``."""
        return self.results_folder(dataset) / f"{trainer}__{plans}__{configuration}"

    @staticmethod
    def _known_text(known: list[str]) -> str:
        return f"Known: {', '.join(known)}." if known else "There are no datasets yet; set nnReg_raw or pass --workspace."

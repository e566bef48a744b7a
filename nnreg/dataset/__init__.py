"""The raw dataset: ``DatasetXXX_Name`` with its typed ``dataset.json``, cases, pairs, splits, integrity check and synthetic generators."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nnreg.dataset.pairs import Pair, pairs_among, pairs_within
from nnreg.dataset.raw import RawDataset
from nnreg.dataset.spec import CaseFiles, DatasetSpec, Modality, PairSpec
from nnreg.dataset.splits import check_splits, fold_cases, load_or_make_splits, make_splits
from nnreg.dataset.verify import Report, verify_dataset

if TYPE_CHECKING:
    from nnreg.dataset.synthetic import GENERATORS, SyntheticEllipsoids
    from nnreg.dataset.synthetic_writer import write_synthetic_dataset

__all__ = [
    "GENERATORS",
    "CaseFiles",
    "DatasetSpec",
    "Modality",
    "Pair",
    "PairSpec",
    "RawDataset",
    "Report",
    "SyntheticEllipsoids",
    "check_splits",
    "fold_cases",
    "load_or_make_splits",
    "make_splits",
    "pairs_among",
    "pairs_within",
    "verify_dataset",
    "write_synthetic_dataset",
]

# these need torch, which nothing else of this room does
_LAZY = {"GENERATORS": "synthetic", "SyntheticEllipsoids": "synthetic", "write_synthetic_dataset": "synthetic_writer"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"nnreg.dataset.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

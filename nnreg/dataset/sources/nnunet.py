"""A raw dataset of nnU-Net: ``imagesTr``, ``labelsTr``, ``dataset.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnreg.dataset.raw import RawDataset
from nnreg.dataset.sources.collected import Collected, Wanted
from nnreg.dataset.spec import FILE_NAME
from nnreg.dataset.writing import NewCase


def is_nnunet(source: Path) -> bool:
    """Whether it has ``dataset.json`` and ``imagesTr``."""
    return source.is_dir() and (source / FILE_NAME).is_file() and (source / "imagesTr").is_dir()


def read_nnunet(source: Path, wanted: Wanted) -> Collected:
    """Every case with its labels, masks and keypoints, and all of its ``dataset.json``."""
    raw = RawDataset.open(source)
    cases = {case: NewCase(raw.image_paths(case), raw.label_path(case), raw.mask_path(case), raw.read_keypoints(case)) for case in raw.cases}
    for case in raw.test_cases:
        cases[case] = NewCase(raw.image_paths(case), raw.label_path(case), raw.mask_path(case), raw.read_keypoints(case), test=True)
    spec: dict[str, Any] = {key: value for key, value in raw.spec.to_dict().items() if key not in ("numTraining", "file_ending", "dataset")}
    return Collected("nnU-Net", cases, spec, (f"{len(raw.cases)} training and {len(raw.test_cases)} test cases, as {FILE_NAME} has them",))

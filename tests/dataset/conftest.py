"""Tiny datasets, written the way users would write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnreg.dataset import RawDataset
from nnreg.geometry import Space
from nnreg.imageio import write_image


class Builder:
    """A dataset folder that a test can spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.json = folder / "dataset.json"

    def case(self, name, *, channels=1, shape=(5, 6, 7), labels=None, suffix="Tr", ending=".nii.gz", dtype="float32"):
        rng = np.random.default_rng(abs(hash(name)) % 2**32)
        space = Space.plain(shape, (2.0, 1.0, 0.5)[-len(shape) :])
        for channel in range(channels):
            array = (100 * rng.random((1, *shape))).astype(dtype)
            write_image(self.folder / f"images{suffix}" / f"{name}_{channel:04d}{ending}", array, space)
        if labels is not None:
            array = rng.choice(np.asarray(labels), size=(1, *shape)).astype(np.uint8)
            array.flat[: len(labels)] = labels
            write_image(self.folder / f"labels{suffix}" / f"{name}{ending}", array, space)

    def spec(self, **changes):
        content = {"channel_names": {"0": "T1"}, "labels": {}, "numTraining": 3, "file_ending": ".nii.gz"} | changes
        self.json.parent.mkdir(parents=True, exist_ok=True)
        self.json.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    def open(self) -> RawDataset:
        return RawDataset.open(self.folder)


@pytest.fixture
def builder(tmp_path) -> Builder:
    """An empty dataset folder ``nnReg_raw/Dataset007_Tiny``."""
    return Builder(tmp_path / "nnReg_raw" / "Dataset007_Tiny")


@pytest.fixture
def tiny(builder) -> Builder:
    """Three labelled cases of one channel, and one test case."""
    for name in "abc":
        builder.case(name, labels=(0, 1, 2))
    builder.case("t", suffix="Ts")
    builder.spec(labels={"background": 0, "left": 1, "right": 2})
    return builder

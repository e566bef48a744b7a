"""Raw datasets that ``vs_nnunet.py`` compares on, and the configuration of each that is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from selfconfig_data import Raw, listed

from nnreg.imageio import read_image, write_image


def _hippocampus(data: Path, _: Path) -> Raw:
    images, labels = (listed(data / "msd_hippocampus" / kind, "*.nii.gz", ".nii.gz") for kind in ("images", "labels"))
    return Raw("dice", images, labels, spec={"channel_names": {"0": "MRI"}, "labels": {"background": 0, "anterior": 1, "posterior": 2}})


def _hearts(data: Path, _: Path) -> Raw:
    labels = listed(data / "acdc_ed_es", "*_gt.nii.gz", "_gt.nii.gz")
    images = {case: path.with_name(f"{case}.nii.gz") for case, path in labels.items()}
    names = {"background": 0, "right_ventricle": 1, "myocardium": 2, "left_ventricle": 3}
    # both frames of a patient are on one side of the split
    return Raw("dice", images, labels, spec={"channel_names": {"0": "cineMRI"}, "labels": names, "groups": {case: case.partition("_")[0] for case in images}})


def _membranes(data: Path, made: Path) -> Raw:
    """The labels are 255 in cells and 0 on membranes: they become 0 and 1."""
    labels = {}
    for case, path in listed(data / "isbi2012_em" / "label", "*.png", ".png").items():
        labels[f"em_{int(case):02d}"] = made / f"em_{int(case):02d}.png"
        found = read_image(path)
        made.mkdir(parents=True, exist_ok=True)
        write_image(made / f"em_{int(case):02d}.png", (found.array == 0).astype(np.uint8), found.space)
    images = {f"em_{int(case):02d}": path for case, path in listed(data / "isbi2012_em" / "image", "*.png", ".png").items()}
    return Raw("dice", images, labels, spec={"channel_names": {"0": "EM"}, "labels": {"background": 0, "membrane": 1}})


Recipe = tuple[str, Callable[[Path, Path], Raw]]
DATASETS: dict[str, Recipe] = {
    "msd_hippocampus": ("3d_fullres", _hippocampus),
    "acdc_ed_es": ("3d_fullres", _hearts),
    "isbi2012_em": ("2d", _membranes),
}

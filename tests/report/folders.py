"""Results folders as the commands leave them, made by hand in a moment: nothing is trained or registered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from nnreg.geometry import FieldMap, Space, Transform, resample_image, resample_labels
from nnreg.geometry.itk import write_itk
from nnreg.imageio import Image, write_image

PAIRS = (("a", "b"), ("b", "c"), ("c", "a"))
SHAPES = {2: (24, 31), 3: (14, 20, 17)}


def image_of(space: Space, seed: int) -> Image:
    """A body with some texture."""
    rng = np.random.default_rng(seed)
    distance = np.sqrt(sum((index / size - 0.5) ** 2 for index, size in zip(np.indices(space.shape), space.shape, strict=True)))
    return Image((100 * (distance < 0.4) * (1 + gaussian_filter(rng.normal(size=space.shape), 1.0)))[None].astype(np.float32), space)


def labels_of(space: Space, radius: float) -> Image:
    """Two labels, one inside the other."""
    distance = np.sqrt(sum((index / size - 0.5) ** 2 for index, size in zip(np.indices(space.shape), space.shape, strict=True)))
    return Image(((distance < radius).astype(np.int16) + (distance < radius / 2))[None], space)


def bump(space: Space, size: float) -> Transform:
    """A smooth deformation of some voxels."""
    rng = np.random.default_rng(7)
    field = np.stack([gaussian_filter(rng.normal(size=space.shape), 3.0) for _ in space.shape])
    return Transform((FieldMap((size * field / np.abs(field).max()).astype(np.float32), space),), space.ndim)


def predictions(root: Path, *, ndim: int = 3, labels: bool = True, measured: bool = True) -> Path:
    """``OUT`` of nnreg_predict for three pairs beside ``imagesTs``; the pair a__b is worse than before."""
    space = Space.plain(SHAPES[ndim], [1.5, 1.0, 1.0][-ndim:])
    images, out = root / "imagesTs", root / "out"
    cases = {case: image_of(space, seed) for seed, case in enumerate("abc")}
    maps = {case: labels_of(space, 0.3 + 0.02 * seed) for seed, case in enumerate("abc")}
    for case, image in cases.items():
        write_image(images / f"{case}_0000.nii.gz", image.array, space)
        if labels:
            write_image(root / "labelsTs" / f"{case}.nii.gz", maps[case].array, space)
    for number, (fixed, moving) in enumerate(PAIRS):
        _write_pair(out / f"{fixed}__{moving}", cases[moving], maps[moving] if labels else None, bump(space, 1.0 + number))
    record = {
        "schema_version": 1,
        "dataset": "Dataset001_Test",
        "model": "nnRegPlans",
        "command": "nnreg_predict -i imagesTs -o out",
        "images_folder": str(images),
        "pairs": [_entry(*pair) for pair in PAIRS],
    }
    write(out / "prediction.json", record)
    if measured:
        write(out / "summary.json", summary_of(labels=labels))
    return out


def _write_pair(folder: Path, moving: Image, labels: Image | None, transform: Transform) -> None:
    folder.mkdir(parents=True)
    space = moving.space
    write_itk(folder / "transform.h5", transform)
    write_itk(folder / "alignment.h5", Transform.identity(space.ndim))
    write_image(folder / "warped.nii.gz", resample_image(moving.array, moving=space, fixed=space, transform=transform), space)
    if labels is not None:
        write_image(folder / "warped_labels.nii.gz", resample_labels(labels.array, moving=space, fixed=space, transform=transform), space)


def _entry(fixed: str, moving: str) -> dict[str, Any]:
    return {
        "name": f"{fixed}__{moving}",
        "fixed": fixed,
        "moving": moving,
        "fixed_images": [f"{fixed}_0000.nii.gz"],
        "moving_images": [f"{moving}_0000.nii.gz"],
        "seconds": 1.5,
    }


def summary_of(*, labels: bool = True) -> dict[str, Any]:
    """``summary.json`` of :func:`predictions`."""
    after = {"a__b": 0.55, "b__c": 0.8, "c__a": 0.7}
    pairs = [
        {
            "name": f"{fixed}__{moving}",
            "fixed": fixed,
            "moving": moving,
            "metrics": {"folding_percent": 0.0, "ncc_aligned": 0.8, "ncc_after": 0.9}
            | ({"dice_aligned": 0.6, "dice_after": after[f"{fixed}__{moving}"]} if labels else {}),
            "labels": {str(label): {"dice_aligned": 0.6, "dice_after": after[f"{fixed}__{moving}"]} for label in (1, 2)} if labels else {},
            "labels_lost": [],
        }
        for fixed, moving in PAIRS
    ]
    mean = {"ncc_aligned": 0.8, "ncc_after": 0.9, "dice_aligned": 0.6, "dice_after": 0.68}
    return {"schema_version": 1, "dataset": "Dataset001_Test", "model": "nnRegPlans", "mean": mean, "worst_30_percent": mean, "pairs": pairs}


def label_maps(root: Path) -> Path:
    """``OUT`` of nnreg_predict for two segmented images."""
    space = Space.plain(SHAPES[3])
    for seed, case in enumerate("xy"):
        write_image(root / "imagesTs" / f"{case}_0000.nii.gz", image_of(space, seed).array, space)
        write_image(root / "labelsTs" / f"{case}.nii.gz", labels_of(space, 0.3).array, space)
        write_image(root / "out" / f"{case}.nii.gz", labels_of(space, 0.25).array, space)
    cases = [{"name": case, "images": [f"{case}_0000.nii.gz"], "seconds": {"network": 1.0, "writing": 0.5}} for case in "xy"]
    record = {
        "schema_version": 1,
        "task": "dense_prediction",
        "dataset": "Dataset002_Maps",
        "model": "m",
        "images_folder": str(root / "imagesTs"),
        "cases": cases,
    }
    write(root / "out" / "prediction.json", record)
    per_case = [
        {"case": case, "reference_file": str(root / "labelsTs" / f"{case}.nii.gz"), "metrics": {"0": {"Dice": 1.0}, "1": {"Dice": value}, "2": {"Dice": 0.8}}}
        for case, value in (("x", 0.9), ("y", 0.4))
    ]
    write(root / "out" / "summary.json", {"dataset": "Dataset002_Maps", "model": "m", "metric_per_case": per_case, "mean": {}, "foreground_mean": {}})
    return root / "out"


def pair_alone(root: Path, *, succeeded: bool = True, similarity: str = "lncc") -> Path:
    """``OUT`` of nnreg_register."""
    space = Space.plain(SHAPES[2])
    for name, seed in (("fixed", 0), ("moving", 1)):
        write_image(root / f"{name}.nii.gz", image_of(space, seed).array, space)
    _write_pair(root / "out", image_of(space, 1), None, bump(space, 2.0))
    content = {
        "fixed": [str(root / "fixed.nii.gz")],
        "moving": [str(root / "moving.nii.gz")],
        "succeeded": succeeded,
        "ncc": {"header": 0.5, "after": 0.8},
        "decisions": [{"name": "similarity", "value": similarity, "because": "local correlation <b>0.9</b>"}],
        "seconds": {"alignment": 0.5, "writing": 0.25},
    }
    write(root / "out" / "measures.json", content)
    return root / "out"


def write(path: Path, content: Any) -> None:
    """JSON."""
    path.write_text(json.dumps(content), encoding="utf-8")


def change(path: Path, **values: Any) -> None:
    """Other values in a JSON file."""
    write(path, json.loads(path.read_text(encoding="utf-8")) | values)

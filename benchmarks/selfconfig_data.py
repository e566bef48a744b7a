"""Ten raw datasets, each from a folder of images: what ``selfconfig.py`` plans and registers without a flag."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnreg.dataset.keypoints import write_keypoints
from nnreg.files import write_json
from nnreg.geometry import FieldMap, Transform, resample_image, resize_field
from nnreg.geometry.itk import write_itk
from nnreg.imageio import ending_of, read_image, write_image


@dataclass
class Raw:
    """Files of a raw dataset, and how accuracy is measured.

    Attributes
    ----------
    figure : str
        ``dice``, ``tre_median_mm`` or ``error_in_plane``, as ``register.py`` names them.
    images, labels, masks : dict
        Case to file.
    points : dict
        Case to keypoints (N, ndim), voxel indices, x first.
    fields : dict
        (fixed, moving) to the file of the true displacement.
    spec : dict
        What dataset.json says beside names and counts.
    """

    figure: str
    images: dict[str, Path]
    labels: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    points: dict[str, np.ndarray] = field(default_factory=dict)
    fields: dict[tuple[str, str], Path] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)

    def pairs(self) -> list[tuple[str, str]]:
        """(fixed, moving) as the pairing says."""
        if "pairs" in self.spec:
            return [(pair["fixed"], pair["moving"]) for pair in self.spec["pairs"]]
        atlas, groups = self.spec.get("atlas"), self.spec.get("groups")
        fixed = [atlas] if atlas else list(self.images)
        return [(a, b) for a in fixed for b in self.images if a != b and (groups is None or groups[a] == groups[b])]

    def chosen_pairs(self, count: int) -> list[tuple[str, str]]:
        """`count` of the pairs, drawn with a fixed seed."""
        every = self.pairs()
        return [every[index] for index in np.random.default_rng(0).permutation(len(every))[:count]]

    def write(self, folder: Path) -> None:
        """The raw dataset, its images being links."""
        ending = ending_of(next(iter(self.images.values())))
        shutil.rmtree(folder, ignore_errors=True)
        for kind, files in (("images", {f"{case}_0000": path for case, path in self.images.items()}), ("labels", self.labels), ("masks", self.masks)):
            for name, path in files.items():
                link(folder / f"{kind}Tr" / f"{name}{ending}", path)
        for (fixed, moving), path in self.fields.items():
            link(folder / "fieldsTr" / f"{fixed}__{moving}.nii.gz", path)
        for case, points in self.points.items():
            (folder / "keypointsTr").mkdir(exist_ok=True)
            write_keypoints(folder / "keypointsTr" / f"{case}.csv", points)
        content = {"channel_names": {"0": "MR"}, "labels": {}, "numTraining": len(self.images), "file_ending": ending, **self.spec}
        write_json(folder / "dataset.json", content)

    def write_pair(self, folder: Path, fixed: str, moving: str) -> None:
        """One pair as ``register.py`` reads it."""
        shutil.rmtree(folder, ignore_errors=True)
        for side, case in (("fixed", fixed), ("moving", moving)):
            for files, name in ((self.images, side), (self.labels, f"{side}_labels"), (self.masks, f"{side}_mask")):
                if case in files:
                    link(folder / f"{name}{ending_of(files[case])}", files[case])
            if case in self.points:
                write_keypoints(folder / f"{side}_points.csv", self.points[case])
        if (fixed, moving) in self.fields:
            link(folder / "true_field.nii.gz", self.fields[fixed, moving])


def link(path: Path, target: Path) -> None:
    """A link, in a folder that may not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target.absolute())


def listed(folder: Path, pattern: str, drop: str) -> dict[str, Path]:
    """Case to file; the case is the file's name without `drop`."""
    return {path.name.replace(drop, ""): path for path in sorted(folder.glob(pattern))}


def both_ways(pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Pairs of dataset.json, each in both directions."""
    return [{"fixed": a, "moving": b} for first, second in pairs for a, b in ((first, second), (second, first))]


def _brains(data: Path, _: Path) -> Raw:
    folder = data / "oasis35"
    return Raw("dice", listed(folder, "*_SS.nii.gz", "_SS.nii.gz"), listed(folder, "*_glm.nii.gz", "_glm.nii.gz"), spec={"channel_names": {"0": "T1"}})


def _atlas(data: Path, work: Path) -> Raw:
    raw = _brains(data, work)
    raw.spec |= {"pairing": "atlas", "atlas": min(raw.images)}
    return raw


def _heads(data: Path, _: Path) -> Raw:
    folder, ends = data / "ixi2mm", ("_T1.nii.gz", "_T1_DLMUSE.nii.gz")
    return Raw("dice", listed(folder / "T1", "*.nii.gz", ends[0]), listed(folder / "DLMUSE", "*.nii.gz", ends[1]), spec={"channel_names": {"0": "T1"}})


def _hearts(data: Path, _: Path) -> Raw:
    folder = data / "acdc_ed_es"
    labels = listed(folder, "*_gt.nii.gz", "_gt.nii.gz")
    images = {case: folder / f"{case}.nii.gz" for case in labels}
    frames: dict[str, list[str]] = {}
    for case in images:
        frames.setdefault(case.partition("_")[0], []).append(case)
    return Raw("dice", images, labels, spec={"pairing": "pairs", "pairs": [{"fixed": diastole, "moving": systole} for diastole, systole in frames.values()]})


def _lung(data: Path, _: Path) -> Raw:
    files = {case: data / "elastix_lung_pair" / f"3DCT_lung_{case}" for case in ("baseline", "followup")}
    images, masks = ({case: path.with_name(f"{path.name}{end}") for case, path in files.items()} for end in (".mha", "_mask.mha"))
    # elastix's format: two lines of head, then a point per row
    points = {case: np.loadtxt(path.with_suffix(".txt"), skiprows=2) for case, path in files.items()}
    spec = {"channel_names": {"0": "CT"}, "pairing": "pairs", "pairs": both_ways([("baseline", "followup")])}
    return Raw("tre_median_mm", images, masks=masks, points=points, spec=spec)


def _histology(data: Path, _: Path) -> Raw:
    folder = data / "histology" / "lung-lesion_3"
    images = listed(folder / "images", "*.jpg", ".jpg")
    points = {}
    for case in images:
        with (folder / "landmarks_scale50pc" / f"{case}.csv").open() as rows:
            points[case] = np.asarray([row[1:] for row in list(csv.reader(rows))[1:]], float) / 10
    count = min(map(len, points.values()))
    spec = {"channel_names": {"0": "red", "1": "green", "2": "blue"}, "pairing": "groups", "groups": dict.fromkeys(images, "tissue")}
    return Raw("tre_median_mm", images, points={case: rows[:count] for case, rows in points.items()}, spec=spec)


def _contrasts(data: Path, work: Path) -> Raw:
    """T1 warped by a known field, to be brought back to T2: two warps of each patient."""
    images, fields, pairs = {}, {}, []
    for study in ("Study1", "Study3"):
        fixed = f"{study}T2"
        images[fixed] = data / "tcia_brain_multimodal" / f"{study}_T2reg.nii.gz"
        for number in range(2):
            moving = f"{study}T1warp{number}"
            images[moving], fields[fixed, moving] = work / f"{moving}.nii.gz", work / f"{moving}_field.nii.gz"
            _warp(images[fixed].with_name(f"{study}_T1prereg.nii.gz"), images[moving], fields[fixed, moving], seed=2 * number + (study == "Study3"))
            pairs.append({"fixed": fixed, "moving": moving})
    return Raw("error_in_plane", images, fields=fields, spec={"pairing": "pairs", "pairs": pairs})


def _warp(source: Path, target: Path, field_path: Path, seed: int) -> None:
    """Move an image by a smooth field, up to 6 voxels in the plane and half a slice across, and write the map from the unmoved grid into the moved image."""
    image = read_image(source)
    control = torch.randn(1, 3, 4, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = resize_field(control, image.space.shape)
    smooth = smooth / smooth.abs().amax(dim=(0, 2, 3, 4), keepdim=True) * torch.tensor([0.5, 6, 6]).reshape(1, 3, 1, 1, 1)
    transform = Transform((FieldMap(smooth[0].numpy().astype(np.float32), image.space),), 3)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_image(target, resample_image(image.array, moving=image.space, fixed=image.space, transform=transform).astype(image.array.dtype), image.space)
    write_itk(field_path, transform.inverse(), image.space)


def _hippocampus(data: Path, _: Path) -> Raw:
    return Raw("dice", *(listed(data / "msd_hippocampus" / kind, "*.nii.gz", ".nii.gz") for kind in ("images", "labels")))


def _slices(data: Path, _: Path) -> Raw:
    folder, ends = data / "oasis_trt20_2d", ("_slice118.nii.gz", "_DKT31_CMA_labels_slice118.nii.gz")
    labels = listed(folder / "Labels", "*.nii.gz", ends[1])
    return Raw("dice", listed(folder / "Atlases", "*.nii.gz", ends[0]), labels, spec={"channel_names": {"0": "T1"}})


def _cord(data: Path, _: Path) -> Raw:
    folder = data / "spinal_t1_t2"
    images = {case: folder / f"{case}.nii.gz" for case in ("t1w", "t2")}
    labels = {case: folder / f"{case}_seg-manual.nii.gz" for case in images}
    return Raw("dice", images, labels, spec={"pairing": "pairs", "pairs": both_ways([("t2", "t1w")])})


DATASETS: dict[str, Callable[[Path, Path], Raw]] = {
    "brains": _brains,
    "brain_atlas": _atlas,
    "heads": _heads,
    "hearts": _hearts,
    "lung": _lung,
    "histology": _histology,
    "contrasts": _contrasts,
    "hippocampus": _hippocampus,
    "slices": _slices,
    "cord": _cord,
}

__all__ = ["DATASETS", "Raw"]

"""Turn brain images with manual labels into nnReg datasets.

    python documentation/examples/make_oasis_datasets.py 3d FOLDER_OF_OASIS35 nnReg_workspace/nnReg_raw/Dataset001_OASIS
    python documentation/examples/make_oasis_datasets.py 2d FOLDER_OF_OASIS_TRT20_2D nnReg_workspace/nnReg_raw/Dataset002_OASIS2D

The first expects ``SUBJECT_SS.nii.gz`` and ``SUBJECT_glm.nii.gz``, the second ``Atlases/NAME_slice118.nii.gz`` and ``Labels/NAME_*.nii.gz``.
It is the whole of what your own data needs too: images as ``imagesTr/CASE_0000.nii.gz``, labels (optional) as ``labelsTr/CASE.nii.gz``,
and a dataset.json.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path


def brains_3d(source: Path) -> Iterator[tuple[str, Path, Path]]:
    """Case name, image and labels of every subject."""
    for image in sorted(source.glob("*_SS.nii.gz")):
        subject = image.name.removesuffix("_SS.nii.gz")
        yield f"oasis_{subject}", image, source / f"{subject}_glm.nii.gz"


def slices_2d(source: Path) -> Iterator[tuple[str, Path, Path]]:
    """Case name, image and labels of every slice."""
    for image in sorted((source / "Atlases").glob("*.nii.gz")):
        name = image.name.removesuffix("_slice118.nii.gz")
        (labels,) = (source / "Labels").glob(f"{name}_*.nii.gz")
        yield name.replace("-", "_").lower(), image, labels


def main() -> None:
    """Copy the files and write dataset.json."""
    kind, source, dataset = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    cases = list({"3d": brains_3d, "2d": slices_2d}[kind](source))
    for folder in ("imagesTr", "labelsTr"):
        (dataset / folder).mkdir(parents=True, exist_ok=True)
    for case, image, labels in cases:
        shutil.copyfile(image, dataset / "imagesTr" / f"{case}_0000.nii.gz")
        shutil.copyfile(labels, dataset / "labelsTr" / f"{case}.nii.gz")
    description = {
        "name": dataset.name.partition("_")[2],
        "channel_names": {"0": "T1"},
        "labels": {},  # empty: every value of the label files counts
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "task": "registration",
        "pairing": "all",  # every subject to every other
    }
    (dataset / "dataset.json").write_text(json.dumps(description, indent=2))
    print(f"{len(cases)} cases in {dataset}")


if __name__ == "__main__":
    main()

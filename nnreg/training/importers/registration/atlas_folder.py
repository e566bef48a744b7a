"""A folder with an atlas in ``fixed/`` and images to be brought onto it in ``moving/``, and the flags that go with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError, DatasetError, NnRegError, did_you_mean
from nnreg.imageio.endings import ENDINGS, stem_of
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.importers.run import ImportedDataset, ImportedRun
from nnreg.training.importers.values import camel_case

ATLAS = "atlas"
GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


@dataclass(frozen=True)
class AtlasFlags:
    """The flags of the original script, with its defaults.

    Attributes
    ----------
    atlas_name, atlas_seg_name : files in ``fixed`` and `fixed_seg_subdir`
    train_moving_subdir, fixed_seg_subdir, valid_moving_subdir, valid_moving_seg_subdir : folders beside ``fixed``
    img_pattern : which images are taken; any format that nnReg reads
    img_npz_key, label_npz_key : array of an ``.npz`` file
    epochs, steps_per_epoch, batch_size, lr : of the training; steps_per_epoch of 0 or less is one pass
    ncc_weight, grad_weight : of the loss
    run_validation, validation_freq : whether and how often to validate
    """

    atlas_name: str = "atlas.png"
    atlas_seg_name: str = "atlas_seg.png"
    train_moving_subdir: str = "moving"
    fixed_seg_subdir: str = "fixed_seg"
    valid_moving_subdir: str = "validation_moving"
    valid_moving_seg_subdir: str = "validation_moving_seg"
    img_pattern: str = "*"
    img_npz_key: str = "img"
    label_npz_key: str = "label"
    epochs: int = 100
    steps_per_epoch: int = 200
    batch_size: int = 1
    lr: float = 1e-4
    ncc_weight: float = 1.0
    grad_weight: float = 1.0
    run_validation: bool = True
    validation_freq: int = 1


def read(folder: Path, **given: Any) -> ImportedRun:
    """The run of a folder.

    Raises
    ------
    ConfigurationError
        Unknown flag.
    DatasetError
        No atlas, no moving image, a validation image that is a training image too.
    """
    valid = {each.name for each in dataclasses.fields(AtlasFlags)}
    for name in given:
        if name not in valid:
            raise ConfigurationError(f"{folder}: unknown flag {name!r}; {did_you_mean(name, valid)}")
    flags = AtlasFlags(**given)
    training = _images(folder / flags.train_moving_subdir, flags.img_pattern)
    if not training:
        raise DatasetError(f"{folder / flags.train_moving_subdir}: holds no image that matches {flags.img_pattern!r}. Give --train_moving_subdir.")
    validation = _images(folder / flags.valid_moving_subdir, flags.img_pattern) if flags.run_validation else {}
    shared = set(training) & set(validation)
    if shared:
        raise DatasetError(f"{folder}: {sorted(shared)[0]!r} is in {flags.train_moving_subdir} and in {flags.valid_moving_subdir}. Keep it in one of them.")
    images = {ATLAS: _atlas(folder / "fixed", flags.atlas_name), **training, **validation}
    labels, notes = _labels(folder, flags, validation)
    recipe = _recipe(flags, len(training), bool(validation))
    return ImportedRun(recipe, _dataset(folder, flags, images, labels, list(training), list(validation)), notes=tuple(notes))


def _images(folder: Path, pattern: str) -> dict[str, Path]:
    """Case to file, in order; the ending is no part of the case, ``.nii.gz`` being one ending."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
        if path.name.startswith(".") or not any(path.name.lower().endswith(ending) for ending in ENDINGS):
            continue
        case = stem_of(path)
        if case in found or case == ATLAS:
            raise DatasetError(f"{path}: the case {case!r} is there twice. Rename one of the files.")
        found[case] = path
    return found


def _atlas(folder: Path, name: str) -> Path:
    if (folder / name).is_file():
        return folder / name
    raise DatasetError(f"{folder / name}: does not exist; {did_you_mean(name, (path.name for path in folder.iterdir()))} Give --atlas_name.")


def _labels(folder: Path, flags: AtlasFlags, validation: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Label file of each case that has one, and what is missing: validation then goes without the Dice."""
    given = {case.removesuffix("_seg"): path for case, path in _images(folder / flags.valid_moving_seg_subdir, "*_seg.*").items()}
    labels = {case: given[case] for case in validation if case in given}
    atlas = folder / flags.fixed_seg_subdir / flags.atlas_seg_name
    notes = [f"{case}: no {case}_seg in {flags.valid_moving_seg_subdir}, its Dice is not measured" for case in validation if case not in given]
    if atlas.is_file():
        labels[ATLAS] = atlas
    elif labels:
        notes.append(f"{atlas}: does not exist, no Dice is measured")
        labels = {}
    return labels, notes


def _recipe(flags: AtlasFlags, count: int, validates: bool) -> TrainerConfig:
    passes = max(1, count // flags.batch_size)
    training = {
        "similarity": [{"name": "lncc", "weight": flags.ncc_weight, "kwargs": {"window": 9}}],
        "regularisation": [{"name": "diffusion", "weight": flags.grad_weight}],
        "supervision": [],
        "optimizer": "adam",
        "learning_rate": flags.lr,
        "weight_decay": 0.0,
        "lr_schedule": "constant",
        "gradient_clip": None,
        "epochs": flags.epochs,
        "batch_size": flags.batch_size,
        "iterations_per_epoch": passes if flags.steps_per_epoch <= 0 else min(passes, flags.steps_per_epoch),
        "validate_every": flags.validation_freq if validates else 0,
        "checkpoints.every": 1,
        "augmentation": {},
    }
    return TrainerConfig("corrmlp", training=training, description="CorrMLP onto an atlas, imported")


def _dataset(folder: Path, flags: AtlasFlags, images: dict[str, Path], labels: dict[str, Path], training: list[str], validation: list[str]) -> ImportedDataset:
    spec = DatasetSpec(
        channel_names={"0": "image"},
        numTraining=len(images),
        file_ending=".nii.gz",
        pairing="atlas",
        atlas=ATLAS,
        description=f"Imported from {folder.name}: every image onto {flags.atlas_name}.",
    )
    split = ([ATLAS, *training], [ATLAS, *(validation or training)])
    return ImportedDataset(camel_case(folder.resolve().name), spec, partial(_write, images, labels, flags), split)


def _write(images: dict[str, Path], labels: dict[str, Path], flags: AtlasFlags, folder: Path) -> None:
    """All as NIfTI: a dataset has one format, such folders have many."""
    import numpy as np

    from nnreg.imageio import read_image, write_image

    for kind, files, key in (("imagesTr", images, flags.img_npz_key), ("labelsTr", labels, flags.label_npz_key)):
        for case, path in files.items():
            try:
                image = read_image(path, npz_key=key if path.suffix == ".npz" else None)
            except NnRegError as error:
                raise DatasetError(f"{path}: {error}") from error
            array = image.array
            if kind == "labelsTr":
                write_image(folder / kind / f"{case}.nii.gz", np.asarray(np.rint(array[:1]), dtype=np.int16), image.space)
                continue
            grey = np.tensordot(GREY, array[:3].astype(np.float32), axes=1)[None] if array.shape[0] in (3, 4) else array[:1]
            write_image(folder / kind / f"{case}_0000.nii.gz", grey.astype(np.float32), image.space)

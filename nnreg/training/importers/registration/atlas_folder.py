"""A folder with an atlas in ``fixed/`` and images to be brought onto it in ``moving/``, and the flags that go with it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError, DatasetError, NnRegError, did_you_mean
from nnreg.imageio.endings import ENDINGS, stem_of
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.importers.registration.trial import check_recipe, check_weights, stages
from nnreg.training.importers.run import ImportedDataset, ImportedRun
from nnreg.training.importers.values import camel_case

if TYPE_CHECKING:
    from nnreg.imageio import Image

ATLAS = "atlas"
LARGEST_LABEL = int(np.iinfo(np.int16).max)
LEVELS = 4
FEATURES = (8, 16, 32, 64)  # of the encoder
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
    load_model : file of weights to start from
    device : ``cpu``, ``cuda:0``; the script's ``gpu0`` is the same as that
    num_workers : processes that load data
    log_dir, model_dir : where the script writes; nnReg writes into the fold's folder
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
    load_model: str | None = None
    device: str = "auto"
    num_workers: int | None = None
    log_dir: str | None = None
    model_dir: str | None = None


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
    shape = _grey(images[ATLAS], flags.img_npz_key).space.shape
    recipe = _recipe(flags, len(training), bool(validation), len(shape))
    check_recipe(recipe, shape, str(folder))
    weights = None if flags.load_model is None else Path(flags.load_model).absolute()
    if weights is not None:
        check_weights(weights, recipe, shape)
    dataset = _dataset(folder, flags, images, labels, list(training), list(validation))
    return ImportedRun(recipe, dataset, _device(flags.device), flags.num_workers, weights, (*notes, *_left_out(folder, flags), *_elsewhere(flags)))


def _device(name: str) -> str:
    """The device in nnReg's words."""
    known = re.sub(r"^gpu(\d+)$", r"cuda:\1", name)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", known):
        raise ConfigurationError(f"--device {name}: expected cpu, cuda or cuda:0.")
    return known


def _elsewhere(flags: AtlasFlags) -> list[str]:
    """Flags whose files lie where all results of nnReg lie."""
    files = {"log_dir": "the log is training_log.txt", "model_dir": "checkpoints are checkpoint_*.pth"}
    given = {name: getattr(flags, name) for name in files}
    return [f"--{name} {value}: not used; {files[name]} in the fold's folder below nnReg_results" for name, value in given.items() if value is not None]


def _images(folder: Path, pattern: str) -> dict[str, Path]:
    """Case to file, in order; the ending is no part of the case, ``.nii.gz`` being one ending."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
        if path.name.startswith(".") or not _is_image(path):
            continue
        case = stem_of(path)
        if case in found or case == ATLAS:
            raise DatasetError(f"{path}: the case {case!r} is there twice. Rename one of the files.")
        found[case] = path
    return found


def _is_image(path: Path) -> bool:
    return any(path.name.lower().endswith(ending) for ending in ENDINGS)


def _atlas(folder: Path, name: str) -> Path:
    if (folder / name).is_file():
        return folder / name
    raise DatasetError(f"{folder / name}: does not exist; {did_you_mean(name, (path.name for path in folder.iterdir()))} Give --atlas_name.")


def _labels(folder: Path, flags: AtlasFlags, validation: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Label file of each case that has one, and what is missing: those are validated without the Dice."""
    given = {case.removesuffix("_seg"): path for case, path in _images(folder / flags.valid_moving_seg_subdir, "*_seg.*").items()}
    labels = {case: given[case] for case in validation if case in given}
    without = [case for case in validation if case not in given]
    unused = [path.name for case, path in given.items() if case not in labels] if flags.run_validation else []
    atlas, where, notes = folder / flags.fixed_seg_subdir / flags.atlas_seg_name, flags.valid_moving_seg_subdir, []
    if without:
        notes.append(f"{where}: no {without[0]}_seg, the Dice is not measured of {', '.join(without)}")
    if unused:
        notes.append(f"{where}: no image in {flags.valid_moving_subdir} for {', '.join(unused)}, not used")
    if flags.run_validation and not labels and not without:
        notes.append(f"{flags.valid_moving_subdir}: holds no image, nothing is validated but the training images after the last epoch")
    if atlas.is_file():
        labels[ATLAS] = atlas
    elif labels:
        notes.append(f"{atlas}: does not exist, no Dice is measured")
        labels = {}
    return labels, notes


def _left_out(folder: Path, flags: AtlasFlags) -> list[str]:
    """Files among the images that nnReg cannot read."""
    names = [flags.train_moving_subdir, *([flags.valid_moving_subdir] if flags.run_validation else [])]
    found = [path for name in names for path in sorted((folder / name).glob(flags.img_pattern)) if not path.name.startswith(".") and not _is_image(path)]
    return [f"{path.relative_to(folder)}: is no image that nnReg reads, not used" for path in found]


def _recipe(flags: AtlasFlags, count: int, validates: bool, ndim: int) -> TrainerConfig:
    if flags.batch_size < 1:
        raise ConfigurationError(f"--batch_size {flags.batch_size}: expected 1 or more.")
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
        **stages([[2] * ndim] * (LEVELS - 1), FEATURES, 1),
    }
    network = {"field_resolution": 1, "levels": LEVELS, "expanding": "resize" if ndim == 2 else "transposed"}
    return TrainerConfig("corrmlp", network, training=training, description="CorrMLP onto an atlas, imported")


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
    from nnreg.imageio import write_image

    ndim = _grey(images[ATLAS], flags.img_npz_key).space.ndim
    for case, path in images.items():
        image = _grey(path, flags.img_npz_key)
        if image.space.ndim != ndim:
            raise DatasetError(f"{path}: has {image.space.ndim} axes, the atlas has {ndim}. Give images of one kind.")
        write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", image.array, image.space)
    for case, path in labels.items():
        label_map = _label_map(path, flags.label_npz_key)
        write_image(folder / "labelsTr" / f"{case}.nii.gz", label_map.array, label_map.space)


def _read(path: Path, key: str) -> Image:
    from nnreg.imageio import read_image

    try:
        return read_image(path, npz_key=key if path.suffix == ".npz" else None)
    except NnRegError as error:
        raise DatasetError(f"{path}: {error}") from error


def _grey(path: Path, key: str) -> Image:
    """An image of one channel, float32."""
    image = _read(path, key)
    channels = image.array.shape[0]
    with_opacity = channels in (2, 4) and image.array.dtype.kind == "u"  # the last of them
    if (channels not in (1, 3) and not with_opacity) or (channels > 1 and image.repetition is not None):
        raise DatasetError(f"{path}: has {channels} channels or volumes, expected 1 (grey) or 3 (colour). Give images of one channel.")
    colour = channels > 2
    array = np.tensordot(GREY, image.array[:3].astype(np.float32), axes=1)[None] if colour else image.array[:1]
    return dataclasses.replace(image, array=array.astype(np.float32))


def _label_map(path: Path, key: str) -> Image:
    """Labels of one channel, int16."""
    image = _read(path, key)
    array = image.array[:1]
    if (image.array[:3] != array).any():
        raise DatasetError(f"{path}: a label map has one channel, found {len(image.array)} that differ. Save the labels in grey.")
    whole = np.asarray(array, dtype=np.float64)
    if (whole != np.rint(whole)).any() or whole.min(initial=0) < 0 or whole.max(initial=0) > LARGEST_LABEL:
        raise DatasetError(f"{path}: labels are whole numbers from 0 to {LARGEST_LABEL}, found {whole.min():g} to {whole.max():g}. Renumber them.")
    return dataclasses.replace(image, array=whole.astype(np.int16))

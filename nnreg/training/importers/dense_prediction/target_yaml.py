"""YAML of trainings with several targets: ``tr_setup``, ``tr_config``, ``model_config``, ``dataset_config``, ``auxiliary_tasks``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nnreg.dataset.target_spec import LossEntry
from nnreg.errors import ConfigurationError, PlansError, did_you_mean
from nnreg.planning.dense_prediction.plans import DensePlans
from nnreg.planning.dense_prediction.settings import deep_supervision_weights
from nnreg.planning.plans import Plans
from nnreg.planning.validation import FOLDER_NAME
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.importers.dense_prediction.folders import FirstImage, first_image, labelled_folder, named_targets
from nnreg.training.importers.dense_prediction.target_file import BLOCKS, Target, TargetFile, parsed, said, settings, unused
from nnreg.training.importers.dense_prediction.target_outputs import check_auxiliary, with_outputs
from nnreg.training.importers.run import ImportedDataset, ImportedRun

__all__ = ["BLOCKS", "read"]

SCHEDULERS = {"cosine": "cosine", "cosineannealinglr": "cosine", "poly": "poly", "constant": "constant", "step": "step", "plateau": "plateau"}
FORMATS: Mapping[str, tuple[str, ...]] = {"zarr": (".zarr",), "tif": (".tif", ".tiff"), "napari": (), "image": ()}
NORMALISATIONS = {
    "zscore": "zscore",
    "instance_zscore": "zscore",
    "minmax": "rescale_to_0_1",
    "instance_minmax": "rescale_to_0_1",
    "rescale_to_0_1": "rescale_to_0_1",
    "ct": "CT",
    "rgb": "rgb_to_0_1",
    "none": "noNorm",
}
"""Scheme to the channel name by which nnReg plans it."""
PLANNER = "resenc_m"  # the residual encoder of 1, 3, 4, 6, 6 ... blocks
MOST_FEATURES = 320  # in 2D too


def read(
    content: dict[str, Any],
    source: Path,
    *,
    data_path: str | None = None,
    format: str | None = None,
    batch_size: int | None = None,
    patch_size: str | None = None,
    loss: str | None = None,
    train_split: float | None = None,
    loss_on_label_only: bool | None = None,
) -> ImportedRun:
    """The run of a parsed file. What the command line says stands over what the file says.

    Parameters
    ----------
    content, source
        Of the file; `source` is the data folder itself where there is no file.
    data_path
        Folder with ``images/``, ``labels/``, ``masks/``.
    format
        Of the images; the endings tell it, so it is only checked.
    batch_size, patch_size, loss, train_split, loss_on_label_only
        As the original command has them: ``"192,192,192"``, ``"SoftDiceLoss,BCEWithLogitsLoss"``.

    Raises
    ------
    NnRegError
        Whatever can be known to fail: unknown keys, names and values, losses that do not fit, images and labels that do not fit the file.
    """
    file = parsed(content, str(source))
    file = _over(file, batch_size=batch_size, patch_size=patch_size, train_split=train_split, loss_on_label_only=loss_on_label_only)
    file = dataclasses.replace(file, tr_setup=dataclasses.replace(file.tr_setup, model_name=_model_name(file, source, from_file=bool(content))))
    _check(file, str(source), format)
    losses = _losses(loss, str(source))
    folder = _data_folder(file, source, data_path)
    image = None if folder is None else first_image(folder)
    file, notes = _with_targets(file, folder, image, losses, str(source))
    notes = [*unused(content), *notes]
    if not file.tr_setup.autoconfigure:
        notes.append("tr_setup.autoconfigure: what the file does not say of patch, stages and features is planned from the data")
    output = None if file.tr_setup.ckpt_out_base is None else (source.parent / file.tr_setup.ckpt_out_base).absolute()
    more: dict[str, Any] = {"workers": file.tr_config.num_dataloader_workers, "output": output}
    if folder is None or image is None:
        return ImportedRun(_recipe(file), None, notes=(*notes, *_without_data(file, content)), **more)
    _check_images(file, image, format, folder)
    # the settings are kept elsewhere, where relative paths would mean something else
    file = dataclasses.replace(
        file,
        dataset_config=dataclasses.replace(file.dataset_config, data_path=str(folder.absolute())),
        tr_setup=dataclasses.replace(file.tr_setup, ckpt_out_base=None if output is None else str(output)),
    )
    return ImportedRun(_recipe(file), _dataset(file, folder, image), notes=tuple(notes), settings=settings(file), **more)


def _over(file: TargetFile, *, batch_size: int | None, patch_size: str | None, train_split: float | None, loss_on_label_only: bool | None) -> TargetFile:
    """The file with the command line's values in it."""
    config: dict[str, Any] = {"batch_size": batch_size, "patch_size": None if patch_size is None else _sizes(patch_size)}
    blocks: dict[str, dict[str, Any]] = {
        "tr_config": config,
        "tr_setup": {"tr_val_split": train_split},
        "dataset_config": {"loss_on_label_only": loss_on_label_only},
    }
    changed = {block: {key: value for key, value in values.items() if value is not None} for block, values in blocks.items()}
    return dataclasses.replace(file, **{block: dataclasses.replace(getattr(file, block), **values) for block, values in changed.items()})


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.strip("[]() ").split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise ConfigurationError(f"--patch-size {text!r}: expected whole numbers such as 192,192,192.")
    return tuple(int(part) for part in parts)


def _losses(text: str | None, where: str) -> tuple[LossEntry, ...]:
    """Losses of a list as people type it: ``A,B`` or ``[A, B]``."""
    if text is None:
        return ()
    names = [part.strip("[]\"' ") for part in text.split(",")]
    if not all(names):
        raise ConfigurationError(f"{where}: --loss {text!r}: expected names such as SoftDiceLoss,BCEWithLogitsLoss.")
    return tuple(LossEntry(name) for name in names)


def _model_name(file: TargetFile, source: Path, *, from_file: bool) -> str:
    """What the file calls the model, else the file's or the folder's own name."""
    given = file.tr_setup.model_name
    if given is not None and not FOLDER_NAME.match(given):
        raise ConfigurationError(f"{source}: tr_setup.model_name {given!r} becomes the name of files. Use letters, digits, '_', '.' and '-'.")
    found = source.stem if from_file else source.resolve().name
    return given or "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in found).lstrip("_") or "model"


def _check(file: TargetFile, where: str, format: str | None) -> None:
    share, scheme, size = file.tr_setup.tr_val_split, file.dataset_config.normalization_scheme, file.tr_config.patch_size
    if not 0 < share <= 1:
        raise ConfigurationError(f"{where}: the training share is {share}, expected a number above 0 and at most 1, such as 0.9.")
    if format is not None and format not in FORMATS:
        raise ConfigurationError(f"--format {format!r} is unknown; {did_you_mean(format, FORMATS)}")
    if scheme is not None and scheme.lower() not in NORMALISATIONS:
        raise ConfigurationError(f"{where}: dataset_config.normalization_scheme {scheme!r} is unknown; {did_you_mean(scheme, NORMALISATIONS)}")
    if size is not None and (len(size) not in (2, 3) or min(size) < 1):
        raise ConfigurationError(f"{where}: patch_size is {list(size)}, expected 2 or 3 positive numbers.")
    channels = (file.model_config.in_channels, file.dataset_config.in_channels)
    if None not in channels and channels[0] != channels[1]:
        raise ConfigurationError(f"{where}: in_channels is {channels[0]} in model_config, {channels[1]} in dataset_config. Keep one of them.")
    if any(count is not None and count < 1 for count in channels):
        raise ConfigurationError(f"{where}: in_channels is {min(count for count in channels if count is not None)}, expected 1 or more.")


def _check_images(file: TargetFile, image: FirstImage, format: str | None, folder: Path) -> None:
    """Refuse what the first image contradicts."""
    size, given = file.tr_config.patch_size, _in_channels(file)
    if format == "napari":
        raise ConfigurationError("--format napari: layers of a viewer are no files. Save them as .tif or .zarr in images/ and labels/, and name that format.")
    if format is not None and FORMATS[format] and image.ending not in FORMATS[format]:
        raise ConfigurationError(f"--format {format}: {folder / 'images'} holds {image.ending} files. Leave --format out.")
    if size is not None and len(size) > image.ndim:
        raise ConfigurationError(f"patch_size is {','.join(map(str, size))}, but the images in {folder / 'images'} have {image.ndim} axes.")
    if given is not None and given != image.channels:
        raise ConfigurationError(f"in_channels is {given}, but the images in {folder / 'images'} have {image.channels}. Leave in_channels out.")


def _in_channels(file: TargetFile) -> int | None:
    return file.model_config.in_channels or file.dataset_config.in_channels


def _data_folder(file: TargetFile, source: Path, given: str | None) -> Path | None:
    named = given or file.dataset_config.data_path
    if named is None:
        return source.parent if (source.parent / "images").is_dir() else None
    return Path(named) if Path(named).is_absolute() or given else source.parent / named


def _with_targets(file: TargetFile, folder: Path | None, image: FirstImage | None, losses: tuple[LossEntry, ...], where: str) -> tuple[TargetFile, list[str]]:
    """The file with every target that is learnt, its channels, activation and losses; and what is to be told of it."""
    configured, notes = dict(file.dataset_config.targets), []
    labelled = [] if folder is None else named_targets(folder)
    channels, ndim = _in_channels(file) or (1 if image is None else image.channels), 3 if image is None else image.ndim
    found = configured or {name: Target() for name in labelled if name not in file.auxiliary_tasks}
    targets = {name: with_outputs(name, dataclasses.replace(target, losses=losses or target.losses), channels, ndim, where) for name, target in found.items()}
    for name, target in targets.items():
        if target != found[name] and target.out_channels not in (found[name].out_channels, found[name].channels):
            why = "as the images have" if target.out_channels == channels else "background and foreground, as softmax needs"
            notes.append(f"targets.{name}: {target.out_channels} channel{'s' if target.out_channels != 1 else ''} ({why}), activation {target.activation}")
        elif target.activation != found[name].activation:
            notes.append(f"targets.{name}: activation {target.activation}, as channels and losses say")
    left = [name for name in labelled if len(labelled) > 1 and name not in targets]
    notes += [f"labels of {name}: {'derived from other labels, the files are not read' if name in file.auxiliary_tasks else 'no target'}" for name in left]
    if folder is not None or configured:
        notes += check_auxiliary(file.auxiliary_tasks, targets, ndim, where)
    return dataclasses.replace(file, dataset_config=dataclasses.replace(file.dataset_config, targets=targets)), notes


def _without_data(file: TargetFile, content: Mapping[str, Any]) -> list[str]:
    """What a file without images cannot say: it belongs to the dataset that is trained."""
    kept = {
        "targets": file.dataset_config.targets,
        "auxiliary_tasks": file.auxiliary_tasks,
        "patch_size": file.tr_config.patch_size,
        "in_channels": _in_channels(file),
        "normalization_scheme": file.dataset_config.normalization_scheme,
        "loss_on_label_only": file.dataset_config.loss_on_label_only,
        "deep_supervision": not file.model_config.deep_supervision,
        "tr_val_split": "tr_val_split" in content.get("tr_setup", {}),
    }
    named = ", ".join(name for name, value in kept.items() if value)
    notes = [f"{named}: not used with a dataset that is there, whose dataset.json and plans say it"] if named else []
    return [*notes, "no data_path: name a dataset, or give -i"]


def _dataset(file: TargetFile, folder: Path, image: FirstImage) -> ImportedDataset:
    data, setup = file.dataset_config, file.tr_setup
    scheme = data.normalization_scheme
    dataset = labelled_folder(
        folder,
        name=str(setup.model_name),
        targets={name: _plain(target) | ({"loss_on_label_only": True} if data.loss_on_label_only else {}) for name, target in data.targets.items()},
        auxiliary_tasks={name: _plain(task) for name, task in file.auxiliary_tasks.items()},
        validation_share=1 - setup.tr_val_split,
        channel_names=[NORMALISATIONS[scheme.lower()]] * image.channels if scheme else None,
    )
    features = file.model_config.features_per_stage
    planning: dict[str, Any] = {"planner": PLANNER}
    if file.tr_config.patch_size is not None:
        planning["patch_size"] = file.tr_config.patch_size
    return dataclasses.replace(dataset, planning=planning, plan=partial(_planned, features, file.model_config.deep_supervision))


def _planned(features: tuple[int, ...] | None, deep_supervision: bool, plans: Plans) -> Plans:
    """The plans with the file's stages and features in the configuration that is trained."""
    if not isinstance(plans, DensePlans):
        raise PlansError(f"{plans.plans_name}: plans of the task {plans.task}, expected those of dense prediction.")
    chosen = plans.configuration(plans.to_train)
    network = chosen.architecture
    if features is not None and len(features) > len(network.strides):
        raise ConfigurationError(
            f"features_per_stage has {len(features)} numbers, but a patch of {'x'.join(map(str, chosen.patch_size))} voxels is halved for "
            f"{len(network.strides)} stages. Give fewer, or a larger patch_size."
        )
    stages = len(features or network.strides)
    planned = [min(count, MOST_FEATURES) for count in network.features_per_stage]
    network = dataclasses.replace(
        network,
        strides=network.strides[:stages],
        kernel_sizes=network.kernel_sizes[:stages],
        blocks_per_stage=network.blocks_per_stage[:stages],
        features_per_stage=tuple(features or planned),
        kwargs={**network.kwargs, "decoder_blocks_per_stage": network.kwargs["decoder_blocks_per_stage"][: stages - 1]},
    )
    weights = deep_supervision_weights(stages).value
    weights = weights if deep_supervision else (1.0, *(0.0,) * (len(weights) - 1))
    reason = f"the imported file: {list(features)}" if features else f"32 doubled from stage to stage, at most {MOST_FEATURES}"
    changed = dataclasses.replace(
        chosen,
        architecture=network,
        training=dataclasses.replace(chosen.training, deep_supervision_weights=weights),
        because={**chosen.because, "architecture.features_per_stage": reason},
    )
    return plans.replace(configurations={**plans.configurations, plans.to_train: changed})


def _recipe(file: TargetFile) -> TrainerConfig:
    config = file.tr_config
    schedule = SCHEDULERS.get(config.scheduler.lower())
    if schedule is None:
        raise ConfigurationError(f"tr_config.scheduler {config.scheduler!r} is unknown; {did_you_mean(config.scheduler, SCHEDULERS)}")
    training: dict[str, Any] = {
        "optimizer": config.optimizer.lower(),
        "learning_rate": config.initial_lr,
        "weight_decay": config.weight_decay,
        "batch_size": config.batch_size,
        "epochs": config.max_epoch,
        "iterations_per_epoch": config.max_steps_per_epoch,
        "validation_iterations": config.max_val_steps_per_epoch,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "gradient_clip": config.gradient_clip,
        "lr_schedule": schedule,
        "validate_every": config.val_every_n,
        "early_stopping.patience": config.early_stopping_patience,
        "mixed_precision": "auto" if config.amp else "off",
        "seed": config.seed,
        "checkpoints.every": 1,
        "checkpoints.keep_last": 10,
        "checkpoints.model_name": file.tr_setup.model_name,
        "tracking.picture": True,
    }
    shares = {"min_labeled_ratio": file.dataset_config.min_labeled_ratio, "min_bbox_percent": file.dataset_config.min_bbox_percent}
    training |= {name: share for name, share in shares.items() if share is not None}
    if file.model_config.features_per_stage is not None:
        training["architecture.features_per_stage"] = list(file.model_config.features_per_stage)
    elif file.model_config.base_features is not None:
        training["architecture.base_features"] = file.model_config.base_features
    return TrainerConfig(training=training, description=f"{file.tr_setup.model_name}, imported")


def _plain(instance: Any) -> dict[str, Any]:
    """A target or auxiliary task as dataset.json holds it: what says something."""
    content: dict[str, Any] = said(instance)
    content["losses"] = [{key: value for key, value in entry.items() if key != "start_epoch" or value} for entry in content["losses"]]
    return content

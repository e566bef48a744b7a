"""A model that nnU-Net v2 trained becomes a model folder of nnReg: plans, dataset.json and weights, ready for ``nnreg_predict``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnreg.dataset.spec import FILE_NAME, OLD_NAMES, DatasetSpec
from nnreg.documents import understood
from nnreg.errors import ConfigurationError
from nnreg.files import check_component, read_json
from nnreg.task import DENSE_PREDICTION, task_named
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.importers.dense_prediction.nnunet_plans import plans_from
from nnreg.training.trainer.checkpoint import FINAL, load_weights, read_tensors, save_checkpoint
from nnreg.typed import to_mapping
from nnreg.workspace import DATASET_PATTERN, Workspace

# what plain values nnU-Net's checkpoints hold beside tensors; nothing else is made from a file
_scalar = np.float64(0).__reduce__()[0]
SAFE: list[Any] = [
    np.dtype,
    np.ndarray,
    # numpy 1 and numpy 2 call it differently
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    *(type(np.dtype(name)) for name in ("float32", "float64", "int64", "int32", "bool")),
]


@dataclass(frozen=True)
class NnunetModel:
    """A model folder of nnU-Net, or what of it one checkpoint holds.

    Attributes
    ----------
    plans, dataset : parsed JSON
    configuration : name
    checkpoints : fold to file
    """

    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration: str
    checkpoints: dict[str, Path]


def is_nnunet_model(source: Path) -> bool:
    """Whether `source` is a checkpoint file, or a folder with nnU-Net's plans, dataset.json and folds."""
    if source.is_file():
        return source.suffix == ".pth"
    plans = source / "plans.json"
    return plans.is_file() and (source / FILE_NAME).is_file() and "experiment_planner_used" in read_json(plans, ConfigurationError)


def import_nnunet_model(source: Path, workspace: Workspace, *, number: int | None = None, checkpoint: str = FINAL) -> Path:
    """Convert a model of nnU-Net v2.

    Parameters
    ----------
    source
        ``TRAINER__PLANS__CONFIGURATION`` with ``fold_K/checkpoint_final.pth``, or one checkpoint file.
    workspace
        The model goes into its results.
    number
        Of the dataset, if it is to be another than nnU-Net's.
    checkpoint
        Which file of every fold.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    ConfigurationError
        If something is missing or damaged, or the model uses what nnReg does not have.
    """
    with understood(source, ConfigurationError, "A model of nnU-Net v2 was expected; copy it again."):
        return _imported(_read(source, checkpoint), source, workspace, number)


def _imported(model: NnunetModel, source: Path, workspace: Workspace, number: int | None) -> Path:
    contents = {fold: read_checkpoint(path) for fold, path in model.checkpoints.items()}
    first = next(iter(contents.values()))
    mirrored = tuple(int(axis) for axis in first.get("inference_allowed_mirroring_axes") or ())
    spec = _spec(model.dataset, str(source))
    name = str(model.plans["dataset_name"])
    if number is not None:
        name = re.sub(r"^Dataset\d{3}_", f"Dataset{number:03d}_", name)
    plans = plans_from(model.plans, spec, name, mirrored, str(source))
    trainer = str(first.get("trainer_name", "nnUNetTrainer"))
    named = {"dataset_name": name, "trainer_name": trainer, "plans_name": plans.plans_name, "the configuration": model.configuration}
    for what, text in (named | {f"fold {fold}": fold for fold in contents}).items():
        check_component(text, what, source, ConfigurationError)
    if not DATASET_PATTERN.match(name):
        raise ConfigurationError(f"{source}: dataset_name is {name!r}, expected Dataset001_Name. Mend plans.json.")
    folder = workspace.results / name / f"{trainer}__{plans.plans_name}__{model.configuration}"
    configuration = plans.configuration(model.configuration)
    # nnU-Net trains and predicts in float16 whatever the GPU could do
    configuration = dataclasses.replace(configuration, training=dataclasses.replace(configuration.training, mixed_precision="fp16"))
    network = task_named(DENSE_PREDICTION).network(plans=plans, spec=spec, configuration=configuration, recipe=TrainerConfig())
    for fold, content in contents.items():
        weights = weights_from(content["network_weights"], len(configuration.architecture.strides) - 1)
        load_weights(network, weights, model.checkpoints[fold])
        init = {"plans": plans.to_dict(), "configuration_name": model.configuration, "configuration": to_mapping(configuration), "fold": fold, "overrides": {}}
        save_checkpoint(
            folder / f"fold_{fold}" / FINAL,
            {
                "network_weights": weights,
                "trainer_name": trainer,
                "current_epoch": int(content.get("current_epoch", 0)),
                "init": init | {"custom_network": False},
            },
        )
    plans.write(folder / "plans.json")
    spec.write(folder / FILE_NAME)
    return folder


def _read(source: Path, checkpoint: str) -> NnunetModel:
    if source.is_file():
        content = read_checkpoint(source)
        init = content.get("init_args")
        if not isinstance(init, dict) or not {"plans", "configuration", "dataset_json"} <= init.keys():
            raise ConfigurationError(f"{source}: is no checkpoint of nnU-Net v2: init_args with plans, configuration and dataset_json were expected.")
        fold = source.parent.name.removeprefix("fold_") if source.parent.name.startswith("fold_") else str(init.get("fold", 0))
        return NnunetModel(init["plans"], init["dataset_json"], str(init["configuration"]), {fold: source})
    parts = source.name.split("__")
    found = {path.parent.name[5:]: path for path in sorted(source.glob(f"fold_*/{checkpoint}"))}
    if len(parts) != 3 or not found:
        raise ConfigurationError(f"{source}: expected a folder TRAINER__PLANS__CONFIGURATION with fold_K/{checkpoint}. Name the folder, or one checkpoint.")
    return NnunetModel(read_json(source / "plans.json", ConfigurationError), read_json(source / FILE_NAME, ConfigurationError), parts[2], found)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net: tensors, plain values and numpy's numbers, nothing else.

    Raises
    ------
    ConfigurationError
        If it is damaged or holds anything else.
    """
    with torch.serialization.safe_globals(SAFE):
        content = read_tensors(path, "cpu", ConfigurationError)
    if not isinstance(content, dict) or not isinstance(content.get("network_weights"), dict):
        raise ConfigurationError(f"{path}: is no checkpoint of nnU-Net v2: network_weights was expected.")
    return content


def _spec(content: Mapping[str, Any], where: str) -> DatasetSpec:
    """dataset.json without keys that nnU-Net does not know either."""
    known = {field.name for field in dataclasses.fields(DatasetSpec)} | set(OLD_NAMES)
    kept = {key: value for key, value in content.items() if key in known}
    return DatasetSpec.from_dict({"numTraining": 0, **kept, "task": DENSE_PREDICTION, "dataset": {}}, where=f"{where}, {FILE_NAME}")


# -- weights ----------------------------------------------------------------------------------------------------------


def weights_from(weights: Mapping[str, Tensor], decoded: int) -> dict[str, Tensor]:
    """nnU-Net's state dict with nnReg's names.

    Parameters
    ----------
    weights
        Of a U-Net of dynamic-network-architectures, perhaps compiled or wrapped for several GPUs.
    decoded
        Stages of the decoder; nnU-Net counts them from the coarsest, nnReg from the finest.
    """
    names = {"stages": "backbone.joins", "transpconvs": "backbone.ups", "seg_layers": "heads"}
    result = {}
    for key, value in weights.items():
        plain = re.sub(r"^(module\.|_orig_mod\.)+", "", key)
        if plain.startswith("encoder."):
            result[f"backbone.{plain}"] = value
            continue
        # the decoder holds the encoder a second time
        match = re.fullmatch(r"decoder\.(stages|transpconvs|seg_layers)\.(\d+)\.(.+)", plain)
        if match is not None:
            result[f"{names[match[1]]}.{decoded - 1 - int(match[2])}.{match[3]}"] = value
    return result

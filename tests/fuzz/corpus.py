"""Small real files of every kind that is read, and the readers."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnreg.geometry import FieldMap, Space, Transform
from nnreg.geometry.transform_files import read_transform, write_transform
from nnreg.imageio import read_image, write_image

SPACE = Space((4, 5, 6), (2.0, 1.5, 1.25), (3.0, -4.0, 5.5), tuple(np.eye(3).ravel().tolist()))
PLANE = Space.plain((7, 6))
TEMPLATE = Path(__file__).parents[2] / "nnreg_results_template"
CHECKED = frozenset({"image.nii.gz", "field.nii.gz", "ours.h5", "arrays.b2nd", "checkpoint.pth", "image.npz", "image.png"})
"""Kinds with a checksum of everything: a byte of the file that changes may change no value."""

NNUNET_CONFIGURATION = {
    "data_identifier": "own",
    "batch_size": 2,
    "patch_size": [16, 16, 16],
    "median_image_size_in_voxels": [20.0, 20.0, 20.0],
    "spacing": [1.0, 1.0, 1.0],
    "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
    "use_mask_for_norm": [False, False],
    "batch_dice": True,
    **{f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in ("data", "seg", "probabilities")},
    **{f"resampling_fn_{kind}_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None} for kind in ("data", "seg", "probabilities")},
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [2, 2],
            "n_conv_per_stage_decoder": [2],
            "conv_bias": True,
        },
    },
}
INTENSITIES = {"mean": 1.0, "std": 2.0, "percentile_00_5": -3.0, "percentile_99_5": 4.0}
NNUNET_PLANS = {
    "dataset_name": "Dataset017_Theirs",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "configurations": {"own": NNUNET_CONFIGURATION, "child": {"inherits_from": "own", "batch_size": 7}},
    "experiment_planner_used": "ExperimentPlanner",
    "foreground_intensity_properties_per_channel": {"0": INTENSITIES, "1": INTENSITIES},
}
NNUNET_DATASET = {"channel_names": {"0": "T1", "1": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 2, "file_ending": ".nii.gz"}


def build(folder: Path) -> list[Path]:
    """Write one file (or folder) of each kind; its name says how it is read."""
    rng = np.random.default_rng(7)
    values = rng.normal(size=(1, *SPACE.shape)).astype(np.float32)
    for name in ("image.nii", "image.nii.gz", "packed.mha", "packed.nrrd", "image.tif", "image.npy", "image.npz", "image.mhd"):
        write_image(folder / name, values, SPACE)
    write_image(folder / "image.png", rng.integers(0, 255, (1, *PLANE.shape), np.uint8), PLANE)
    raw = sitk.GetImageFromArray(values[0])
    for name in ("plain.mha", "plain.nrrd", "plain.nhdr"):
        sitk.WriteImage(raw, str(folder / name), useCompression=False)
    sitk.WriteImage(sitk.GetImageFromArray(rng.integers(0, 255, PLANE.shape, np.uint8)), str(folder / "image.jpg"))
    _zarr(folder, values)
    _transforms(folder, rng)
    _documents(folder)
    _archives(folder, rng)
    return sorted(path for path in folder.iterdir() if path.name in READERS)


def _zarr(folder: Path, values: np.ndarray) -> None:
    try:
        write_image(folder / "image.zarr", values, SPACE)
    except Exception as error:  # the package is not there
        if "needs the package zarr" not in str(error):
            raise


def _transforms(folder: Path, rng: np.random.Generator) -> None:
    field = Transform((FieldMap(rng.normal(size=(3, *SPACE.shape)).astype(np.float32), SPACE),), 3)
    both = Transform((*field.stages, *Transform.affine(np.diag([1.1, 0.9, 1.0, 1.0])).stages), 3)
    for name in ("field.nii.gz", "field.mha", "field.nrrd", "ours.h5", "both.tfm"):
        write_transform(folder / name, both, fixed=SPACE)
    write_transform(folder / "affine.mat", Transform.affine(np.diag([1.1, 0.9, 1.0, 1.0])))
    write_transform(folder / "learn2reg.nii.gz", field, form="learn2reg", fixed=SPACE)
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((1.0, 2.0, 3.0))
    sitk.WriteTransform(affine, str(folder / "theirs.h5"))
    np.savez_compressed(folder / "learn2reg.npz", rng.normal(size=(6, 5, 4, 3)).astype(np.float32))


def _documents(folder: Path) -> None:
    model = next(TEMPLATE.glob("*/*/plans.json")).parent
    for name in ("plans.json", "dataset.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    (folder / "prediction.json").write_bytes((model / "fold_0" / "validation_raw" / "prediction.json").read_bytes())
    (folder / "prediction_method.json").write_bytes((model / "fold_0" / "prediction_method.json").read_bytes())
    (folder / "nnunet_plans.json").write_text(json.dumps(NNUNET_PLANS))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}] * 2))
    space = SPACE.to_dict()
    case = {"schema_version": 1, "case": "a", "native": space, "working": space, "to_native": np.eye(4).tolist(), "alignment": "x", "keypoints": None}
    (folder / "case.json").write_text(json.dumps(case))
    dense = {"schema_version": 1, "case": "a", "native": space, "shape_before_crop": [4, 5, 6], "box": [[0, 4], [0, 5], [1, 6]]}
    (folder / "dense_case.json").write_text(json.dumps(dense))
    (folder / "recipe.yaml").write_text("loss: lncc\nloss_kwargs: {radius: 3}\ntraining:\n  epochs: 5\n  initial_lr: 1e-3\ndescription: text\n")
    (folder / "import.yaml").write_text(
        "loss:\n  name: lncc\n"
        "train_dataset:\n  image_size: [16, 16, 16]\n  num_samples: 8\n  seed: 3\nval_dataset:\n  image_size: [16, 16, 16]\n  num_samples: 2\n"
    )
    (folder / "keypoints.csv").write_text("1.0,2.0,3.0\n4.5,5.5,6.5\n")


def _archives(folder: Path, rng: np.random.Generator) -> None:
    import torch

    from nnreg.inference.dense_prediction.probabilities import write_probabilities
    from nnreg.preprocessing.dense_prediction.locations import write_locations
    from nnreg.preprocessing.registration.storage import write_array
    from nnreg.training.trainer.checkpoint import save_checkpoint

    weights = {"a.weight": torch.arange(24.0).reshape(2, 3, 4), "a.bias": torch.zeros(2)}
    init = {"configuration": {}, "custom_network": False, "overrides": {}}
    save_checkpoint(folder / "checkpoint.pth", {"network_weights": weights, "init": init, "trainer_name": "nnRegTrainer", "current_epoch": 3})
    torch.save({"network_weights": weights, "_best_ema": np.float32(0.5), "init_args": {"fold": 1}}, folder / "nnunet.pth")
    torch.save({"network_weights": weights}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    write_array(folder / "arrays.b2nd", rng.normal(size=(1, 9, 8, 7)).astype(np.float32))
    write_locations(folder / "a_locations.npz", {1: np.arange(9).reshape(3, 3), (1, 2): np.arange(6).reshape(2, 3)})
    write_probabilities(folder / "probabilities.npz", [rng.random((3, 4, 5)).astype(np.float32)] * 2, (2, 3, 4, 5))
    _model_file(folder / "model.zip")


def _model_file(path: Path) -> None:
    from safetensors.numpy import save

    model = next(TEMPLATE.glob("*/*/plans.json")).parent
    files = {name: (model / name).read_bytes() for name in ("plans.json", "dataset.json")}
    files["fold_0/weights.safetensors"] = save({"a": np.zeros(3, np.float32)})
    files["fold_0/checkpoint.json"] = json.dumps({"init": {}, "trainer_name": "nnRegTrainer", "current_epoch": 1}).encode()
    described = {name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()}
    manifest = {"format": "nnreg-model", "version": 1, "nnreg": "0", "dataset": model.parent.name, "model": model.name, "folds": ["0"], "files": described}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, content in files.items():
            archive.writestr(name, content, zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED)


# -- readers: each gives what was read, for comparison ----------------------------------------------------------------


def _image(path: Path) -> Any:
    found = read_image(path)
    return found.array, found.space.to_dict()


def _transform(path: Path) -> Any:
    found = read_transform(path, fixed=SPACE, moving=SPACE)
    return [stage.matrix if hasattr(stage, "matrix") and not isinstance(stage, FieldMap) else stage.displacement for stage in found.stages]


def _plans(path: Path) -> Any:
    from nnreg.planning.plans import Plans

    return Plans.read(path)


def _dataset(path: Path) -> Any:
    from nnreg.dataset.spec import DatasetSpec

    return DatasetSpec.read(path)


def _nnunet_plans(path: Path) -> Any:
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.errors import ConfigurationError
    from nnreg.files import read_json
    from nnreg.training.importers.dense_prediction.nnunet_plans import plans_from

    spec = DatasetSpec.from_dict(NNUNET_DATASET | {"task": "dense_prediction", "dataset": {}})
    return plans_from(read_json(path, ConfigurationError), spec, "Dataset017_Theirs", (0,), str(path))


def _prediction(path: Path) -> Any:
    from nnreg.evaluation.registration.folder import read_prediction

    return read_prediction(path.parent)


def _method(path: Path) -> Any:
    from nnreg.inference.registration.method import read_record

    return read_record(path.parent)


def _splits(path: Path) -> Any:
    from nnreg.dataset.splits import check_splits
    from nnreg.files import read_json

    return check_splits(read_json(path), None, str(path))


def _case(path: Path) -> Any:
    from nnreg.files import read_json
    from nnreg.preprocessing.registration.storage import Properties

    return Properties.from_dict(read_json(path), str(path))


def _dense_case(path: Path) -> Any:
    from nnreg.files import read_json
    from nnreg.preprocessing.dense_prediction.storage import DenseProperties

    return DenseProperties.from_dict(read_json(path), str(path))


def _recipe(path: Path) -> Any:
    from nnreg.training.configs.lookup import read_config

    return read_config(path)


def _import(path: Path) -> Any:
    from nnreg.training.importers.reading import read_run

    return read_run(path)


def _keypoints(path: Path) -> Any:
    from nnreg.dataset.keypoints import read_keypoints

    return read_keypoints(path)


def _checkpoint(path: Path) -> Any:
    from nnreg.training.trainer.checkpoint import load_checkpoint

    content = load_checkpoint(path)
    return {name: value.numpy() for name, value in content["network_weights"].items()}


def _weights(path: Path) -> Any:
    from nnreg.training.trainer.checkpoint import load_checkpoint

    return sorted(load_checkpoint(path, weights_only=True)["network_weights"])


def _nnunet_checkpoint(path: Path) -> Any:
    from nnreg.training.importers.dense_prediction.nnunet_model import read_checkpoint

    return sorted(map(str, read_checkpoint(path)))


def _arrays(path: Path) -> Any:
    from nnreg.preprocessing.registration.storage import read_array

    return read_array(path)


def _locations(path: Path) -> Any:
    from nnreg.preprocessing.dense_prediction.locations import read_locations

    return list(read_locations(path).values())


def _probabilities(path: Path) -> Any:
    from nnreg.inference.dense_prediction.probabilities import Probabilities

    return list(Probabilities(path).classes())


def _model(path: Path) -> Any:
    import shutil

    from nnreg.inference.sharing import install_model
    from nnreg.workspace import Workspace

    target = path.parent / "workspace"
    try:
        install_model(path, Workspace.resolve(target))
    finally:
        shutil.rmtree(target, ignore_errors=True)


IMAGES = "image.nii image.nii.gz packed.mha packed.nrrd image.tif image.npy image.npz image.mhd image.png image.jpg plain.mha plain.nrrd plain.nhdr image.zarr"
TRANSFORMS = "field.nii.gz field.mha field.nrrd ours.h5 theirs.h5 both.tfm affine.mat learn2reg.nii.gz learn2reg.npz"
READERS: dict[str, Callable[[Path], Any]] = {
    **dict.fromkeys(IMAGES.split(), _image),
    **dict.fromkeys(TRANSFORMS.split(), _transform),
    "plans.json": _plans,
    "dataset.json": _dataset,
    "nnunet_plans.json": _nnunet_plans,
    "prediction.json": _prediction,
    "prediction_method.json": _method,
    "splits_final.json": _splits,
    "case.json": _case,
    "dense_case.json": _dense_case,
    "recipe.yaml": _recipe,
    "import.yaml": _import,
    "keypoints.csv": _keypoints,
    "checkpoint.pth": _checkpoint,
    "legacy.pth": _weights,
    "nnunet.pth": _nnunet_checkpoint,
    "arrays.b2nd": _arrays,
    "a_locations.npz": _locations,
    "probabilities.npz": _probabilities,
    "model.zip": _model,
}
"""Name of a file of the corpus to what reads it."""


def digest(value: Any) -> str:
    """What was read, in a few letters."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()[:16]


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        found.update(str((value.dtype, value.shape)).encode() + value.tobytes())
    elif isinstance(value, dict):
        for key in sorted(value):
            found.update(str(key).encode())
            _feed(found, value[key])
    elif isinstance(value, (list, tuple)):
        for part in value:
            _feed(found, part)
    else:
        found.update(repr(value).encode())

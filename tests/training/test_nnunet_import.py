"""Models of nnU-Net v2 become ours: same plans, same weights, same logits."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
import zipfile

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from nnreg.cli import import_
from nnreg.errors import NnRegError
from nnreg.inference.predictor import ModelFolder
from nnreg.planning.dense_prediction.plans import DensePlans
from nnreg.training.importers.dense_prediction.nnunet_model import import_nnunet_model, is_nnunet_model, read_checkpoint
from nnreg.workspace import Workspace

DATASET = {
    "channel_names": {"0": "CT", "1": "MR"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
    "made_by": "someone",
}
INTENSITIES = {"mean": 90.0, "std": 200.0, "percentile_00_5": -300.0, "percentile_99_5": 550.0, "median": 80.0, "min": -900.0, "max": 900.0}


def architecture(kind, ndim):
    blocks = {"n_conv_per_stage": [1, 2, 2]} if kind is PlainConvUNet else {"n_blocks_per_stage": [1, 2, 2]}
    return {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{ndim}d",
        "kernel_sizes": [[1, 3, 3][-ndim:], [3] * ndim, [3] * ndim],
        "strides": [[1] * ndim, [1, 2, 2][-ndim:], [2] * ndim],
        **blocks,
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{ndim}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def configuration(kind, ndim):
    resampling = {}
    for name, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        resampling |= {f"resampling_fn_{name}": "resample_data_or_seg_to_shape"}
        resampling |= {f"resampling_fn_{name}_kwargs": {"is_seg": name == "seg", "order": order, "order_z": 0, "force_separate_z": None}}
    return {
        "data_identifier": f"nnUNetPlans_{ndim}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [4, 16, 12][-ndim:],
        "median_image_size_in_voxels": [6.0, 20.0, 15.0][-ndim:],
        "spacing": [3.0, 1.0, 1.0][-ndim:],
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, True],
        **resampling,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind.__name__}",
            "arch_kwargs": architecture(kind, ndim),
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }


def plans(kind, ndim):
    return {
        "dataset_name": "Dataset017_Theirs",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "configurations": {"own": configuration(kind, ndim), "child": {"inherits_from": "own", "batch_size": 7}},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": INTENSITIES, "1": INTENSITIES},
    }


def theirs(kind, ndim):
    """The network as nnU-Net builds it."""
    arguments = {key: value for key, value in architecture(kind, ndim).items() if not key.endswith("_op") and key != "nonlin"}
    operations = {"conv_op": (nn.Conv2d, nn.Conv3d)[ndim - 2], "norm_op": (nn.InstanceNorm2d, nn.InstanceNorm3d)[ndim - 2], "nonlin": nn.LeakyReLU}
    return kind(input_channels=2, num_classes=3, deep_supervision=True, **arguments, **operations).eval()


@pytest.fixture(params=[(PlainConvUNet, 2), (PlainConvUNet, 3), (ResidualEncoderUNet, 3)], ids=["plain 2D", "plain 3D", "residual"])
def model(request, tmp_path):
    """A model folder as nnU-Net leaves it, its checkpoint with the numbers that it puts there."""
    network, content = theirs(*request.param), plans(*request.param)
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__own"
    (folder / "fold_1").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    checkpoint = {
        "network_weights": network.state_dict(),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "epoch_end_timestamps": [1.5]},
        "_best_ema": np.float32(0.5),
        "current_epoch": 10,
        "init_args": {"plans": content, "configuration": "own", "fold": 1, "dataset_json": DATASET, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0,),
    }
    torch.save(checkpoint, folder / "fold_1" / "checkpoint_final.pth")
    return folder, network


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "checkpoint"])
def test_imported_networks_give_the_same_logits(model, tmp_path, whole, capsys):
    folder, network = model
    source = folder if whole else folder / "fold_1" / "checkpoint_final.pth"
    assert is_nnunet_model(source)
    assert import_.main([str(source), "--workspace", str(tmp_path / "work")]) == 0
    made = tmp_path / "work" / "nnReg_results" / "Dataset017_Theirs" / "nnUNetTrainer__nnUNetPlans__own"
    assert f"nnreg_predict -m {made}" in capsys.readouterr().out
    opened = ModelFolder.open(made)
    assert opened.folds() == ["1"]
    found = opened.predictor(folds=(), checkpoint="checkpoint_final.pth", device=torch.device("cpu")).networks[0]
    tile = torch.randn(1, 2, *opened.plans.configuration("own").grid)
    with torch.no_grad():
        for ours, expected in zip(found(tile), network(tile), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_checkpoints_of_either_numpy_are_read(model, tmp_path):
    source, other = model[0] / "fold_1" / "checkpoint_final.pth", tmp_path / "checkpoint_final.pth"
    with zipfile.ZipFile(source) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    there = b"numpy._core.multiarray" if any(b"numpy._core.multiarray" in part for part in content.values()) else b"numpy.core.multiarray"
    old, new = (b"c" + name + b"\n" for name in (there, b"numpy.core.multiarray" if b"_" in there else b"numpy._core.multiarray"))
    assert any(old in part for part in content.values())
    with zipfile.ZipFile(other, "w") as archive:
        for name, part in content.items():
            archive.writestr(name, part.replace(old, new))
    assert read_checkpoint(other)["_best_ema"] == np.float32(0.5)


def test_imported_plans_say_what_nnunets_said(model, tmp_path):
    folder = import_nnunet_model(model[0], Workspace.resolve(tmp_path / "work"), number=3)
    assert folder.parent.name == "Dataset003_Theirs"
    known = ModelFolder.open(folder).plans
    assert isinstance(known, DensePlans)
    assert known.orientation == ""
    turning = shutil.copytree(model[0], tmp_path / "turning" / model[0].name)
    content = json.loads((turning / "plans.json").read_text())
    (turning / "plans.json").write_text(json.dumps(content | {"image_reader_writer": "NibabelIOWithReorient"}))
    assert ModelFolder.open(import_nnunet_model(turning, Workspace.resolve(tmp_path / "other"))).plans.orientation == "RAS"
    own, child = known.configuration("own"), known.configuration("child")
    assert (own.training.batch_size, child.training.batch_size) == (2, 7)
    assert known.transpose_forward == (1, 0, 2)
    assert [scheme.scheme for scheme in own.normalization] == ["ct", "zscore"]
    assert own.normalization[0].kwargs == {"low": -300.0, "high": 550.0, "mean": 90.0, "std": 200.0}
    assert own.use_mask_for_norm == (False, True)
    assert own.training.augmentation["pose"]["mirror_axes"] == [0]


def changed(content, key, value):
    result = copy.deepcopy(content)
    part = result["configurations"]["own"]
    for name in key[:-1]:
        part = part[name]
    part[key[-1]] = value
    return result


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("architecture", "network_class_name"), "some.package.Transformer"),
        (("architecture", "arch_kwargs", "conv_bias"), False),
        (("normalization_schemes",), ["CTNormalization", "Mine"]),
        (("resampling_fn_seg",), "resample_torch_fornnunet"),
    ],
)
def test_what_nnreg_does_not_have_is_refused_by_name(tmp_path, key, value):
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__own"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(changed(plans(PlainConvUNet, 3), key, value)))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    torch.save({"network_weights": theirs(PlainConvUNet, 3).state_dict()}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(NnRegError, match=r"configuration own.*nnReg imports"):
        import_nnunet_model(folder, Workspace.resolve(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"network_weights": {}, "extra": Evil()}, tmp_path / "checkpoint_final.pth")
    with pytest.raises(NnRegError, match="holds the object"):
        import_nnunet_model(tmp_path / "checkpoint_final.pth", Workspace.resolve(tmp_path / "work"))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dataset_name", "../../Dataset017_Evil", "dataset_name is '../../Dataset017_Evil', expected a plain name"),
        ("dataset_name", "/tmp/Dataset017_Evil", "dataset_name is '/tmp/Dataset017_Evil', expected a plain name"),
        ("plans_name", "../x", "plans_name is '../x', expected a plain name"),
        ("trainer_name", "../../../x", "trainer_name is '../../../x', expected a plain name"),
    ],
)
def test_names_that_are_paths_write_nothing(model, tmp_path, capsys, key, value, words):
    folder, _ = model
    path = folder / "fold_1" / "checkpoint_final.pth"
    if key == "trainer_name":
        content = torch.load(path, weights_only=False)
        torch.save(content | {key: value}, path)
    else:
        (folder / "plans.json").write_text(json.dumps(json.loads((folder / "plans.json").read_text()) | {key: value}))
    before = sorted(tmp_path.rglob("*"))
    assert import_.main([str(folder), "--workspace", str(tmp_path / "work")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert sorted(tmp_path.rglob("*")) == before

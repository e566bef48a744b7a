"""nnU-Net's own numbers: plans of recorded datasets, feature-map elements, arithmetic of resampling."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nnreg.planning.dense_prediction.feature_maps import plain_unet_elements, residual_unet_elements
from nnreg.planning.dense_prediction.presets import PRESETS
from nnreg.planning.dense_prediction.resampling import new_shape, separate_axis
from nnreg.planning.dense_prediction.settings import blocks, deep_supervision_weights, features
from nnreg.planning.topology import topology

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import planner_equality  # noqa: E402

UNITS = json.loads((DATA / "nnunet_planning_units.json").read_text())
RECORDED = [
    pytest.param(content["input"], planner, plans, id=f"{name}-{planner}")
    for file in ("nnunet_plans.json", "nnunet_plans_random.json")
    for name, content in json.loads((DATA / file).read_text())["plans"].items()
    for planner, plans in content.items()
    if planner != "input"
]


@pytest.mark.parametrize(("dataset", "planner", "recorded"), RECORDED)
def test_plans_equal_nnunet(dataset, planner, recorded):
    fingerprint = planner_equality.fingerprint_of("Dataset001_Recorded", dataset)
    plans = planner_equality.plan_dense(fingerprint, planner=planner_equality.PLANNERS.get(planner, planner))
    assert planner_equality.differences(planner_equality.as_recorded(plans), recorded) == []


def test_the_benchmark_finds_what_differs(tmp_path, capsys):
    content = json.loads((DATA / "nnunet_plans.json").read_text())["plans"]
    name = "iso_tiny_hippocampus_like"
    path = tmp_path / "plans.json"
    path.write_text(json.dumps({name: {key: content[name][key] for key in ("input", "default", "M")}}))
    assert planner_equality.main([str(path)]) == 0
    content[name]["default"]["2d"]["batch_size"] += 1
    del content[name]["default"]["3d_fullres"]
    path.write_text(json.dumps({name: {key: content[name][key] for key in ("input", "default", "M")}}))
    capsys.readouterr()
    assert planner_equality.main([str(path)]) == 1
    said = capsys.readouterr().out
    assert "default 2d.batch_size" in said
    assert "default 3d_fullres" in said
    assert "default: 0/1 equal" in said
    assert "M: 1/1 equal" in said


@pytest.mark.parametrize("case", UNITS["new_shape"], ids=str)
def test_new_shape(case):
    assert list(new_shape(case["shape"], case["from"], case["to"])) == case["out"]


@pytest.mark.parametrize("case", UNITS["separate_z"], ids=str)
def test_separate_axis(case):
    separate, axis = case["out"]
    found = separate_axis(case["cur"], case["new"])
    assert (found is not None, found) == (separate, axis)


@pytest.mark.parametrize(("name", "preset", "elements"), [("net plain", "default", plain_unet_elements), ("net resenc", "resenc_m", residual_unet_elements)])
def test_recorded_networks_have_as_many_elements(name, preset, elements):
    strides = ((1,) * 3,) + ((2,) * 3,) * 5
    encoder, decoder = blocks(PRESETS[preset], 6).value
    for patch, key in (((128,) * 3, "featuremap_128"), ((160, 192, 224), "featuremap_160_192_224")):
        assert elements(patch, strides, features(6, 3).value, encoder, decoder, 3) == UNITS[name][key]


@pytest.mark.parametrize("seed", range(40))
def test_closed_form_equals_the_library(seed):
    """Random spacing, patch, widths, blocks and heads; the library builds the network, without memory for its weights."""
    torch = pytest.importorskip("torch")
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    rng = np.random.default_rng(seed)
    ndim = int(rng.integers(2, 4))
    shape = topology(rng.uniform(0.3, 6, ndim), rng.integers(4, 130, ndim))
    stages = len(shape.strides)
    width = tuple(int(value) for value in rng.integers(1, 9, stages))
    encoder, decoder = (tuple(int(value) for value in rng.integers(1, 5, count)) for count in (stages, stages - 1))
    heads = int(rng.integers(1, 7))
    common = {
        "input_channels": int(rng.integers(1, 4)),
        "n_stages": stages,
        "features_per_stage": width,
        "conv_op": (torch.nn.Conv2d, torch.nn.Conv3d)[ndim - 2],
        "kernel_sizes": shape.kernel_sizes,
        "strides": shape.strides,
        "num_classes": heads,
        "n_conv_per_stage_decoder": decoder,
        "deep_supervision": False,
    }
    with torch.device("meta"):
        plain = unet.PlainConvUNet(n_conv_per_stage=encoder, **common)
        residual = unet.ResidualEncoderUNet(n_blocks_per_stage=encoder, **common)
    arguments = (shape.patch, shape.strides, width, encoder, decoder, heads)
    assert plain_unet_elements(*arguments) == plain.compute_conv_feature_map_size(shape.patch)
    assert residual_unet_elements(*arguments) == residual.compute_conv_feature_map_size(shape.patch)


def test_deep_supervision_weights():
    for levels, recorded in UNITS["deep_supervision_weights"].items():
        if int(levels) > 1:
            assert deep_supervision_weights(int(levels) + 1).value == pytest.approx(recorded)

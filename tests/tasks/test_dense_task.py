"""DensePredictionTask: nnU-Net's networks from plans, channels of a cascade, pseudo-Dice, samples from stored arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures import unet
from torch import Tensor, nn

from nnreg.architecture import build_dense_network
from nnreg.planning.dense_prediction.presets import DEFAULT, RESENC_M, Preset
from nnreg.planning.dense_prediction.settings import blocks, features
from nnreg.task import task_named
from nnreg.tasks.dense_prediction.task import COUNTS, DensePredictionTask

PARAMETERS = {DEFAULT.name: 31197263, RESENC_M.name: 102351439}  # nnunetv2 2.8.1: a network of 6 stages, 2 channels, 3 classes
pytestmark = pytest.mark.usefixtures("one_thread")


def ours(preset: Preset, stages: int, ndim: int = 3, widths: tuple[int, ...] | None = None) -> nn.Module:
    encoder, decoder = blocks(preset, stages).value
    return build_dense_network(
        preset.network,
        channels=2,
        outputs=3,
        ndim=ndim,
        strides=[(1,) * ndim, *[(2,) * ndim] * (stages - 1)],
        kernel_sizes=[(3,) * ndim] * stages,
        features_per_stage=widths or features(stages, ndim).value,
        blocks_per_stage=encoder,
        decoder_blocks_per_stage=decoder,
    )


def theirs(preset: Preset, stages: int, ndim: int, widths: tuple[int, ...]) -> nn.Module:
    encoder, decoder = blocks(preset, stages).value
    common: dict[str, Any] = {
        "input_channels": 2,
        "n_stages": stages,
        "features_per_stage": widths,
        "conv_op": nn.Conv3d if ndim == 3 else nn.Conv2d,
        "kernel_sizes": 3,
        "strides": [1, *[2] * (stages - 1)],
        "num_classes": 3,
        "n_conv_per_stage_decoder": list(decoder),
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d if ndim == 3 else nn.InstanceNorm2d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
    if preset is DEFAULT:
        return unet.PlainConvUNet(n_conv_per_stage=list(encoder), **common)
    return unet.ResidualEncoderUNet(n_blocks_per_stage=list(encoder), **common)


def given(network: nn.Module, weights: dict[str, Tensor], stages: int) -> nn.Module:
    """Our network with nnU-Net's weights: the encoder has the same names, the decoder is numbered from the coarsest stage there."""
    renamed = {}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        if "all_modules" in name or name.startswith("decoder.encoder"):
            continue  # nnU-Net lists these twice
        if part == "encoder":
            renamed[f"backbone.{name}"] = value
            continue
        kind, number, rest = rest.split(".", 2)
        place = {"transpconvs": "backbone.ups", "stages": "backbone.joins", "seg_layers": "heads"}[kind]
        renamed[f"{place}.{stages - 2 - int(number)}.{rest}"] = value
    twice = {name: network.state_dict()[name] for name in network.state_dict() if "all_modules" in name}
    for name in twice:
        before, after = name.split("all_modules.")
        index, _, kind = after.partition(".")
        twice[name] = renamed.get(f"{before}{('conv', 'norm')[int(index)]}.{kind}", twice[name])
    network.load_state_dict({**renamed, **twice})
    return network


@pytest.mark.parametrize("preset", [DEFAULT, RESENC_M], ids=lambda preset: preset.name)
def test_networks_have_nnunets_number_of_parameters(preset: Preset) -> None:
    with torch.device("meta"):
        network = ours(preset, 6)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[preset.name]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("preset", [DEFAULT, RESENC_M], ids=lambda preset: preset.name)
def test_with_nnunets_weights_outputs_and_gradients_are_nnunets(preset: Preset, ndim: int) -> None:
    widths = (4, 6, 8)
    peer = theirs(preset, 3, ndim, widths)
    for parameter in peer.parameters():
        nn.init.normal_(parameter, std=0.2)
    network = given(ours(preset, 3, ndim, widths), peer.state_dict(), 3)
    image = torch.randn(2, 2, *(8, 16, 12)[:ndim])
    found, expected = network(image), peer(image)
    assert len(found) == len(expected) == 2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    sum(level.square().mean() for level in found).backward()
    sum(level.square().mean() for level in expected).backward()
    assert float(norm_of_gradients(network)) == pytest.approx(float(norm_of_gradients(peer)), rel=1e-4)


def norm_of_gradients(network: nn.Module) -> Tensor:
    return torch.stack([parameter.grad.norm() for parameter in network.parameters() if parameter.grad is not None]).norm()


def test_pseudo_dice_sums_over_the_epoch_before_it_divides() -> None:
    task = task_named("dense_prediction")
    steps = [
        {"loss": torch.tensor(1.0), f"{COUNTS}1": torch.tensor([9, 1, 0, 10]), f"{COUNTS}2": torch.tensor([0, 0, 0, 20])},
        {"loss": torch.tensor(3.0), f"{COUNTS}1": torch.tensor([0, 0, 10, 10]), f"{COUNTS}2": torch.tensor([0, 0, 0, 20])},
    ]
    *kept, dice = task.epoch_metrics(steps=steps)
    assert [float(step["loss"]) for step in kept] == [1.0, 3.0]
    assert all(set(step) == {"loss"} for step in kept)
    assert float(dice["dice"]) == pytest.approx(18 / 29)  # not the mean of 18/19 and 0; a class that is nowhere does not count
    assert float(dice["dice_1"]) == pytest.approx(18 / 29)
    assert np.isnan(float(dice["dice_2"]))
    assert [float(dice[name]) for name in ("iou", "precision", "recall")] == pytest.approx([9 / 20, 9 / 10, 9 / 19])
    assert float(dice["accuracy"]) == pytest.approx((29 / 40 + 1) / 2)  # what is nowhere is right everywhere
    assert task.epoch_metrics(steps=[]) == []
    assert isinstance(task, DensePredictionTask)

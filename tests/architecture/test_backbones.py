"""Backbones: dense prediction, fields between grids, published sizes, memory, refusals."""

from __future__ import annotations

import sys
from math import ceil
from typing import Any

import pytest
import torch
from torch import nn

from nnreg.architecture import NETWORKS, Backbone, build_dense_network, build_network
from nnreg.architecture.backbone import FieldNetwork, pad_to_multiple, sampled_along_axes, total_strides
from nnreg.architecture.custom import CorrMLP, DynamicKiUNet, DynamicUIUNet, DynamicUIUNet3D, GlobalNet, LocalNet, OriginalUNetReg
from nnreg.architecture.custom.window_mlp import WindowMLP
from nnreg.architecture.memory import without_numbers
from nnreg.errors import ConfigurationError
from nnreg.geometry import identity_grid
from nnreg.training.configs import TRAINER_CONFIGS

pytestmark = pytest.mark.usefixtures("one_thread")

DENSE = {
    "plain_unet": {},
    "resenc_unet": {"encoder_blocks": (1, 2)},
    "kiunet": {"ki_levels": 2, "width": 1.5},
    "uiunet": {"height": 5},
}
PLANS: dict[str, dict[str, Any]] = {
    "2d": {"shape": (19, 26), "strides": ((1, 1), (2, 2), (2, 2), (2, 2))},
    "3d anisotropic": {"shape": (5, 21, 18), "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2))},
}


def plan(key: str, *, first: int = 4) -> dict[str, Any]:
    strides = PLANS[key]["strides"]
    ndim, stages = len(strides[0]), len(strides)
    kernels = [tuple(1 if step == 1 and max(stride) > 1 else 3 for step in stride) for stride in strides]
    features = tuple(first * min(2**stage, 4) for stage in range(stages))
    return {
        "channels": 1,
        "ndim": ndim,
        "strides": strides,
        "kernel_sizes": kernels,
        "features_per_stage": features,
        "blocks_per_stage": (1,) * stages,
    }


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def cubes(ndim: int, stages: int, features: tuple[int, ...] = (), *, first: int = 1) -> dict[str, Any]:
    """A plan that halves every axis at every stage."""
    return {
        "ndim": ndim,
        "strides": [(first,) * ndim] + [(2,) * ndim] * (stages - 1),
        "kernel_sizes": [(3,) * ndim] * stages,
        "features_per_stage": features or (1,) * stages,
        "blocks_per_stage": (1,) * stages,
    }


@pytest.mark.parametrize("key", PLANS)
@pytest.mark.parametrize("name", DENSE)
class TestDensePrediction:
    def test_returns_logits_of_the_planned_scales_at_any_size(self, name: str, key: str) -> None:
        network = build_dense_network(name, outputs=3, **plan(key), **DENSE[name])
        for add in (0, 3):
            shape = tuple(size + add for size in PLANS[key]["shape"])
            logits = network(torch.randn(2, 1, *shape))
            scales = total_strides(PLANS[key]["strides"])[:-1]
            assert [tuple(level.shape) for level in logits] == [(2, 3, *(ceil(size / step) for size, step in zip(shape, scale))) for scale in scales]

    def test_deep_supervision_changes_neither_weights_nor_the_finest_logits(self, name: str, key: str) -> None:
        network = build_dense_network(name, outputs=2, **plan(key), **DENSE[name]).eval()
        single = build_dense_network(name, outputs=2, deep_supervision=False, **plan(key), **DENSE[name]).eval()
        single.load_state_dict(network.state_dict())
        image = torch.randn(1, 1, *PLANS[key]["shape"])
        (logits,) = single(image)
        assert torch.equal(logits, network(image)[0])

    def test_returns_no_activations_and_trains_every_parameter(self, name: str, key: str) -> None:
        network = build_dense_network(name, outputs=2, **plan(key), **DENSE[name])
        logits = network(torch.randn(1, 1, *PLANS[key]["shape"]))
        assert min(float(level.detach().min()) for level in logits) < 0 < max(float(level.detach().max()) for level in logits)
        sum((level * torch.randn_like(level)).sum() for level in logits).backward()
        assert [parameter for parameter, value in network.named_parameters() if value.grad is None or not value.grad.isfinite().all()] == []


def test_networks_of_pairs_are_refused_for_dense_prediction() -> None:
    with pytest.raises(ConfigurationError, match=r"registers pairs.*kiunet"):
        build_dense_network("dual_pyramid", outputs=2, **plan("2d"))
    with pytest.raises(ConfigurationError, match="found"):
        build_dense_network("kiunet", outputs=2, **plan("2d"))(torch.randn(1, 2, 16, 16))


class TestGrids:
    def test_values_between_voxels_are_linear_and_go_on_beyond(self, shape: tuple[int, ...]) -> None:
        line = identity_grid(shape)
        positions = [torch.linspace(-1.3, size + 0.7, size + 4) for size in shape]
        found = sampled_along_axes(line, positions)
        for axis, position in enumerate(positions):
            values = found[0, axis].movedim(axis, -1)
            torch.testing.assert_close(values, position.expand_as(values), rtol=1e-4, atol=1e-4)

    def test_padding_repeats_the_last_voxels(self) -> None:
        padded = pad_to_multiple(torch.arange(10.0).reshape(1, 1, 2, 5), (4, 3))
        assert padded[0, 0, 3].tolist() == [5, 6, 7, 8, 9, 9]

    @pytest.mark.parametrize("resolution", [1, 2])
    @pytest.mark.parametrize("key", PLANS)
    def test_an_affine_displacement_is_the_same_at_every_level(self, key: str, resolution: int) -> None:
        """Each level states the displacement where its blocks have their centres; all must agree on the input's grid."""
        network = build_network("plain_unet", field_resolution=resolution, **plan(key))
        assert isinstance(network, FieldNetwork)
        shape, ndim = PLANS[key]["shape"], network.ndim
        matrix = torch.randn(ndim, ndim) * 0.1
        for level, (block, step) in enumerate(zip(network.backbone.strides, network.field_strides)):
            ones = (1,) * ndim
            steps = torch.tensor(step, dtype=torch.float32).reshape(1, ndim, *ones)
            offset = torch.tensor([first * (size - 1) / 2 for first, size in zip(network.entry_stride, block)]).reshape(1, ndim, *ones)
            centres = identity_grid([size // by + 2 for size, by in zip(shape, step)]) * steps + offset
            flow = torch.einsum("ij,bj...->bi...", matrix, centres) / steps
            counts = [max(2, ceil(size / by)) for size, by in zip(shape, step)]
            spacing = torch.tensor([(size - 1) / (number - 1) for size, number in zip(shape, counts)]).reshape(1, ndim, *ones)
            expected = torch.einsum("ij,bj...->bi...", matrix, identity_grid(counts) * spacing) / spacing
            torch.testing.assert_close(network._sampled(flow, level, shape, counts), expected, rtol=1e-4, atol=1e-4)

    def test_windows_are_mixed_each_by_itself_and_put_back_in_place(self) -> None:
        layer = WindowMLP(3, (2, 1, 4))
        features = torch.randn(2, 5, 3, 7, 3)
        changed = features.clone()
        changed[:, 2, 1, 5] += torch.tensor([1.0, -2.0, 0.5])  # in the window of rows 2-3, slice 1, columns 4-6
        moved = (layer(changed) - layer(features)).abs().sum(dim=(0, 4)) > 1e-7
        assert moved[2:4, 1, 4:7].all()
        moved[2:4, 1, 4:7] = False
        assert not moved.any()


class TestPublishedSizes:
    """Numbers of weights of the released networks, where the faithful settings make ours the same network."""

    @pytest.fixture(autouse=True)
    def _without_memory(self) -> Any:
        with torch.device("meta"):
            yield

    def test_nnunet(self) -> None:
        features = (32, 64, 128, 256, 320, 320)
        arguments: dict[str, Any] = {"channels": 2, "outputs": 3, **cubes(3, 6, features)}
        assert count(build_dense_network("plain_unet", **{**arguments, "blocks_per_stage": (2,) * 6})) == 31_197_263
        assert count(build_dense_network("resenc_unet", **{**arguments, "blocks_per_stage": (1, 3, 4, 6, 6, 6)})) == 102_351_439

    @pytest.mark.parametrize(("depth", "size", "published"), [(2, 64, 3_506_700), (3, 64, 2_254_092), (4, 64, 6_089_484), (3, 128, 7_759_116)])
    def test_globalnet(self, depth: int, size: int, published: int) -> None:
        assert count(GlobalNet(channels=1, **cubes(3, 5), depth=depth, num_channel_initial=16, image_size=(size,) * 3)) == published

    def test_unetreg(self) -> None:
        assert count(OriginalUNetReg(channels=1, **cubes(3, 5, (16, 32, 64, 128, 256)))) == 4_808_346

    @pytest.mark.parametrize(("features", "levels", "published"), [(16, (0, 1, 2, 3), 1_500_400), (16, (3,), 764_672), (32, (0, 1, 2, 3), 5_937_120)])
    def test_localnet(self, features: int, levels: tuple[int, ...], published: int) -> None:
        network = LocalNet(channels=1, **cubes(3, 4), num_channel_initial=features, extract_levels=levels)
        biases = 3 * len(levels)  # of our heads; the original's have none
        assert count(network) - biases == published

    def test_corrmlp(self) -> None:
        assert count(CorrMLP(channels=1, **cubes(3, 4), field_resolution=1)) == 4_190_834
        assert count(CorrMLP(channels=1, **cubes(2, 4), field_resolution=1, expanding="resize")) == 1_330_426

    def test_kiunet(self) -> None:
        backbone = DynamicKiUNet(inputs=1, **cubes(2, 3, (16, 32, 64), first=2), ki_levels=3, ki_max_scale=8, ki_share=1)
        head = 2 * (backbone.widths[0] + 1)
        unused = 2 * (64 * 64 * 9 + 64 + 2 * 64)  # a third pair of refinements in the released decoder, which it never calls
        assert count(backbone) + head == 290_658 - unused

    def test_uiunet(self) -> None:
        features = (64, 128, 256, 512, 512, 512)
        backbone = DynamicUIUNet(inputs=3, **cubes(2, 6, features), inner_features=(32, 32, 64, 128, 256, 256))
        sides = sum(9 * width + 1 for width in (64, 64, 128, 256, 512, 512)) + 7  # the original's heads, and what fuses them
        assert count(backbone) - count(backbone.sides) + sides == 50_541_461


def test_unetreg_original_is_monais_network_but_for_its_last_addition() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    monai = nets.UNet(spatial_dims=2, in_channels=2, out_channels=2, channels=(4, 6, 8), strides=(2, 1), num_res_units=2)
    ours = OriginalUNetReg(channels=1, **{**cubes(2, 3, (4, 6, 8)), "strides": [(1, 1), (2, 2), (1, 1)]})
    names = {name: f"network.{name}".replace("model.2.1.conv.unit0.conv", "model.2.1.convolution") for name in monai.state_dict()}
    ours.load_state_dict({names[name]: value for name, value in monai.state_dict().items()})
    added: list[torch.Tensor] = []
    monai.model[-1][-1].register_forward_hook(lambda module, given, found: added.append(found - given[0]))
    fixed, moving = torch.randn(2, 1, 1, 12, 10).unbind(0)
    monai(torch.cat([fixed, moving], dim=1))
    torch.testing.assert_close(ours(fixed=fixed, moving=moving)[0], added[0])


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("kiunett", {}, "did you mean 'kiunet'"),
            ("kiunet", {"pol_type": "max"}, "no option 'pol_type'; did you mean 'pool_type'"),
            ("kiunet", {"pool_type": "min"}, "pool_type 'min' is unknown"),
            ("kiunet", {"ki_max_scale": 3}, "power of 2"),
            ("uiunet", {"height": 2}, "height >= 3"),
            ("globalnet", {"mode": "afine"}, "did you mean 'affine'"),
            ("globalnet", {"depth": 9}, "depth 9 needs a plan of 10 stages"),
            ("localnet", {"extract_levels": (1, 7)}, "depth 7"),
            ("corrmlp", {"windows": ()}, "windows"),
            ("plain_unet", {"decoder_convolutions": 0}, "1 convolution or more"),
            ("resenc_unet", {"field_resolution": 64}, "field_resolution 64"),
            ("primus", {"size": "XXL"}, "size 'XXL' is unknown"),
            ("swin_unetr", {"feature_size": 10}, "multiple of 12"),
        ],
    )
    def test_one_line_before_anything_is_built(self, name: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message) as refusal:
            build_network(name, **plan("2d"), **options)
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize(
        ("name", "module", "advice"),
        [("swin_unetr", "monai.networks.nets", "nnreg\\[monai\\]"), ("primus", "dynamic_network_architectures.architectures.primus", "install timm")],
    )
    def test_an_absent_package_is_named(self, name: str, module: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigurationError, match=advice) as refusal:
            build_network(name, **plan("2d"))
        assert "\n" not in str(refusal.value)

    def test_a_function_that_returns_something_else(self) -> None:
        with pytest.raises(ConfigurationError, match="gave a int"):
            build_network(lambda **arguments: 3, **plan("2d"))


@pytest.mark.parametrize("name", [name for name, recipe in TRAINER_CONFIGS.items() if isinstance(recipe.architecture, str)])
@pytest.mark.parametrize("ndim", [2, 3])
def test_every_recipe_names_a_network_that_can_be_built(name: str, ndim: int) -> None:
    recipe = TRAINER_CONFIGS[name]
    try:
        network = without_numbers(lambda: build_network(recipe.architecture, channels=2, **cubes(ndim, 4, (4, 8, 16, 16)), **recipe.architecture_kwargs))
    except ConfigurationError as error:
        pytest.skip(str(error))  # of another package that is not there
    assert network.field_count >= 1
    assert recipe.description


def test_a_rigid_map_keeps_distances_in_the_world() -> None:
    spacing = (2.0, 1.0, 0.5)
    network = GlobalNet(channels=1, **cubes(3, 3, (2, 2, 2)), mode="rigid", spacing=spacing)
    nn.init.normal_(network.head.weight, std=0.5 * network.head.in_features**0.5)
    shape = (6, 9, 12)
    images = {key: torch.randn(1, 1, *shape) for key in ("fixed", "moving")}
    scale = torch.tensor(spacing).reshape(1, 3, 1, 1, 1)
    before = identity_grid(shape) * scale
    after = before + network(**images)[0].detach() * scale
    corners = [points[0, :, ::5, ::8, ::11].flatten(1).T for points in (before, after)]
    torch.testing.assert_close(torch.cdist(corners[1], corners[1]), torch.cdist(corners[0], corners[0]), rtol=1e-3, atol=1e-3)
    assert (after - before).norm(dim=1).max() > 0.5


def test_names_of_earlier_configurations() -> None:
    assert DynamicUIUNet3D is DynamicUIUNet
    assert NETWORKS["kiunet"] is DynamicKiUNet
    assert issubclass(DynamicKiUNet, Backbone)

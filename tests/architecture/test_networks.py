"""One contract for every network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nnreg.architecture import NETWORKS, RegistrationNetwork, build_network
from nnreg.architecture.blocks import FlowHead
from nnreg.architecture.custom import GlobalNet
from nnreg.architecture.custom.transformers import _primus, _swin_unetr
from nnreg.errors import ConfigurationError
from nnreg.geometry import compose, warp

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Grid:
    """An input shape and the strides that suit it."""

    shape: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)


GRIDS = {
    "2d odd": Grid((19, 26), ((1, 1), (2, 2), (2, 2), (2, 2))),
    "3d isotropic": Grid((12, 17, 14), ((1, 1, 1), (2, 2, 2), (2, 2, 2))),
    "3d anisotropic": Grid((5, 21, 18), ((1, 1, 1), (1, 2, 2), (2, 2, 2))),
    "3d one slice": Grid((1, 13, 10), ((1, 1, 1), (2, 2, 2), (2, 2, 2))),
}
NETWORK_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "dual_pyramid": ("dual_pyramid", {}),
    "dual_pyramid full resolution": ("dual_pyramid", {"field_resolution": 1, "integration_steps": 3}),
    "dual_pyramid inverse consistent": ("dual_pyramid", {"inverse_consistent": True}),
    "unetreg": ("unetreg", {}),
    "unetreg velocity": ("unetreg", {"integration_steps": 7, "field_resolution": 2}),
    "plain_unet": ("plain_unet", {"field_resolution": 1}),
    "resenc_unet velocity": ("resenc_unet", {"integration_steps": 3, "field_resolution": 2}),
    "kiunet": ("kiunet", {}),
    "kiunet enlarged twice": ("kiunet", {"ki_levels": 2, "ki_max_scale": 4, "pool_type": "conv", "field_resolution": 1, "checkpointing": True}),
    "uiunet": ("uiunet", {"height": 5, "side_features": 2}),
    "globalnet": ("globalnet", {}),
    "globalnet rigid": ("globalnet", {"mode": "rigid", "depth": 1, "max_disp": 0.5}),
    "localnet": ("localnet", {}),
    "localnet without its finest level": ("localnet", {"extract_levels": (1, 2)}),
    "unetreg_original": ("unetreg_original", {}),
    "corrmlp": ("corrmlp", {"enc_channels": 2, "dec_channels": 4, "windows": (3, 5)}),
    "corrmlp full resolution": (
        "corrmlp",
        {"enc_channels": 2, "dec_channels": 4, "windows": (3,), "field_resolution": 1, "expanding": "resize", "use_checkpoint": False},
    ),
}
HEAVY_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "primus": ("primus", {"embed_dim": 24, "depth": 1, "heads": 2}),
    "swin_unetr": ("swin_unetr", {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}),
}


def build(name: str, grid: Grid, channels: int = 1, **kwargs: Any) -> RegistrationNetwork:
    stages = len(grid.strides)
    kernels = [tuple(1 if step == 1 and max(stride) > 1 else 3 for step in stride) for stride in grid.strides]
    return build_network(
        name,
        channels=channels,
        ndim=grid.ndim,
        strides=grid.strides,
        kernel_sizes=kernels,
        features_per_stage=(4, 4, 6, 8)[:stages],
        blocks_per_stage=(1, 1, 2, 1)[:stages],
        **kwargs,
    )


def pair(shape: Sequence[int], channels: int = 1, batch: int = 1, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, channels, *shape, generator=generator) for name in ("fixed", "moving")}


def awaken(network: RegistrationNetwork, std: float = 0.05) -> None:
    """Weights under which the fields are no longer near zero."""
    for module in network.modules():
        if isinstance(module, FlowHead):
            torch.nn.init.normal_(module.convolution.weight, std=std)
        if isinstance(module, GlobalNet):
            torch.nn.init.normal_(module.head.weight, std=0.1 * module.head.in_features**0.5)


def every_network() -> list[Any]:
    """All of them; what needs another package, or seconds, is marked as such."""
    heavy = [pytest.param(*options, id=key, marks=pytest.mark.slow) for key, options in HEAVY_OPTIONS.items()]
    return [pytest.param(*options, id=key) for key, options in NETWORK_OPTIONS.items()] + heavy


@pytest.fixture
def importable(name: str) -> None:
    """Skip networks whose package is not there, or not usable."""
    try:
        {"primus": _primus, "swin_unetr": _swin_unetr}.get(name, bool)()
    except ConfigurationError as error:
        pytest.skip(str(error))


@pytest.fixture(params=GRIDS, ids=str)
def grid(request: pytest.FixtureRequest) -> Grid:
    return GRIDS[request.param]


@pytest.mark.parametrize(("name", "options"), every_network())
@pytest.mark.usefixtures("importable")
class TestEveryNetwork:
    def test_returns_fields_of_the_grid_and_ever_coarser(self, name: str, options: dict[str, Any], grid: Grid) -> None:
        network = build(name, grid, **options)
        fields = network(**pair(grid.shape, batch=2))
        assert len(fields) == network.field_count
        assert tuple(fields[0].shape) == (2, grid.ndim, *grid.shape)
        for finer, coarser in pairwise(fields):
            assert coarser.shape[:2] == finer.shape[:2]
            assert coarser[0, 0].numel() < finer[0, 0].numel()
            assert all(a <= b for a, b in zip(coarser.shape[2:], finer.shape[2:], strict=True))
        assert all(field.dtype == torch.float32 for field in fields)

    def test_starts_near_the_identity(self, name: str, options: dict[str, Any], grid: Grid) -> None:
        fields = build(name, grid, **options)(**pair(grid.shape))
        assert max(float(field.detach().abs().max()) for field in fields) < 0.05

    def test_deep_supervision_changes_neither_weights_nor_the_field(self, name: str, options: dict[str, Any], grid: Grid) -> None:
        network = build(name, grid, deep_supervision=True, **options).eval()
        single = build(name, grid, deep_supervision=False, **options).eval()
        awaken(network)
        assert set(network.state_dict()) == set(single.state_dict())
        single.load_state_dict(network.state_dict())
        images = pair(grid.shape)
        (field,) = single(**images)
        assert torch.equal(field, network(**images)[0])
        network.deep_supervision = False
        assert len(network(**images)) == 1

    def test_survives_saving(self, name: str, options: dict[str, Any], grid: Grid, tmp_path: Path) -> None:
        network, other = build(name, grid, **options).eval(), build(name, grid, **options).eval()
        awaken(network)
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
        images = pair(grid.shape)
        for before, after in zip(network(**images), other(**images), strict=True):
            assert torch.equal(before, after)

    def test_takes_any_size(self, name: str, options: dict[str, Any], grid: Grid) -> None:
        network = build(name, grid, **options)
        for add in (1, 2, 5):
            shape = tuple(size + add * (axis + 1) for axis, size in enumerate(grid.shape))
            field = network(**pair(shape))[0]
            assert tuple(field.shape[2:]) == shape
            assert torch.isfinite(field).all()

    def test_takes_several_channels(self, name: str, options: dict[str, Any], grid: Grid) -> None:
        assert build(name, grid, channels=3, **options)(**pair(grid.shape, channels=3))[0].shape[1] == grid.ndim

    def test_trains_every_parameter(self, name: str, options: dict[str, Any], grid: Grid) -> None:
        network = build(name, grid, **options)
        awaken(network)
        fields = network(**pair(grid.shape))
        # not squares: a field that is still zero would stop them
        sum((field * torch.randn_like(field)).sum() for field in fields).backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key

    def test_judges_each_pair_by_itself(self, name: str, options: dict[str, Any], grid: Grid) -> None:
        network = build(name, grid, **options)
        awaken(network)
        images = pair(grid.shape, batch=2)
        together = network(**images)[0]
        alone = torch.cat([network(fixed=images["fixed"][i : i + 1], moving=images["moving"][i : i + 1])[0] for i in range(2)])
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)

    def test_gives_float32_fields_under_autocast(self, name: str, options: dict[str, Any], grid: Grid) -> None:
        network = build(name, grid, **options)
        awaken(network)
        images = pair(grid.shape)
        exact = network(**images)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            field = network(**images)[0]
        assert field.dtype == torch.float32
        assert (field - exact).norm() < 0.2 * exact.norm()
        field.sum().backward()

    def test_refuses_images_it_was_not_built_for(self, name: str, options: dict[str, Any], grid: Grid) -> None:
        network = build(name, grid, channels=2, **options)
        with pytest.raises(ConfigurationError, match="built for"):
            network(**pair(grid.shape, channels=1))
        with pytest.raises(ConfigurationError, match="built for"):
            network(fixed=pair(grid.shape, channels=2)["fixed"], moving=pair([size + 1 for size in grid.shape], channels=2)["moving"])


def test_every_registered_network_is_under_the_contract() -> None:
    assert set(NETWORKS) <= {name for name, _ in (NETWORK_OPTIONS | HEAVY_OPTIONS).values()}


@pytest.mark.parametrize("key", ["2d odd", "3d isotropic", "3d anisotropic"])
def test_swapping_the_images_inverts_the_field(key: str) -> None:
    grid = GRIDS[key]
    grid = Grid(tuple(3 * size for size in grid.shape), grid.strides)
    images = pair(grid.shape)
    left = {}
    for consistent in (True, False):
        torch.manual_seed(1)
        network = build("dual_pyramid", grid, inverse_consistent=consistent)
        awaken(network, std=0.1)
        with torch.no_grad():
            there = network(**images)[0]
            back = network(fixed=images["moving"], moving=images["fixed"])[0]
        # near the border a map leaves the grid, and what lies beyond has no inverse
        inside = (slice(None), slice(None), *(slice(size // 6, size - size // 6) for size in grid.shape))
        left[consistent] = float(compose(there, back)[inside].norm(dim=1).mean() / there[inside].norm(dim=1).mean())
        assert there.norm(dim=1).mean() > 0.5
    assert left[True] < 0.05
    assert left[False] > 10 * left[True]


def test_learns_a_known_shift() -> None:
    grid = Grid((32, 40), ((1, 1), (2, 2), (2, 2), (2, 2)))
    blobs = torch.nn.functional.avg_pool2d(torch.randn(1, 1, *grid.shape), 7, stride=1, padding=3) * 5
    shift = torch.tensor([2.0, -1.5]).reshape(1, 2, 1, 1).expand(1, 2, *grid.shape)
    fixed = warp(blobs, shift)
    network = build("dual_pyramid", grid)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        field = network(fixed=fixed, moving=blobs)[0]
        loss = (warp(blobs, field) - fixed).square().mean() + 0.1 * torch.diff(field, dim=2).square().mean() + 0.1 * torch.diff(field, dim=3).square().mean()
        loss.backward()
        optimiser.step()
    inside = (slice(None), slice(None), slice(5, -5), slice(5, -5))
    error = (network(fixed=fixed, moving=blobs)[0] - shift)[inside].norm(dim=1).mean()
    assert error < 0.5 * shift.norm(dim=1).mean()


class TestBuilding:
    GRID = GRIDS["3d isotropic"]

    def test_names_the_nearest_network(self) -> None:
        with pytest.raises(ConfigurationError, match="dual_pyramid"):
            build("dual_pyramids", self.GRID)

    def test_refuses_an_unknown_option(self) -> None:
        with pytest.raises(ConfigurationError, match="corelation_radius"):
            build("dual_pyramid", self.GRID, corelation_radius=1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"features_per_stage": (4, 4)}, "one entry per stage"),
            ({"strides": ((1, 1), (2, 2), (2, 2))}, "strides"),
            ({"strides": ((2, 2, 2), (2, 2, 2), (2, 2, 2))}, "stage 0"),
            ({"kernel_sizes": ((3, 3, 3), (2, 3, 3), (3, 3, 3))}, "odd"),
            ({"field_resolution": 8}, "field_resolution"),
            ({"ndim": 1, "strides": ((1,), (2,), (2,)), "kernel_sizes": ((3,), (3,), (3,))}, "2 or 3 axes"),
        ],
    )
    def test_refuses_stages_that_contradict_each_other(self, change: dict[str, Any], message: str) -> None:
        plan: dict[str, Any] = {
            "channels": 1,
            "ndim": 3,
            "strides": self.GRID.strides,
            "kernel_sizes": ((3, 3, 3),) * 3,
            "features_per_stage": (4, 4, 4),
            "blocks_per_stage": (1, 1, 1),
        }
        with pytest.raises(ConfigurationError, match=message):
            build_network("dual_pyramid", **{**plan, **change})


@pytest.mark.parametrize(
    "name",
    [
        *("globalnet", "localnet", "plain_unet", "resenc_unet", "kiunet", "uiunet", "unetreg", "unetreg_original", "dual_pyramid", "corrmlp"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY_OPTIONS),
    ],
)
@pytest.mark.parametrize(("shape", "stages"), [((64, 64), 7), ((9, 5), 5), ((17, 16), 5), ((2, 3), 4), ((7, 9, 8), 4), ((16, 1, 3), 4)], ids=str)
@pytest.mark.usefixtures("importable")
def test_trains_on_images_smaller_than_its_depth(name: str, shape: tuple[int, ...], stages: int) -> None:
    """The deepest map is never a single voxel, which a batch of one could not be normalised by."""
    ndim = len(shape)
    grid = Grid(shape, ((1,) * ndim, *((2,) * ndim,) * (stages - 1)))
    small = HEAVY_OPTIONS.get(name, (name, {}))[1]
    network = build_network(
        name,
        channels=1,
        ndim=ndim,
        strides=grid.strides,
        kernel_sizes=[(3,) * ndim] * stages,
        features_per_stage=(4,) * stages,
        blocks_per_stage=(1,) * stages,
        **small,
    ).train()
    awaken(network)
    field = network(**pair(shape))[0]
    assert tuple(field.shape[2:]) == shape
    field.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)

"""Memory of a training step, found without allocating any, against what a real one keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnreg.architecture import build_dense_network, build_network
from nnreg.architecture.memory import dense_training_memory, training_memory
from nnreg.errors import ConfigurationError, TrainingError
from nnreg.training.runtime_utils.memory import check_fits

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN: dict[str, Any] = {
    "channels": 1,
    "ndim": 2,
    "strides": ((1, 1), (2, 2), (2, 2), (2, 2)),
    "kernel_sizes": ((3, 3),) * 4,
    "features_per_stage": (4, 8, 16, 16),
    "blocks_per_stage": (1,) * 4,
}


def build(name: str = "kiunet", **options: Any) -> Callable[[], nn.Module]:
    return lambda: build_network(name, **PLAN, **options)


def needed(shape: tuple[int, ...] = (64, 80), batch_size: int = 1, **options: Any) -> int:
    found = training_memory(build(**options), shape, channels=1, batch_size=batch_size)
    assert found is not None
    return found.passes


@pytest.mark.parametrize("name", ["dual_pyramid", "unetreg", "plain_unet", "kiunet", "uiunet", "localnet"])
def test_is_what_autograd_keeps_and_a_share_for_what_is_on_its_way(name: str) -> None:
    network, kept = build(name)(), {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    images = {key: torch.rand(1, 1, 96, 80) for key in ("fixed", "moving")}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        fields = network(**images)
    measured = sum(size for pointer, size in kept.items() if pointer not in weights)
    assert fields[0].requires_grad
    assert 0.9 < needed((96, 80), name=name) / measured < 2.5


def test_grows_with_batch_and_size_and_shrinks_with_checkpointing() -> None:
    base = needed(field_resolution=1)
    assert 1.8 < needed(batch_size=2, field_resolution=1) / base < 2.2
    assert 3.5 < needed((128, 160), field_resolution=1) / base < 4.5
    assert needed(field_resolution=2) < 0.6 * base
    assert needed(field_resolution=1, checkpointing=True) < 0.9 * base


def test_of_a_dense_network() -> None:
    def build() -> nn.Module:
        return build_dense_network("plain_unet", outputs=3, **PLAN)

    small, large = (dense_training_memory(build, shape, channels=1) for shape in ((32, 40), (64, 80)))
    assert small is not None
    assert large is not None
    assert small.parameters == sum(parameter.numel() for parameter in build().parameters())
    assert 3.5 < large.passes / small.passes < 4.5


def test_few_features_are_copied_in_whole_blocks() -> None:
    """A convolution from 4 to 4 features holds each twice: as it is, and in a block of 16."""

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(2, width, 1), nn.Conv2d(width, width, 3, padding=1)

        def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
            return [self.body(self.stem(torch.cat([fixed, moving], dim=1)))]

    passes = {width: training_memory(lambda width=width: Net(width), (512, 512), channels=1).passes for width in (4, 8, 16)}  # type: ignore[misc,union-attr]
    own = 4 * 512**2  # bytes of one feature
    assert passes[8] - passes[4] < passes[16] - passes[8]
    assert passes[4] > 2 * 16 * own


@pytest.mark.parametrize("by_name", [False, True])
def test_attention_keeps_no_matrix_of_all_pairs(by_name: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(2, 8, 1)

        def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
            image = self.stem(torch.cat([fixed, moving], dim=1))
            tokens = image.flatten(2).transpose(1, 2)[:, None]
            named = {"query": tokens, "key": tokens, "value": tokens} if by_name else {}
            seen = nn.functional.scaled_dot_product_attention(*(() if by_name else (tokens,) * 3), **named)
            return [seen[:, 0].transpose(1, 2).reshape_as(image)]

    found = training_memory(Net, (256, 256), channels=1)
    assert found is not None
    assert found.passes < 100 * 4 * 256**2  # a hundred features; a matrix of all pairs would be 65,536
    fields = Net()(fixed=torch.rand(1, 1, 8, 8), moving=torch.rand(1, 1, 8, 8))
    assert fields[0].shape == (1, 8, 8, 8)


def test_allocates_nothing() -> None:
    """A step of many terabytes."""
    found = training_memory(build(), (400_000, 400_000), channels=1)
    assert found is not None
    assert found.gb > 10_000


class _Reading(nn.Module):
    """Computes with tensors when it is made, and goes by what it sees when it is called."""

    def __init__(self, *, reads: bool) -> None:
        super().__init__()
        self.reads, self.width = reads, int(torch.arange(3).sum())
        self.layer = nn.Conv2d(2, 2, self.width, padding="same")

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        if self.reads and bool(fixed.mean() > 0):
            fixed = -fixed
        return [self.layer(torch.cat([fixed, moving], dim=1))]


def test_a_network_that_reads_numbers() -> None:
    found = training_memory(lambda: _Reading(reads=False), (16, 18), channels=1)
    assert found is not None
    assert found.parameters == 2 * 2 * 9 + 2
    assert training_memory(lambda: _Reading(reads=True), (16, 18), channels=1) is None


def test_what_does_not_fit_is_refused() -> None:
    check_fits(0.001, torch.device("cpu"), "network x")
    with pytest.raises(TrainingError, match=r"network x needs about 9000000.0 GB .* cpu has .*field_resolution") as refusal:
        check_fits(9e6, torch.device("cpu"), "network x")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["plain_unet", "resenc_unet", "kiunet", "uiunet"])
def test_an_image_too_small_for_the_depth_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot work on images of 3x2 voxels") as refusal:
        training_memory(build(name), (3, 2), channels=1)
    assert "\n" not in str(refusal.value)

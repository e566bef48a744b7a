"""What a training does with a GPU, tried without one: precision, compiling, cases that stay on the device, shared memory, too little memory."""

from __future__ import annotations

import dataclasses
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Tiny

from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError
from nnreg.inference.trained_networks import Predictor
from nnreg.losses.base import slab_voxels
from nnreg.planning.plans import Configuration, LossTerm, Plans
from nnreg.preprocessing.registration.storage import PreprocessedDataset
from nnreg.tasks.registration import samples as registration_samples
from nnreg.tasks.registration.samples import PairSamples
from nnreg.tasks.registration.task import RegistrationTask
from nnreg.training.augmentation import on_device
from nnreg.training.dataloading.loaders import keep_resident
from nnreg.training.dataloading.shared_memory import MB, fitting_workers
from nnreg.training.execution.run import build_trainer
from nnreg.training.runtime_utils.compiling import compile_network
from nnreg.training.runtime_utils.runtime import autocast_type, channels_last, fastest_convolutions, needs_scaler, prediction_precision
from nnreg.training.trainer.checkpoint import LATEST, load_checkpoint
from nnreg.workspace import Workspace

GPU = torch.device("cuda", 0)
SMALL = {"epochs": 1, "iterations_per_epoch": 2, "validation_iterations": 1, "architecture.features_per_stage": [4, 4, 4]}


def trainer_of(place: Tiny, said: list[str] | None = None, **overrides: Any):
    from nnreg.training.trainer.parts import Listeners

    listeners = Listeners(line=None if said is None else said.append)
    workspace = Workspace.resolve(place.root)
    return build_trainer(workspace, place.id, place.configuration, 3, device="cpu", overrides=SMALL | overrides, listeners=listeners)


# -- precision --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [
        ((7, 0), None, torch.float16),  # V100
        ((7, 5), None, torch.float16),  # T4, RTX 20
        ((8, 0), None, torch.bfloat16),  # A100
        ((8, 9), None, torch.bfloat16),
        ((9, 0), None, torch.bfloat16),  # H100, H200
        ((9, 0), "6.2", torch.bfloat16),
    ],
)
def test_half_precision_follows_the_gpu_and_only_float16_is_scaled(capability, hip, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)  # which emulation counts for
    monkeypatch.setattr(torch.version, "hip", hip)
    assert autocast_type(GPU) is expected
    assert needs_scaler(GPU) is (expected is torch.float16)
    assert hip is not None or set(asked) == {GPU}  # the chosen one, not the first
    assert autocast_type(GPU, "fp16") is torch.float16
    assert autocast_type(GPU, "off") is None
    assert not needs_scaler(GPU, "bf16")


def test_predictions_keep_the_precision_of_the_training_where_there_is_one():
    cpu = torch.device("cpu")
    assert [prediction_precision(GPU, trained) for trained in ("off", "fp16", "bf16", "auto")] == ["off", "fp16", "auto", "auto"]
    assert [prediction_precision(cpu, trained) for trained in ("off", "fp16", "bf16", "auto")] == ["off", "off", "auto", "auto"]


def test_convolutions_are_tried_out_on_a_gpu_only_and_never_where_bits_must_repeat():
    before = torch.backends.cudnn.benchmark
    for device, deterministic, expected in ((GPU, False, True), (GPU, True, before), (torch.device("cpu"), False, before)):
        with fastest_convolutions(device, deterministic):
            assert torch.backends.cudnn.benchmark is expected
        assert torch.backends.cudnn.benchmark is before


# -- compiled and reordered networks ----------------------------------------------------------------------------------------------


class Squares(torch.nn.Module):
    """As networks are called: tensors by name, a list back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> list[torch.Tensor]:
        return [self.layer(torch.cat([fixed, moving], dim=1)) ** 2]


def gradients(network: torch.nn.Module) -> list[torch.Tensor]:
    images = torch.ones(1, 1, 5, 6)
    network.zero_grad()
    network(fixed=images, moving=2 * images)[0].sum().backward()
    return [weight.grad.clone() for weight in network.parameters()]


def test_a_compiled_network_is_the_same_network():
    network, said = Squares(), []
    expected, names = gradients(network), list(network.state_dict())
    calls = []
    compile_network(network, said.append, backend=lambda graph, inputs: calls.append(graph) or graph.forward)
    assert all(torch.allclose(one, other) for one, other in zip(gradients(network), expected, strict=True))
    assert calls
    assert not said
    assert list(network.state_dict()) == names
    count = len(calls)
    network.eval()(fixed=torch.ones(1, 1, 9, 4), moving=torch.ones(1, 1, 9, 4))  # grids of an evaluation differ: not compiled for each
    assert len(calls) == count


def broken_forward(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no C++ compiler\nwas found")


def broken_backward(graph: Any, inputs: Any) -> Any:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, *_: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler was found")

    return lambda *values: tuple(Broken.apply(value) for value in graph(*values))


@pytest.mark.parametrize("backend", [broken_forward, broken_backward])
def test_where_compiling_fails_the_training_says_so_and_goes_on(backend):
    network, said = Squares(), []
    expected = gradients(network)
    compile_network(network, said.append, backend=backend)
    for _ in range(2):
        assert all(torch.equal(one, other) for one, other in zip(gradients(network), expected, strict=True))
    assert len(said) == 1
    assert "gpu.compile" in said[0]
    assert "compiler" in said[0]
    assert "\n" not in said[0]


def test_a_training_that_cannot_compile_says_why_in_its_log(plane, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **options: broken_forward)
    place, said = plane.copy(tmp_path), []
    trainer = trainer_of(place, said, **{"gpu.compile": True, "gpu.channels_last": True})
    trainer.run_training()
    assert sum("gpu.compile" in line for line in said) == 1


@pytest.mark.parametrize("layer", [torch.nn.Conv2d(2, 3, 3), torch.nn.Conv3d(2, 3, 3)])
def test_channels_last_changes_how_weights_lie_and_not_what_they_give(layer):
    image = torch.rand(1, 2, *(7,) * (layer.weight.ndim - 2))
    before, strides = layer(image), layer.weight.stride()
    channels_last(layer)
    assert layer.weight.stride() != strides
    assert torch.allclose(layer(image), before, atol=1e-6)


# -- cases that stay on the device ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def configuration(plane: Tiny) -> Configuration:
    planned = Plans.read(plane.preprocessed / "nnRegPlans.json").configuration("2d")
    return dataclasses.replace(planned, training=dataclasses.replace(planned.training, supervision=(LossTerm("soft_dice"),)))


@pytest.fixture(scope="module")
def pairs(plane: Tiny) -> list:
    spec = DatasetSpec.read(plane.preprocessed / "dataset.json")
    return RegistrationTask().units(spec=spec, cases=PreprocessedDataset(plane.arrays).cases)


@pytest.mark.parametrize("split", ["train", "val"])
def test_resident_samples_on_a_cpu_are_the_same_bit_for_bit(plane, pairs, configuration, split):
    fresh, kept = (PairSamples(plane.arrays, pairs, configuration, 4, split, split == "train") for _ in range(2))
    keep_resident(kept, torch.device("cpu"))
    for index in (0, 1, 0, 3):
        one, other = fresh[index], kept[index]
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_resident_samples_on_a_gpu_are_the_same_within_interpolation(plane, pairs, configuration, monkeypatch):
    fresh = PairSamples(plane.arrays, pairs, configuration, 4, "train", True)
    expected = [fresh[index] for index in range(4)]
    kept = PairSamples(plane.arrays, pairs, configuration, 4, "train", True)
    keep_resident(kept, torch.device("cpu"))
    kept._kept = {name: kept._read(name).packed(GPU_STAND_IN) for name in sorted({side for pair in pairs for side in (pair.fixed, pair.moving)})}
    assert next(iter(kept._kept.values())).image.dtype is torch.float16
    monkeypatch.setattr(on_device, "is_compiled", lambda tensor: False)
    for index, one in enumerate(expected):
        other = kept[index]
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name].dtype is value.dtype
            assert torch.allclose(other[name], value, atol=2e-2) if value.is_floating_point() else torch.equal(other[name], value), name


class _StandIn:
    """A place that counts as a GPU, where tensors go that stay in memory."""

    type = "cuda"


GPU_STAND_IN: Any = _StandIn()


@pytest.fixture(autouse=True)
def _tensors_stay(monkeypatch):
    plain = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *given, **named: self if given and given[0] is GPU_STAND_IN else plain(self, *given, **named))


def test_intensities_beyond_half_precision_are_kept_whole():
    case = registration_samples.CaseTensors(torch.full((1, 2, 2), 1e5), torch.full((1, 2, 2), 300, dtype=torch.int16), None, None)
    packed = case.packed(GPU_STAND_IN)
    assert torch.equal(packed.unpacked().image, case.image)
    assert torch.equal(packed.unpacked().labels, case.labels)


def test_cases_that_do_not_fit_are_refused_before_any_is_kept(plane, pairs, configuration, monkeypatch):
    monkeypatch.setattr(registration_samples, "free_memory", lambda device: 1000)
    kept = PairSamples(plane.arrays, pairs, configuration, 4, "train", True)
    with pytest.raises(ConfigurationError, match=r"gpu\.resident: the \d+ train cases need .* GB free"):
        keep_resident(kept, torch.device("cpu"))


def test_samples_without_whole_cases_cannot_be_resident():
    with pytest.raises(ConfigurationError, match=r"gpu\.resident: TensorDataset"):
        keep_resident(torch.utils.data.TensorDataset(torch.zeros(1)), torch.device("cpu"))


def test_a_resident_training_gives_the_same_weights(plane, tmp_path):
    weights = []
    for resident in (False, True):
        place = plane.copy(tmp_path / str(resident))
        trainer = trainer_of(place, **{"gpu.resident": resident})
        trainer.run_training()
        weights.append(load_checkpoint(trainer.output_folder / LATEST)["network_weights"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


# -- too little memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "fitting"), [(64 * MB, 0), (300 * MB, 1), (1000 * MB, 4), (10**10, 8)])
def test_processes_that_load_data_need_shared_memory_and_what_is_missing_is_said(free, fitting, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096))
    sample = {"fixed": torch.empty(25 * MB // 4), "moving": torch.empty(25 * MB // 4)}
    found, note = fitting_workers(sample, 2, 8)  # each prefetches 2 x 2 x 50 MB
    assert found == fitting
    if fitting == 8:
        assert note is None
    else:
        assert f"{free / MB:.0f} MB free" in note
        assert f"{fitting or 'none'} of them" in note
        assert "--shm-size=2g" in note


def test_systems_without_shared_memory_have_no_such_limit(tmp_path):
    assert fitting_workers({"fixed": torch.empty(3)}, 2, 8, tmp_path / "nowhere") == (8, None)


def test_losses_take_larger_slabs_where_the_memory_is_larger(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16 * 2**30))
    assert slab_voxels(torch.device("cpu"), 2**18, 64) == 2**18
    assert slab_voxels(GPU, 2**18, 64) == 2**22
    assert slab_voxels(GPU, 2**23, 64) == 2**23


class Greedy(torch.nn.Module):
    """A network that fits into no GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.device = "cuda"

    def to(self, device: Any) -> Any:
        self.device = torch.device(device).type
        return self

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> list[torch.Tensor]:
        if self.device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [torch.zeros(1, 2, *fixed.shape[2:])]


def test_a_pair_that_does_not_fit_into_a_gpu_is_predicted_on_the_cpu_and_that_is_said(plane, monkeypatch):
    plans = Plans.read(plane.preprocessed / "nnRegPlans.json")
    predictor = Predictor(plans=plans, configuration=plans.configuration("2d"), networks=[Greedy()], device=torch.device("cpu"))
    monkeypatch.setattr("nnreg.inference.trained_networks.autocast", lambda *_: torch.no_grad())
    monkeypatch.setattr("nnreg.inference.trained_networks.release_memory", lambda device: " (0.1 GB are free)")
    predictor.device = GPU
    images = {role: torch.zeros(1, 1, 8, 9) for role in ("fixed", "moving")}
    with pytest.warns(UserWarning, match=r"a pair of 8x9 voxels .* \(0\.1 GB are free\)\. It is predicted on the CPU"):
        assert np.isfinite(predictor._fields(images)[0].numpy()).all()
    assert predictor.device.type == "cpu"

"""A training step never makes a GPU wait: on a device without values nothing can be read back, and nothing is sent there either."""

from __future__ import annotations

import collections
import contextlib
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nnreg.architecture import build_network
from nnreg.planning.plans import Architecture, LossTerm, Normalization
from nnreg.planning.registration.plans import RegistrationConfiguration, RegistrationTraining
from nnreg.tasks.registration.objective import RegistrationObjective
from nnreg.tasks.registration.task import RegistrationTask
from nnreg.training.configs import TrainerConfig
from nnreg.training.runtime_utils.reading import read_terms
from nnreg.training.trainer.optimizers import build_optimizer
from nnreg.training.trainer.stepper import Stepper

META = torch.device("meta")
GRID = (20, 24, 28)
MASKED = {"index", "index_put", "index_put_"}
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal"}


class Waits(TorchDispatchMode):
    """Counts what a GPU and its computer wait for each other with: numbers read (``item``, ``float``, ``bool``), voxels picked out by a mask, copies."""

    def __init__(self) -> None:
        super().__init__()
        self.found: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named, name = named or {}, function.overloadpacket.__name__
        there = any(isinstance(value, torch.Tensor) and value.device == META for value in arguments)
        if name == "_local_scalar_dense" and there:
            self.found[name] += 1
            return 1.0
        by_mask = name in MASKED and any(getattr(index, "dtype", None) is torch.bool for index in arguments[1] or () if index is not None)
        copied = name == "_to_copy" and named.get("device") not in (None, arguments[0].device)
        if there and (name in READS or by_mask or (copied and named["device"] != META)):
            self.found[name] += 1
            raise AssertionError(f"{name} would wait for the device")
        if copied and named["device"] == META:
            self.found["sent there"] += 1
        return function(*arguments, **named)


@pytest.fixture
def waits(monkeypatch) -> Waits:
    counter = Waits()
    autocast, tensor = torch.autocast, torch.tensor

    def made(*arguments: Any, **named: Any) -> torch.Tensor:
        if torch.device(named.get("device") or "cpu") == META:
            counter.found["torch.tensor"] += 1
        return tensor(*arguments, **named)

    monkeypatch.setattr(torch, "tensor", made)
    # the device without values knows no autocast
    monkeypatch.setattr(torch, "autocast", lambda device_type, **named: contextlib.nullcontext() if device_type == "meta" else autocast(device_type, **named))
    return counter


def configuration(similarity: str, supervision: tuple[str, ...], regularisation: str = "diffusion", **settings: Any) -> RegistrationConfiguration:
    return RegistrationConfiguration(
        data_identifier="arrays",
        spacing=(1.0, 1.2, 2.0),
        grid=GRID,
        normalization=(Normalization("none"),),
        architecture=Architecture("dual_pyramid", ((1,) * 3, (2,) * 3, (2,) * 3), ((3,) * 3,) * 3, (4, 4, 4), (1, 1, 1)),
        training=RegistrationTraining(
            similarity=(LossTerm(similarity),),
            regularisation=(LossTerm(regularisation),),
            supervision=tuple(map(LossTerm, supervision)),
            deep_supervision_weights=(),
            batch_size=1,
            epochs=2,
            iterations_per_epoch=2,
            validation_iterations=1,
            optimizer="adam",
            learning_rate=1e-3,
            weight_decay=0.0,
            gradient_clip=1.0,
            lr_schedule="poly",
            **settings,
        ),
        memory_gb=1.0,
    )


def batch(masked: bool) -> dict[str, torch.Tensor]:
    images = {name: torch.empty(1, 1, *GRID, device=META) for name in ("fixed", "moving", "fixed_input", "moving_input")}
    labels = {f"{role}_labels": torch.empty(1, 1, *GRID, dtype=torch.int16, device=META) for role in ("fixed", "moving")}
    masks = {f"{role}_mask": torch.empty(1, 1, *GRID, dtype=torch.uint8, device=META) for role in ("fixed", "moving")} if masked else {}
    points = {f"{role}_keypoints": torch.empty(1, 5, 3, device=META) for role in ("fixed", "moving")}
    return images | labels | masks | points | {"label_subset": torch.empty(1, 8, dtype=torch.int16, device=META)}


def network_of(plan: RegistrationConfiguration) -> torch.nn.Module:
    chosen = plan.architecture
    sizes = {name: getattr(chosen, name) for name in ("strides", "kernel_sizes", "features_per_stage", "blocks_per_stage")}
    return build_network("dual_pyramid", channels=1, ndim=3, **sizes).to(META).train()


@pytest.mark.parametrize(
    ("similarity", "supervision", "settings", "masked"),
    [
        ("lncc", ("soft_dice",), {"bidirectional": True}, False),
        ("lncc", ("keypoints",), {}, True),
        ("nmi", (), {}, False),
        ("nmi", (), {}, True),
        ("mind", (), {}, True),
        ("mse", ("inverse_consistency",), {"bidirectional": True, "regularisation": "ndv"}, True),
        ("ncc", (), {"regularisation": "bending"}, False),
    ],
)
def test_a_step_of_registration_waits_for_nothing(similarity, supervision, settings, masked, waits):
    plan = configuration(similarity, supervision, **settings)
    network, objective = network_of(plan), RegistrationObjective(plan, TrainerConfig()).to(META)
    stepper = Stepper(network, build_optimizer(plan.training, network.parameters()), torch.amp.GradScaler("cpu", enabled=False), plan.training)
    for _ in range(2):
        waits.found.clear()  # constants are sent in the first step
        with waits:
            loss, _ = objective(network, batch(masked))
            stepper(loss)
    assert not waits.found


def test_metrics_of_a_validation_stay_on_the_device(waits, monkeypatch):
    plan = configuration("lncc", ())
    network, objective = network_of(plan).eval(), RegistrationObjective(plan, TrainerConfig()).to(META)
    # how many voxels each label has is counted on the device, which this one without values cannot
    monkeypatch.setattr(torch, "bincount", lambda labels, minlength: torch.empty(minlength, dtype=torch.int64, device=labels.device))
    for _ in range(2):
        waits.found.clear()
        with waits, torch.no_grad():
            found = RegistrationTask().online_metrics(network=network, objective=objective, batch=batch(True))
    assert not waits.found
    assert {"dice", "ncc", "mse", "mae", "grad_l2", "folding_count", "folding_percent"} <= set(found)
    assert all(value.device == META and value.ndim == 0 for value in found.values())


def test_the_counter_counts(waits):
    with waits:
        float(torch.empty((), device=META))
        torch.tensor(1.0, device=META)
    assert waits.found == {"_local_scalar_dense": 1, "torch.tensor": 1}
    with waits, pytest.raises(AssertionError, match="wait"):
        torch.empty(3, device=META)[torch.empty(3, dtype=torch.bool, device=META)]


class Moves(TorchDispatchMode):
    """Counts reads of tensors of any device."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.reads += function.overloadpacket.__name__ == "_local_scalar_dense"
        return function(*arguments, **(named or {}))


def test_the_numbers_of_an_epoch_are_read_at_once():
    steps = [{"loss": torch.tensor(step / 3), "dice": torch.tensor(0.1 * step)} for step in range(50)]
    with Moves() as moves:
        found = read_terms(steps)
    assert moves.reads == 0
    assert found == [{name: float(value) for name, value in step.items()} for step in steps]
    assert read_terms([{"own": 2, "loss": torch.tensor([0.5])}]) == [{"own": 2.0, "loss": 0.5}]

"""RegistrationTraining options: each does what its name says, and a run that was interrupted under any of them goes on bit for bit."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError, TrainingError
from nnreg.planning.plans import Architecture, LossTerm, Normalization
from nnreg.planning.registration.plans import RegistrationConfiguration, RegistrationPlans, RegistrationTraining
from nnreg.planning.training_options import EarlyStopping
from nnreg.tasks.registration.synthetic_samples import SyntheticSamples
from nnreg.training.configs import TrainerConfig
from nnreg.training.dataloading.loaders import build_loader
from nnreg.training.execution.find_lr import find_learning_rate, suggest
from nnreg.training.logging import picture, report, sinks
from nnreg.training.logging.diagnosis import diagnose
from nnreg.training.lr_scheduler import build_schedule
from nnreg.training.run_folders import RunFolders
from nnreg.training.runtime_utils.gradient_checkpointing import checkpoint_gradients
from nnreg.training.runtime_utils.runtime import autocast_type, determinism
from nnreg.training.trainer.checkpoint import BEST, FINAL, LATEST, load_checkpoint, resumable
from nnreg.training.trainer.monitor import stalled
from nnreg.training.trainer.parts import epoch_line
from nnreg.training.trainer.trainer import nnRegTrainer

GRID = (20, 24)
pytestmark = pytest.mark.usefixtures("one_thread")


def plans_of(grid: tuple[int, ...] = GRID) -> RegistrationPlans:
    n = len(grid)
    configuration = RegistrationConfiguration(
        data_identifier="arrays",
        spacing=(1.0,) * n,
        grid=grid,
        normalization=(Normalization("none"),),
        architecture=Architecture("unetreg", ((1,) * n, (2,) * n), ((3,) * n,) * 2, (4, 4), (1, 1)),
        training=RegistrationTraining(
            similarity=(LossTerm("ncc"),),
            regularisation=(LossTerm("diffusion"),),
            supervision=(),
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
            synthetic={"train": {"name": "deepreg_synthetic", "num_samples": 3}},
        ),
        memory_gb=1.0,
    )
    name = f"{n}d"
    return RegistrationPlans(
        dataset_name="Dataset001_Tiny",
        plans_name="nnRegPlans",
        task="registration",
        planner="by hand",
        channel_names=("T1",),
        pre_alignment="none",
        alignment_target="group",
        alignment_spacing=(1.0,) * n,
        reference_case=None,
        configurations={name: configuration},
        recommended=name,
    )


class OnTheFly(nnRegTrainer):
    """All of the trainer, on pairs that are made on the fly; without the full validation, for which there are no images."""

    def get_dataloaders(self) -> tuple[Any, Any]:
        plan, settings = self.plan, dict((self.plan.synthetic or {})["train"])
        steps = plan.iterations_per_epoch * plan.gradient_accumulation_steps
        train = SyntheticSamples(settings, self.configuration, plan.batch_size * steps)
        validation = SyntheticSamples(settings | {"seed": 9}, self.configuration, 1)
        return (
            build_loader(train, batch_size=plan.batch_size, batches=steps, workers=0, pin_memory=False),
            build_loader(validation, batch_size=1, batches=1, workers=0, pin_memory=False),
        )

    def perform_actual_validation(self) -> dict[str, Any]:
        return {}


class Scripted(OnTheFly):
    """Losses and metrics that go as they are told; nothing is computed."""

    train: Sequence[float] = ()
    val: Sequence[float] = ()
    dice: Sequence[float] = ()

    def get_dataloaders(self) -> tuple[Any, Any]:
        return [{}], [{}]

    def train_step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor((self.train or self.val)[self.current_epoch])}

    def validation_step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        result = {"loss": torch.tensor(self.val[self.current_epoch])}
        return result | ({"dice": torch.tensor(self.dice[self.current_epoch])} if self.dice else {})


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``make(kind=OnTheFly, grid=GRID, **overrides)``: a trainer in a folder of its own; the progress picture, which takes longest, is left out."""
    monkeypatch.setattr(report, "plot_progress", lambda *_: None)
    monkeypatch.setattr("nnreg.training.trainer.trainer.nnRegTrainer._write_model_files", lambda _: None)

    def build(kind: type[nnRegTrainer] = OnTheFly, folder: str = "run", grid: tuple[int, ...] = GRID, **overrides: Any) -> nnRegTrainer:
        plans = plans_of(grid)
        folders = RunFolders(raw=tmp_path, preprocessed=tmp_path, model=tmp_path / folder)
        spec = DatasetSpec({"0": "T1"}, 4, ".nii.gz")
        return kind(configuration=plans.recommended, plans=plans, spec=spec, folders=folders, overrides={"tracking.tensorboard": False} | overrides)

    return build


def files(trainer: nnRegTrainer) -> set[str]:
    return {path.name for path in trainer.output_folder.iterdir()}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


# -- every option trains, and resumes bit for bit -----------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "adamw, poly per step, values clipped": {
        "optimizer": "adamw",
        "optimizer_kwargs": {"betas": [0.8, 0.99]},
        "weight_decay": 1e-2,
        "lr_update": "step",
        "gradient_clip_type": "value",
        "gradient_clip": 1e-3,
    },
    "sgd, steps, accumulation": {
        "optimizer": "sgd",
        "optimizer_kwargs": {"momentum": 0.9, "nesterov": True},
        "lr_schedule": "step",
        "lr_schedule_kwargs": {"step_size": 1, "gamma": 0.5},
        "gradient_accumulation_steps": 2,
    },
    "cosine, warm-up, average, checkpointing": {
        "lr_schedule": "cosine",
        "warmup_epochs": 1,
        "lr_update": "step",
        "ema_decay": 0.5,
        "gradient_checkpointing": True,
    },
    "plateau, bf16, deterministic, stopping": {
        "lr_schedule": "plateau",
        "lr_schedule_kwargs": {"patience": 0, "threshold": 10.0},
        "mixed_precision": "bf16",
        "deterministic": True,
        "early_stopping.patience": 5,
        "monitor": "val_loss",
    },
}


@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
def test_an_interrupted_training_goes_on_bit_for_bit(make, settings):
    whole = make(folder="whole", **settings)
    before = [value.clone() for value in (whole.initialize(), whole.network)[1].parameters()]
    whole.run_training()
    assert any(not torch.equal(old, new) for old, new in zip(before, whole.network.parameters(), strict=True))
    first = make(**settings)
    first.initialize()
    first.num_epochs = 1  # killed after an epoch
    first.run_training()
    second = make(**settings)
    second.load_checkpoint(first.output_folder / LATEST)
    second.run_training()
    expected, found = (load_checkpoint(trainer.output_folder / FINAL) for trainer in (whole, second))
    for content in (expected, found):
        del content["logging"]["values"]["epoch_seconds"]
    assert same(expected, found)


# -- schedules ----------------------------------------------------------------------------------------------------------------------


def optimizer_at(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize(
    ("name", "arguments", "oracle"),
    [
        ("step", {"step_size": 3, "gamma": 0.2}, lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.2)),
        ("cosine", {"T_max": 20, "eta_min": 1e-3}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 1e-3)),
        ("poly", {"exponent": 0.7}, lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 12, 0.7)),
        ("constant", {}, lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda _: 1.0)),
    ],
)
def test_schedules_are_torchs(name, arguments, oracle):
    reference = optimizer_at(0.1)
    other, ours = oracle(reference), build_schedule(name, optimizer_at(0.1), 0.1, 12, arguments)
    for epoch in range(12):
        assert ours.step(epoch) == pytest.approx(reference.param_groups[0]["lr"], rel=1e-6)
        assert ours.optimizer.param_groups[0]["lr"] == ours.rate(epoch)
        reference.step()
        other.step()


def test_a_plateau_is_torchs_and_survives_a_resume():
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, math.nan, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    reference = optimizer_at(0.1)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(reference, factor=0.3, patience=1)
    ours = build_schedule("plateau", optimizer_at(0.1), 0.1, 99, {"patience": 1, "factor": 0.3})
    for epoch, loss in enumerate(losses):
        resumed = build_schedule("plateau", optimizer_at(0.1), 0.1, 99, {"patience": 1, "factor": 0.3})
        resumed.load_state_dict(ours.state_dict())
        ours = resumed
        assert ours.step(epoch) == pytest.approx(reference.param_groups[0]["lr"])
        ours.observe(loss)
        if loss == loss:
            other.step(loss)
    assert ours.rate(99) < 0.1 * 0.3


@pytest.mark.parametrize("name", ["poly", "step", "cosine", "plateau", "constant"])
def test_a_warm_up_rises_linearly_to_the_schedule(name):
    plain, warm = (build_schedule(name, optimizer_at(0.1), 0.1, 50, {"warmup_epochs": epochs}) for epochs in (0, 4))
    assert [warm.rate(epoch) / plain.rate(epoch) for epoch in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_a_rate_per_step_lies_between_those_of_its_epochs(make):
    trainer = make(lr_update="step", lr_schedule="poly", iterations_per_epoch=4)
    trainer.initialize()
    seen = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    trainer.run_training()
    assert seen == pytest.approx([1e-3 * (1 - step / 8) ** 0.9 for step in range(8)])


# -- the step -----------------------------------------------------------------------------------------------------------------------


def test_two_accumulated_batches_are_one_of_twice_the_size(make):
    weights = []
    for settings in ({"batch_size": 2}, {"batch_size": 1, "gradient_accumulation_steps": 2}):
        trainer = make(optimizer="sgd", optimizer_kwargs={}, gradient_clip=None, learning_rate=0.1, epochs=1, **settings)
        trainer.run_training()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()]))
        assert len(trainer.history.values["train_gradient_norm"]) == 1
    assert torch.allclose(*weights, atol=1e-6)


def test_a_last_step_of_fewer_batches_takes_their_mean(make):
    trainer = make(gradient_accumulation_steps=3, optimizer="sgd", optimizer_kwargs={}, gradient_clip=None)
    trainer.initialize()
    value = next(iter(trainer.network.parameters()))
    start = value.detach().clone()
    trainer.stepper(value.sum())
    trainer.stepper(value.sum())
    trainer.stepper.finish()
    assert torch.allclose(start - value, torch.full_like(value, trainer.plan.learning_rate), atol=1e-6)


def test_values_are_clipped_one_by_one(make):
    trainer = make(optimizer="sgd", optimizer_kwargs={}, learning_rate=1.0, gradient_clip=1e-4, gradient_clip_type="value")
    trainer.initialize()
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    trainer.train_step(next(iter(trainer.get_dataloaders()[0])))
    moved = torch.cat([(old - new.detach()).abs().flatten() for old, new in zip(before, trainer.network.parameters(), strict=True)])
    assert moved.max() == pytest.approx(1e-4, rel=1e-2)


class ReturnsTheLoss(OnTheFly):
    """A trainer of one's own, written as a user of nnU-Net would."""

    def configure_optimizers(self) -> None:
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.001)

    def train_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.objective(self.network, batch)[0]


def test_a_train_step_may_return_the_loss_alone(make):
    trainer, plain = make(ReturnsTheLoss), make(lr_schedule="constant")
    for one in (trainer, plain):
        one.run_training()
    assert same(trainer.network.state_dict(), plain.network.state_dict())


def test_the_moving_average_is_validated_and_predicted_with(make):
    decay = 0.8
    trainer = make(ema_decay=decay)
    trainer.initialize()
    parameter = next(iter(trainer.network.parameters()))
    seen: list[torch.Tensor] = []
    trainer.optimizer.register_step_post_hook(lambda *_: seen.append(parameter.detach().clone()))
    trainer.run_training()
    expected = seen[0]
    for value in seen[1:]:
        expected = decay * expected + (1 - decay) * value
    content = load_checkpoint(trainer.output_folder / FINAL)
    name = next(iter(dict(trainer.network.named_parameters())))
    assert torch.allclose(content["network_weights"][name], expected, atol=1e-7)
    assert torch.equal(content["training_weights"][name], seen[-1])
    evaluated = make(ema_decay=decay, folder="other")
    evaluated.load_checkpoint(trainer.output_folder / FINAL, weights_only=True)
    with evaluated.evaluated_weights():
        assert torch.allclose(next(iter(evaluated.network.parameters())), expected, atol=1e-7)


@pytest.mark.parametrize("grid", [GRID, (9, 12, 10)])
def test_checkpointed_gradients_are_the_same_and_less_is_kept(make, grid):
    def kept_and_gradients(checkpointed: bool) -> tuple[int, list[torch.Tensor]]:
        torch.manual_seed(0)
        trainer = make(grid=grid)
        network = trainer.build_network_architecture()
        names = list(network.state_dict())
        if checkpointed:
            assert checkpoint_gradients(network) > 1
        assert list(network.state_dict()) == names
        kept = 0

        def keep(value: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += value.numel()
            return value

        images = {role: torch.randn(1, 1, *grid, generator=torch.Generator().manual_seed(seed)) for seed, role in enumerate(("fixed", "moving"))}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss = sum(field.square().sum() for field in network(**images)) * 1e6
        loss.backward()
        return kept, [parameter.grad for parameter in network.parameters()]

    (plenty, expected), (little, found) = kept_and_gradients(False), kept_and_gradients(True)
    assert little < 0.7 * plenty
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(expected, found, strict=True))


def test_a_network_without_stages_cannot_be_checkpointed():
    with pytest.raises(ConfigurationError, match="no stages"):
        checkpoint_gradients(torch.nn.Conv2d(1, 1, 3))


def test_precision_by_device():
    cpu = torch.device("cpu")
    assert autocast_type(cpu) is autocast_type(cpu, "off") is None
    assert autocast_type(cpu, "bf16") is torch.bfloat16
    with pytest.raises(ConfigurationError, match="needs CUDA"):
        autocast_type(cpu, "fp16")


def test_determinism_ends_with_the_training_and_names_what_stands_in_its_way():
    with determinism(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(TrainingError, match="deterministic: some_operation"), determinism(True):
        raise RuntimeError("some_operation does not have a deterministic implementation")


class Growing(torch.nn.Module):
    """A loss whose weight is the number of the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.heard.append(epoch)

    def forward(self, *, warped: torch.Tensor, fixed: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return (warped - fixed).square().mean() * self.heard[-1]


def test_a_loss_hears_which_epoch_it_is(make):
    trainer, loss = make(), Growing()
    trainer.recipe = TrainerConfig(loss=loss)
    trainer.run_training()
    assert loss.heard == [0, 1]


def test_the_command_line_names_the_loss_and_its_arguments(make):
    trainer = make(loss="lncc", **{"loss_kwargs.window": 5})
    assert (trainer.recipe.loss, trainer.recipe.loss_kwargs) == ("lncc", {"window": 5})
    with pytest.raises(ConfigurationError, match="--set loss=NAME"):
        make(**{"loss_kwargs.window": 5})


# -- what is kept, and when it ends -------------------------------------------------------------------------------------------------


class Falling(Scripted):
    val = tuple(1.0 / (epoch + 1) for epoch in range(7))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, {BEST, LATEST, FINAL}),
        ({"checkpoints.every": 2}, {BEST, LATEST, FINAL, *(f"checkpoint_epoch_000{n}.pth" for n in (2, 4, 6))}),
        ({"checkpoints.every": 1, "checkpoints.keep_last": 2}, {BEST, LATEST, FINAL, "checkpoint_epoch_0006.pth", "checkpoint_epoch_0007.pth"}),
        ({"checkpoints.best_only": True, "checkpoints.every": 1}, {BEST, FINAL}),
        ({"checkpoints.delete_latest": True}, {BEST, FINAL}),
        ({"validate_every": 0}, {LATEST, FINAL}),
    ],
)
def test_checkpoint_policies(make, settings, kept):
    trainer = make(Falling, epochs=7, **settings)
    trainer.run_training()
    assert {name for name in files(trainer) if name.endswith(".pth")} == kept
    assert load_checkpoint(resumable(trainer.output_folder)[0])["current_epoch"] == 7


def test_latest_is_written_every_so_many_epochs_and_at_the_end(make):
    trainer = make(Falling, epochs=7, **{"checkpoints.latest_every": 3})
    written: list[int] = []
    save = trainer.save_checkpoint
    trainer.save_checkpoint = lambda path: (written.append(trainer.current_epoch) if path.name == LATEST else None, save(path))
    trainer.run_training()
    assert written == [3, 6, 7]


class Stalls(Scripted):
    val = (0.9, 0.5, 0.6, 0.4999, 0.6, 0.6, 0.6, 0.6)


def test_a_stalled_training_ends_and_stays_ended(make):
    settings = {"epochs": 8, "early_stopping.patience": 3, "early_stopping.min_delta": 0.01}
    trainer = make(Stalls, **settings)
    trainer.run_training()
    assert trainer.current_epoch == 5  # best at epoch 1; 0.4999 is not better by min_delta
    assert "Stopped early" in (trainer.output_folder / "training_log.txt").read_text()
    again = make(Stalls, **settings)
    again.load_checkpoint(resumable(trainer.output_folder)[0])
    again.run_training()
    assert again.current_epoch == 5
    assert not stalled([], EarlyStopping(patience=1))
    assert not stalled([math.nan] * 5, EarlyStopping(patience=1))


class TwoMinds(Scripted):
    val, dice = (0.9, 0.1, 0.5), (0.1, 0.2, 0.9)


@pytest.mark.parametrize(("monitor", "best"), [(None, 2), ("val_dice", 2), ("dice", 2), ("val_loss", 1), ("loss", 1)])
def test_the_monitored_number_decides_which_way_is_better(make, monitor, best, monkeypatch):
    monkeypatch.setattr("nnreg.training.logging.log.EMA_MOMENTUM", 0.0)
    trainer = make(TwoMinds, epochs=3, monitor=monitor)
    trainer.run_training()
    assert load_checkpoint(trainer.output_folder / BEST)["epoch"] == best


class LossAlone(Scripted):
    val, dice = (0.9, 0.1), (math.nan, math.nan)


@pytest.mark.parametrize(
    ("script", "monitor", "told"),
    [(LossAlone, None, "the validation loss"), (TwoMinds, "val_loss", "val_loss"), (TwoMinds, None, "dice")],
)
def test_the_log_names_the_number_that_decides_with_its_own_sign(make, script, monitor, told):
    trainer = make(script, epochs=1, monitor=monitor)
    trainer.run_training()
    value = script.dice[0] if told == "dice" else script.val[0]
    assert f"New best moving average of {told}: {value:.4f}" in (trainer.output_folder / "training_log.txt").read_text()


def test_an_unknown_monitor_is_told(make):
    with pytest.raises(ConfigurationError, match="val_dice"):
        make(TwoMinds, epochs=3, monitor="val_dcie").run_training()


def test_validation_every_other_epoch(make):
    trainer = make(Falling, epochs=5, validate_every=2)
    trainer.run_training()
    assert [value == value for value in trainer.history.values["val_loss"]] == [False, True, False, True, True]  # and after the last


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0: expected 1"),
        ({"ema_decay": 1.5}, "ema_decay is 1.5"),
        ({"checkpoints.evry": 1}, "did you mean 'every'"),
        ({"early_stopping.patience": -1}, "patience is -1"),
        ({"lr_schedule": "cosin"}, "did you mean 'cosine'"),
        ({"lr_schedule": "cosine", "lr_schedule_kwargs": {"tmax": 3}}, "tmax"),
        ({"optimizer": "adamx"}, "adam"),
        ({"gradient_clip_type": "nrm"}, "did you mean 'norm'"),
        ({"synthetic.train.name": "synthetic_elipsoids"}, "synthetic_ellipsoids"),
    ],
)
def test_a_wrong_option_is_told_by_its_key(make, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        make(**settings).get_dataloaders()


# -- what there is to look at -------------------------------------------------------------------------------------------------------

EPOCHS = np.arange(40)
NOISE = np.random.default_rng(0).normal(size=40)
CURVES = {
    None: (np.exp(-EPOCHS / 10) + 0.005 * NOISE, np.exp(-EPOCHS / 10) + 0.05),
    "overfitting": (np.exp(-EPOCHS / 10) + 0.001 * NOISE, np.exp(-EPOCHS / 4) + 0.02 * EPOCHS),
    "unstable": (0.5 + 0.4 * NOISE, np.full(40, 0.5)),
    "not learning": (0.5 + 0.01 * NOISE, np.full(40, 0.5)),
}


@pytest.mark.parametrize("verdict", CURVES)
def test_curves_are_told_apart(verdict):
    train, val = CURVES[verdict]
    values = {"train_loss": train.tolist(), "val_loss": val.tolist()}
    assert diagnose(values) == verdict
    assert diagnose({name: series[:9] for name, series in values.items()}) is None  # too short to tell


def test_the_log_says_once_what_the_curves_look_like(make):
    class Overfits(Scripted):
        train, val = (curve.tolist() for curve in CURVES["overfitting"])

    trainer = make(Overfits, epochs=40, **{"checkpoints.best_only": True})
    trainer.run_training()
    said = [line for line in (trainer.output_folder / "training_log.txt").read_text().splitlines() if "curves look like" in line]
    assert any("overfitting" in line and "weight_decay" in line for line in said)
    assert len(said) <= 3


class Recorder:
    """Stands in for a package that takes numbers."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [("made", arguments, named)]

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: self.calls.append((name, arguments, named))


@pytest.mark.parametrize(("option", "mode"), [("on", "online"), ("offline", "offline")])
def test_weights_and_biases_get_numbers_and_pictures(make, monkeypatch, option, mode):
    run = Recorder()
    package = types.SimpleNamespace(init=lambda **named: run.calls.append(("init", (), named)) or run, Image=lambda picture: picture.shape)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: name)
    make(**{"tracking.wandb": option, "tracking.wandb_project": "mine"}).run_training()
    kinds = [name for name, _, _ in run.calls]
    assert kinds == ["made", "init", "log", "log", "log", "log", "finish"]
    assert (run.calls[1][2]["mode"], run.calls[1][2]["project"]) == (mode, "mine")
    assert run.calls[2][1][0]["warped"] == GRID
    assert {"train_loss", "val_loss", "val_ncc", "val_mse", "val_mae", "val_grad_l2", "val_epe", "learning_rate"} <= run.calls[3][1][0].keys()


def test_weights_and_biases_that_are_off_are_not_imported(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would raise
    make().run_training()


def test_tensorboard_gets_curves_pictures_and_histograms(make, monkeypatch):
    made: list[Recorder] = []
    package = types.SimpleNamespace(SummaryWriter=lambda *a, **k: made.append(Recorder(*a, **k)) or made[-1])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: name)
    trainer = make(**{"tracking.tensorboard": True, "tracking.histograms": True})
    trainer.run_training()
    calls = made[0].calls
    assert calls[0][1] == (str(trainer.output_folder / "tensorboard"),)
    assert {arguments[0] for name, arguments, _ in calls if name == "add_scalar"} >= {"loss/train", "loss/val", "ncc/val", "learning_rate"}
    assert {arguments[0] for name, arguments, _ in calls if name == "add_image"} == {"fixed", "moving", "warped", "difference"}
    assert any(name == "add_histogram" for name, _, _ in calls)
    assert calls[-1][0] == "close"


def test_a_package_that_is_asked_for_and_missing_is_told(make, monkeypatch):
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None)
    trainer = make(**{"tracking.tensorboard": True, "tracking.wandb": "on"})
    trainer.run_training()
    log = (trainer.output_folder / "training_log.txt").read_text()
    assert "tensorboard is not installed" in log
    assert "wandb is not installed" in log


@pytest.mark.parametrize(("grid", "name", "frames"), [(GRID, "debug.png", 1), ((9, 12, 10), "debug.gif", 9)])
def test_the_debug_picture_shows_the_first_validation_batch(make, grid, name, frames):
    trainer = make(grid=grid, epochs=1, iterations_per_epoch=1, **{"tracking.picture": True})
    trainer.run_training()
    with Image.open(trainer.output_folder / name) as image:
        assert getattr(image, "n_frames", 1) == frames
        assert image.size == (4 * grid[-1] + 3 * picture.GAP, grid[-2])


def test_the_log_begins_and_goes_on_as_source_000_prints_it(make):
    shown = ["train_loss", "val_loss", "val_ncc", "val_epe", "val_grad_l2"]
    numbers = {"train_loss": -0.2134, "val_loss": -0.2456, "val_ncc": 0.8723, "val_epe": math.nan, "val_grad_l2": 0.0012}
    line = "[Epoch 001/050] train_loss = -0.2134, val_loss = -0.2456, val_ncc = 0.8723, val_epe = 0.0000, val_grad_l2 = 0.0012"
    assert epoch_line(0, 50, numbers, shown) == line
    trainer = make(**{"tracking.console": shown})
    trainer.run_training()
    log = [text.split(": ", 1)[1] for text in (trainer.output_folder / "training_log.txt").read_text().splitlines()]
    assert log[:2] == ["Device: cpu", "AMP: False"]
    assert any(text.startswith("[Epoch 001/002] train_loss = ") and "val_epe" in text for text in log)


# -- the range test -----------------------------------------------------------------------------------------------------------------


def test_the_range_test_suggests_a_rate_at_which_a_bowl_is_descended(make, tmp_path):
    """Gradient descent in a bowl of curvature c converges for rates below 2 / c and is fastest at 1 / c."""

    class Bowl(OnTheFly):
        def build_network_architecture(self) -> torch.nn.Module:
            return torch.nn.Linear(1, 1, bias=False)

        def get_dataloaders(self) -> tuple[Any, Any]:
            return [{}] * 7, [{}]

        def train_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return 50 * self.network.weight.square().sum()  # curvature 100

    trainer = make(Bowl, optimizer="sgd", optimizer_kwargs={}, gradient_clip=None)
    found = find_learning_rate(trainer, lowest=1e-7, highest=10.0, steps=120)
    assert 1e-4 < found.suggestion < 2e-2
    assert found.rates[-1] < 1.0  # stopped where it broke
    found.write(tmp_path)
    assert (tmp_path / "find_lr.png").is_file()


def test_a_loss_that_falls_nowhere_is_told():
    with pytest.raises(TrainingError, match="falls at no learning rate"):
        suggest([1e-3, 1e-2, 1e-1], [0.1, 0.2, 0.3])


def test_a_network_may_be_an_instance(make):
    mine = torch.nn.Conv2d(2, 2, 3)
    trainer = make()
    trainer.recipe = TrainerConfig(architecture=mine)
    built = trainer.build_network_architecture()
    assert built is not mine
    assert same(built.state_dict(), mine.state_dict())

"""nnRegTrainer: its hooks, steps, schedule, checkpoints and history."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import tiny as tiny_datasets
import torch
from tiny import Tiny

from nnreg.errors import ConfigurationError, TrainingError
from nnreg.training.configs import ResolvedTrainer
from nnreg.training.execution.run import build_trainer, train
from nnreg.training.logging import History
from nnreg.training.logging.log import EMA_MOMENTUM, mean_terms
from nnreg.training.trainer.checkpoint import BEST, FINAL, LATEST, load_checkpoint
from nnreg.training.trainer.trainer import nnRegTrainer
from nnreg.workspace import Workspace

SMALL = {"epochs": 2, "iterations_per_epoch": 2, "validation_iterations": 1, "architecture.features_per_stage": [4, 4, 4]}


def make(place: Tiny, trainer: type[nnRegTrainer] = nnRegTrainer, fold: int | str = 3, **overrides: Any) -> nnRegTrainer:
    """A trainer of fold 3, which nothing else trains."""
    built = build_trainer(Workspace.resolve(place.root), place.id, place.configuration, fold, trainer=f"{__name__}:{trainer.__name__}", device="cpu")
    return trainer(
        plans=built.plans,
        configuration=place.configuration,
        spec=built.spec,
        fold=fold,
        folders=built.folders,
        name=trainer.__name__,
        overrides=SMALL | overrides,
    )


@pytest.fixture
def place(plane: Tiny, tmp_path) -> Tiny:
    return plane.copy(tmp_path)


# -- hooks ------------------------------------------------------------------------------------------------------------


class Watched(nnRegTrainer):
    """Overrides every documented hook, and writes down in which order they are called."""

    def __init__(self, **arguments: Any) -> None:
        self.calls: list[str] = []
        super().__init__(**arguments)


HOOKS = (
    "build_network_architecture",
    "configure_optimizers",
    "_build_loss",
    "get_dataloaders",
    "train_step",
    "validation_step",
    "on_train_start",
    "on_epoch_start",
    "on_epoch_end",
    "perform_actual_validation",
    "save_checkpoint",
    "load_checkpoint",
)


def _watch(hook: str):
    def override(self: Watched, *arguments: Any, **named: Any) -> Any:
        self.calls.append(hook)
        return getattr(nnRegTrainer, hook)(self, *arguments, **named)

    return override


for _hook in HOOKS:
    setattr(Watched, _hook, _watch(_hook))


def test_every_documented_hook_is_called_and_in_order(place):
    trainer = make(place, Watched)
    trainer.run_training()
    epoch = ["on_epoch_start", "train_step", "train_step", "validation_step", "on_epoch_end"]
    start = ["build_network_architecture", "configure_optimizers", "_build_loss", "get_dataloaders", "on_train_start"]
    calls = [call for call in trainer.calls if call != "save_checkpoint"]
    assert calls == [*start, *epoch, *epoch, "perform_actual_validation"]
    after = [trainer.calls[index + 1] for index, call in enumerate(trainer.calls) if call == "on_epoch_end"]
    assert after == ["save_checkpoint", "save_checkpoint"]
    assert trainer.calls[-2:] == ["save_checkpoint", "perform_actual_validation"]
    fresh = make(place, Watched)
    fresh.load_checkpoint(trainer.output_folder / LATEST)
    assert "load_checkpoint" in fresh.calls


class OwnParts(nnRegTrainer):
    """A network, an objective as a plain function, batches as a plain list, an optimiser set by hand, and no validation on native grids."""

    def build_network_architecture(self) -> torch.nn.Module:
        return torch.nn.Conv2d(2, 2, 3, padding=1)

    def _build_loss(self) -> Any:
        def objective(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            field = network(torch.cat([batch["fixed"], batch["moving"]], dim=1))
            loss = field.square().mean()
            return loss, {"size": loss.detach()}

        return objective

    def get_dataloaders(self) -> tuple[Any, Any]:
        image = torch.ones(1, 1, 9, 7)
        return [{"fixed": image, "moving": image}] * 3, [{"fixed": image, "moving": image}]

    def configure_optimizers(self) -> None:
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1)

    def validation_step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {"loss": self.objective(self.network, batch)[0]}

    def perform_actual_validation(self) -> dict[str, Any]:
        return {"mean": {"mine": 1.0}}


def test_a_trainer_whose_every_part_is_ones_own(place):
    trainer = make(place, OwnParts)
    assert trainer.run_training() == {"mean": {"mine": 1.0}}
    values = trainer.history.values
    assert values["train_loss"] == values["train_size"]
    assert values["val_loss"][1] < values["val_loss"][0]  # it learns: the field shrinks
    assert values["learning_rate"] == [0.1, 0.1]  # no schedule
    assert trainer.history.best_epoch == 1  # no Dice here: the validation loss decides
    assert load_checkpoint(trainer.output_folder / FINAL)["init"]["custom_network"]


class Unvalidated(nnRegTrainer):
    """Leaves out the full validation, which takes longer than these trainings."""

    def perform_actual_validation(self) -> dict[str, Any]:
        return {}


class OwnObjective(Unvalidated):
    """Only the objective is one's own; the standard validation step must live with it."""

    def _build_loss(self) -> Any:
        def objective(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            field = network(fixed=batch["fixed_input"], moving=batch["moving_input"])[0]
            return field.square().mean(), {"size": field.detach().square().mean()}

        return objective


def test_an_objective_may_be_a_plain_function(place):
    trainer = make(place, OwnObjective)
    trainer.run_training()
    assert {"train_size", "val_size", "val_loss", "val_dice", "val_folding_percent"} <= trainer.history.values.keys()


class StopsEarly(Unvalidated):
    def on_epoch_end(self, train_terms: Any, validation_terms: Any) -> None:
        super().on_epoch_end(train_terms, validation_terms)
        self.num_epochs = self.current_epoch


def test_a_hook_may_end_the_training(place):
    trainer = make(place, StopsEarly, epochs=50)
    trainer.run_training()
    assert load_checkpoint(trainer.output_folder / FINAL)["current_epoch"] == 1


class Counts(Unvalidated):
    """Keeps a number of its own in the checkpoint."""

    steps = 0

    def train_step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.steps += 1
        return super().train_step(batch)

    def save_checkpoint(self, path: Any) -> None:
        super().save_checkpoint(path)
        path.with_suffix(".json").write_text(json.dumps({"steps": self.steps}))

    def load_checkpoint(self, path: Any, *, weights_only: bool = False) -> None:
        super().load_checkpoint(path, weights_only=weights_only)
        self.steps = json.loads(path.with_suffix(".json").read_text())["steps"]


def test_state_of_ones_own_survives_a_resume(place):
    first = make(place, Counts)
    first.run_training()
    more = make(place, Counts, epochs=3)
    more.load_checkpoint(first.output_folder / LATEST)
    more.run_training()
    assert (first.steps, more.steps) == (4, 6)


def test_constructing_touches_no_disk(place):
    before = tiny_datasets.tree(place.root)
    trainer = make(place)
    assert not trainer.initialized
    assert tiny_datasets.tree(place.root) == before


def test_a_trainer_needs_no_more_than_names(place, monkeypatch):
    from nnreg.training.nnRegTrainer.nnRegTrainer import nnRegTrainer as by_path

    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnReg_{kind}", str(place.root / f"nnReg_{kind}"))
    trainer = by_path(dataset_id=int(place.id), configuration=place.configuration, fold=3, plans_identifier="nnRegPlans", device="cpu")
    assert by_path is nnRegTrainer
    assert trainer.output_folder == place.fold(3)
    assert trainer.plans.dataset_name == place.dataset
    with pytest.raises(TrainingError, match="dataset_id"):
        by_path(configuration=place.configuration)


# -- steps ------------------------------------------------------------------------------------------------------------


def step_of(trainer: nnRegTrainer) -> tuple[dict[str, float], float]:
    """Terms of one training step, and how far the parameters moved."""
    trainer.initialize()
    batch = next(iter(trainer.get_dataloaders()[0]))
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    terms = trainer.train_step(batch)
    moved = torch.cat([(parameter.detach() - old).reshape(-1) for parameter, old in zip(trainer.network.parameters(), before, strict=True)])
    return {name: float(value) for name, value in terms.items()}, float(moved.double().norm())


def test_gradients_are_clipped_to_the_planned_norm(place):
    """Plain SGD moves by the learning rate times the gradient: what it moved shows what was left of it."""
    settings = {"optimizer": "sgd", "optimizer_kwargs": {}, "learning_rate": 0.5, "weight_decay": 0.0}
    free, moved = step_of(make(place, **settings, gradient_clip=None))
    assert moved == pytest.approx(0.5 * free["gradient_norm"], rel=1e-4)
    limit = free["gradient_norm"] / 3
    clipped, moved = step_of(make(place, **settings, gradient_clip=limit))
    assert clipped["gradient_norm"] == pytest.approx(free["gradient_norm"], rel=1e-5)  # what is logged is the norm before clipping
    assert moved == pytest.approx(0.5 * limit, rel=1e-3)
    _, moved = step_of(make(place, **settings, gradient_clip=10 * free["gradient_norm"]))
    assert moved == pytest.approx(0.5 * free["gradient_norm"], rel=1e-4)


def test_the_first_step_of_adam_moves_every_weight_by_the_learning_rate(place):
    trainer = make(place, optimizer="adam", learning_rate=1e-3, gradient_clip=None)
    _, moved = step_of(trainer)
    gradients = torch.cat([parameter.grad.reshape(-1) for parameter in trainer.network.parameters() if parameter.grad is not None])
    well_above_epsilon = int((gradients.abs() > 1e-5).sum())
    count = sum(parameter.numel() for parameter in trainer.network.parameters())
    assert 1e-3 * math.sqrt(well_above_epsilon) * 0.99 <= moved <= 1e-3 * math.sqrt(count) * 1.01


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimisers_by_name_get_what_the_plan_says(place, name):
    extra = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {"betas": [0.8, 0.99]}
    trainer = make(place, optimizer=name, optimizer_kwargs=extra, weight_decay=0.01, learning_rate=0.02)
    trainer.initialize()
    group = trainer.optimizer.param_groups[0]
    assert type(trainer.optimizer).__name__.lower() == name
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.01)
    assert all(tuple(group[key]) == tuple(value) if isinstance(value, list) else group[key] == value for key, value in extra.items())


def test_a_wrong_optimiser_argument_is_told(place):
    with pytest.raises(ConfigurationError, match="momentm"):
        make(place, optimizer="sgd", optimizer_kwargs={"momentm": 0.9}).initialize()


def test_the_rate_of_every_epoch_follows_the_schedule(plane):
    """lr (1 - epoch / epochs)^exponent, read back from the history of a finished training."""
    content = load_checkpoint(plane.fold(0) / FINAL)
    training = content["init"]["configuration"]["training"]
    exponent = training["lr_schedule_kwargs"]["exponent"]
    expected = [training["learning_rate"] * (1 - epoch / training["epochs"]) ** exponent for epoch in range(training["epochs"])]
    assert content["logging"]["values"]["learning_rate"] == pytest.approx(expected)


def test_the_same_seed_trains_the_same_and_another_does_not(place):
    losses = []
    for seed in (1, 1, 2):
        trainer = make(place, seed=seed, epochs=1)
        terms, _ = step_of(trainer)
        losses.append(terms["loss"])
    assert losses[0] == losses[1] != losses[2]


# -- checkpoints and history ------------------------------------------------------------------------------------------


class Scripted(OwnParts):
    """Validation metrics that go up and down as written."""

    dice = (0.2, 0.8, 0.1)

    def validation_step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(1.0), "dice": torch.tensor(self.dice[self.current_epoch])}


class ScriptedLoss(OwnParts):
    losses = (0.9, 0.4, 0.9)

    def validation_step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(self.losses[self.current_epoch]), "dice": torch.tensor(math.nan)}


def averages(values: list[float]) -> list[float]:
    result = values[:1]
    for value in values[1:]:
        result.append(EMA_MOMENTUM * result[-1] + (1 - EMA_MOMENTUM) * value)
    return result


@pytest.mark.parametrize(("kind", "monitored"), [(Scripted, list(Scripted.dice)), (ScriptedLoss, [-loss for loss in ScriptedLoss.losses])])
def test_best_is_the_epoch_of_the_highest_average_and_latest_the_last(place, kind, monitored):
    trainer = make(place, kind, epochs=len(monitored))
    trainer.run_training()
    expected = averages(monitored)
    best, latest, final = (load_checkpoint(trainer.output_folder / name) for name in (BEST, LATEST, FINAL))
    assert final["logging"]["values"]["ema"] == pytest.approx(expected)
    assert best["epoch"] == best["logging"]["best_epoch"] == expected.index(max(expected))
    assert latest["current_epoch"] == final["current_epoch"] == len(monitored)
    for name, value in latest["network_weights"].items():
        assert torch.equal(value, final["network_weights"][name])
    assert all(len(series) == len(monitored) for series in final["logging"]["values"].values())


class Explodes(OwnParts):
    def train_step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(math.nan if self.current_epoch == 1 else 1.0)}


def test_a_loss_that_is_no_number_ends_the_training_with_the_last_good_checkpoint(place):
    trainer = make(place, Explodes)
    with pytest.raises(TrainingError, match=r"epoch 2: the training loss is nan.*--set learning_rate"):
        trainer.run_training()
    assert load_checkpoint(trainer.output_folder / LATEST)["current_epoch"] == 1
    assert not (trainer.output_folder / FINAL).exists()


class Spoils(nnRegTrainer):
    """Makes the gradients of some steps of the second epoch infinite."""

    spoiled = 1

    def train_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        loss, _ = self.objective(self.network, batch)
        self.steps = getattr(self, "steps", 0) + (self.current_epoch == 1)
        return loss * (math.inf if self.current_epoch == 1 and self.steps <= self.spoiled else 1.0)


def test_a_gradient_that_is_not_finite_is_left_out_and_counted(place):
    trainer = make(place, Spoils)
    before = {}
    trainer.run_training()
    log = (trainer.output_folder / "training_log.txt").read_text()
    assert "Epoch 2: 1 of " in log
    before = load_checkpoint(trainer.output_folder / FINAL)["network_weights"]
    assert all(value.isfinite().all() for value in before.values())


class SpoilsAll(Spoils):
    spoiled = 10**6


def test_many_of_them_end_the_training_with_weights_that_are_good(place):
    trainer = make(place, SpoilsAll, iterations_per_epoch=4)
    with pytest.raises(TrainingError, match=r"epoch 2: .*continue with -c"):
        trainer.run_training()
    latest = load_checkpoint(trainer.output_folder / LATEST)
    assert latest["current_epoch"] == 1
    assert all(value.isfinite().all() for value in latest["network_weights"].values())


def test_checkpoints_of_another_network_are_refused_by_name(place):
    trainer = make(place, **{"architecture.features_per_stage": [4, 6, 4]})
    with pytest.raises(TrainingError, match=r"checkpoint_final.pth.*do not fit"):
        trainer.load_checkpoint(place.fold(0) / FINAL)


def test_the_weights_of_a_checkpoint_come_back(place):
    """Validating the best checkpoint evaluates its weights, not those of the last epoch."""
    fold = place.fold(0)
    content = load_checkpoint(fold / "checkpoint_scrambled.pth")
    torch.save(content, fold / BEST)
    workspace = Workspace.resolve(place.root)
    overrides = {"epochs": 2, "iterations_per_epoch": 2}
    last = train(workspace, place.id, "2d", 0, validate_only=True, device="cpu", overrides=overrides)
    best = train(workspace, place.id, "2d", 0, validate_only=True, validate_best=True, device="cpu", overrides=overrides)
    assert last["mean"]["ncc_aligned"] == best["mean"]["ncc_aligned"]
    assert last["mean"]["ncc_after"] != pytest.approx(best["mean"]["ncc_after"], abs=1e-3)


def test_history_keeps_every_series_as_long_as_the_training():
    history = History()
    for epoch, value in enumerate([0.1, 0.3, 0.0, 0.05]):
        history.update_best(epoch, value)
        history.add(epoch, {"loss": value, "ema": history.values["ema"][-1]} | ({"late": 1.0} if epoch > 1 else {}))
    assert len(history) == 4
    assert all(len(series) == 4 for series in history.values.values())
    assert [math.isnan(value) for value in history.values["late"]] == [True, True, False, False]
    again = History.from_state(json.loads(json.dumps(history.state())))
    assert again.values["loss"][:2] == [0.1, 0.3]
    assert (again.best_ema, again.best_epoch) == (history.best_ema, history.best_epoch)
    assert again.best_epoch == 1
    assert not again.update_best(4, -1.0)  # a resumed history knows the best so far


def test_history_keeps_the_order_in_which_names_came():
    """A set has another order in every process, and checkpoints of one training would differ."""
    history, names = History(), [f"loss_{number}" for number in range(30)]
    for epoch in range(2):
        history.add(epoch, dict.fromkeys(names[: 15 * (epoch + 1)], 1.0))
    assert list(history.values) == names


def test_an_epoch_without_a_measure_neither_moves_the_moving_average_nor_begins_it_anew():
    history = History()
    for epoch, value in enumerate([0.5, math.nan, 0.4]):
        better = history.update_best(epoch, value)
        assert better == (epoch == 0)
    assert history.values["ema"] == pytest.approx([0.5, 0.5, 0.49])


def test_means_of_terms_leave_out_what_could_not_be_measured():
    means = mean_terms([{"a": 1.0, "b": math.nan}, {"a": 3.0, "b": math.nan, "c": 5.0}])
    assert (means["a"], means["c"]) == (2.0, 5.0)
    assert math.isnan(means["b"])


def test_a_resolved_trainer_carries_its_name():
    from nnreg.training.configs import resolve_trainer

    found = resolve_trainer(f"{__name__}:StopsEarly")
    assert isinstance(found, ResolvedTrainer)
    assert found.name == f"{__name__}.StopsEarly"

"""``nnRegTrainer``: runs the epochs. Small parts do the work; the hooks are what people override."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.splits import fold_cases
from nnreg.errors import ConfigurationError, TrainingError, did_you_mean
from nnreg.files import read_json, write_json
from nnreg.planning.plans import Configuration, Plans
from nnreg.task import task_named
from nnreg.training.configs.overrides import resolve_configuration
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.dataloading.loaders import EpochSampler, build_loader, to_device
from nnreg.training.logging import History, TrainingLog, plot_progress
from nnreg.training.logging.log import mean_terms
from nnreg.training.lr_scheduler import build_schedule
from nnreg.training.runtime_utils.memory import check_fits
from nnreg.training.runtime_utils.runtime import autocast, needs_scaler, random_state, restore_random_state, seed_everything
from nnreg.training.trainer.checkpoint import BEST, FINAL, LATEST, load_checkpoint, load_weights, save_checkpoint
from nnreg.typed import to_mapping

Progress = Callable[[int, int, str], None]
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class RunFolders:
    """Where a training reads and writes.

    Attributes
    ----------
    raw : the raw dataset, for the full validation on native images
    preprocessed : plans, splits and arrays
    model : ``TRAINER__PLANS__CONFIGURATION``
    """

    raw: Path
    preprocessed: Path
    model: Path

    def fold(self, fold: int | str) -> Path:
        """``fold_K`` of the model folder."""
        return self.model / f"fold_{fold}"


@dataclass
class Listeners:
    """What a front end may listen to; all silent by default."""

    line: Callable[[str], None] | None = None
    step: Progress = field(default=lambda done, total, what: None)


class nnRegTrainer:
    """Trains one fold of one configuration. Constructing it touches no disk.

    Parameters
    ----------
    plans, configuration, spec
        The plans, the name of one of their configurations, and dataset.json.
    fold
        0 to 4, or ``"all"`` (train and validate on everything).
    folders
        Where to read and write.
    name
        What ``-tr`` said; the results folder carries it.
    recipe
        The TrainerConfig.
    overrides
        Values from the command line, over everything else.
    device, workers, listeners
        Where to compute, how many processes load data (0: this one), who hears of progress.

    Override the hooks: `build_network_architecture`, `configure_optimizers`, `_build_loss`, `get_dataloaders`, `train_step`,
    `validation_step`, `on_train_start`, `on_epoch_start`, `on_epoch_end`, `perform_actual_validation`, `save_checkpoint`, `load_checkpoint`.
    """

    def __init__(
        self,
        *,
        plans: Plans,
        configuration: str,
        spec: DatasetSpec,
        fold: int | str,
        folders: RunFolders,
        name: str = "nnRegTrainer",
        recipe: TrainerConfig | None = None,
        overrides: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        workers: int = 0,
        listeners: Listeners | None = None,
    ) -> None:
        self.plans, self.configuration_name, self.spec, self.fold, self.folders, self.name = plans, configuration, spec, fold, folders, name
        self.recipe = recipe or TrainerConfig()
        self.overrides = dict(overrides or {})
        self.device, self.workers = torch.device(device), workers
        self.listeners = listeners or Listeners()
        self.task = task_named(plans.task)
        self.configuration: Configuration = resolve_configuration(plans.configuration(configuration), self.recipe, name, self.overrides)
        self.output_folder = folders.fold(fold)
        self.num_epochs = self.configuration.training.epochs
        self.current_epoch = 0
        self.history = History()
        self.initialized = False

    # -- hooks: what is trained -------------------------------------------------------------------------------------

    def build_network_architecture(self) -> nn.Module:
        """The network; the plan's, or the recipe's."""
        return self.task.network(plans=self.plans, configuration=self.configuration, recipe=self.recipe)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any] | None:
        """Optimizer and learning rate schedule (``.step(epoch)``). An override may return them, or set ``self.optimizer``."""
        plan = self.configuration.training
        if plan.optimizer not in OPTIMIZERS:
            raise ConfigurationError(f"optimizer {plan.optimizer!r} is unknown; {did_you_mean(plan.optimizer, OPTIMIZERS)}")
        try:
            optimizer = OPTIMIZERS[plan.optimizer](
                self.network.parameters(),
                lr=plan.learning_rate,
                weight_decay=plan.weight_decay,
                **plan.optimizer_kwargs,  # type: ignore[call-arg]
            )
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"optimizer {plan.optimizer}: {error}") from error
        return optimizer, build_schedule(plan.lr_schedule, optimizer, plan.learning_rate, self.num_epochs, plan.lr_schedule_kwargs)

    def _build_loss(self) -> Any:
        """The objective: ``objective(network, batch) -> (loss, terms)``."""
        return self.task.objective(plans=self.plans, configuration=self.configuration, recipe=self.recipe)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Loaders of training and validation batches."""
        plan = self.configuration.training
        train_cases, validation_cases = self.split()
        arrays = self.folders.preprocessed / self.configuration.data_identifier
        loaders = []
        for split, cases, batches in (("train", train_cases, plan.iterations_per_epoch), ("val", validation_cases, plan.validation_iterations)):
            units = self.task.units(spec=self.spec, cases=cases)
            if not units:
                raise TrainingError(
                    f"fold {self.fold}: its {split} cases ({', '.join(cases) or 'none'}) form no pair. Use -f all, or edit {self._splits_path()}."
                )
            batch_size = plan.batch_size if split == "train" else 1
            # an epoch validates on every unit once at most: the same ones each epoch, so that epochs compare
            batches = batches if split == "train" else min(batches, len(units))
            samples = self.task.samples(
                folder=arrays, units=units, configuration=self.configuration, length=batch_size * batches, split=split, augment=split == "train"
            )
            workers = self.workers if split == "train" else min(self.workers, 1)
            loaders.append(build_loader(samples, batch_size=batch_size, batches=batches, workers=workers, pin_memory=self.device.type == "cuda"))
        return loaders[0], loaders[1]

    # -- hooks: one step --------------------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One optimisation step; returns detached terms, ``loss`` among them, still on the device."""
        batch = to_device(batch, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            loss, terms = self.objective(self.network, batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        clip = self.configuration.training.gradient_clip
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip if clip is not None else float("inf"))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {"loss": loss.detach(), **terms, "gradient_norm": norm.detach()}

    def validation_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Metrics of one validation batch, detached, still on the device."""
        batch = to_device(batch, self.device)
        with torch.no_grad(), autocast(self.device):
            return self.task.online_metrics(network=self.network, objective=self.objective, batch=batch)

    # -- hooks: the run ---------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build network, optimizer and objective, seeded."""
        if self.initialized:
            return
        self.check_memory()
        seed_everything(self.configuration.training.seed)
        self.network = self.build_network_architecture().to(self.device)
        self.optimizer: torch.optim.Optimizer
        self.lr_scheduler: Any = None
        built = self.configure_optimizers()
        if built is not None:
            self.optimizer, self.lr_scheduler = built
        objective = self._build_loss()
        self.objective = objective.to(self.device) if isinstance(objective, nn.Module) else objective
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=needs_scaler(self.device))
        self.initialized = True

    def check_memory(self) -> None:
        """Refuse a network that the grid is too small for or the device's memory too small, before anything is allocated.

        The planned network was checked by the planner; one made by code of the user's own need not run without numbers, and is not.
        """
        planned = self.plans.configuration(self.configuration_name)
        unchanged = (planned.architecture, planned.training.batch_size) == (self.configuration.architecture, self.configuration.training.batch_size)
        if self.has_custom_network or unchanged:
            return
        needed = self.task.memory_gb(build=self.build_network_architecture, plans=self.plans, configuration=self.configuration)
        if needed is not None:
            check_fits(needed, self.device, f"network {self.configuration.architecture.name} on {'x'.join(map(str, self.configuration.grid))} voxels")

    def on_train_start(self) -> None:
        """Make the folder, say what is trained."""
        self.output_folder.mkdir(parents=True, exist_ok=True)
        self.log = TrainingLog(self.output_folder, self.listeners.line)
        self._write_model_files()
        write_json(self.output_folder / "debug.json", self.debug_information())
        plan = self.configuration.training
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        network = type(self.network).__name__ if self.has_custom_network else self.configuration.architecture.name
        self.log(f"Device: {self.device}. {self.plans.dataset_name}, {self.configuration_name}, fold {self.fold}, trainer {self.name}")
        self.log(
            f"Network {network}: {parameters:,} parameters; grid {'x'.join(map(str, self.configuration.grid))} "
            f"at {' x '.join(f'{s:.3g}' for s in self.configuration.spacing)} mm; {self.num_epochs} epochs of {plan.iterations_per_epoch} iterations"
        )

    def on_epoch_start(self) -> None:
        """Set the learning rate."""
        self._epoch_started = time.monotonic()
        if self.lr_scheduler is not None:
            self.lr_scheduler.step(self.current_epoch)

    def on_epoch_end(self, train_terms: list[dict[str, Tensor]], validation_terms: list[dict[str, Tensor]]) -> None:
        """Log, plot, save ``latest`` and, if the monitored average rose, ``best``."""
        numbers = {f"train_{name}": value for name, value in mean_terms(_numbers(train_terms)).items()}
        numbers |= {f"val_{name}": value for name, value in mean_terms(_numbers(validation_terms)).items()}
        numbers |= {"learning_rate": self.optimizer.param_groups[0]["lr"], "epoch_seconds": time.monotonic() - self._epoch_started}
        if not torch.isfinite(torch.tensor(numbers["train_loss"])):
            raise TrainingError(
                f"fold {self.fold}: the training loss of epoch {self.current_epoch} is {numbers['train_loss']}. "
                f"Lower the learning rate (--set learning_rate={self.optimizer.param_groups[0]['lr'] / 10:.1e}) and continue with -c from the last good epoch."
            )
        improved = self.history.update_best(self.current_epoch, self._monitored(numbers))
        self.history.add(self.current_epoch, {name: value for name, value in numbers.items() if name != "ema"} | {"ema": self.history.values["ema"][-1]})
        terms = ", ".join(f"{name} = {value:.4f}" for name, value in numbers.items() if name.startswith(("train_", "val_")))
        self.log(f"[Epoch {self.current_epoch + 1:03d}/{self.num_epochs:03d}] {terms}, lr = {numbers['learning_rate']:.2e}, {numbers['epoch_seconds']:.1f} s")
        self.current_epoch += 1
        if improved:
            self.log(f"New best moving average of {self.task.monitor}: {self.history.best_ema:.4f}")
            self.save_checkpoint(self.output_folder / BEST)
        self.save_checkpoint(self.output_folder / LATEST)
        plot_progress(self.history, self.output_folder / "progress.png")

    def run_training(self) -> dict[str, Any]:
        """Train all (remaining) epochs, then validate; returns the validation summary."""
        self.initialize()
        train_loader, validation_loader = self.get_dataloaders()
        self.on_train_start()
        while self.current_epoch < self.num_epochs:
            self.on_epoch_start()
            self.network.train()
            train_terms = self._epoch(train_loader, self.train_step, "training")
            self.network.eval()
            validation_terms = self._epoch(validation_loader, self.validation_step, "validating")
            self.on_epoch_end(train_terms, validation_terms)
        self.save_checkpoint(self.output_folder / FINAL)
        self.log("Training finished")
        return self.perform_actual_validation()

    def perform_actual_validation(self) -> dict[str, Any]:
        """Predict every validation pair on its native grids into ``validation_raw/`` and write ``validation_summary.json``."""
        from nnreg.inference.predictor import Predictor

        self.initialize()
        if not hasattr(self, "log"):
            self.on_train_start()
        self.network.eval()
        _, cases = self.split()
        predictor = Predictor(plans=self.plans, configuration=self.configuration, networks=[self.network], device=self.device)
        summary = self.task.validate(
            predictor=predictor,
            spec=self.spec,
            raw=self.folders.raw,
            arrays=self.folders.preprocessed / self.configuration.data_identifier,
            cases=cases,
            output=self.output_folder / "validation_raw",
            on_progress=self.listeners.step,
        )
        write_json(self.output_folder / "validation_summary.json", summary)
        self.log(f"Validation on native grids: {_headline(summary)}")
        return summary

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def save_checkpoint(self, path: Path) -> None:
        """Weights, optimizer, schedule position, random states, history and the resolved configuration."""
        save_checkpoint(
            path,
            {
                "network_weights": self.network.state_dict(),
                "optimizer_state": self.optimizer.state_dict(),
                "grad_scaler_state": self.scaler.state_dict(),
                "current_epoch": self.current_epoch,
                "epoch": self.current_epoch - 1,
                "logging": self.history.state(),
                "random_state": random_state(),
                "trainer_name": self.name,
                "init": {
                    "plans": self.plans.to_dict(),
                    "configuration_name": self.configuration_name,
                    "configuration": to_mapping(self.configuration),
                    "fold": self.fold,
                    "overrides": self.overrides,
                    "custom_network": self.has_custom_network,
                },
            },
        )

    def load_checkpoint(self, path: Path, *, weights_only: bool = False) -> None:
        """Restore everything that `save_checkpoint` stored, so that the run goes on bit for bit (CPU); or the weights alone."""
        self.initialize()
        content = load_checkpoint(path, self.device)
        load_weights(self.network, content["network_weights"], path)
        if weights_only:
            return
        self.optimizer.load_state_dict(content["optimizer_state"])
        self.scaler.load_state_dict(content["grad_scaler_state"])
        self.current_epoch = content["current_epoch"]
        self.history = History.from_state(content["logging"])
        restore_random_state(content["random_state"])

    # -- helpers ----------------------------------------------------------------------------------------------------

    def split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases of this fold."""
        train, validation = fold_cases(read_json(self._splits_path(), TrainingError), self.fold)
        return list(train), list(validation)

    @property
    def has_custom_network(self) -> bool:
        """Whether the network is made by code that plans and checkpoints cannot name."""
        overridden = type(self).build_network_architecture is not nnRegTrainer.build_network_architecture
        return overridden or not isinstance(self.recipe.architecture, (str, type(None)))

    def debug_information(self) -> dict[str, Any]:
        """What ``debug.json`` holds: the resolved configuration, the network and what made them."""
        from nnreg import __version__

        return {
            "nnreg_version": __version__,
            "torch_version": str(torch.__version__),
            "trainer": self.name,
            "dataset": self.plans.dataset_name,
            "plans": self.plans.plans_name,
            "configuration_name": self.configuration_name,
            "fold": self.fold,
            "device": str(self.device),
            "overrides": self.overrides,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "configuration": to_mapping(self.configuration),
            "network": str(self.network).splitlines(),
        }

    def _write_model_files(self) -> None:
        """What a prediction needs beside the weights: plans, dataset.json, the alignment reference."""
        from nnreg.preprocessing.reference import copy_reference

        self.plans.write(self.folders.model / "plans.json")
        self.spec.write(self.folders.model / "dataset.json")
        copy_reference(self.folders.preprocessed, self.folders.model)

    def _splits_path(self) -> Path:
        return self.folders.preprocessed / "splits_final.json"

    def _monitored(self, numbers: Mapping[str, float]) -> float:
        """The task's metric where it is known, else the negative validation loss."""
        value = numbers.get(f"val_{self.task.monitor}", float("nan"))
        return value if value == value else -numbers["val_loss"]

    def _epoch(self, loader: Any, step: Callable[[dict[str, Tensor]], dict[str, Tensor]], what: str) -> list[dict[str, Tensor]]:
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, EpochSampler):  # an override may return any batches that can be gone through
            sampler.epoch = self.current_epoch if what == "training" else 0
        results = []
        for done, batch in enumerate(loader, 1):
            results.append(step(batch))
            self.listeners.step(done, len(loader), f"epoch {self.current_epoch + 1}/{self.num_epochs}, {what}")
        return results


def _numbers(terms: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """One transfer from the device at the end of the epoch instead of one a step."""
    return [{name: float(value) for name, value in step.items()} for step in terms]


def _headline(summary: Mapping[str, Any]) -> str:
    means = summary.get("mean", {})
    return ", ".join(f"{name} {value:.4f}" for name, value in means.items() if isinstance(value, float)) or "see validation_summary.json"

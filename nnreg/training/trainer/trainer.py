"""``nnRegTrainer``: runs the epochs. Small parts do the work; the hooks are what people override."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.splits import fold_cases
from nnreg.devices import device_named
from nnreg.engine.device import engine_part
from nnreg.errors import ConfigurationError, TrainingError
from nnreg.files import make_folder, read_json, write_json, write_text
from nnreg.inference.trained_networks import Predictor
from nnreg.losses.ranks import whole_batches
from nnreg.planning.plans import Configuration, Plans
from nnreg.task import TASKS, task_named
from nnreg.training.configs.overrides import recipe_with, resolve_configuration
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.dataloading.batch import Batch
from nnreg.training.dataloading.loaders import EpochSampler, SharedSampler, build_loader, keep_resident, to_device, told_by_workers
from nnreg.training.dataloading.shared_memory import fitting_workers
from nnreg.training.distributed import ALONE, Ranks, Replica
from nnreg.training.logging import History, Report, Silence
from nnreg.training.lr_scheduler import Schedule, build_schedule
from nnreg.training.run_folders import DEBUG_FILE, RunFolders, prepared, require_arrays, stage_before
from nnreg.training.runtime_utils.compiling import compile_network
from nnreg.training.runtime_utils.gradient_checkpointing import checkpoint_gradients
from nnreg.training.runtime_utils.memory import check_fits
from nnreg.training.runtime_utils.runtime import (
    autocast,
    autocast_type,
    channels_last,
    determinism,
    fastest_convolutions,
    needs_scaler,
    seed_everything,
)
from nnreg.training.trainer.checkpoint import BEST, WEIGHTS, CheckpointKeeper, load_checkpoint, load_weights, save_checkpoint
from nnreg.training.trainer.clock import Clock, time_left
from nnreg.training.trainer.monitor import Monitor, stalled
from nnreg.training.trainer.optimizers import build_optimizer, check_names, schedule_arguments
from nnreg.training.trainer.parts import Listeners, debug_information, epoch_line, epoch_numbers, headline, opening_lines
from nnreg.training.trainer.state import restore_training, training_state
from nnreg.training.trainer.stepper import Stepper, averaged_weights
from nnreg.typed import to_mapping
from nnreg.workspace import Workspace

FEW_LEFT_OUT, SHARE_LEFT_OUT = 2, 0.1  # steps of an epoch, or a share of them, whose gradient may be not finite before the training is stopped


class nnRegTrainer:
    """Trains one fold of one configuration. Constructing it touches no disk.

    Parameters
    ----------
    dataset_id, configuration, fold, plans_identifier
        Dataset (1, ``"001"`` or its folder's name), one of its planned configurations, and the fold: 0 to 4, or ``"all"`` (train and
        validate on everything). The plans are read from the workspace.
    device
        Where to compute: ``cpu``, ``cuda``, ``cuda:1``, ``auto``. A GPU of CUDA that is named is the engine's too, when the methods of a fold are compared.
    plans, spec, folders
        In place of `dataset_id`: the plans, dataset.json, and where to read and write.
    name
        What ``-tr`` said; the results folder carries it.
    recipe
        The TrainerConfig.
    overrides
        Values from the command line, over everything else.
    workers, listeners
        How many processes load data (0: this one), who hears of progress.

    Override the hooks: `build_network_architecture`, `configure_optimizers`, `_build_loss`, `get_dataloaders`, `train_step`,
    `validation_step`, `on_train_start`, `on_epoch_start`, `on_epoch_end`, `perform_actual_validation`, `save_checkpoint`, `load_checkpoint`.
    """

    # set by `initialize`, which alone allocates; all else is set when the trainer is made
    network: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Any
    scaler: torch.amp.GradScaler
    stepper: Stepper
    ranks: Ranks
    replica: Replica | None

    source: str | None = None
    """In words, where a trainer or recipe that was asked for by name comes from; empty for nnReg's own."""
    validates_best = False
    """Whether the validation after the training is of the best checkpoint."""

    def __init__(
        self,
        dataset_id: int | str | None = None,
        configuration: str = "",
        fold: int | str = 0,
        plans_identifier: str = "nnRegPlans",
        device: torch.device | str = "cpu",
        *,
        plans: Plans | None = None,
        spec: DatasetSpec | None = None,
        folders: RunFolders | None = None,
        name: str | None = None,
        recipe: TrainerConfig | None = None,
        overrides: Mapping[str, Any] | None = None,
        workers: int = 0,
        listeners: Listeners | None = None,
    ) -> None:
        self.name = name or type(self).__name__
        if plans is None or spec is None or folders is None:
            plans, spec, folders = read_prepared(dataset_id, configuration, fold, plans_identifier, self.name)
        self.plans, self.configuration_name, self.spec, self.fold, self.folders = plans, configuration, spec, fold, folders
        self.overrides = dict(overrides or {})
        self.recipe, settings = recipe_with(recipe or TrainerConfig(), self.overrides)
        self.device, self.engine_device, self.workers = device_named(str(device)), engine_part(str(device)), workers
        self.listeners = listeners or Listeners()
        self.task = task_named(plans.task)
        self.configuration: Configuration = resolve_configuration(plans.configuration(configuration), self.recipe, self.name, settings)
        self.plan = self.configuration.training
        check_names(self.plan)
        self.output_folder = folders.fold(fold)
        self.num_epochs = self.plan.epochs
        self.current_epoch = 0
        self.history = History()
        self.monitor = Monitor(self.plan, self.task.monitor)
        self.sample_counts: dict[str, int] = {}
        self.save_probabilities = False  # of the validation, for ensembles
        self.notes: list[str] = []  # what the log is to say before the first epoch
        self.initialized = False
        self.lr_scheduler: Any = None
        self.average: AveragedModel | None = None
        self.ranks, self.replica = ALONE, None  # set before the run where several processes share it
        self._goes_on = False
        self._report: Report | None = None
        self._epoch_started = self._waited = 0.0
        # a length that was asked for is kept, however long it takes
        asked = {"epochs", "iterations_per_epoch"} & self.overrides.keys()
        self.clock = Clock(None if asked else getattr(self.plan, "time_budget", None))

    # -- hooks: what is trained -------------------------------------------------------------------------------------

    def build_network_architecture(self) -> nn.Module:
        """The network; the plan's, or the recipe's."""
        return self.task.network(plans=self.plans, spec=self.spec, configuration=self.configuration, recipe=self.recipe)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any] | None:
        """Optimizer and learning rate schedule (``.step(epoch)``). An override may return them, or set ``self.optimizer``."""
        optimizer = build_optimizer(self.plan, self.network.parameters())
        return optimizer, build_schedule(self.plan.lr_schedule, optimizer, self.plan.learning_rate, self.num_epochs, schedule_arguments(self.plan))

    def _build_loss(self) -> Any:
        """The objective: ``objective(network, batch) -> (loss, terms)``."""
        return self.task.objective(plans=self.plans, spec=self.spec, configuration=self.configuration, recipe=self.recipe)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Loaders of training and validation batches."""
        plan = self.plan
        train_cases, validation_cases = self.split()
        arrays = self.folders.preprocessed / self.configuration.data_identifier
        loaders = []
        steps = plan.iterations_per_epoch * plan.gradient_accumulation_steps
        for split, cases in (("train", train_cases), ("val", validation_cases)):
            units = self.task.units(spec=self.spec, cases=cases)
            if not units:
                raise TrainingError(
                    f"fold {self.fold}: its {split} cases ({', '.join(cases) or 'none'}) give no sample. Train all cases "
                    f"(nnreg_train {self.plans.dataset_name[7:10]} {self.configuration_name} all), or edit {self._splits_path()}."
                )
            count = self.task.sample_count(training=plan, split=split, units=units)
            batch_size, batches = (plan.batch_size, steps) if split == "train" else self.task.validation_batches(training=plan, units=count)
            samples = self.task.samples(
                folder=arrays,
                model=self.folders.model,
                spec=self.spec,
                units=units,
                configuration=self.configuration,
                length=batch_size * batches,
                split=split,
                augment=split == "train",
            )
            self.sample_counts[split] = count
            options: dict[str, Any] = {"batches": batches, "workers": 0, "pin_memory": False}
            if self.plan.gpu.resident:
                keep_resident(samples, self.device)
            else:
                options |= {"workers": self._workers(samples, split, batch_size), "pin_memory": self.device.type == "cuda"}
            if self.ranks.size > 1:
                batch_size, options["sampler"] = self.ranks.shares(batch_size, batches, whole=split == "val")
            loaders.append(build_loader(samples, batch_size=batch_size, **options))
        return loaders[0], loaders[1]

    # -- hooks: one step --------------------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor] | Tensor:
        """One batch; returns detached terms, ``loss`` among them, still on the device. An override may return the loss alone: the trainer then steps."""
        batch = to_device(batch, self.device)
        with autocast(self.device, self.plan.mixed_precision):
            loss, terms = self.objective(self.network, batch) if self.replica is None else self.replica(batch)
        return {"loss": loss.detach(), **terms, "gradient_norm": self.stepper(loss)}

    def validation_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Metrics of one validation batch, detached, still on the device."""
        batch = to_device(batch, self.device)
        with torch.no_grad(), autocast(self.device, self.plan.mixed_precision):
            return self.task.online_metrics(network=self.network, objective=self.objective, batch=batch)

    # -- hooks: the run ---------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build network, optimizer and objective, seeded."""
        if self.initialized:
            return
        self.check_memory()
        autocast_type(self.device, self.plan.mixed_precision)  # raises where the device has none
        seed_everything(self.plan.seed)
        self.network = self.build_network_architecture().to(self.device)
        if self.plan.gradient_checkpointing:
            checkpoint_gradients(self.network)
        if self.plan.gpu.channels_last:
            channels_last(self.network)
        if self.plan.gpu.compile:
            compile_network(self.network, self.log)
        built = self.configure_optimizers()
        if built is not None:
            self.optimizer, self.lr_scheduler = built
        objective = self._build_loss()
        self.objective = objective.to(self.device) if isinstance(objective, nn.Module) else objective
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=needs_scaler(self.device, self.plan.mixed_precision))
        self.stepper = Stepper(self.network, self.optimizer, self.scaler, self.plan)
        self.average = averaged_weights(self.network, self.optimizer, self.plan.ema_decay)
        self.initialized = True

    def check_memory(self) -> None:
        """Refuse a network that the grid is too small for or the device's memory too small, before anything is allocated.

        The planned network was checked by the planner; one made by code of the user's own need not run without numbers, and is not.
        """
        planned = self.plans.configuration(self.configuration_name)
        unchanged = (planned.architecture, planned.training.batch_size) == (self.configuration.architecture, self.configuration.training.batch_size)
        if self.has_custom_network or unchanged:
            return
        part = dataclasses.replace(self.plan, batch_size=-(-self.plan.batch_size // self.ranks.size))  # of the batch, the largest of any process
        here = dataclasses.replace(self.configuration, training=part)
        needed = self.task.memory_gb(build=self.build_network_architecture, plans=self.plans, spec=self.spec, configuration=here)
        if needed is not None:
            check_fits(needed, self.device, f"network {self.configuration.architecture.name} on {'x'.join(map(str, self.configuration.grid))} voxels")

    def on_train_start(self) -> None:
        """Make the folder, say what is trained."""
        if not self.ranks.leads:
            self._report = Silence()
            return
        make_folder(self.output_folder)
        self._report = Report(self.output_folder, self.plan.tracking, self.listeners.line, self.plan.checkpoints.model_name)
        self._write_model_files()
        write_json(self.output_folder / DEBUG_FILE, debug_information(self))
        for line in opening_lines(self):
            self.log(line)

    def on_epoch_start(self) -> None:
        """Set the learning rate, and tell the losses that change with the epoch which one it is (``set_epoch``)."""
        self._epoch_started, self._waited = time.monotonic(), 0.0
        for part in self.objective.modules() if isinstance(self.objective, nn.Module) else ():
            hears = getattr(part, "set_epoch", None)
            if callable(hears):
                hears(self.current_epoch)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step(self.current_epoch)

    def on_epoch_end(self, train_terms: list[dict[str, Tensor]], validation_terms: list[dict[str, Tensor]]) -> None:
        """Log, plot, and save the checkpoints that are due: ``best`` if the monitored average rose."""
        rate = self.optimizer.param_groups[0]["lr"]
        numbers = epoch_numbers(train_terms, self.task.epoch_metrics(steps=validation_terms)) | {
            "learning_rate": rate,
            "epoch_seconds": time.monotonic() - self._epoch_started,
            "waiting_seconds": self._waited,
        }
        self._check_divergence(numbers["train_loss"], len(train_terms), rate)
        improved = self.monitor.update(self.history, self.current_epoch, numbers)
        self.history.add(
            self.current_epoch,
            {name: value for name, value in numbers.items() if name not in ("ema", "waiting_seconds")} | {"ema": self.history.values["ema"][-1]},
        )
        if hasattr(self.lr_scheduler, "observe"):
            self.lr_scheduler.observe(numbers.get("val_loss", math.nan))
        self.log(epoch_line(self.current_epoch, self.num_epochs, numbers, self.plan.tracking.console))
        self.current_epoch += 1
        if improved:
            name, sign = self.monitor.name_and_sign(self.history.values)
            self.log(f"New best moving average of {name}: {sign * self.history.values['ema'][-1]:.4f}")
        self._keep_time()
        last = self.current_epoch >= self.num_epochs or self.stalled
        if self.ranks.leads:
            self._keeper().after_epoch(self.current_epoch, last=last, improved=improved)
        self.report.epoch(self.current_epoch - 1, numbers, self.history, self.network)

    def _check_divergence(self, loss: float, steps: int, rate: float) -> None:
        """Stop before a checkpoint is written where the loss, the weights or many gradients of the epoch are not finite; say it where a few are.

        Raises
        ------
        TrainingError
            With the advice of every manual: a lower rate, clipped gradients.
        """
        left_out = self.stepper.taken_left_out()
        weights_finite = all(bool(weights.isfinite().all()) for weights in self.network.state_dict().values() if weights.is_floating_point())
        if math.isfinite(loss) and weights_finite and left_out <= max(FEW_LEFT_OUT, steps * SHARE_LEFT_OUT):
            if left_out:
                self.log(f"Epoch {self.current_epoch + 1}: {left_out} of {steps} steps had a gradient that is not finite and were left out")
            return
        found = f"{left_out} of {steps} gradients are not finite" if math.isfinite(loss) and weights_finite else f"the training loss is {loss}"
        found = found if weights_finite else "the weights are not finite"
        raise TrainingError(
            f"fold {self.fold}, epoch {self.current_epoch + 1}: {found}. Lower the learning rate (--set learning_rate={rate / 10:.1e}), clip gradients "
            "(--set gradient_clip=1.0), and continue with -c: the checkpoints are those of the last good epoch."
        )

    def run_training(self) -> dict[str, Any]:
        """Train all (remaining) epochs, then validate; returns the validation summary."""
        with determinism(self.plan.deterministic), fastest_convolutions(self.device, self.plan.deterministic):
            self.clock.start(self.history)
            self.initialize()
            self.begin_after_stage_before()
            train_loader, validation_loader = self.get_dataloaders()
            if self.ranks.size > 1:
                self._share(train_loader, validation_loader)
            self.on_train_start()
            self.report.open(f"{self.folders.model.name}_fold_{self.fold}", self.current_epoch, to_mapping(self.configuration))
            with contextlib.closing(self.report):
                self._keep_time()
                while self.current_epoch < self.num_epochs and not self.stalled:
                    self.on_epoch_start()
                    train_terms = self._train(train_loader)
                    self.on_epoch_end(train_terms, self._validate(validation_loader))
                if self.stalled:
                    name, _ = self.monitor.name_and_sign(self.history.values)
                    self.log(f"Stopped early: {name} was best {self.plan.early_stopping.patience} epochs ago")
                if self.ranks.leads:
                    self._keeper().after_training()
                self.log("Training finished")
            with self.ranks.first_alone():
                if not self.ranks.leads:
                    return {}
                if self.validates_best:
                    self._load_best()
                return self.perform_actual_validation()

    def perform_actual_validation(self) -> dict[str, Any]:
        """Predict every validation pair on its native grids into ``validation_raw/`` and write ``validation_summary.json``."""
        self.initialize()
        if self._report is None:
            self.on_train_start()
        _, cases = self.split()
        with self.evaluated_weights():
            predictor = Predictor(
                plans=self.plans,
                configuration=self.configuration,
                networks=[self.network],
                device=self.device,
                save_probabilities=self.save_probabilities,
                held_out=self.fold != "all",
                engine=self.engine_device,
            )
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
        self.log(f"Validation on native grids: {headline(summary)}")
        if "method" in summary:
            self.log(f"nnreg_predict uses {summary['method']}: {summary['because']}")
        return summary

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def save_checkpoint(self, path: Path) -> None:
        """Weights, optimizer, schedule, random states, history and the resolved configuration.

        With a moving average of the weights, ``network_weights`` are the average, which a prediction uses, and ``training_weights`` go on.
        """
        save_checkpoint(path, training_state(self))

    def load_checkpoint(self, path: Path, *, weights_only: bool = False) -> None:
        """Restore everything that `save_checkpoint` stored, so that the run goes on bit for bit (CPU); or the weights alone."""
        self.initialize()
        restore_training(self, load_checkpoint(path, self.device, weights_only=weights_only), path, weights_only=weights_only)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases of this fold."""
        train, validation = fold_cases(read_json(self._splits_path(), TrainingError), self.fold)
        return list(train), list(validation)

    @property
    def report(self) -> Report:
        """The log, curves and pictures of this fold; from `on_train_start` on."""
        if self._report is None:
            raise TrainingError(f"fold {self.fold}: there is no log yet. Call on_train_start first; an override of it calls super().on_train_start().")
        return self._report

    def log(self, line: str) -> None:
        """Write a line to the log and to who listens."""
        self.report.log(line)

    @property
    def has_custom_network(self) -> bool:
        """Whether the network is made by code that plans and checkpoints cannot name."""
        overridden = type(self).build_network_architecture is not nnRegTrainer.build_network_architecture
        return overridden or not isinstance(self.recipe.architecture, (str, type(None)))

    @property
    def stalled(self) -> bool:
        """Whether early stopping ends the training here."""
        return stalled(self.monitor.series(self.history.values), self.plan.early_stopping)

    @contextlib.contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """``self.network`` as it is validated: in evaluation mode, with averaged weights where there are any."""
        trained = self.network
        self.network = trained if self.average is None else self.average.module
        self.network.eval()
        try:
            yield
        finally:
            self.network = trained

    def _keep_time(self) -> None:
        """Train the epochs that the time budget leaves, the learning rate falling to zero over them."""
        fitting = max(1, self.clock.fitting(self.history, self.plan.epochs))
        if self.clock.budget is not None and self.ranks.size > 1:
            fitting = min(self.ranks.gathered(fitting))  # all end with the same epoch
        if fitting == self.num_epochs:
            return
        self.log(f"Time budget: {fitting} epochs instead of {self.num_epochs} end in time")
        self.num_epochs = fitting
        if isinstance(self.lr_scheduler, Schedule):
            self.lr_scheduler.max_epochs = fitting

    def begin_after_stage_before(self) -> None:
        """Give the network of a cascade the weights of the one in front, once, if that is another network; checkpoints of the cascade hold them too.

        Raises
        ------
        TrainingError
            If the stage before was not trained.
        """
        if self.current_epoch or self._goes_on or getattr(self.configuration, "previous_stage", None) is None:
            return
        self.initialize()
        if not hasattr(self.network, "stage_before"):
            return
        path = stage_before(self.folders, self.configuration, self.fold)
        weights = load_checkpoint(path, self.device, weights_only=True)[WEIGHTS]
        for network in (self.network, *([] if self.average is None else [self.average.module])):
            load_weights(network.stage_before, weights, path)  # type: ignore[arg-type]
        self._goes_on = True
        self.notes.append(f"Goes on from the field of {path}")

    def _load_best(self) -> None:
        path = self.output_folder / BEST
        if not path.is_file():
            name, _ = self.monitor.name_and_sign(self.history.values)
            raise TrainingError(f"{path}: was not written, for no epoch measured {name}. The training is kept; validate its last epoch with --val.")
        self.load_checkpoint(path, weights_only=True)

    def _share(self, *loaders: Any) -> None:
        """Begin to share every batch with the other processes."""
        if not all(isinstance(getattr(loader, "sampler", None), SharedSampler) for loader in loaders):
            raise ConfigurationError(f"trainer {self.name} has batches of its own, which processes cannot share by index. Train with one process.")
        self.ranks.check_same("epoch to begin with", self.current_epoch)
        if not self.ranks.leads:
            torch.manual_seed(self.plan.seed + self.ranks.rank + self.ranks.size * self.current_epoch)  # dropout of one's own
        self.replica = Replica(self.ranks, self.network, self.objective, self.plan.batch_size)

    def _workers(self, samples: Any, split: str, batch_size: int) -> int:
        """How many processes load data: those asked for, where their shared memory has room for what they load."""
        wanted = self.workers if split == "train" else min(self.workers, 1)
        if not wanted:
            return 0
        found, note = fitting_workers(samples[0], batch_size, wanted)
        self.notes += [] if note is None or note in self.notes else [note]
        return found

    def _keeper(self) -> CheckpointKeeper:
        return CheckpointKeeper(self.output_folder, self.plan.checkpoints, self.save_checkpoint)

    def _write_model_files(self) -> None:
        """What a prediction needs beside the weights: plans, dataset.json, the alignment reference."""
        from nnreg.preprocessing.registration.reference_space import copy_reference

        self.plans.write(self.folders.model / "plans.json")
        self.spec.write(self.folders.model / "dataset.json")
        copy_reference(self.folders.preprocessed, self.folders.model)
        settings = self.folders.preprocessed / self.plan.checkpoints.settings_name
        if self.plan.checkpoints.model_name and settings.is_file():
            write_text(self.output_folder / settings.name, settings.read_text(encoding="utf-8"))

    def _splits_path(self) -> Path:
        return self.folders.preprocessed / "splits_final.json"

    def _train(self, loader: Any) -> list[dict[str, Tensor]]:
        """The training steps of an epoch."""
        self.network.train()
        terms: list[dict[str, Tensor]] = []
        for done, batch in enumerate(self._batches(loader, self.current_epoch, "training")):
            if self.plan.lr_update == "step" and self.lr_scheduler is not None and not self.stepper.pending:
                self.lr_scheduler.step(self.current_epoch + done / len(loader))
            result = self.train_step(self.on_device(batch))
            terms.append({"loss": result.detach(), "gradient_norm": self.stepper(result)} if isinstance(result, Tensor) else result)
        self.stepper.finish()
        return terms if self.ranks.size == 1 else self.ranks.averaged(terms, self.plan.batch_size)

    def on_device(self, batch: Any) -> Any:
        """A batch of the task as overrides find it; one of the user's own loader as it is."""
        return Batch(to_device(batch, self.device), TASKS[self.plans.task].batch_names) if isinstance(batch, dict) else batch

    def _validate(self, loader: Any) -> list[dict[str, Tensor]]:
        """The validation steps of an epoch; none where the options skip it. The same batches in every epoch."""
        every, finished = self.plan.validate_every, self.current_epoch + 1
        if not every or (finished % every and finished < self.num_epochs):
            return []
        terms: list[dict[str, Tensor]] = []
        with self.evaluated_weights(), whole_batches():
            for batch in self._batches(loader, 0, "validating"):
                if not terms and self.report.wants_pictures:
                    with torch.no_grad():
                        shown = self.task.pictures(network=self.network, objective=self.objective, batch=to_device(batch, self.device))
                    self.report.pictures(self.current_epoch, shown)
                terms.append(self.validation_step(self.on_device(batch)))
        return terms if self.ranks.size == 1 else self.ranks.in_order(terms)

    def _batches(self, loader: Any, epoch: int, what: str) -> Iterator[dict[str, Tensor]]:
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, EpochSampler):  # an override may return any batches that can be gone through
            sampler.epoch = epoch
        begun = time.monotonic()
        for done, batch in enumerate(told_by_workers(loader), 1):
            self._waited += time.monotonic() - begun
            yield batch
            begun = time.monotonic()
            left = time_left(self.clock.left(self.history, self.num_epochs, begun - self._epoch_started))
            self.listeners.step(done, len(loader), f"epoch {self.current_epoch + 1}/{self.num_epochs}, {what}{left}")


def read_prepared(dataset: int | str | None, configuration: str, fold: int | str, plans: str, trainer: str) -> tuple[Plans, DatasetSpec, RunFolders]:
    """What a trainer that was given a dataset's number reads from the workspace."""
    if dataset is None:
        raise TrainingError("a trainer needs a dataset_id, or plans, spec and folders.")
    loaded, spec, folders = prepared(Workspace.resolve(None), dataset, configuration, fold, plans, trainer)
    require_arrays(folders, loaded, configuration)
    return loaded, spec, folders

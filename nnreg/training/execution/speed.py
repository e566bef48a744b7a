"""Measures how fast this machine trains: steps of small networks, and one short training of synthetic pairs with everything around it.

``python -m nnreg.training.execution.speed FOLDER NAME STARTED`` reads ``plans.json`` there and writes ``speed.json``; planning with ``--time_budget`` runs it.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.dataset.synthetic_writer import write_synthetic_dataset
from nnreg.files import write_json
from nnreg.planning.registration.duration import MILLION, Speed, Work, step_work
from nnreg.planning.registration.engine_settings import Optimisation
from nnreg.planning.registration.plans import RegistrationConfiguration, RegistrationPlans, registration_plans
from nnreg.planning.training_options import Precision
from nnreg.preprocessing import fingerprint_dataset, plan_dataset, preprocess_dataset
from nnreg.task import task_named
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.execution.run import build_trainer
from nnreg.training.runtime_utils.runtime import autocast
from nnreg.training.trainer.optimizers import build_optimizer
from nnreg.training.trainer.trainer import nnRegTrainer
from nnreg.typed import to_mapping
from nnreg.workspace import Workspace

SHAPES = {2: (112, 128), 3: (44, 52, 48)}  # of the synthetic images
DATASET = "Dataset001_Speed"
COARSER = 1.8  # times the spacing, for a second grid
STEPS = 3  # the first one, which loads code and allocates, does not count
ENDS = 2  # epochs of one step
QUICKER = 0.9  # of the seconds of full precision, that half precision has to stay below


def measure(folder: Path, planned: RegistrationPlans, name: str, started: float) -> Speed:
    """The speed of this machine for trainings like the planned one; `folder` is used up.

    `started` is the ``time.monotonic()``, one for all processes of a machine, at which this one was asked for: its libraries are part of what a training takes.

    Steps of wide and narrow networks on a larger and a smaller grid give the seconds per multiplication, per number and per level as a
    least-squares fit without negative parts. A training of a few steps gives loading, ends of epochs and the validation of a pair.
    """
    terms = planned.configuration(planned.to_train).training
    ready = time.monotonic() - started
    workspace = Workspace.resolve(folder / "workspace")
    shape = SHAPES[planned.configuration(planned.to_train).ndim]
    write_synthetic_dataset(workspace.raw / DATASET, pairs=2, test_pairs=0, shape=shape)
    fingerprint_dataset(workspace, 1, processes=1, pair_budget=0)
    variants, spec = [], DatasetSpec.read(workspace.raw / DATASET / FILE_NAME)
    for factor in (COARSER, 1.0):
        plans = registration_plans(plan_dataset(workspace, 1, overwrite_target_spacing=[factor] * len(shape)))
        configuration = _like(plans.configuration(plans.to_train), terms)
        variants += [(plans, spec, variant) for variant in _widths(configuration)]
    precision = _quicker(*variants[-2])
    product, number, level = _fitted([_step(*variant, precision) for variant in variants])
    preprocess_dataset(workspace, 1, processes=1)
    begun = time.monotonic()
    engine = dataclasses.replace(planned.optimisation, guides=0)  # the rule for a time budget counts labels that guide by itself
    road = partial(_road, workspace, plans.to_train, engine)
    road()
    usual = road()
    # what the first round takes longer (libraries, compiled kernels) every training takes once
    ready += max(0.0, time.monotonic() - begun - usual.whole - usual.whole) + usual.building
    load, epoch = usual.load / prod(configuration.grid) * MILLION, usual.end
    validation, comparison = (seconds / prod(shape) * MILLION for seconds in (usual.validation, usual.comparison))
    return Speed(name, ready, product, number, level, load, epoch, validation, comparison, precision)


def _like(configuration: RegistrationConfiguration, terms: Any) -> RegistrationConfiguration:
    """The configuration with the similarity and regularisation of another training, one pair a step."""
    changed = dataclasses.replace(configuration.training, similarity=terms.similarity, regularisation=terms.regularisation, supervision=(), batch_size=1)
    return dataclasses.replace(configuration, training=changed)


def _widths(configuration: RegistrationConfiguration) -> Iterator[RegistrationConfiguration]:
    """As planned, and half as wide."""
    yield configuration
    features = tuple(max(1, width // 2) for width in configuration.architecture.features_per_stage)
    yield dataclasses.replace(configuration, architecture=dataclasses.replace(configuration.architecture, features_per_stage=features))


def _quicker(plans: RegistrationPlans, spec: DatasetSpec, configuration: RegistrationConfiguration) -> Precision:
    """``bf16`` where a step takes clearly less time in it, as on processors with AMX; else full precision, for which nothing is rounded.

    Processor time is compared, because what else the machine does may change between the two.
    """
    full, half = (_step(plans, spec, configuration, precision, time.process_time)[1] for precision in ("off", "bf16"))
    return "bf16" if half <= QUICKER * full else "off"


def _step(
    plans: RegistrationPlans, spec: DatasetSpec, configuration: RegistrationConfiguration, precision: Precision, clock: Callable[[], float] = time.monotonic
) -> tuple[Work, float]:
    """Work and seconds of a training step of one pair."""
    task, recipe = task_named(plans.task), TrainerConfig()
    planned: dict[str, Any] = {"plans": plans, "spec": spec, "configuration": configuration, "recipe": recipe}
    network = task.network(**planned).train()
    objective = task.objective(**planned)
    optimizer = build_optimizer(configuration.training, network.parameters())
    generator = torch.Generator().manual_seed(0)
    images = {role: torch.rand(1, len(plans.channel_names), *configuration.grid, generator=generator) for role in ("fixed", "moving")}
    batch = images | {f"{role}_input": image for role, image in images.items()}
    seconds = []
    for _ in range(STEPS):
        begun = clock()
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device("cpu"), precision):
            loss = objective(network, batch)[0]
        loss.backward()
        optimizer.step()
        seconds.append(clock() - begun)
    return step_work(configuration.grid, configuration.architecture, channels=len(plans.channel_names)), min(seconds[1:])


def _fitted(samples: list[tuple[Work, float]]) -> tuple[float, float, float]:
    """Seconds per million products, per million numbers and per level, none negative; every sample weighs the same relative to its time."""
    seconds = np.asarray([time for _, time in samples])
    amounts = np.asarray([(work.products, work.numbers, work.levels) for work, _ in samples])
    product, number, level = nnls(amounts / seconds[:, None], np.ones(len(samples)))[0]
    return float(product), float(number), float(level)


@dataclass(frozen=True)
class _Road:
    """Seconds of one short training: all of it, making the trainer, loading a pair, an epoch's end, the validation of a pair, registering it otherwise too."""

    whole: float
    building: float
    load: float
    end: float
    validation: float
    comparison: float


def _road(workspace: Workspace, configuration: str, engine: Optimisation) -> _Road:
    begun = time.monotonic()
    settings = {"epochs": ENDS, "iterations_per_epoch": 1, "validation_iterations": 1, "batch_size": 1, "validation_pairs": 1, "compared_pairs": 1}
    trainer = build_trainer(workspace, 1, configuration, "all", device="cpu", overrides=settings)  # which compares nothing: it has seen all pairs
    trainer.initialize()
    ready = time.monotonic()
    loader, _ = trainer.get_dataloaders()
    loading: list[float] = []
    for _ in range(STEPS):
        _timed(loading, lambda: next(iter(loader)))
    steps: list[float] = []
    validations: list[float] = []
    for name, seconds in (("train_step", steps), ("validation_step", steps), ("perform_actual_validation", validations)):
        setattr(trainer, name, partial(_timed, seconds, getattr(trainer, name)))
    training: list[float] = []
    summary = _timed(training, trainer.run_training)
    ends = training[0] - sum(steps) - validations[0] - ENDS * 2 * min(loading)  # each epoch loads a batch for training and one for validation
    pair = validations[0] / max(1, len(summary["pairs"]))
    whole = time.monotonic() - begun
    trainer.plans, trainer.fold = registration_plans(trainer.plans).replace(optimisation=engine), 0  # as if the pair were held out
    compared: list[float] = []
    _timed(compared, nnRegTrainer.perform_actual_validation, trainer)
    return _Road(whole, ready - begun, min(loading), max(0.0, ends / ENDS), pair, max(0.0, compared[0] - pair))


def _timed(seconds: list[float], work: Callable[..., Any], *arguments: Any) -> Any:
    begun = time.monotonic()
    result = work(*arguments)
    seconds.append(time.monotonic() - begun)
    return result


def main() -> int:
    """Entry point."""
    folder = Path(sys.argv[1])
    write_json(folder / "speed.json", to_mapping(measure(folder, RegistrationPlans.read(folder / "plans.json"), sys.argv[2], float(sys.argv[3]))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

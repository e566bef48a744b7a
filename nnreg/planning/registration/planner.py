"""From fingerprint to plans: asks the rules one after the other and keeps their reasons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, TypeVar

import numpy as np

from nnreg.errors import PlansError
from nnreg.planning import memory
from nnreg.planning.decision import Decision, check_outside_rules, decided_by_user
from nnreg.planning.plans import Architecture, LossTerm
from nnreg.planning.registration import duration
from nnreg.planning.registration.engine_settings import Optimisation
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.plans import RegistrationConfiguration, RegistrationPlans, RegistrationTraining, TimeBudget
from nnreg.planning.registration.reference_space import Placement, frame_box, frames_of
from nnreg.planning.registration.rules import alignment, budget, grid, intensity, network, relation, spacing, training
from nnreg.planning.registration.rules import engine as optimisation
from nnreg.planning.registration.rules.alignment import WITHIN_SUBJECT
from nnreg.task import DEFAULT_PLANNER, REGISTRATION

DEFAULT_PLANS_NAME = "nnRegPlans"
DEFAULT_MEMORY_GB = 8.0
PLANNER = "registration"
PLANNERS: Mapping[str, Mapping[str, Any]] = {DEFAULT_PLANNER: {}, PLANNER: {}}
"""What -pl may name, to the arguments of ``plan_dataset``."""

Reasoned = TypeVar("Reasoned", RegistrationPlans, RegistrationConfiguration, Optimisation)


@dataclass
class _Reasons:
    """Collects the reasons of decisions under dotted names."""

    because: dict[str, str] = field(default_factory=dict)

    def keep(self, name: str, decision: Decision[Any]) -> Any:
        self.because[name] = decision.because
        return decision.value


def plan(
    fingerprint: Fingerprint,
    *,
    plans_name: str = DEFAULT_PLANS_NAME,
    gpu_memory_target: float = DEFAULT_MEMORY_GB,
    overwrite_target_spacing: Sequence[float] | None = None,
    accelerator: bool | None = None,
    time_budget: duration.Budget | None = None,
) -> RegistrationPlans:
    """Derive the plans of a dataset.

    Parameters
    ----------
    fingerprint
        What was measured.
    plans_name
        Name of the plans file, and first part of the folders of preprocessed arrays.
    gpu_memory_target : GB
        That a training step may take; narrows the network first, then coarsens the spacing. The volume is never cropped.
    overwrite_target_spacing : mm, array axis order
    accelerator
        Whether there is a GPU to train on; None if that is not known and should decide nothing.
    time_budget
        That a training with its validation must end in: shortens it, then narrows the network, then coarsens the spacing.

    Raises
    ------
    PlansError
        If the target spacing or memory asked for makes no sense, the images cannot be planned for, or no useful training fits the time budget.
    ConfigurationError
        If a rule of an installed package is of no use.
    """
    check_outside_rules()
    if gpu_memory_target <= memory.FIXED_GB:
        raise PlansError(f"-gpu_memory_target {gpu_memory_target:g}: more than {memory.FIXED_GB:g} GB are needed whatever the images.")
    reasons = _Reasons()
    target = reasons.keep("spacing", _spacing(fingerprint, overwrite_target_spacing))
    aligned = reasons.keep("pre_alignment", alignment.pre_alignment(fingerprint))
    reference = reasons.keep("reference_case", alignment.reference_case(fingerprint))
    extent = reasons.keep("field_of_view", grid.field_of_view(fingerprint, aligned, reference))
    region = reasons.keep("region_of_interest", grid.region_of_interest(fingerprint, extent, aligned))
    offset, extent = (None, extent) if region is None else (region.offset, region.extent)
    within = reasons.keep("grid_within_image", grid.grid_within_image(fingerprint, aligned))
    placement = Placement(fingerprint.orientation, offset, within)
    related = reasons.keep("modality_relation", relation.modality_relation(fingerprint))
    builder = _Builder(fingerprint, plans_name, gpu_memory_target, extent, aligned, related, placement, time_budget)
    configurations = builder.all(target, reasons.because["spacing"])
    finest = "2d" if "2d" in configurations else "3d_fullres"
    seconds = configurations[finest].training_seconds
    decided = optimisation.train_or_optimise(fingerprint, related, min(configurations[finest].spacing), finest, accelerator, seconds)
    plans = RegistrationPlans(
        dataset_name=fingerprint.dataset_name,
        plans_name=plans_name,
        task=REGISTRATION,
        planner=PLANNER,
        channel_names=fingerprint.channel_names,
        pre_alignment=aligned,
        alignment_target=reasons.keep("alignment_target", alignment.alignment_target(fingerprint)),
        alignment_spacing=reasons.keep("alignment_spacing", alignment.alignment_spacing(fingerprint, target)),
        reference_case=reference,
        configurations=configurations,
        recommended=reasons.keep("recommended", decided),
        optimisation=_optimisation(fingerprint, related, aligned),
        orientation=reasons.keep("orientation", alignment.orientation(fingerprint)),
        frame_offset=offset,
        grid_within_image=within,
        because=reasons.because,
    )
    return _told_in(plans, fingerprint.unit)


def _told_in(plans: RegistrationPlans, unit: str) -> RegistrationPlans:
    """The plans with every reason in `unit`: rules count in that of the headers, which they call mm."""
    configurations = {name: _in_unit(one, unit) for name, one in plans.configurations.items()}
    return replace(_in_unit(plans, unit), unit=unit, optimisation=_in_unit(plans.optimisation, unit), configurations=configurations)


def _in_unit(owner: Reasoned, unit: str) -> Reasoned:
    return replace(owner, because={name: reason.replace(" mm", f" {unit}") for name, reason in owner.because.items()})


def _spacing(fingerprint: Fingerprint, asked: Sequence[float] | None) -> Decision[tuple[float, ...]]:
    if asked is None:
        return spacing.target_spacing(fingerprint)
    if len(asked) != fingerprint.ndim or min(asked) <= 0:
        raise PlansError(f"-overwrite_target_spacing {' '.join(map(str, asked))}: expected {fingerprint.ndim} positive numbers, one per array axis (z first).")
    return decided_by_user(tuple(float(value) for value in asked), "-overwrite_target_spacing")


def _optimisation(fingerprint: Fingerprint, related: str, aligned: str) -> Optimisation:
    reasons = _Reasons()
    return Optimisation(
        preset=reasons.keep("preset", optimisation.preset(fingerprint, related)),
        similarity=reasons.keep("similarity", optimisation.engine_similarity(fingerprint, related)),
        alignment=reasons.keep("alignment", optimisation.engine_alignment(aligned)),
        symmetric=reasons.keep("symmetric", optimisation.symmetric(fingerprint)),
        use_masks=reasons.keep("use_masks", optimisation.use_masks(fingerprint)),
        use_labels=reasons.keep("use_labels", optimisation.use_labels(fingerprint)),
        use_keypoints=reasons.keep("use_keypoints", optimisation.use_keypoints(fingerprint)),
        guides=reasons.keep("guides", optimisation.guides(fingerprint, related)),
        refinement=reasons.keep("refinement", optimisation.refinement(related)),
        because=reasons.because,
    )


def _in_little_time(trained: RegistrationTraining, ndim: int, because: dict[str, str]) -> RegistrationTraining:
    """What few steps change where labels teach: the rate, and beside local correlation the weights of the terms. Adds to `because`."""
    if not training.drawn_labels(trained.supervision):
        return trained
    rate = budget.optimizer(trained.gradient_clip)
    because["training.optimizer"] = rate.because
    trained = replace(trained, **rate.value)
    if [term.name for term in trained.similarity] != ["lncc"]:
        return trained
    decided = budget.weights(ndim)
    labels, smoothness = decided.value
    for name in ("supervision", "regularisation"):
        because[f"training.{name}"] += f"; {decided.because}"
    return replace(
        trained,
        supervision=tuple(replace(term, weight=labels * term.weight) if term.name == "soft_dice" else term for term in trained.supervision),
        regularisation=tuple(replace(term, weight=smoothness * term.weight) for term in trained.regularisation),
    )


@dataclass(frozen=True)
class _Candidate:
    """A configuration that a time budget may choose: steps that are enough to choose it, and the most that it gets."""

    configuration: RegistrationConfiguration
    enough: int
    most: int


def _cascaded(full: RegistrationConfiguration, stage: str) -> RegistrationConfiguration:
    """`full`, on the same arrays, going on from what `stage` finds."""
    why = f"the field of {stage} is the start: trained first, on a grid that costs a fraction; the rest is as in 3d_fullres"
    return replace(full, previous_stage=stage, because=full.because | {"previous_stage": why})


@dataclass(frozen=True)
class _Builder:
    """Builds configurations of one dataset."""

    fingerprint: Fingerprint
    plans_name: str
    memory_gb: float
    extent: tuple[float, ...]
    pre_alignment: str
    relation: str
    placement: Placement
    time_budget: duration.Budget | None = None

    def all(self, target: tuple[float, ...], because: str) -> dict[str, RegistrationConfiguration]:
        """Every configuration the dataset needs."""
        if self.fingerprint.ndim == 2:
            return {"2d": self.configuration("2d", target, because)}
        full = self.configuration("3d_fullres", target, because)
        coarse = spacing.lowres_spacing(full.spacing, full.grid)
        if coarse.value is None:
            return {"3d_fullres": full}
        lowres = self.configuration("3d_lowres", coarse.value, coarse.because)
        return {"3d_lowres": lowres, "3d_fullres": full, "3d_cascade_fullres": _cascaded(full, "3d_lowres")}

    def configuration(self, name: str, target: tuple[float, ...], spacing_because: str) -> RegistrationConfiguration:
        """The configuration at `target` spacing, or at the finest coarser one that fits the memory target and the time budget."""
        fitting = self._fitting_memory(name, target, spacing_because)
        return fitting if self.time_budget is None else self._fitting_time(self.time_budget, fitting)

    def _fitting_memory(self, name: str, target: tuple[float, ...], spacing_because: str) -> RegistrationConfiguration:
        coarsened = target
        for base in (network.BASE_FEATURES, network.FEWEST_BASE_FEATURES):
            result = self._attempt(name, coarsened, base, spacing_because)
            if result.memory_gb <= self.memory_gb:
                return result
        while True:
            coarsened = spacing.coarsened(coarsened)
            why = f"{spacing_because}; coarsened in steps of 3 % to fit {self.memory_gb:g} GB: the whole volume is the patch"
            result = self._attempt(name, coarsened, network.FEWEST_BASE_FEATURES, why)
            if result.memory_gb <= self.memory_gb:
                return result
            if np.prod(result.grid) < 8 ** len(result.grid):
                raise PlansError(f"{self.fingerprint.dataset_name}: no grid fits -gpu_memory_target {self.memory_gb:g} GB. Allow more.")

    def _fitting_time(self, allowed: duration.Budget, finest: RegistrationConfiguration) -> RegistrationConfiguration:
        """`finest` shortened; where that leaves too few steps, one that is narrower, then coarser."""
        candidates = list(self._cheaper(finest))

        def length_of(index: int) -> Decision[budget.Length | None]:
            return self._length(allowed, candidates[index])

        def steps_of(index: int) -> int:
            found = length_of(index).value
            return 0 if found is None else found.steps

        chosen = budget.choose([candidate.enough for candidate in candidates], steps_of)
        index = len(candidates) - 1 if chosen.value is None else chosen.value
        configuration, decided = candidates[index].configuration, length_of(index)
        length, trained = decided.value, configuration.training
        if length is None:
            given = duration.readable_duration(allowed.seconds)
            raise PlansError(
                f"{self.fingerprint.dataset_name}: --time_budget {given} is too short even on the coarsest grid: {decided.because}. Allow that much."
            )
        precision = budget.mixed_precision(allowed.speed)
        because = configuration.because | {"training_seconds": decided.because, "training.epochs": decided.because}
        because["training.mixed_precision"] = precision.because
        because["spacing"] += f"; {chosen.because}"
        fewer = length.steps < finest.training.epochs * finest.training.iterations_per_epoch
        # within a subject, where levels are not integrated, a high rate and heavy labels fold: hearts 4 and 11 % after 200 steps, less than 1 as planned
        if fewer and self.fingerprint.pairing not in WITHIN_SUBJECT:
            trained = _in_little_time(trained, self.fingerprint.ndim, because)
        return replace(
            configuration,
            training=replace(
                trained,
                epochs=length.epochs,
                iterations_per_epoch=length.iterations,
                validation_iterations=length.validation_iterations,
                mixed_precision=precision.value,
                validation_pairs=length.validation_pairs,
                compared_pairs=length.compared_pairs,
                time_budget=TimeBudget(allowed.seconds, round(length.epoch_seconds, 3), round(length.validation_seconds, 1)),
            ),
            training_seconds=round(length.seconds, 1),
            because=because,
        )

    def _cheaper(self, finest: RegistrationConfiguration) -> Iterator[_Candidate]:
        """The configuration itself, with a field at every second voxel, narrower, then coarser until it is not worth training."""
        name, because, target = finest.data_identifier.removeprefix(f"{self.plans_name}_"), finest.because["spacing"], finest.spacing
        planned = finest.training.epochs * finest.training.iterations_per_epoch
        cheap = self._attempt(name, target, network.BASE_FEATURES, because, short=True)
        if cheap.architecture.kwargs["field_resolution"] == finest.architecture.kwargs["field_resolution"] or cheap.memory_gb > self.memory_gb:
            yield _Candidate(finest, budget.ENOUGH_STEPS, planned)
        else:
            yield _Candidate(finest, planned, planned)
            yield _Candidate(cheap, budget.ENOUGH_STEPS, planned)
        while True:
            narrow = self._attempt(name, target, network.FEWEST_BASE_FEATURES, because, short=True)
            if not budget.worth_training(narrow.grid) and target != finest.spacing:
                return
            if narrow.architecture != finest.architecture or narrow.grid != finest.grid:
                yield _Candidate(narrow, budget.ENOUGH_STEPS, min(planned, budget.ENOUGH_STEPS))
            target = spacing.coarsened(target)

    def _length(self, allowed: duration.Budget, candidate: _Candidate) -> Decision[budget.Length | None]:
        configuration = candidate.configuration
        labels = training.drawn_labels(configuration.training.supervision)
        channels = len(self.fingerprint.channel_names)

        def seconds(grid: tuple[int, ...]) -> float:
            work = duration.step_work(grid, configuration.architecture, channels=channels, labels=labels)
            return allowed.speed.step(work) + allowed.speed.load * channels * prod(grid) / duration.MILLION

        step = float(np.mean([seconds(grid) for grid in self._grids(configuration)]))
        native = float(np.mean(np.prod(self.fingerprint.shapes(), axis=1))) / duration.MILLION
        pairs, compared = (min(most, self.fingerprint.pair_count) for most in (configuration.training.validation_pairs, configuration.training.compared_pairs))
        guides = optimisation.guides(self.fingerprint, self.relation).value
        comparison = allowed.speed.comparison * native
        guide, to_one = guides * budget.GUIDE_SHARE * comparison, self.fingerprint.pairing == "atlas"
        validation = budget.Validation(allowed.speed.validation * native, pairs, comparison, compared, guide, to_one)
        return budget.length(allowed, step, validation, candidate.most)

    def _grids(self, configuration: RegistrationConfiguration) -> list[tuple[int, ...]]:
        """Size of the working grid of every frame."""
        if not self.placement.within_image:
            return [configuration.grid]
        spaces = []
        for frame in frames_of(self.fingerprint, None):
            owner = self.fingerprint.images[frame.owner].space
            centre = owner.to_world(frame_box(self.fingerprint, frame, self.pre_alignment).centre)
            spaces.append(self.placement.space(owner, centre, configuration.spacing, configuration.grid))
        return [space.shape for space in spaces]

    def _attempt(self, name: str, target: tuple[float, ...], base: int, spacing_because: str, *, short: bool = False) -> RegistrationConfiguration:
        """The configuration of a spacing and a width; `short` for a training that takes fewer steps than it would without a budget."""
        reasons = _Reasons({"spacing": spacing_because})
        shape = reasons.keep("grid", grid.working_grid(self.extent, target))
        schemes = [intensity.normalization(self.fingerprint, channel) for channel in range(len(self.fingerprint.channel_names))]
        reasons.because |= {f"normalization[{index}]": scheme.because for index, scheme in enumerate(schemes)}
        architecture = self._architecture(target, shape, base, reasons, short)
        trained, memory_gb = self._training(target, shape, architecture, reasons)
        reasons.because["memory_gb"] = f"closed form for one training step in float32, {self.memory_gb:g} GB allowed"
        return RegistrationConfiguration(
            data_identifier=f"{self.plans_name}_{name}",
            spacing=target,
            grid=shape,
            normalization=tuple(scheme.value for scheme in schemes),
            architecture=architecture,
            training=trained,
            memory_gb=round(memory_gb, 3),
            because=reasons.because,
        )

    def _architecture(self, target: tuple[float, ...], shape: tuple[int, ...], base: int, reasons: _Reasons, short: bool) -> Architecture:
        pyramid = reasons.keep("architecture.strides", network.network_topology(target, shape))
        stages = len(pyramid.strides)
        usual = network.field_resolution(shape)
        resolution = reasons.keep("architecture.kwargs.field_resolution", budget.field_resolution(shape, usual) if short else usual)
        resolution = min(resolution, max(pyramid.divisor))
        finest = memory.first_stage(pyramid.strides, resolution)
        displacement = relation.expected_displacement(self.fingerprint)
        return Architecture(
            name=reasons.keep("architecture.name", network.network_name()),
            strides=pyramid.strides,
            kernel_sizes=pyramid.kernel_sizes,
            features_per_stage=reasons.keep("architecture.features_per_stage", network.features(stages, finest, base)),
            blocks_per_stage=reasons.keep("architecture.blocks_per_stage", network.blocks(stages)),
            kwargs={
                "field_resolution": resolution,
                "integration_steps": reasons.keep("architecture.kwargs.integration_steps", network.integration_steps(self.fingerprint)),
                "inverse_consistent": reasons.keep("architecture.kwargs.inverse_consistent", network.inverse_consistent(self.fingerprint)),
                "correlation_radius": reasons.keep(
                    "architecture.kwargs.correlation_radius", network.correlation_radius(target, shape, stages - finest, displacement)
                ),
            },
        )

    def _training(self, target: tuple[float, ...], shape: tuple[int, ...], architecture: Architecture, reasons: _Reasons) -> tuple[RegistrationTraining, float]:
        def keep(name: str, decision: Decision[Any]) -> Any:
            return reasons.keep(f"training.{name}", decision)

        similar = keep("similarity", training.similarity(self.relation, target, shape))
        if self.time_budget is None:
            batch = keep("batch_size", training.batch_size(shape, self._memory(shape, architecture, similar, 1), self.memory_gb))
        else:
            batch = keep("batch_size", budget.batch_size())
        epochs, iterations, validation = keep("epochs", training.length(self.fingerprint))
        fields = memory.field_count(architecture.strides, architecture.kwargs["field_resolution"])
        trained = RegistrationTraining(
            similarity=similar,
            regularisation=keep("regularisation", training.regularisation(self.relation)),
            supervision=keep("supervision", training.supervision(self.fingerprint)),
            deep_supervision_weights=keep("deep_supervision_weights", training.deep_supervision_weights(fields)),
            batch_size=batch,
            epochs=epochs,
            iterations_per_epoch=iterations,
            validation_iterations=validation,
            **keep("optimizer", training.optimizer()),
            augmentation=keep("augmentation", training.augmentation(self.fingerprint, self.pre_alignment)),
        )
        return trained, self._memory(shape, architecture, similar, batch)

    def _memory(self, shape: tuple[int, ...], architecture: Architecture, similar: Sequence[LossTerm], batch: int) -> float:
        return memory.training_memory_gb(
            shape,
            channels=len(self.fingerprint.channel_names),
            strides=architecture.strides,
            kernel_sizes=architecture.kernel_sizes,
            features=architecture.features_per_stage,
            blocks=architecture.blocks_per_stage,
            batch_size=batch,
            labels=training.drawn_labels(training.supervision(self.fingerprint).value),
            similarities=[term.name for term in similar],
            **architecture.kwargs,
        )

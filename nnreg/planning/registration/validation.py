"""What only plans of registration can have wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nnreg.engine.names import ALIGNMENTS
from nnreg.engine.presets import PRESETS, RADII, SMOOTHNESS
from nnreg.engine.similarities import similarity_choices
from nnreg.errors import did_you_mean
from nnreg.planning.plans import OPTIMISE
from nnreg.planning.registration.engine_settings import Optimisation
from nnreg.planning.registration.plans import RegistrationPlans

ALIGNMENT_TARGETS = ("dataset", "group")
ORIENTATION = re.compile(r"^(?=.*[LR])(?=.*[AP])([LRAPIS]{2}|(?=.*[IS])[LRAPIS]{3})$")


def registration_problems(plans: RegistrationPlans) -> Iterator[str]:
    """Sentences, each beginning with the key."""
    if plans.pre_alignment not in ALIGNMENTS:
        yield f"pre_alignment {plans.pre_alignment!r} is unknown; {did_you_mean(plans.pre_alignment, ALIGNMENTS)}."
    if plans.alignment_target not in ALIGNMENT_TARGETS:
        yield f"alignment_target {plans.alignment_target!r} is unknown; {did_you_mean(plans.alignment_target, ALIGNMENT_TARGETS)}."
    if plans.alignment_target == "dataset" and plans.reference_case is None:
        yield "reference_case is null, but alignment_target 'dataset' needs one."
    if OPTIMISE in plans.configurations:
        yield f"configurations.{OPTIMISE}: the name means registration without a network. Choose another."
    yield from _optimisation_problems(plans.optimisation)
    if not ORIENTATION.match(plans.orientation):
        yield f"orientation {plans.orientation!r}: expected letters such as LPS or RAS, one per axis."
    if plans.grid_within_image and plans.alignment_target != "group":
        yield f"grid_within_image is true, alignment_target {plans.alignment_target!r}: only the images of a group have grids of their own size."
    for name, configuration in plans.configurations.items():
        ndim = len(configuration.grid)
        yield from _stage_problems(name, plans)
        if plans.frame_offset is not None and len(plans.frame_offset) != ndim:
            yield f"configurations.{name}.grid has {ndim} axes, frame_offset {list(plans.frame_offset)} is not {ndim} numbers."
        if len(plans.alignment_spacing) != ndim or min(plans.alignment_spacing) <= 0:
            yield f"configurations.{name}.grid has {ndim} axes, alignment_spacing {list(plans.alignment_spacing)} is not {ndim} positive numbers."


def _stage_problems(name: str, plans: RegistrationPlans) -> Iterator[str]:
    """A cascade has two stages."""
    stage = plans.configurations[name].previous_stage
    if stage is None:
        return
    if stage not in plans.configurations:
        yield f"configurations.{name}.previous_stage {stage!r} is no configuration; {did_you_mean(stage, plans.configurations)}."
    elif stage == name or plans.configurations[stage].previous_stage is not None:
        yield f"configurations.{name}.previous_stage {stage!r}: has a stage before it too. Name one that begins with the images."
    elif len(plans.configurations[stage].grid) != len(plans.configurations[name].grid):
        yield f"configurations.{name}.previous_stage {stage!r}: has another number of axes."


def _optimisation_problems(optimisation: Optimisation) -> Iterator[str]:
    named = {
        "preset": (optimisation.preset, PRESETS),
        "similarity": (optimisation.similarity, similarity_choices()),
        "alignment": (optimisation.alignment, ALIGNMENTS),
        "refinement": (optimisation.refinement, (None, *PRESETS)),
    }
    for key, (value, known) in named.items():
        if value not in known:
            yield f"optimisation.{key} {value!r} is unknown; {did_you_mean(str(value), [name for name in known if name])}."
    if optimisation.guides < 0 or optimisation.guides == 1:
        yield f"optimisation.guides {optimisation.guides}: expected 0 (none) or 2 training cases or more, whose labels are fused."
    ranges = {"radius": (optimisation.radius or RADII[0], RADII), "smoothness": (optimisation.smoothness, SMOOTHNESS)}
    for key, (number, (low, high)) in ranges.items():
        if not low <= number <= high:
            yield f"optimisation.{key} {number:g}: expected {low:g} to {high:g}."

"""Plans of registration: the shared file, with the alignment, the working grid's world and the engine's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nnreg.errors import PlansError
from nnreg.planning.plans import Configuration, LossTerm, Plans, Training
from nnreg.planning.registration.engine_settings import Optimisation, Tuning


@dataclass(frozen=True)
class TimeBudget:
    """What a training may take, its validation included, and what an epoch and the validation were predicted to take; seconds.

    A training that falls behind gets fewer epochs.
    """

    seconds: float
    epoch_seconds: float
    validation_seconds: float


@dataclass(frozen=True, kw_only=True)
class RegistrationTraining(Training):
    """How a network for registration is trained.

    Attributes
    ----------
    similarity, regularisation : tuples of LossTerm
        Terms on the warped image and on the field.
    segmentation_weight : of a segmentation head that learns from the labelled images, and of the overlap of what it finds where only one image of a
        pair, or none, has labels; 0: no head
    bidirectional : also score the pair with its roles swapped, in the same step
    validation_pairs : most pairs of the validation at the end; 20 subjects have 380, which say no more than 50 seeded ones
    compared_pairs : most of these pairs on which network, refined network and engine are compared, the engine being the slowest of them; 0: none
    time_budget : that the length was planned for
    synthetic : ``train`` and ``val`` to a generator of ``nnreg.dataset.GENERATORS`` that makes the pairs on the fly (``{"name": ...}`` and its
        arguments, ``num_samples`` among them); None: the arrays on disk
    """

    similarity: tuple[LossTerm, ...]
    regularisation: tuple[LossTerm, ...]
    segmentation_weight: float = 0.0
    bidirectional: bool = False
    validation_pairs: int = 50
    compared_pairs: int = 20
    synthetic: dict[str, dict[str, Any]] | None = None
    time_budget: TimeBudget | None = None

    at_least: ClassVar[Mapping[str, float]] = {"validation_pairs": 1, "compared_pairs": 0, "segmentation_weight": 0.0}


@dataclass(frozen=True, kw_only=True)
class RegistrationConfiguration(Configuration):
    """``2d``, ``3d_lowres``, ``3d_fullres`` or ``3d_cascade_fullres``: the whole working grid is the patch.

    Attributes
    ----------
    previous_stage
        Of a cascade: the configuration whose field is the start.
    """

    training: RegistrationTraining
    previous_stage: str | None = None


@dataclass(frozen=True, kw_only=True)
class RegistrationPlans(Plans):
    """The plans file of registration.

    Attributes
    ----------
    pre_alignment
        ``none``, ``centre``, ``rigid`` or ``affine``: how images are brought together before resampling.
    alignment_target
        ``dataset``: every case is aligned to `reference_case`; ``group``: every case to the first fixed case that its pairs
        connect it to, so that only images that belong together are compared.
    alignment_spacing
        mm, array axis order: grid on which the alignment works.
    reference_case
        The case whose world all working grids share, None with ``group``.
    orientation : letters, image axis x first
        Axis order of every working grid; an image whose axes run otherwise is turned.
    frame_offset
        mm, axis order of the working grids: from the middle of a frame to the middle of its working grids. None: no distance.
    grid_within_image
        Whether working grids end where the image of their frame does; else all have the planned size.
    optimisation
        How the engine registers pairs, after a network or instead of one.
    tuning
        What ``nnreg_tune`` measured; `optimisation` is then what won.
    unit
        Of lengths, in which reasons are told: "px" where no image file says anything of its size, else "mm".
    """

    retired: ClassVar[Mapping[str, Any]] = {"loss_on_label_only": False, "min_labeled_ratio": 0.0, "min_bbox_percent": 0.0}
    configurations: dict[str, RegistrationConfiguration]
    pre_alignment: str
    alignment_target: str
    alignment_spacing: tuple[float, ...]
    reference_case: str | None
    orientation: str = "LPS"
    frame_offset: tuple[float, ...] | None = None
    grid_within_image: bool = False
    optimisation: Optimisation = field(default=Optimisation())
    tuning: Tuning | None = None
    unit: str = "mm"

    def configuration(self, name: str) -> RegistrationConfiguration:
        """The configuration `name`.

        Raises
        ------
        PlansError
            If the plans have none of that name.
        """
        super().configuration(name)
        return self.configurations[name]


def registration_plans(plans: Plans) -> RegistrationPlans:
    """The same plans, known to be of registration.

    Raises
    ------
    PlansError
        If they are of another task.
    """
    if not isinstance(plans, RegistrationPlans):
        where = f"{plans.plans_name} of {plans.dataset_name}"
        raise PlansError(f"{where}: plans of the task {plans.task}, which registers no pairs. Plan with --task registration.")
    return plans

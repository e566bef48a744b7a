"""Plans: everything that preprocessing, training and inference need to know, derived from the data, each value with its reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nnreg.errors import PlansError, did_you_mean
from nnreg.files import read_json, write_json
from nnreg.planning.inheritance import resolved
from nnreg.planning.registration.engine_settings import OPTIMISE
from nnreg.planning.training_options import Checkpoints, EarlyStopping, Precision, Tracking
from nnreg.planning.validation import check_plans, plans_class
from nnreg.task import TASKS
from nnreg.typed import from_mapping, to_mapping

if TYPE_CHECKING:
    from typing_extensions import Self

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Normalization:
    """How one channel is normalised: a registered scheme and its arguments."""

    scheme: str
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """A registered network and what it is built from.

    Attributes
    ----------
    name
        Key of ``nnreg.architecture.NETWORKS``.
    strides, kernel_sizes : one tuple per stage, one number per axis; stage 0 has stride 1
    features_per_stage, blocks_per_stage : one number per stage
    kwargs
        Further arguments of the network's own (field resolution, correlation radius, integration ...).
    """

    name: str
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    features_per_stage: tuple[int, ...]
    blocks_per_stage: tuple[int, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LossTerm:
    """One term of the training loss: a registered loss, its weight and arguments."""

    name: str
    weight: float = 1.0
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a configuration is trained, whatever its task. A TrainerConfig, a file or the command line may override any of it.

    Attributes
    ----------
    supervision : tuple of LossTerm
        Terms on labels, keypoints, fields or values that are known.
    deep_supervision_weights
        One per field the network returns, finest first, summing to 1.
    optimizer : name in ``adam``, ``adamw``, ``sgd``; further arguments in ``optimizer_kwargs``
    lr_schedule : ``poly``, ``step``, ``cosine``, ``plateau`` or ``constant``, with ``lr_schedule_kwargs``
    gradient_clip : largest gradient norm (or value: ``gradient_clip_type``), or None
    augmentation : registered augmentation names to their arguments
    lr_update : whether the rate changes with every epoch or with every step
    warmup_epochs : over which the rate rises linearly
    gradient_accumulation_steps : batches whose mean gradient makes one step
    gradient_checkpointing : stages are computed again in the backward pass instead of kept: less memory, more time
    mixed_precision : ``auto`` (CUDA: bfloat16 where the GPU has it, else float16 with a scaler; off elsewhere), ``off``, ``bf16`` or ``fp16``
    ema_decay : of the moving average of the weights that validation and prediction use, or None
    deterministic : only algorithms that give the same bits again
    validate_every : epochs between two online validations; 0 for none
    monitor : number that decides ``checkpoint_best`` and early stopping (``val_loss``, ``val_dice``); None: the task's
    monitor_mode : whether more of it is better; None: told by its name
    """

    supervision: tuple[LossTerm, ...]
    deep_supervision_weights: tuple[float, ...]
    batch_size: int
    epochs: int
    iterations_per_epoch: int
    validation_iterations: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    gradient_clip: float | None
    lr_schedule: str
    optimizer_kwargs: dict[str, Any] = field(default_factory=dict)
    lr_schedule_kwargs: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, dict[str, Any]] = field(default_factory=dict)
    seed: int = 12345
    lr_update: Literal["epoch", "step"] = "epoch"
    warmup_epochs: int = 0
    gradient_clip_type: Literal["norm", "value"] = "norm"
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    mixed_precision: Precision = "auto"
    ema_decay: float | None = None
    deterministic: bool = False
    validate_every: int = 1
    monitor: str | None = None
    monitor_mode: Literal["max", "min"] | None = None
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    tracking: Tracking = field(default_factory=Tracking)

    at_least: ClassVar[Mapping[str, float]] = {}
    """Smallest values of the fields that only this task's training has."""
    shares: ClassVar[tuple[str, ...]] = ()
    """Fields that are shares, 0 to 1."""


@dataclass(frozen=True)
class Configuration:
    """One way to preprocess and train: ``2d``, ``3d_lowres``, ``3d_fullres``.

    Attributes
    ----------
    data_identifier
        Folder of its preprocessed arrays.
    spacing : mm, array axis order
    grid : shape of the working grid, array axis order; the whole of it is the patch
    normalization : one per channel
    memory_gb
        Predicted peak of a training step, closed form.
    training_seconds
        Predicted length of the training with its validation, where it was planned for a time budget.
    because
        Dotted field name to the rule and the measured numbers that led to its value.
    """

    data_identifier: str
    spacing: tuple[float, ...]
    grid: tuple[int, ...]
    normalization: tuple[Normalization, ...]
    architecture: Architecture
    training: Training
    memory_gb: float
    training_seconds: float | None = None
    because: dict[str, str] = field(default_factory=dict)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.grid)


@dataclass(frozen=True, kw_only=True)
class Plans:
    """The plans file: what the plans of every task have.

    Attributes
    ----------
    recommended
        A configuration, or ``optimise`` where the task registers pairs.
    orientation : letters, image axis x first
        Axis order that images are turned to before anything else; empty: they stay as they are stored.
    because
        Dotted field name to the rule and the measured numbers that led to its value.
    """

    dataset_name: str
    plans_name: str
    task: str
    planner: str
    channel_names: tuple[str, ...]
    configurations: Mapping[str, Configuration]
    recommended: str
    orientation: str = ""
    because: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    retired: ClassVar[Mapping[str, Any]] = {}
    """Training options that plans of this task had until training options were told apart by task, each with the value that had no effect."""

    @property
    def registers_pairs(self) -> bool:
        """Whether the registration engine can do what the plans are for."""
        return TASKS[self.task].registers_pairs

    @property
    def to_train(self) -> str:
        """The configuration to train: the recommended one, or the finest where optimising is recommended."""
        if self.recommended in self.configurations:
            return self.recommended
        return max(self.configurations, key=lambda name: math.prod(self.configurations[name].grid))

    def configuration(self, name: str) -> Configuration:
        """The configuration `name`.

        Raises
        ------
        PlansError
            If the plans have none of that name.
        """
        if name == OPTIMISE:
            raise PlansError(f"{self.plans_name} of {self.dataset_name}: {OPTIMISE!r} has no network and no arrays; nnreg_predict -c {OPTIMISE} needs neither.")
        if name not in self.configurations:
            raise PlansError(f"{self.plans_name} of {self.dataset_name}: no configuration {name!r}; {did_you_mean(name, self.configurations)}")
        return self.configurations[name]

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read and validate a plans file.

        Raises
        ------
        PlansError
            Missing or damaged file, unknown or missing key, wrong type, another schema version.
        """
        content = read_json(path, PlansError)
        if isinstance(content, dict) and content.get("schema_version") != SCHEMA_VERSION:
            found = content.get("schema_version")
            raise PlansError(
                f"{path}: schema_version is {found!r}, this nnReg reads {SCHEMA_VERSION}. Plan the dataset again, or use the version that made it."
            )
        return cls.from_dict(content, where=str(path))

    def write(self, path: Path | str) -> None:
        """Write the plans file, whole or not at all."""
        write_json(path, to_mapping(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints."""
        return to_mapping(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any], where: str = "plans") -> Self:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        PlansError
            Unknown or missing key, wrong type, values that contradict each other.
        """
        found = plans_class(content, where, cls)
        plans = from_mapping(found, without_retired(resolved(content, where), found.retired), where=where, error=PlansError)
        check_plans(plans, where)
        return plans

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def without_retired(content: Any, retired: Mapping[str, Any]) -> Any:
    """Parsed plans without the training options that only older files have and that have no effect there; any other value of one stays, and is refused."""
    if not isinstance(content, Mapping) or not isinstance(content.get("configurations"), Mapping):
        return content
    return {**content, "configurations": {name: configuration_without(configuration, retired) for name, configuration in content["configurations"].items()}}


def configuration_without(configuration: Any, retired: Mapping[str, Any]) -> Any:
    """One parsed configuration, of plans or of a checkpoint, as :func:`without_retired` has it."""
    if not isinstance(configuration, Mapping) or not isinstance(configuration.get("training"), Mapping):
        return configuration
    kept = {key: value for key, value in configuration["training"].items() if key not in retired or value != retired[key]}
    return {**configuration, "training": kept}


__all__ = [
    "OPTIMISE",
    "SCHEMA_VERSION",
    "Architecture",
    "Checkpoints",
    "Configuration",
    "EarlyStopping",
    "LossTerm",
    "Normalization",
    "Plans",
    "Tracking",
    "Training",
]

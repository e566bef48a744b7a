"""A configuration of plans: how images are preprocessed, which network is trained on them, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from nnreg.planning.training_options import Checkpoints, EarlyStopping, Gpu, Precision, Tracking


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
    gpu : compiled networks, memory formats, cases that stay on the device
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
    gpu: Gpu = field(default_factory=Gpu)

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

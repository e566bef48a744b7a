"""Training recipes and how ``-tr``, ``--set`` and files change the plan."""

from nnreg.training.configs import networks as networks  # registers its recipes
from nnreg.training.configs.lookup import DEFAULT_TRAINER, ResolvedTrainer, resolve_trainer
from nnreg.training.configs.trainer_config import TRAINER_CONFIGS, TrainerConfig

__all__ = ["DEFAULT_TRAINER", "TRAINER_CONFIGS", "ResolvedTrainer", "TrainerConfig", "resolve_trainer"]

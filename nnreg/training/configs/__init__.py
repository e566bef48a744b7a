"""Training recipes and how ``-tr``, ``--set`` and files change the plan. Every module of this package registers its recipes; none imports torch."""

import importlib
import pkgutil

from nnreg.training.configs.lookup import DEFAULT_TRAINER, ResolvedTrainer, resolve_trainer
from nnreg.training.configs.trainer_config import TRAINER_CONFIGS, TrainerConfig

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["DEFAULT_TRAINER", "TRAINER_CONFIGS", "ResolvedTrainer", "TrainerConfig", "resolve_trainer"]

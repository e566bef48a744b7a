"""nnReg: self-configuring registration of medical images.

The public face, loaded when first asked for: ``import nnreg`` is instant, and ``nnreg.train`` imports torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Workspace": "nnreg.workspace",
    "plan_and_preprocess": "nnreg.preprocessing",
    "train": "nnreg.training.execution.run",
    "predict": "nnreg.inference.roads",
    "register": "nnreg.registration",
    "evaluate": "nnreg.evaluation.roads",
    "nnRegTrainer": "nnreg.training.trainer.trainer",
    "TrainerConfig": "nnreg.training.configs",
    "TRAINER_CONFIGS": "nnreg.training.configs",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nnreg' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""nnReg: self-configuring registration of medical images.

The public face, loaded when first asked for: ``import nnreg`` is instant, and ``nnreg.train`` imports torch.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# Threads of torch that wait for others go 300,000 times round a loop before they sleep, as GNU's OpenMP comes. Where something else wants the cores they
# spin away the time that the others need: small convolutions took four times as long, small synthetic pairs about ten times. A thousand times cost nothing
# on a quiet machine. Read when torch is loaded, so it stands before every import of it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_PUBLIC = {
    "Workspace": "nnreg.workspace",
    "plan_and_preprocess": "nnreg.preprocessing",
    "train": "nnreg.training.execution.run",
    "predict": "nnreg.inference.prediction",
    "register": "nnreg.api.pair",
    "Dataset": "nnreg.api.dataset",
    "Image": "nnreg.imageio",
    "Space": "nnreg.geometry",
    "Pair": "nnreg.dataset.pair",
    "evaluate": "nnreg.evaluation.evaluation",
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

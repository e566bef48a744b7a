"""The optimisation engine: linear alignment, global search, multi-resolution refinement, instance optimisation.

Loaded when first asked for: planning needs the names of presets, alignments and similarities, and neither torch nor compiled kernels.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnreg.engine.affine import Alignment, align
    from nnreg.engine.constraints import Constraints
    from nnreg.engine.presets import PRESETS
    from nnreg.engine.registration import register
    from nnreg.engine.result import Annotations, Decision, Registration
    from nnreg.engine.similarities import SIMILARITIES, EngineSimilarity, similarity_names
    from nnreg.engine.uncertainty import uncertainty_map

_PUBLIC = {
    "PRESETS": "nnreg.engine.presets",
    "SIMILARITIES": "nnreg.engine.similarities",
    "Alignment": "nnreg.engine.affine",
    "Annotations": "nnreg.engine.result",
    "Constraints": "nnreg.engine.constraints",
    "Decision": "nnreg.engine.result",
    "EngineSimilarity": "nnreg.engine.similarities",
    "Registration": "nnreg.engine.result",
    "align": "nnreg.engine.affine",
    "register": "nnreg.engine.registration",
    "similarity_names": "nnreg.engine.similarities",
    "uncertainty_map": "nnreg.engine.uncertainty",
}

__all__ = [
    "PRESETS",
    "SIMILARITIES",
    "Alignment",
    "Annotations",
    "Constraints",
    "Decision",
    "EngineSimilarity",
    "Registration",
    "align",
    "register",
    "similarity_names",
    "uncertainty_map",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nnreg.engine' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

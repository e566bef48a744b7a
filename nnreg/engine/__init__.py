"""The optimisation engine: linear alignment, global search, multi-resolution refinement, instance optimisation."""

from nnreg.engine.affine import Alignment, align
from nnreg.engine.presets import PRESETS
from nnreg.engine.registration import register
from nnreg.engine.result import Annotations, Decision, Registration

__all__ = ["PRESETS", "Alignment", "Annotations", "Decision", "Registration", "align", "register"]

"""The optimisation engine: linear alignment, global search, multi-resolution refinement, instance optimisation."""

from nnreg.registration.affine import Alignment, align
from nnreg.registration.engine import register
from nnreg.registration.presets import PRESETS
from nnreg.registration.result import Decision, Registration, Truth

__all__ = ["PRESETS", "Alignment", "Decision", "Registration", "Truth", "align", "register"]

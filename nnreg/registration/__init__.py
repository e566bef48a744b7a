"""The optimisation engine: linear alignment, global search, multi-resolution refinement, instance optimisation."""

from nnreg.registration.affine import Alignment, align

__all__ = ["Alignment", "align"]

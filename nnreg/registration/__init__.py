"""The engine under the name it had before it moved to :mod:`nnreg.engine`: what users import from here goes on working."""

from nnreg.engine import PRESETS, Alignment, Annotations, Decision, Registration, align, register

Truth = Annotations  # its former name

__all__ = ["PRESETS", "Alignment", "Annotations", "Decision", "Registration", "Truth", "align", "register"]

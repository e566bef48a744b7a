"""The engine under the name it had before it moved to :mod:`nnreg.engine`: what users import from here goes on working."""

from nnreg.engine import PRESETS, Alignment, Decision, Registration, Truth, align, register

__all__ = ["PRESETS", "Alignment", "Decision", "Registration", "Truth", "align", "register"]

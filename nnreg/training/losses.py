"""The losses, where trainings name them: everything of :mod:`nnreg.losses`."""

from nnreg.losses import *  # noqa: F403
from nnreg.losses import __all__ as __all__

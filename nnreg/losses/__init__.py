"""Losses: similarity of images, smoothness of fields, overlap of labels, and their sum over levels."""

from nnreg.losses.base import LOSSES, build_loss
from nnreg.losses.intensity import MSE
from nnreg.losses.lncc import LNCC, lncc_value_and_gradient
from nnreg.losses.regularisation import Diffusion

__all__ = ["LNCC", "LOSSES", "MSE", "Diffusion", "build_loss", "lncc_value_and_gradient"]

"""Losses: similarity of images, smoothness of fields, overlap of labels, and their sum over levels."""

from nnreg.losses.base import LOSSES, build_loss
from nnreg.losses.deep_supervision import DeepSupervision, deep_supervision_weights
from nnreg.losses.intensity import MSE, NCC
from nnreg.losses.lncc import LNCC, lncc_value_and_gradient
from nnreg.losses.mind import MIND
from nnreg.losses.nmi import NMI
from nnreg.losses.overlap import SoftDice
from nnreg.losses.regularisation import Bending, Diffusion

__all__ = [
    "LNCC",
    "LOSSES",
    "MIND",
    "MSE",
    "NCC",
    "NMI",
    "Bending",
    "DeepSupervision",
    "Diffusion",
    "SoftDice",
    "build_loss",
    "deep_supervision_weights",
    "lncc_value_and_gradient",
]

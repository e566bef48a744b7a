"""Losses: similarity of images, smoothness of fields, overlap of labels, dense prediction, and their sum over levels."""

from nnreg.losses.base import LOSSES, build_loss
from nnreg.losses.blobs import BlobDice
from nnreg.losses.boundary import Boundary, RegionDice
from nnreg.losses.compound import (
    BlobDiceCELoss,
    Combined,
    DC_and_BCE_loss,
    DC_and_Blob_CE_loss,
    DC_and_CE_loss,
    DC_and_topk_loss,
    RegionDiceCELoss,
    WeightedSum,
)
from nnreg.losses.deep_supervision import DeepSupervision, deep_supervision_weights
from nnreg.losses.dense import DenseLoss
from nnreg.losses.intensity import MSE, NCC
from nnreg.losses.lncc import LNCC, lncc_value_and_gradient
from nnreg.losses.mind import MIND
from nnreg.losses.nmi import NMI
from nnreg.losses.overlap import SoftDice
from nnreg.losses.regularization import Bending, Diffusion, Elastic, NonDiffeomorphicVolume
from nnreg.losses.segmentation import BCE, CrossEntropy, Dice, Focal, SoftDiceLoss, TopK, Tversky
from nnreg.losses.supervision import InverseConsistency, Keypoints, TrueField
from nnreg.losses.targets import CosineSimilarity, MaskedMSE, NormalSmoothness, SignedDistance, WeightedSmoothL1

__all__ = [
    "BCE",
    "LNCC",
    "LOSSES",
    "MIND",
    "MSE",
    "NCC",
    "NMI",
    "Bending",
    "BlobDice",
    "BlobDiceCELoss",
    "Boundary",
    "Combined",
    "CosineSimilarity",
    "CrossEntropy",
    "DC_and_BCE_loss",
    "DC_and_Blob_CE_loss",
    "DC_and_CE_loss",
    "DC_and_topk_loss",
    "DeepSupervision",
    "DenseLoss",
    "Dice",
    "Diffusion",
    "Elastic",
    "Focal",
    "InverseConsistency",
    "Keypoints",
    "MaskedMSE",
    "NonDiffeomorphicVolume",
    "NormalSmoothness",
    "RegionDice",
    "RegionDiceCELoss",
    "SignedDistance",
    "SoftDice",
    "SoftDiceLoss",
    "TopK",
    "TrueField",
    "Tversky",
    "WeightedSmoothL1",
    "WeightedSum",
    "build_loss",
    "deep_supervision_weights",
    "lncc_value_and_gradient",
]

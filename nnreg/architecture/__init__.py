"""Networks built from plans: they predict a displacement field from a pair of images, or logits from one image."""

from nnreg.architecture.backbone import Backbone, DenseNetwork, FieldNetwork
from nnreg.architecture.base import NETWORKS, RegistrationNetwork
from nnreg.architecture.building import build_dense_network, build_network, check_options, find_network, network_names
from nnreg.architecture.custom import CorrMLP, DynamicKiUNet, DynamicUIUNet, GlobalNet, LocalNet, OriginalUNetReg, Primus, SwinUNETR
from nnreg.architecture.dual_pyramid import DualPyramid
from nnreg.architecture.unetreg import UNetReg
from nnreg.architecture.unets import PlainUNet, ResidualEncoderUNet

__all__ = [
    "NETWORKS",
    "Backbone",
    "CorrMLP",
    "DenseNetwork",
    "DualPyramid",
    "DynamicKiUNet",
    "DynamicUIUNet",
    "FieldNetwork",
    "GlobalNet",
    "LocalNet",
    "OriginalUNetReg",
    "PlainUNet",
    "Primus",
    "RegistrationNetwork",
    "ResidualEncoderUNet",
    "SwinUNETR",
    "UNetReg",
    "build_dense_network",
    "build_network",
    "check_options",
    "find_network",
    "network_names",
]

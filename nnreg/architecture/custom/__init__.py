"""Networks from the literature, each a file that may be copied as the start of one's own (documentation/how_to_add_a_network.md)."""

from nnreg.architecture.custom.corrmlp import CorrMLP
from nnreg.architecture.custom.globalnet import GlobalNet
from nnreg.architecture.custom.kiunet import DynamicKiUNet
from nnreg.architecture.custom.localnet import LocalNet
from nnreg.architecture.custom.original_unet import OriginalUNetReg
from nnreg.architecture.custom.transformers import Primus, SwinUNETR
from nnreg.architecture.custom.uiunet import DynamicUIUNet, DynamicUIUNet3D

__all__ = ["CorrMLP", "DynamicKiUNet", "DynamicUIUNet", "DynamicUIUNet3D", "GlobalNet", "LocalNet", "OriginalUNetReg", "Primus", "SwinUNETR"]

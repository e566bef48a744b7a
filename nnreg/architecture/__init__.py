"""Networks that predict a displacement field from a pair of images, built from plans."""

from nnreg.architecture.base import NETWORKS, RegistrationNetwork, build_network
from nnreg.architecture.dual_pyramid import DualPyramid
from nnreg.architecture.unetreg import UNetReg

__all__ = ["NETWORKS", "DualPyramid", "RegistrationNetwork", "UNetReg", "build_network"]

"""Networks that predict a displacement field from a pair of images, built from plans."""

from nnreg.architecture.base import NETWORKS, RegistrationNetwork, build_network
from nnreg.architecture.dual_pyramid import DualPyramid

__all__ = ["NETWORKS", "DualPyramid", "RegistrationNetwork", "build_network"]

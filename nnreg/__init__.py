"""nnReg: self-configuring registration of medical images."""

__version__ = "0.1.0"

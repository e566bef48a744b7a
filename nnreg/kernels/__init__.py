"""Fused, multi-threaded kernels on the CPU, beside a plain torch reference (:mod:`nnreg.kernels.reference`) that tests hold them against.

Importing this package imports no numba; its modules do, and compile what is called on the first call (kept on disk afterwards).
"""

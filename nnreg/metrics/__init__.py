"""What is measured, defined once: overlap, surface distances, landmarks, fields, similarity. Pure functions, numpy or torch in, numbers out.

A value that does not exist (a label that is not there, a Jacobian on a grid of one slice) is NaN, never a made-up number. What needs torch is loaded when it
is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nnreg.metrics.additional import METRICS, NSD_2MM, SDLOGJ_LEARN2REG, AdditionalMetric, Metric, additional_metrics
from nnreg.metrics.jacobian import folding, folding_count, folding_percent, regularity, regularity_of, sdlogj, sdlogj_learn2reg
from nnreg.metrics.overlap import confusion, dice
from nnreg.metrics.points import point_distances, tre
from nnreg.metrics.similarity import mae, mse, ncc, psnr, rmse, ssim
from nnreg.metrics.surface import SurfaceDistances, average_surface_distance, hausdorff95, nsd, surface_distances

if TYPE_CHECKING:
    from nnreg.metrics.fields import endpoint_error, grad_l2, inverse_consistency_error, non_diffeomorphic_volume

__all__ = [
    "METRICS",
    "NSD_2MM",
    "SDLOGJ_LEARN2REG",
    "AdditionalMetric",
    "Metric",
    "SurfaceDistances",
    "additional_metrics",
    "average_surface_distance",
    "confusion",
    "dice",
    "endpoint_error",
    "folding",
    "folding_count",
    "folding_percent",
    "grad_l2",
    "hausdorff95",
    "inverse_consistency_error",
    "mae",
    "mse",
    "ncc",
    "non_diffeomorphic_volume",
    "nsd",
    "point_distances",
    "psnr",
    "regularity",
    "regularity_of",
    "rmse",
    "sdlogj",
    "sdlogj_learn2reg",
    "ssim",
    "surface_distances",
    "tre",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("nnreg.metrics.fields"), name)

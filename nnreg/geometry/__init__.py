"""Spaces, affine matrices, displacement and velocity fields, and their conversion to and from ITK and Learn2Reg.

``Space`` needs numpy alone; whatever needs torch is loaded when it is first asked for, so that planning and ``nnreg_* -h`` import no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nnreg.geometry.space import Space, apply_matrix

if TYPE_CHECKING:
    from nnreg.geometry.fields import (
        compose,
        identity_grid,
        integrate,
        inverse,
        jacobian_determinant,
        resize,
        resize_field,
        sample_at,
        warp,
        warp_points,
    )
    from nnreg.geometry.transform import AffineMap, FieldMap, Transform, index_points_to_world, resample_image, resample_labels

__all__ = [
    "AffineMap",
    "FieldMap",
    "Space",
    "Transform",
    "apply_matrix",
    "compose",
    "identity_grid",
    "index_points_to_world",
    "integrate",
    "inverse",
    "jacobian_determinant",
    "resample_image",
    "resample_labels",
    "resize",
    "resize_field",
    "sample_at",
    "warp",
    "warp_points",
]

_TRANSFORM = {"AffineMap", "FieldMap", "Transform", "index_points_to_world", "resample_image", "resample_labels"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module("nnreg.geometry.transform" if name in _TRANSFORM else "nnreg.geometry.fields")
    return getattr(module, name)

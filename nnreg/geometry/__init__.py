"""Spaces, affine matrices, displacement and velocity fields, and their conversion to and from ITK and Learn2Reg.

Names are found when they are asked for, so that rooms that need no more than a :class:`Space` import no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    from nnreg.geometry.space import Space, apply_matrix
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


_MODULES = ("nnreg.geometry.space", "nnreg.geometry.fields", "nnreg.geometry.transform")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(importlib.import_module, _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Spaces, affine matrices, displacement and velocity fields, and their conversion to and from ITK and Learn2Reg."""

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

"""The grid of a SimpleITK image, and back. Apart from :mod:`nnreg.geometry.itk`, so that reading an image imports no torch."""

from __future__ import annotations

import SimpleITK as sitk

from nnreg.geometry.space import Space


def space_of(image: sitk.Image) -> Space:
    """The grid of a SimpleITK image."""
    return Space(image.GetSize()[::-1], image.GetSpacing()[::-1], image.GetOrigin(), image.GetDirection())


def place(image: sitk.Image, space: Space) -> sitk.Image:
    """Give `image` the origin, spacing and direction of `space`."""
    image.SetSpacing(space.spacing[::-1])
    image.SetOrigin(space.origin)
    image.SetDirection(space.direction)
    return image

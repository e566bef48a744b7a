"""Slices of a pair or of a case as small pictures that a page can hold: sampled once, packed as strips of tiles, composed by the browser."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnreg import metrics
from nnreg.arrays import AnyArray, Bytes, Doubles, Integers, Reals
from nnreg.dataset.labels import unique
from nnreg.evaluation.registration.pictures import scaled, window
from nnreg.evaluation.slices import Stack, affine_part, stacks
from nnreg.geometry import Space, Transform, resample_image, resample_labels

if TYPE_CHECKING:
    from nnreg.imageio import Image

FIELD_SIZE = 64  # pixels on a side of the sampled map: a line of the drawn grid every other one
MOST_FINER = 3  # samples per pixel and axis: a pixel is the mean of what it covers
OCTAVES = 1.0  # halving to doubling of volume is the whole range of colours, as in the overview
STEPS = 127  # of a byte, each way from the middle
FIELD_STEP, JACOBIAN_STEP = 2, 4  # of those, that are told apart: 1/63 of the largest displacement, and 32 colours each way, for a quarter less room
MOST_NAMED = 12  # labels whose colours are explained
QUALITY = 72  # of pictures; label maps and fields are stored exactly


@dataclass(frozen=True)
class Size:
    """How much of a pair is shown: slices per view, and pixels on the longer side, in 3D and in 2D, where there is one slice alone."""

    slices: int
    pixels: int
    flat: int

    def of(self, image: Image) -> int:
        """Pixels on the longer side of an image."""
        return self.pixels if image.ndim == 3 else self.flat


DETAILED, BRIEF = Size(15, 160, 360), Size(1, 160, 240)
ALONE = Size(21, 200, 720)  # a page of one pair has room for more


@dataclass(frozen=True, eq=False)
class PairImages:
    """What is known of a pair; whatever is absent is not shown.

    Attributes
    ----------
    fixed, moving, warped : Image
    transform : Transform
        Fixed to moving world.
    fixed_labels, moving_labels, warped_labels : Image
    uncertainty : Image
        On the fixed grid, mm (pixels, where images have no unit).
    """

    warped: Image
    fixed: Image | None = None
    moving: Image | None = None
    transform: Transform | None = None
    fixed_labels: Image | None = None
    moving_labels: Image | None = None
    warped_labels: Image | None = None
    uncertainty: Image | None = None


@dataclass(frozen=True)
class Pictures:
    """A pair's or a case's slices, as the page holds them.

    Attributes
    ----------
    planes : list
        Per view: name, size, slice numbers and the strips by layer, base64.
    before, after : float or None
        Correlation of the fixed image with the moving one and with the warped one, in these slices; None where they cannot be compared.
    """

    planes: list[dict[str, Any]]
    before: float | None = None
    after: float | None = None


def pair_pictures(pair: PairImages, size: Size) -> Pictures:
    """Slices of every layer of a pair: fixed, before (moved by the affine part alone), warped, labels, field and uncertainty."""
    reference = pair.fixed or pair.warped
    affine = None if pair.transform is None else Transform((affine_part(pair.transform, reference),), reference.ndim)
    values = _label_values(pair.fixed_labels, pair.moving_labels, pair.warped_labels)
    planes, compared = [], []
    for stack in stacks(reference, count=size.slices, size=size.of(reference)):
        images = _images(pair, stack, affine)
        layers = {name: strip(picture) for name, picture in images.items()}
        layers |= {name: strip(found, exact=True) for name, found in _labels(pair, stack, affine, values).items()}
        plane = _plane(stack, layers)
        if pair.transform is not None and affine is not None:
            _add_field(plane, pair.transform, affine, stack)
        if pair.uncertainty is not None:
            _add_uncertainty(plane, pair.uncertainty, stack)
        planes.append(plane)
        compared.append(images)
    before, after = (_correlation(compared, name) for name in ("before", "warped"))
    return Pictures(planes, before, after)


def case_pictures(image: Image, predicted: Image, truth: Image | None, size: Size) -> Pictures:
    """Slices of an image with its predicted labels, and the true ones where they are known."""
    values = _label_values(predicted, truth)
    planes = []
    for stack in stacks(image, count=size.slices, size=size.of(image), centre=_middle(predicted)):
        layers = {"fixed": strip(_bytes(image, stack.grid))}
        for name, labels in (("predicted_labels", predicted), ("fixed_labels", truth)):
            if labels is not None:
                layers[name] = strip(_ranks(resample_labels(labels.array, moving=labels.space, fixed=stack.grid), values), exact=True)
        planes.append(_plane(stack, layers) | {"values": values[:MOST_NAMED].tolist()})
    return Pictures(planes)


def strip(tiles: Bytes, *, exact: bool = False) -> str:
    """Tiles (C, S, rows, columns), one or three channels, below each other as WebP in base64."""
    from PIL import Image as Picture

    channels, count, rows, columns = tiles.shape
    pixels = np.moveaxis(tiles, 0, -1).reshape(count * rows, columns, channels)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"lossless": True, "quality": 30} if exact else {"quality": QUALITY}
    Picture.fromarray(pixels if channels == 3 else pixels[..., 0]).save(buffer, "WEBP", method=2, **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _plane(stack: Stack, layers: Mapping[str, str]) -> dict[str, Any]:
    rows, columns = stack.grid.shape[-2:]
    return {"name": stack.name, "rows": rows, "columns": columns, "numbers": list(stack.numbers), "total": stack.total, "layers": dict(layers)}


def _images(pair: PairImages, stack: Stack, affine: Transform | None) -> dict[str, Bytes]:
    """Grey or colour tiles (C, S, rows, columns)."""
    found = {}
    if pair.fixed is not None:
        found["fixed"] = _bytes(pair.fixed, stack.grid)
    greys = None if pair.moving is None else _window(pair.moving)
    if pair.moving is not None and affine is not None:
        found["before"] = _bytes(pair.moving, stack.grid, affine, greys)
    found["warped"] = _bytes(pair.warped, stack.grid, greys=greys)
    return found


def _labels(pair: PairImages, stack: Stack, affine: Transform | None, values: Integers) -> dict[str, Bytes]:
    """Tiles of ranks of labels (1, S, rows, columns)."""
    wanted = (("fixed_labels", pair.fixed_labels, None), ("warped_labels", pair.warped_labels, None), ("before_labels", pair.moving_labels, affine))
    return {
        name: _ranks(resample_labels(labels.array, moving=labels.space, fixed=stack.grid, transform=transform), values)
        for name, labels, transform in wanted
        if labels is not None and (transform is not None or name != "before_labels")
    }


def _is_colour(image: Image) -> bool:
    return image.array.shape[0] == 3 and image.array.dtype == np.uint8


def _window(image: Image) -> tuple[float, float]:
    return (0.0, 255.0) if _is_colour(image) else window(image.array[:1])


def _bytes(image: Image, space: Space, transform: Transform | None = None, greys: tuple[float, float] | None = None) -> Bytes:
    """An image as tiles (C, S, rows, columns) of bytes, each pixel the mean of what it covers; its darkest grey beyond the image."""
    shown = image.array if _is_colour(image) else image.array[:1]
    finer = _samples_per_pixel(image.space, space)
    sampled = resample_image(shown, moving=image.space, fixed=_finer(space, finer), transform=transform)
    channels, (rows, columns) = len(shown), space.shape[-2:]
    pixels = sampled.reshape(channels, -1, rows, finer, columns, finer).mean(axis=(3, 5))
    return np.asarray(np.rint(255 * np.nan_to_num(scaled(pixels, greys or _window(image)))), dtype=np.uint8)


def _samples_per_pixel(image: Space, space: Space) -> int:
    return int(min(MOST_FINER, max(1, round(space.spacing[-1] / min(image.spacing)))))


def _finer(space: Space, factor: int) -> Space:
    """Every pixel split into `factor` times `factor`."""
    n = space.ndim
    scale = np.eye(n + 1)
    for axis in (n - 2, n - 1):
        scale[axis, axis], scale[axis, n] = 1 / factor, (1 - factor) / (2 * factor)
    return Space.from_matrix([*space.shape[:-2], *(factor * size for size in space.shape[-2:])], space.matrix @ scale)


def _label_values(*maps: Image | None) -> Integers:
    """Every value of the label maps but 0, sorted."""
    found = {value for labels in maps if labels is not None for value in unique(labels.array)}
    return np.array(sorted(found - {0}), dtype=np.int64)


def _ranks(labels: AnyArray, values: Integers) -> Bytes:
    """Background 0, the labels 1, 2, ...; after 255 they begin anew, because neighbours are all that contours tell apart."""
    flat = labels.reshape(1, -1, *labels.shape[-2:])
    ranks = np.where(flat == 0, 0, np.searchsorted(values, flat) % 255 + 1)
    return np.asarray(ranks, dtype=np.uint8)


def _add_field(plane: dict[str, Any], transform: Transform, affine: Transform, stack: Stack) -> None:
    """Layer of the map that is left after its affine part: red rows and green columns of the displacement, blue the Jacobian; 0 in blue where it folds."""
    remainder = Transform((*transform.stages, *affine.inverse().stages), transform.ndim)
    small = stack.sized(FIELD_SIZE)
    slices = [_of_slab(remainder, slab) for slab in small.slabs]
    field, determinant = np.stack([field for field, _ in slices], axis=1), np.stack([found for _, found in slices])
    largest = float(np.abs(field).max()) or 1.0
    octaves = np.log2(np.maximum(determinant, 1e-6))
    blue = np.where(determinant <= 0, 0, _in_bytes(np.clip(octaves / OCTAVES, -1, 1), JACOBIAN_STEP))
    tiles = np.stack([*_in_bytes(field / largest, FIELD_STEP), blue])
    plane["layers"]["field"] = strip(np.asarray(tiles, dtype=np.uint8), exact=True)
    # in pixels of the pictures, not of the coarser field
    pitch = small.grid.spacing[-1] / stack.grid.spacing[-1]
    plane["field"] = {"rows": field.shape[2], "columns": field.shape[3], "largest": largest * pitch}


def _in_bytes(share: Reals, step: int) -> Reals:
    """Numbers from -1 to 1 as 1 to 255, in steps."""
    return np.clip(128 + step * np.rint(share * (STEPS / step)), 1, 255)


def _of_slab(remainder: Transform, slab: Space) -> tuple[Reals, Reals]:
    """In-plane displacement (2, rows, columns), pixels, and the Jacobian determinant of the slice in the middle."""
    found = remainder.sampled_on(slab)
    determinant = found.determinants() if min(slab.shape) > 1 else np.ones(slab.shape, np.float32)
    if slab.ndim == 2:
        return found.displacement, determinant
    middle = slab.shape[0] // 2
    return found.displacement[-2:, middle], determinant[middle]


def _add_uncertainty(plane: dict[str, Any], uncertainty: Image, stack: Stack) -> None:
    """Layer from 0 to the 99th percentile of the whole image, which is told in the unit of lengths."""
    top = float(np.nanpercentile(uncertainty.array[0], 99)) or 1.0
    plane["layers"]["uncertainty"] = strip(_bytes(uncertainty, stack.grid, greys=(0.0, top)))
    plane["uncertainty_top"] = round(top, 3)


def _correlation(views: list[dict[str, Bytes]], name: str) -> float | None:
    """Between the fixed image and another layer, over all slices."""
    if not views or any("fixed" not in view or name not in view or view["fixed"].shape != view[name].shape for view in views):
        return None
    sides: list[Doubles] = [np.concatenate([view[side].ravel() for view in views]).astype(float) for side in ("fixed", name)]
    found = metrics.ncc(sides[0].reshape(1, -1), sides[1].reshape(1, -1))
    return float(found) if np.isfinite(found) else None


def _middle(labels: Image) -> list[int] | None:
    from nnreg.evaluation.dense_prediction.pictures import middle_of_labels

    return middle_of_labels(labels.array[0]) if labels.array.any() else None

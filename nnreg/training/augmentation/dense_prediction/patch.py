"""nnU-Net's augmentation of a patch and its labels, with batchgeneratorsv2's transforms in nnU-Net's order; elastic deformation on request."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnreg.dataset.labels import OUTSIDE
from nnreg.errors import ConfigurationError
from nnreg.training.augmentation.dense_prediction.elastic import RandomElastic
from nnreg.training.augmentation.intensity import RandomIntensity
from nnreg.training.augmentation.seeding import global_seed
from nnreg.typed import from_mapping

Range = tuple[float, float]
SMALLEST_SCALE = 0.85  # nnU-Net reads a patch for this zoom, although it draws others
WHOLLY = 0.999  # share of a voxel's value that must be known, up to rounding
MARGIN = 2  # voxels around what a turned patch is sampled from: linear interpolation reaches one, rounding another


@dataclass(frozen=True)
class RandomPose:
    """Rotation, zoom and mirroring of a patch.

    Attributes
    ----------
    rotation : degrees (low, high), about every axis
    scaling : factor of what is seen (more makes structures smaller), the same along all axes
    rotation_probability, scaling_probability
        That there is any; elsewhere a patch is cut without interpolation.
    mirror_axes : each mirrored in every other sample
    in_plane : rotate and zoom slice by slice, for patches whose first axis is far coarser
    """

    rotation: Range = (-30.0, 30.0)
    rotation_probability: float = 0.2
    scaling: Range = (0.7, 1.4)
    scaling_probability: float = 0.2
    mirror_axes: tuple[int, ...] = ()
    in_plane: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name.endswith("probability") and not 0 <= value <= 1:
                raise ConfigurationError(f"augmentation pose: {item.name} is {value}, expected 0 to 1.")
        if self.rotation[0] > self.rotation[1] or not 0 < self.scaling[0] <= self.scaling[1]:
            raise ConfigurationError(
                f"augmentation pose: rotation {list(self.rotation)} and scaling {list(self.scaling)} must be [low, high], scaling above 0."
            )

    @property
    def moves(self) -> bool:
        """Whether a patch may be interpolated at all."""
        return max(self.rotation_probability, self.scaling_probability) > 0

    def read_size(self, patch: Sequence[int]) -> tuple[int, ...]:
        """Voxels to read for a patch that may be turned: the extent of its corner, turned about each axis, at zoom 0.85 (nnU-Net's rule)."""
        if not self.moves:
            return tuple(patch)
        angle = np.deg2rad(min(90.0, max(abs(bound) for bound in self.rotation)))
        cosine, sine = float(np.cos(angle)), float(np.sin(angle))
        extent = [float(size) for size in patch]
        for one, other in [(0, 1)] if len(patch) == 2 else [(1, 2), (2, 0), (0, 1)]:
            extent[one] = max(extent[one], abs(cosine * patch[one] + sine * patch[other]))
            extent[other] = max(extent[other], abs(cosine * patch[other] - sine * patch[one]))
        wanted = [int(size / SMALLEST_SCALE) for size in extent]
        return (patch[0], *wanted[1:]) if self.in_plane else tuple(wanted)


@dataclass(frozen=True)
class DenseAugmentation:
    """Draws for patches. Built by :func:`build_dense_augmentation`.

    Attributes
    ----------
    patch : voxels that the network sees
    pose, intensity
        What may happen.
    masked_channels
        Set to 0 where labels say that the image ends, since they were normalised within it.
    elastic
        Deformation of the patch before it is turned: nnU-Net has none, and by default there is none.
    """

    patch: tuple[int, ...]
    pose: RandomPose = field(default_factory=RandomPose)
    intensity: RandomIntensity = field(default_factory=RandomIntensity)
    masked_channels: tuple[int, ...] = ()
    elastic: RandomElastic = field(default_factory=lambda: RandomElastic(probability=0.0))

    @property
    def read(self) -> tuple[int, ...]:
        """Voxels around whose centre the patch lies: what a patch is placed by, and the most that is read for it."""
        reach = self.elastic.reach(self.patch)
        deformed = [size + 2 * beyond for size, beyond in zip(self.patch, reach, strict=True)]
        if self.pose.in_plane:
            deformed[0] = self.patch[0]
        return tuple(map(max, self.pose.read_size(self.patch), deformed))

    def draw(self, rng: np.random.Generator) -> DenseDraw:
        """What happens to one patch."""
        pose_seed, seed = (int(value) for value in rng.integers(2**32, size=2))
        grid = self._grid(pose_seed)
        if grid is None:
            start = tuple(wide // 2 - size // 2 for wide, size in zip(self.read, self.patch, strict=True))
            return DenseDraw(self, start, self.patch, None, seed)
        start, size, local = _needed(grid, self.read[-grid.shape[-1] :])
        flat = len(self.patch) - len(size)
        return DenseDraw(self, (0,) * flat + start, self.patch[:flat] + size, local, seed)

    def _grid(self, seed: int) -> Tensor | None:
        """Sampling positions (*patch, axes) in what would be read, as ``grid_sample`` counts them; None for a plain cut."""
        turned = self.read[1:] if self.pose.in_plane else self.read
        drawn: dict[str, Any] = {"grid": None, "affine": None}
        if self.pose.moves:
            with global_seed(seed):
                drawn = _spatial(self.pose, self.patch).get_parameters(image=torch.empty(1).expand(1, *turned))
        # a stream of its own: what is not deformed is bit for bit what it is without this augmentation
        deformation = self.elastic.sample(np.random.default_rng([seed, 1]), self.patch[-len(turned) :])
        found: Tensor | None = drawn["grid"]
        return found if deformation is None else _looked_up(deformation.positions(), drawn["affine"], turned)


@dataclass(frozen=True, eq=False)
class DenseDraw:
    """What was drawn for one patch: which voxels to read, and what to make of them. Call it as often as wanted.

    Attributes
    ----------
    start, size
        Of what is needed, in voxels from the first that :attr:`DenseAugmentation.read` counts.
    grid
        Where it is sampled; None: it is the patch.
    seed
        Of everything that has no position.
    """

    augmentation: DenseAugmentation
    start: tuple[int, ...]
    size: tuple[int, ...]
    grid: Tensor | None
    seed: int

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Image (C, *patch) and labels (T, *patch), new tensors, from those (of shape `size`) that were read; -1 outside the image is kept as label."""
        data = self._applied({"image": image, "segmentation": labels})
        return data["image"], data["segmentation"]

    def with_maps(self, image: Tensor, labels: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and continuous maps (M, *patch) moved with them, their values kept; NaN where what they are sampled from is, or ends."""
        known = maps.isfinite()
        data = self._applied({"image": image, "segmentation": labels, "regression_target": torch.cat([torch.where(known, maps, 0.0), known.to(maps.dtype)])})
        values, share = data["regression_target"].chunk(2)
        return data["image"], data["segmentation"], torch.where(share > WHOLLY, values, torch.nan)

    def _applied(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        settings = self.augmentation
        # the library changes what it is given in place; sampling makes new tensors anyway
        data = self._turned(data) if self.grid is not None else {name: value.clone() for name, value in data.items()}
        with global_seed(self.seed):
            data = _intensity(settings.intensity, settings.pose.in_plane)(**data)
            if settings.pose.mirror_axes:
                data = _mirror(settings.pose.mirror_axes)(**data)
        for channel in settings.masked_channels:
            data["image"][channel][data["segmentation"][0] < 0] = 0
        return data

    def _turned(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        transform = _spatial(self.augmentation.pose, self.augmentation.patch)
        counts = {name: len(value) for name, value in data.items()}
        if self.augmentation.pose.in_plane:
            data = {name: value.flatten(0, 1) for name, value in data.items()}
        turned: dict[str, Tensor] = transform.apply(data, grid=self.grid)
        if self.augmentation.pose.in_plane:
            turned = {name: value.unflatten(0, (counts[name], -1)) for name, value in turned.items()}
        return turned


def _looked_up(positions: npt.NDArray[np.float64], affine: npt.NDArray[np.float64] | None, shape: Sequence[int]) -> Tensor:
    """Positions (axes, *patch), voxels from the middle, turned by the pose, as ``grid_sample`` counts them in an array of `shape`."""
    rows = np.moveaxis(positions, 0, -1)
    # after the deformation, as batchgenerators does: so no zoom can make the map fold
    rows = rows if affine is None else rows @ affine.T
    return torch.from_numpy(np.ascontiguousarray((rows / (np.asarray(shape) / 2))[..., ::-1])).float()


def _needed(grid: Tensor, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], Tensor]:
    """Start and size of the part of an array of `shape` that a grid samples from, and the grid within it. The last component belongs to the first axis."""
    start, size = [], []
    local = grid.clone()
    for axis, extent in enumerate(shape):
        component = grid[..., len(shape) - 1 - axis]
        low, high = (((float(bound) + 1) * extent - 1) / 2 for bound in torch.aminmax(component))
        first = min(max(int(np.floor(low)) - MARGIN, 0), extent - 1)
        last = max(min(int(np.ceil(high)) + MARGIN, extent - 1), first)
        start.append(first)
        size.append(last - first + 1)
        local[..., len(shape) - 1 - axis] = (component + 1) * (extent / size[-1]) - (2 * first / size[-1] + 1)
    return tuple(start), tuple(size), local


def build_dense_augmentation(
    config: Mapping[str, Mapping[str, Any]], patch: Sequence[int], masked_channels: Sequence[int] = (), *, where: str = "training.augmentation"
) -> DenseAugmentation | None:
    """The augmentation that a plans file describes: ``pose``, ``elastic`` and ``intensity`` to their arguments; None without any.

    Raises
    ------
    ConfigurationError
        Unknown name or argument (with the nearest valid one), value of the wrong type or out of range.
    """
    if not config:
        return None
    kinds: dict[str, Any] = {"pose": RandomPose, "elastic": RandomElastic, "intensity": RandomIntensity}
    unknown = [name for name in config if name not in kinds]
    if unknown:
        raise ConfigurationError(f"{where}: dense prediction has no augmentation {unknown[0]!r}, it has {', '.join(kinds)}.")
    still = {
        "pose": RandomPose(rotation_probability=0.0, scaling_probability=0.0),
        "elastic": RandomElastic(probability=0.0),
        "intensity": RandomIntensity(probability=0.0),
    }
    parts = {name: from_mapping(kinds[name], arguments, where=f"{where}.{name}", error=ConfigurationError) for name, arguments in config.items()}
    pose = {**still, **parts}["pose"]
    if any(not 0 <= axis < len(patch) for axis in pose.mirror_axes) or (pose.in_plane and len(patch) != 3):
        raise ConfigurationError(f"{where}.pose: mirror_axes {list(pose.mirror_axes)} or in_plane does not fit a patch of {len(patch)} axes.")
    return DenseAugmentation(tuple(patch), **{**still, **parts}, masked_channels=tuple(masked_channels))


@functools.lru_cache(maxsize=4)
def _spatial(pose: RandomPose, patch: tuple[int, ...]) -> Any:
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    return SpatialTransform(
        patch[1:] if pose.in_plane else patch,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=pose.rotation_probability,
        rotation=tuple(np.deg2rad(pose.rotation).tolist()),
        p_scaling=pose.scaling_probability,
        scaling=pose.scaling,
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=OUTSIDE,
    )


@functools.lru_cache(maxsize=4)
def _mirror(axes: tuple[int, ...]) -> Any:
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform

    return MirrorTransform(axes)


@functools.lru_cache(maxsize=4)
def _intensity(settings: RandomIntensity, in_plane: bool) -> Any:
    """nnU-Net's list; the library is imported here because that takes seconds."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    each: dict[str, Any] = {"synchronize_channels": False, "p_per_channel": 1}
    half: dict[str, Any] = {"synchronize_channels": False, "p_per_channel": 0.5}
    gammas = [
        GammaTransform(BGContrast(bounds), p_invert_image=inverted, p_retain_stats=1, **each)
        for bounds, inverted in ((settings.inverted_gamma, 1), (settings.gamma, 0))
    ]
    steps = (
        (GaussianNoiseTransform(settings.noise, p_per_channel=1, synchronize_channels=True), settings.noise_probability),
        (GaussianBlurTransform(settings.blur, synchronize_axes=False, **half), settings.blur_probability),
        (MultiplicativeBrightnessTransform(BGContrast(settings.brightness), **each), settings.brightness_probability),
        (ContrastTransform(BGContrast(settings.contrast), preserve_range=True, **each), settings.contrast_probability),
        (
            SimulateLowResolutionTransform(settings.low_resolution, synchronize_axes=True, ignore_axes=(0,) if in_plane else None, **half),
            settings.low_resolution_probability,
        ),
        (gammas[0], settings.inverted_gamma_probability),
        (gammas[1], settings.gamma_probability),
    )
    composed = ComposeTransforms([RandomTransform(transform, probability) for transform, probability in steps])
    return RandomTransform(composed, settings.probability)

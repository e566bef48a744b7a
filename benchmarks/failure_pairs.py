"""Sound and broken pairs of real images: what ``failure.py`` calibrates and measures the probability of failure with.

Each half has its own people (and stains), so that what is fitted on one half can be reported on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from nnreg.engine.prepared_image import PreparedImage
from nnreg.geometry import FieldMap, Space, Transform, resample_image
from nnreg.imageio import Image, read_image

HALVES = ("fit", "report")
PER_DATASET = 20  # sound pairs of each half


def _same(found: Image, seed: int = 0) -> Image:
    return found


@dataclass(frozen=True, eq=False)
class Case:
    """A pair that should register, or one that cannot; its images are read when they are asked for.

    Attributes
    ----------
    name, dataset, kind : str
    half : "fit" or "report"
    broken : bool
    paths : tuple of Path
        Of the fixed and of the moving image.
    on_fixed, on_moving : callable Image -> Image
        What is done to them.
    start : callable (fixed, moving) -> Transform, optional
        Makes what the registration starts from.
    """

    name: str
    dataset: str
    kind: str
    half: str
    broken: bool
    paths: tuple[Path, Path]
    on_fixed: Callable[[Image], Image] = _same
    on_moving: Callable[[Image], Image] = _same
    start: Callable[[Image, Image], Transform] | None = None

    def options(self) -> dict[str, Any]:
        """Arguments of :func:`nnreg.engine.register`."""
        fixed, moving = self.on_fixed(image(self.paths[0])), self.on_moving(image(self.paths[1]))
        return {"fixed": fixed, "moving": moving, "initial": None if self.start is None else self.start(fixed, moving)}


class Pairs:
    """All cases from a folder of real images, the same on every machine."""

    def __init__(self, data: Path) -> None:
        self.data = data
        files: dict[str, list[Path]] = {
            "oasis35": sorted((data / "oasis35").glob("*_SS.nii.gz")),
            "ixi2mm": sorted((data / "ixi2mm" / "T1").glob("*.nii.gz")),
            "acdc_ed_es": sorted(path for path in (data / "acdc_ed_es").glob("*.nii.gz") if "_gt" not in path.name),
            "msd_hippocampus": sorted(path for path in (data / "msd_hippocampus").rglob("*.nii.gz") if "label" not in str(path)),
            "slices": sorted((data / "oasis_trt20_2d" / "Atlases").glob("*.nii.gz")),
            "histology": sorted((data / "histology").rglob("*.jpg")),
        }
        self.people = {name: _halved(name, paths) for name, paths in files.items()}

    def __iter__(self) -> Iterator[Case]:
        for half in HALVES:
            yield from self._sound(half)
            yield from self._broken(half)

    def _sound(self, half: str) -> Iterator[Case]:
        for dataset in ("oasis35", "ixi2mm", "acdc_ed_es", "msd_hippocampus"):
            for number, pair in enumerate(self._couples(dataset, half)[:PER_DATASET]):
                kind, change = SOUND[number % len(SOUND)] if dataset != "acdc_ed_es" else SOUND[0]
                yield _case(half, dataset, f"sound_{kind}", number, pair, on_moving=partial(change, seed=number))
        for dataset in ("oasis35", "ixi2mm", "acdc_ed_es"):
            for number, pair in enumerate(self._couples(dataset, half)[:3]):
                yield _case(half, dataset, "sound_turned", number, pair, on_moving=partial(turned, seed=number))
        yield from self._mixed(half)

    def _mixed(self, half: str) -> Iterator[Case]:
        """Stained sections, slices, other contrasts, a lung, a cord."""
        couples = [*((name, pair) for name in ("histology", "slices") for pair in self._couples(name, half)[:8])]
        for number, (dataset, pair) in enumerate(couples):
            kind, change = "sound_stain" if dataset == "histology" else "sound_slice", _moved if number % 2 else _same
            yield _case(half, dataset, kind, number, pair, on_moving=partial(change, seed=number))
        study, names = ("Study1" if half == "fit" else "Study3"), ["T1post", "T2reg", "FLAIRreg", "T1post"]
        for number, contrasts in enumerate([*pairwise(names), *pairwise(names[::-1])]):
            one, other = (self.data / "tcia_brain_multimodal" / f"{study}_{contrast}.nii.gz" for contrast in contrasts)
            yield _case(half, "tcia", "sound_contrast", number, (one, other), on_moving=partial(warped, seed=number))
        odd = [self.data / "elastix_lung_pair" / f"3DCT_lung_{name}.mha" for name in ("baseline", "followup")]
        if half == "fit":
            odd = [self.data / "spinal_t1_t2" / f"{name}.nii.gz" for name in ("t1w", "t2")]
        for number, (one, other) in enumerate((odd, odd[::-1])):
            yield _case(half, "lung" if half == "report" else "cord", "sound_far", number, (one, other))

    def _broken(self, half: str) -> Iterator[Case]:
        yield from self._other_organs(half)
        for dataset, axis in FLIPS:
            for number, pair in enumerate(self._couples(dataset, half)[-3:]):
                yield _case(half, dataset, f"flipped_{axis}", number, pair, on_moving=partial(flipped, axis=axis))
        for dataset in ("oasis35", "ixi2mm", "slices"):
            for number, pair in enumerate(self._couples(dataset, half)[-5:-1]):
                yield _case(half, dataset, "cropped", number, pair, on_fixed=partial(third, number=0), on_moving=last_third)
        for dataset in self.people:
            for number, pair in enumerate(self._couples(dataset, half)[2:5]):
                yield _case(half, dataset, "noise", number, pair, on_moving=partial(noise, seed=number))
        for dataset in self.people:
            for number, pair in enumerate(self._couples(dataset, half)[3:6]):
                yield _case(half, dataset, "lost", number, pair, start=partial(lost, seed=number))

    def _other_organs(self, half: str) -> Iterator[Case]:
        folders = ("oasis35", "ixi2mm", "acdc_ed_es", "msd_hippocampus")
        for number, (one, other) in enumerate([(one, other) for one in folders for other in folders if one != other] * 3):
            fixed, moving = self.people[one][half], self.people[other][half]
            yield _case(half, one, f"organ_{other}", number, (fixed[number % len(fixed)], moving[(number // 2) % len(moving)]))
        lung, abdomen = self.data / "elastix_lung_pair" / "3DCT_lung_baseline.mha", self.data / "totalseg_examples" / "example_ct.nii.gz"
        for number, (one, far) in enumerate((one, far) for one in folders for far in (lung, abdomen)):
            yield _case(half, one, f"organ_{far.stem[:4]}", number, (self.people[one][half][number % 3], far))
        cells = sorted((self.data / "isbi2012_em" / "image").glob("*.png"))
        for number, (one, other) in enumerate([("slices", "histology"), ("histology", "slices")] * 2):
            fixed, moving = self.people[one][half], self.people[other][half]
            pair = fixed[number % len(fixed)], moving[number % len(moving)]
            yield _case(half, one, f"organ_{other}", number, pair, on_fixed=grey, on_moving=grey)
        for number, one in enumerate(("slices", "histology") * 2):
            fixed = self.people[one][half]
            pair = fixed[number % len(fixed)], cells[number + 5 * (half == "fit")]
            yield _case(half, one, "organ_cells", number, pair, on_fixed=grey, on_moving=grey)

    def _couples(self, dataset: str, half: str) -> list[tuple[Path, Path]]:
        """Ordered pairs, shuffled; of hearts the two ends of one person's beat."""
        people = self.people[dataset][half]
        if dataset == "acdc_ed_es":
            both = list(zip(people[::2], people[1::2], strict=True))
            return [*both, *(pair[::-1] for pair in both)]
        every = [(one, other) for one in people for other in people if one != other]
        return [every[index] for index in np.random.default_rng(0).permutation(len(every))]


def _case(half: str, dataset: str, kind: str, number: int, paths: tuple[Path, Path], **changes: Any) -> Case:
    return Case(f"{half}_{dataset}_{kind}_{number}", dataset, kind, half, not kind.startswith("sound"), paths, **changes)


def _halved(name: str, paths: list[Path]) -> dict[str, list[Path]]:
    """Every other person is reported; two files are one heart."""
    count = 2 if name == "acdc_ed_es" else 1
    chosen = [index // count % 2 == 0 for index in range(len(paths))]
    return {"fit": [path for path, own in zip(paths, chosen, strict=True) if own], "report": [path for path, own in zip(paths, chosen, strict=True) if not own]}


@cache
def image(path: Path) -> Image:
    """The image, pooled to at most 200,000 voxels (60,000 in 2D): calibration has to be affordable."""
    found = read_image(path)
    array, space = found.array.astype(np.float32), found.space
    if array.ndim > space.ndim + 1:
        raise ValueError(f"{path}: not an image of {space.ndim} axes")
    most = 60_000 if space.ndim == 2 else 200_000
    factors = [1] * space.ndim
    while np.prod([size // factor for size, factor in zip(space.shape, factors, strict=True)]) > most:
        spacings = [step * factor for step, factor in zip(space.spacing, factors, strict=True)]
        factors = [factor * 2 if step < 1.7 * min(spacings) else factor for factor, step in zip(factors, spacings, strict=True)]
    side = PreparedImage(array, None, space).pooled_by(tuple(factors))
    return Image(np.ascontiguousarray(side.image), side.space)


def grey(found: Image) -> Image:
    """The mean of the channels."""
    return Image(found.array.mean(axis=0, keepdims=True), found.space)


def flipped(found: Image, axis: int) -> Image:
    """The image mirrored along an array axis, in the header of the original."""
    return Image(np.ascontiguousarray(np.flip(found.array, axis + 1)), found.space)


def part(found: Image, axis: int, low: int, high: int) -> Image:
    """Planes `low` to `high` of an axis, where they are."""
    window = tuple(slice(low, high) if number == axis else slice(None) for number in range(found.ndim))
    matrix = found.space.matrix.copy()
    start = np.zeros(found.ndim)
    start[axis] = low
    matrix[: found.ndim, found.ndim] = found.space.to_world(start)
    array = np.ascontiguousarray(found.array[(slice(None), *window)])
    return Image(array, Space.from_matrix(array.shape[1:], matrix))


def third(found: Image, number: int) -> Image:
    """The first, middle or last third of the body along its longest axis."""
    body = found.array.mean(axis=0) > 0.15 * found.array.max()
    axis = int(np.argmax(np.asarray(found.space.shape) * found.space.spacing))
    planes = np.flatnonzero(body.any(axis=tuple(other for other in range(found.ndim) if other != axis)))
    low, size = int(planes[0]), int(planes[-1] - planes[0] + 1) // 3
    return part(found, axis, low + number * size, low + (number + 1) * size)


def last_third(found: Image) -> Image:
    """The last third of the body, in a header that does not tell where it is."""
    return centred(third(found, 2))


def centred(found: Image) -> Image:
    """The image with the middle of its grid at the world's origin, as a file without a header has it."""
    matrix = found.space.matrix.copy()
    matrix[: found.ndim, found.ndim] -= found.space.centre
    return Image(found.array, Space.from_matrix(found.space.shape, matrix))


def noise(found: Image, seed: int) -> Image:
    """White noise, smooth noise, or a body of noise in air."""
    rng = np.random.default_rng(seed)
    array = rng.normal(size=found.array.shape).astype(np.float32)
    if seed % 3 == 1:
        array = gaussian_filter(array, (0, *(3,) * found.ndim)).astype(np.float32)
    if seed % 3 == 2:
        array = gaussian_filter(array, (0, *(1.5,) * found.ndim)) * 0.5
        axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in found.space.shape], indexing="ij")
        array = np.where(sum(axis**2 for axis in axes) < 0.6, 2 + array, 0.05 * rng.normal(size=found.array.shape)).astype(np.float32)
    return Image(array * 100, found.space)


def _around(found: Image, rotation: np.ndarray, shift: np.ndarray) -> np.ndarray:
    matrix = np.eye(found.ndim + 1)
    matrix[: found.ndim, : found.ndim] = rotation
    centre = found.space.centre
    matrix[: found.ndim, found.ndim] = centre - rotation @ centre + shift
    return matrix


def _rotation(ndim: int, degrees: float, axis: int) -> np.ndarray:
    i, j = [(0, 1), (0, 2), (1, 2)][axis % 3] if ndim == 3 else (0, 1)
    result = np.eye(ndim)
    angle = np.deg2rad(degrees)
    result[i, i] = result[j, j] = np.cos(angle)
    result[i, j], result[j, i] = -np.sin(angle), np.sin(angle)
    return result


def lost(fixed: Image, moving: Image, seed: int) -> Transform:
    """A start that is so wrong that no descent finds back: turned by a right angle, or nearly half a body aside."""
    matrix = np.eye(fixed.ndim + 1)
    matrix[: fixed.ndim, fixed.ndim] = moving.space.centre - fixed.space.centre
    if seed % 2:
        turn = _around(fixed, _rotation(fixed.ndim, 90.0, seed), np.zeros(fixed.ndim))
        return Transform.affine(matrix @ turn)
    shift = np.zeros(fixed.ndim)
    shift[seed // 2 % fixed.ndim] = 0.45 * fixed.space.extent[::-1][seed // 2 % fixed.ndim]
    return Transform.affine(matrix @ _around(fixed, np.eye(fixed.ndim), shift))


def _moved(found: Image, seed: int) -> Image:
    """In a header that is turned by some degrees and far off."""
    rotation = _rotation(found.ndim, 18.0 * (-1) ** seed, seed)
    matrix = _around(found, rotation, np.full(found.ndim, 0.4 * float(found.space.extent.max()))) @ found.space.matrix
    return Image(found.array, Space.from_matrix(found.space.shape, matrix))


def turned(found: Image, seed: int) -> Image:
    """In a header that is turned by one or two right angles, as where the orientation was lost."""
    matrix = _around(found, _rotation(found.ndim, 90.0 * (1 + seed % 2), seed), np.zeros(found.ndim)) @ found.space.matrix
    return Image(found.array, Space.from_matrix(found.space.shape, matrix))


def _partly(found: Image, seed: int) -> Image:
    """Without the last quarter of an axis."""
    axis = seed // len(SOUND) % found.ndim
    size = found.space.shape[axis]
    return found if size < 12 else part(found, axis, 0, size - size // 4)


def shaded(found: Image, seed: int) -> Image:
    """Shaded from side to side, with noise."""
    ramp = np.linspace(0.6, 1.4, found.space.shape[-1], dtype=np.float32)
    noisy = np.random.default_rng(seed).normal(size=found.array.shape).astype(np.float32) * 0.05 * float(np.percentile(found.array, 99))
    return Image(found.array * ramp + noisy, found.space)


def smooth_field(space: Space, seed: int) -> FieldMap:
    """A smooth random field of at most four voxels, half a voxel along axes of few."""
    rng = np.random.default_rng(seed)
    width = [max(1.0, 0.1 * size) for size in space.shape]
    bent = np.stack([gaussian_filter(rng.normal(size=space.shape), width) for _ in range(space.ndim)])
    bent *= np.asarray([4.0 if size > 30 else 0.5 for size in space.shape]).reshape(-1, *(1,) * space.ndim) / np.abs(bent).max()
    return FieldMap(bent.astype(np.float32), space)


def warped(found: Image, seed: int) -> Image:
    """Under a smooth field."""
    transform = Transform((smooth_field(found.space, seed),), found.ndim)
    return Image(resample_image(found.array, moving=found.space, fixed=found.space, transform=transform), found.space)


SOUND: tuple[tuple[str, Callable[[Image, int], Image]], ...] = (("plain", _same), ("partial", _partly), ("header", _moved), ("noisy", shaded))
# not from left to right, and no slices of brains: turned about, a flipped one is a flip from left to right, which no similarity tells from a brain
FLIPS = (("oasis35", 0), ("oasis35", 1), ("ixi2mm", 1), ("ixi2mm", 2), ("acdc_ed_es", 1), ("msd_hippocampus", 1), ("histology", 1))

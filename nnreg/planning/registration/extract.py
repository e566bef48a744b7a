"""Measure a raw dataset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Mask
from nnreg.errors import PlansError
from nnreg.imageio.endings import unit_of
from nnreg.parallel import run_all
from nnreg.planning import orientation
from nnreg.planning.decision import text
from nnreg.planning.registration.fingerprint import ChannelStatistics, Fingerprint, ImageFingerprint
from nnreg.planning.registration.foreground import find_foreground
from nnreg.progress import Progress

if TYPE_CHECKING:
    from nnreg.dataset import Pair, RawDataset
    from nnreg.imageio import Image

POOLED_VOXELS = 20_000  # foreground voxels that each image adds to the pooled intensities
POOLED_IN_ALL = 5_000_000  # from all images: more than 250 add fewer each, so that memory does not grow with their number
SEED = 1234


@dataclass(frozen=True)
class _Measure:
    """Picklable: the work on one case."""

    raw: RawDataset
    pooled: int

    def __call__(self, case: str) -> tuple[ImageFingerprint, npt.NDArray[np.float32]]:
        from nnreg.imageio import check_finite
        from nnreg.imageio.lazy import size_on_disk

        image = self.raw.read_image(case)
        check_finite(image, self.raw.image_paths(case)[0])
        points = self.raw.read_keypoints(case)
        labels = self.raw.read_labels(case)
        measured, values = measure_image(
            image,
            subject=self.raw.subject(case),
            labels=self.raw.label_path(case) is not None,
            labelled=None if labels is None else labels.array[0] > 0,
            keypoints=None if points is None else len(points),
            mask=self.raw.mask_path(case) is not None,
            file_bytes=sum(size_on_disk(path) for path in self.raw.image_paths(case)),
            seed=(SEED, *case.encode()),
            pooled=self.pooled,
        )
        return replace(measured, digest=self.raw.digest(case)), values


def measure_image(
    image: Image,
    *,
    subject: str = "",
    labels: bool = False,
    labelled: Mask | None = None,
    keypoints: int | None = None,
    mask: bool = False,
    file_bytes: int = 0,
    seed: tuple[int, ...] = (SEED,),
    pooled: int = POOLED_VOXELS,
) -> tuple[ImageFingerprint, npt.NDArray[np.float32]]:
    """Fingerprint of an image and a seeded sample (C, `pooled`) of its foreground intensities."""
    array, space = image.array, image.space
    foreground = find_foreground(array)
    values = foreground.values(array)
    channels = tuple(
        ChannelStatistics.of(channel, background=level, hounsfield=is_ct)
        for channel, level, is_ct in zip(values, foreground.background, foreground.hounsfield, strict=True)
    )
    # the seed depends on the case, not on the order in which workers finish
    drawn = np.random.default_rng(seed).integers(values.shape[1], size=pooled)
    low, high = (None, None) if labelled is None or labelled.shape != space.shape else _box(labelled)
    measured = ImageFingerprint(
        shape=space.shape,
        spacing=space.spacing,
        origin=space.origin,
        direction=space.direction,
        orientation=orientation.code(space),
        foreground_found=foreground.found,
        foreground_low=foreground.low,
        foreground_high=foreground.high,
        foreground_faces=foreground.faces,
        foreground_fraction=foreground.fraction,
        centre_of_mass=tuple(space.to_world(foreground.centre()).tolist()),
        channels=channels,
        integer=bool(np.issubdtype(array.dtype, np.integer)),
        subject=subject,
        labels=labels,
        keypoints=keypoints,
        mask=mask,
        file_bytes=file_bytes,
        labelled_low=low,
        labelled_high=high,
    )
    return measured, values[:, drawn].astype(np.float32)


def _box(labelled: Mask) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """First voxel of what is labelled and the one after the last, per axis; None where nothing is."""
    if not labelled.any():
        return None, None
    axes = range(labelled.ndim)
    occupied = [np.flatnonzero(labelled.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(int(voxels[0]) for voxels in occupied), tuple(int(voxels[-1]) + 1 for voxels in occupied)


def extract_fingerprint(raw: RawDataset, *, processes: int = 1, on_progress: Progress | None = None) -> Fingerprint:
    """Measure every training case.

    Raises
    ------
    PlansError
        If there is no case, or cases differ in their number of axes or channels.
    ImageError
        For an unreadable file or one with NaN or infinite voxels.
    """
    cases = tuple(raw.cases)
    if not cases:
        raise PlansError(f"{raw.folder}: imagesTr holds no case, at least one is needed. Add images named CASE_0000{raw.spec.file_ending}.")
    pooled = min(POOLED_VOXELS, max(1, POOLED_IN_ALL // len(cases)))
    measured: dict[str, ImageFingerprint] = {}
    samples: dict[str, npt.NDArray[np.float32]] = {}
    for done, (case, (image, sample)) in enumerate(run_all(_Measure(raw, pooled), cases, processes=processes), start=1):
        measured[case], samples[case] = image, sample
        if on_progress is not None:
            on_progress(done, len(cases), case)
    _check_alike(raw, {case: measured[case] for case in cases})
    pairs = raw.pairs()
    if not pairs:
        raise PlansError(
            f"{raw.name}: its {len(cases)} training case{'s' * (len(cases) > 1)} form no pair under pairing {raw.spec.pairing!r}. Add cases or pairs."
        )
    grouped = raw.spec.pairing in ("pairs", "groups")
    return Fingerprint(
        dataset_name=raw.name,
        channel_names=channel_names(raw),
        pairing=raw.spec.pairing,
        pair_count=len(pairs),
        atlas=raw.spec.atlas,
        groups=connected(pairs, cases) if grouped else (),
        images={case: measured[case] for case in cases},
        intensities=_pool([measured[case] for case in cases], [samples[case] for case in cases]),
        unit="px" if all(unit_of(raw.image_paths(case), measured[case].space) == "px" for case in cases) else "mm",
    )


def channel_names(raw: RawDataset) -> tuple[str, ...]:
    """What each channel shows; ``CT/MR`` where modalities differ."""
    rows = dict.fromkeys(tuple(raw.spec.channels_of(case).values()) for case in raw.cases)
    return tuple("/".join(dict.fromkeys(names)) for names in zip(*rows, strict=False))


def _check_alike(raw: RawDataset, images: dict[str, ImageFingerprint]) -> None:
    first = next(iter(images))
    for case, image in images.items():
        if image.ndim != images[first].ndim:
            raise PlansError(
                f"{raw.name}: case {case!r} is {image.ndim}D, {first!r} is {images[first].ndim}D. Put 2D and 3D images into datasets of their own."
            )
        if image.ndim == 3 and min(image.shape) < 2:
            raise PlansError(f"{raw.name}: case {case!r} has an axis of a single voxel ({text(image.shape)}). Store 2D images as such, or add the next slices.")
        if len(image.channels) != len(images[first].channels):
            raise PlansError(f"{raw.name}: case {case!r} has {len(image.channels)} channels, {first!r} has {len(images[first].channels)}: all need the same.")


def _pool(images: list[ImageFingerprint], samples: list[npt.NDArray[np.float32]]) -> tuple[ChannelStatistics, ...]:
    return tuple(
        ChannelStatistics.of(
            np.concatenate([sample[channel] for sample in samples]).astype(np.float64),
            background=float(np.median([image.channels[channel].background for image in images])),
            hounsfield=all(image.channels[channel].hounsfield for image in images),
        )
        for channel in range(len(samples[0]))
    )


def connected(pairs: Iterable[Pair], cases: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Connected components of the pair graph, each with its first fixed case first and the rest in order; a case without a pair is alone.

    Examples
    --------
    >>> from types import SimpleNamespace as P
    >>> connected([P(fixed="b", moving="a"), P(fixed="d", moving="a")], "abcd")
    (('b', 'a', 'd'), ('c',))
    """
    group: dict[str, set[str]] = {case: {case} for case in cases}
    fixed_first: dict[str, int] = {}
    for index, pair in enumerate(pairs):
        fixed_first.setdefault(pair.fixed, index)
        merged = group[pair.fixed] | group[pair.moving]
        for case in merged:
            group[case] = merged
    unique = {min(members): members for members in group.values()}
    result = []
    for members in unique.values():
        first = min(members, key=lambda case: (fixed_first.get(case, len(fixed_first) + 10**9), case))
        result.append((first, *sorted(members - {first})))
    return tuple(sorted(result))

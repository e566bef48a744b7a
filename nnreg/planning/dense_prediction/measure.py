"""Measure a raw dataset as nnU-Net does: crop to what is not 0, look at the intensities of labelled foreground."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnreg.errors import DatasetError, PlansError
from nnreg.padding import shown, slices
from nnreg.parallel import run_all
from nnreg.planning.dense_prediction.fingerprint import DenseFingerprint, DenseImage, Intensities, MapValues
from nnreg.planning.dense_prediction.foreground import Foreground, as_volume, nonzero_box, quantiles_of_each
from nnreg.planning.dense_prediction.measure_large import measure_large
from nnreg.planning.dense_prediction.measure_maps import map_channels, measure_maps, pool_maps
from nnreg.progress import Progress

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.imageio import Image


def read_labelled(raw: RawDataset, case: str) -> tuple[Image, Image, Image | None]:
    """Image, labels (a channel per target) and values of continuous targets, if there are any, of a training case, on one grid.

    Raises
    ------
    DatasetError
        If the case has no labels, or they are not on the grid of the image.
    ImageError
        For an unreadable file or one with NaN or infinite voxels.
    """
    from nnreg.dataset.targets import read_targets, target_paths
    from nnreg.imageio import check_finite

    paths = raw.image_paths(case)
    image = raw.read_image(case)
    check_finite(image, paths[0])
    (labels, maps), label_path = read_targets(raw, case), next(iter(target_paths(raw, case).values()))
    if labels.space.shape != image.space.shape:
        raise DatasetError(f"{label_path}: has shape {labels.space.shape}, its image {paths[0]} {image.space.shape}. Make labels on the grid of the image.")
    return image, labels, maps


@dataclass(frozen=True)
class _Measure:
    """Picklable: the work on one case."""

    raw: RawDataset

    def __call__(self, case: str) -> tuple[DenseImage, list[Foreground | None], list[MapValues]]:
        from nnreg.dataset.large import large
        from nnreg.imageio import Image

        file_bytes, digest = _file_bytes(self.raw, case), self.raw.digest(case)
        if large(self.raw, case):
            measured, foreground, values = measure_large(self.raw, case, file_bytes=file_bytes)
        else:
            image, labels, maps = read_labelled(self.raw, case)
            measured, foreground = measure_case(image, Image(_foreground(self.raw, image.array, labels.array), labels.space), file_bytes=file_bytes)
            values = measure_maps(self.raw, case, image, maps)
        quantiles = quantiles_of_each(len(self.raw.cases))
        return replace(measured, digest=digest), [None if found is None else found.thinned(quantiles) for found in foreground], values


def _foreground(raw: RawDataset, image: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels (T, *spatial) of the targets that have any; if none has, where values are known and the image is neither 0 nor padding."""
    from nnreg.dataset.target_spec import label_targets
    from nnreg.dataset.targets import target_names

    named = label_targets(raw.spec)
    if named:
        return labels[[name in named for name in target_names(raw)]]
    known = np.zeros(image.shape[1:], dtype=bool)
    within = slices(shown(image).tight)
    known[within[1:]] = (image[within] != 0).any(axis=0)
    return labels * known


def measure_case(image: Image, labels: Image, *, file_bytes: int = 0) -> tuple[DenseImage, list[Foreground | None]]:
    """Measurements of a case, and per channel its foreground (None where nothing is labelled)."""
    array, spacing = as_volume(image)
    box = nonzero_box(array)
    inside = tuple(slice(low, high) for low, high in box)
    depth, height, width = (high - low for low, high in box)
    labelled = as_volume(labels)[0].max(axis=0)[inside] > 0
    foreground = [Foreground.of(channel[inside][labelled]) if labelled.any() else None for channel in array]
    # padding around a scan is no part of it: a plan that depends on how much there is would depend on who stored the file
    relative = min(1.0, depth * height * width / float(np.prod([high - low for low, high in shown(array).part])))
    return DenseImage(spacing, (depth, height, width), relative, file_bytes), foreground


def measure_dense(raw: RawDataset, *, processes: int = 1, on_progress: Progress | None = None) -> DenseFingerprint:
    """Measure every training case.

    Raises
    ------
    DatasetError
        If a case has no labels, or they are not on the grid of the image.
    PlansError
        If no case has a labelled voxel.
    ImageError
        For an unreadable file or one with NaN or infinite voxels.
    """
    measured: dict[str, tuple[DenseImage, list[Foreground | None], list[MapValues]]] = {}
    for done, (case, found) in enumerate(run_all(_Measure(raw), raw.cases, processes=processes), start=1):
        measured[case] = found
        if on_progress is not None:
            on_progress(done, len(raw.cases), case)
    channels = zip(*(measured[case][1] for case in raw.cases), strict=True)
    intensities = tuple(_pool([found for found in channel if found is not None]) for channel in channels)
    if None in intensities:
        raise PlansError(f"{raw.folder / 'labelsTr'}: no voxel of any training case is labelled (all are background). Mend the labels.")
    return DenseFingerprint(
        dataset_name=raw.name,
        channel_names=tuple(raw.spec.channel_names.values()),
        heads=_heads(raw.spec) or 1 + len(raw.label_values),
        regions=any(isinstance(value, tuple) and len(value) > 1 for value in raw.spec.labels.values()),
        training_cases=raw.spec.numTraining,
        images={case: measured[case][0] for case in raw.cases},
        intensities=tuple(found for found in intensities if found is not None),
        maps=pool_maps(raw, [measured[case][2] for case in raw.cases]),
    )


def _pool(cases: list[Foreground]) -> Intensities | None:
    """Every case counts the same, however much of it is labelled."""
    if not cases:
        return None
    pooled = np.concatenate([case.quantiles for case in cases])
    mean = float(np.mean([case.mean for case in cases]))
    variance = float(np.mean([case.square for case in cases])) - mean**2
    low, median, high = np.percentile(pooled, (0.5, 50.0, 99.5))
    return Intensities(
        mean=mean,
        median=float(median),
        std=float(np.sqrt(max(variance, 0.0))),
        minimum=float(pooled.min()),
        maximum=float(pooled.max()),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )


def is_current(fingerprint: DenseFingerprint, raw: RawDataset) -> bool:
    """Whether the fingerprint is of the dataset as it is now: same channels and labels, same cases, files of the same content."""
    spec = raw.spec
    if {name: len(channels) for name, channels in fingerprint.maps.items()} != map_channels(spec):
        return False
    if fingerprint.channel_names != tuple(spec.channel_names.values()) or fingerprint.training_cases != spec.numTraining:
        return False
    heads = _heads(spec)
    if (heads and fingerprint.heads != heads) or tuple(fingerprint.images) != raw.cases:
        return False
    same_size = all(image.file_bytes == _file_bytes(raw, case) for case, image in fingerprint.images.items())
    return same_size and all(image.digest in ("", raw.digest(case)) for case, image in fingerprint.images.items())


def _heads(spec: DatasetSpec) -> int:
    """Outputs of a network: as nnU-Net counts them, or those of all targets where they are several or have labels of their own; 0 if unknown."""
    from nnreg.dataset.target_spec import outputs_of, targets_of

    targets = targets_of(spec)
    if len(targets) == 1 and not any(target.says_what_labels_are for target in targets.values()):
        return len(spec.labels)
    known = spec.labels or all(target.labels or target.is_continuous for target in targets.values())
    return sum(output.heads for output in outputs_of(spec).values()) if known else 0


def _file_bytes(raw: RawDataset, case: str) -> int:
    """Size of the files of a case; one that was removed since counts nothing, and so as a change."""
    from nnreg.dataset.targets import mask_paths, target_names
    from nnreg.imageio.lazy import size_on_disk

    labels = [path for name in {*target_names(raw), ""} if (path := raw.label_path(case, name)) is not None]
    masks = {path for path in mask_paths(raw, case).values() if path is not None}
    return sum(size_on_disk(path) for path in (*raw.image_paths(case), *labels, *masks))

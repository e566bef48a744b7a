"""Measure the continuous targets of a raw dataset: how they are normalised, and brought back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnreg.errors import PlansError
from nnreg.planning.dense.fingerprint import MapValues

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.imageio import Image


def map_channels(spec: DatasetSpec) -> dict[str, int]:
    """Channels of the continuous targets."""
    from nnreg.dataset.target_spec import targets_of

    return {name: target.out_channels or 1 for name, target in targets_of(spec).items() if target.is_continuous}


def measure_maps(raw: RawDataset, case: str, image: Image, maps: Image | None) -> list[MapValues]:
    """Values of every channel of the continuous targets of a case, in their order; `std` is the root of the mean square."""
    from nnreg.dataset.continuous import map_places
    from nnreg.dataset.target_spec import outputs_of
    from nnreg.dataset.targets import target_paths
    from nnreg.imageio import read_image
    from nnreg.planning.dense.measure import nonzero_box

    if maps is None:
        return []
    paths, result = target_paths(raw, case), []
    outside = np.ones(image.space.shape, bool)
    outside[tuple(slice(low, high) for low, high in nonzero_box(image.array))] = False
    for name, place in map_places(outputs_of(raw.spec)).items():
        dtype = read_image(paths[name]).array.dtype.name
        for channel in maps.array[place]:
            values, beyond = channel[np.isfinite(channel)].astype(np.float64), channel[outside & np.isfinite(channel)]
            square = float(np.sqrt(np.mean(values**2)))
            border = float(beyond.mean(dtype=np.float64)) if len(beyond) else np.nan
            kept = dtype if dtype in ("uint8", "uint16") else "float32"
            result.append(MapValues(float(values.mean()), square, float(values.min()), float(values.max()), border, kept))
    return result


def pool_maps(raw: RawDataset, cases: list[list[MapValues]]) -> dict[str, tuple[MapValues, ...]]:
    """By continuous target, every case counting the same.

    Raises
    ------
    PlansError
        If a channel is the same value everywhere.
    """
    from nnreg.dataset.continuous import map_places
    from nnreg.dataset.target_spec import outputs_of

    result = {}
    for name, place in map_places(outputs_of(raw.spec)).items():
        channels = tuple(_pooled([case[index] for case in cases]) for index in range(place.start, place.stop))
        if min(channel.maximum - channel.minimum for channel in channels) <= 0:
            raise PlansError(f"{raw.folder / 'labelsTr'}: the target {name!r} has one value everywhere, there is nothing to learn. Mend its files.")
        result[name] = channels
    return result


def _pooled(cases: list[MapValues]) -> MapValues:
    mean = float(np.mean([case.mean for case in cases]))
    variance = float(np.mean([case.std**2 for case in cases])) - mean**2
    outside = [case.outside for case in cases if np.isfinite(case.outside)]
    kinds = {case.dtype for case in cases}
    return MapValues(
        mean=mean,
        std=float(np.sqrt(max(variance, 0.0))),
        minimum=min(case.minimum for case in cases),
        maximum=max(case.maximum for case in cases),
        outside=float(np.mean(outside)) if outside else 0.0,
        dtype="float32" if "float32" in kinds else max(kinds, key=lambda name: np.dtype(name).itemsize),
    )

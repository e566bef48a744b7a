"""Measure the continuous targets of a raw dataset: how they are normalised, and brought back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnreg.errors import PlansError
from nnreg.planning.dense_prediction.fingerprint import MapValues
from nnreg.planning.dense_prediction.foreground import nonzero_box

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.imageio import Image


def map_channels(spec: DatasetSpec) -> dict[str, int]:
    """Channels of the continuous targets."""
    from nnreg.dataset.target_spec import targets_of

    return {name: target.out_channels or 1 for name, target in targets_of(spec).items() if target.is_continuous}


@dataclass
class ValueSums:
    """What :class:`MapValues` of one channel of one case need of values that come in parts, in double precision."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    outside_count: int = 0
    outside_total: float = 0.0

    def add(self, channel: npt.NDArray[np.float32], inside: tuple[slice, ...]) -> None:
        """Take in a part (*spatial), NaN where unknown, of which `inside` is in the box around what is not 0 in the image."""
        known = np.isfinite(channel)
        values = channel[known].astype(np.float64)
        if not len(values):
            return
        self.count, self.total, self.squares = self.count + len(values), self.total + float(values.sum()), self.squares + float(np.square(values).sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        known[inside] = False
        beyond = channel[known]
        self.outside_count, self.outside_total = self.outside_count + len(beyond), self.outside_total + float(beyond.sum(dtype=np.float64))

    def values(self, dtype: str) -> MapValues:
        """Of files of that type; `std` is the root of the mean square, `outside` NaN where nothing is outside."""
        outside = self.outside_total / self.outside_count if self.outside_count else np.nan
        kept = dtype if dtype in ("uint8", "uint16") else "float32"
        count = self.count or np.nan
        return MapValues(self.total / count, float(np.sqrt(self.squares / count)), self.low, self.high, outside, kept)


def measure_maps(raw: RawDataset, case: str, image: Image, maps: Image | None) -> list[MapValues]:
    """Values of every channel of the continuous targets of a case, in their order; `std` is the root of the mean square."""
    from nnreg.dataset.continuous import map_places
    from nnreg.dataset.target_spec import outputs_of
    from nnreg.dataset.targets import target_paths
    from nnreg.imageio import read_image

    if maps is None:
        return []
    paths, result = target_paths(raw, case), []
    inside = tuple(slice(low, high) for low, high in nonzero_box(image.array))
    for name, place in map_places(outputs_of(raw.spec)).items():
        dtype = read_image(paths[name]).array.dtype.name
        for channel in maps.array[place]:
            sums = ValueSums()
            sums.add(channel, inside)
            result.append(sums.values(dtype))
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

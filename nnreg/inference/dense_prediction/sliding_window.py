"""Prediction tile by tile: an image of any size through networks that see patches, in bounded memory.

Tiles overlap and are averaged, weighted by a Gaussian that trusts a tile's middle most. Only as many slices are accumulated as tiles still reach
into; what is finished leaves for the result, which lies in memory, or in a file where it is large.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from nnreg.errors import PredictionError
from nnreg.planning.training_options import Precision
from nnreg.training.runtime_utils.memory import release_memory
from nnreg.training.runtime_utils.runtime import autocast, fastest_convolutions

SIGMA = 1 / 8  # of the tile
PEAK = 10.0
LARGEST_IN_MEMORY = 4 * 2**30  # bytes of logits; more go into a file
PART = 3 / 4  # of a tile that is too large: a quarter of it is seen twice
VOXELS_PER_CALL = 2**19  # tiles (slices of an image) that fit into so many go through the network together

OnTile = Callable[[int, int], None]


def tile_starts(image: Sequence[int], tile: Sequence[int], step: float) -> list[list[int]]:
    """First voxels of the tiles along each axis, evenly spread, at most `step` of a tile apart (nnU-Net's rule).

    Parameters
    ----------
    image, tile
        Shapes; an image is no smaller than the tile.
    step
        Share of the tile, above 0 and at most 1.

    Raises
    ------
    PredictionError
        If one of them is out of range.

    Examples
    --------
    >>> tile_starts((110,), (64,), 0.5)
    [[0, 23, 46]]
    """
    if not 0 < step <= 1:
        raise PredictionError(f"-step_size {step:g}: expected a share of the patch above 0 and at most 1.")
    if any(size < part for size, part in zip(image, tile, strict=True)):
        raise PredictionError(f"an image of shape {tuple(image)} is smaller than a tile of {tuple(tile)}. Pad it first.")
    result = []
    for size, part in zip(image, tile, strict=True):
        # a slice cannot overlap the next one
        count = math.ceil((size - part) / (part * step if part > 1 else 1)) + 1
        between = (size - part) / (count - 1) if count > 1 else 0.0
        result.append([round(between * index) for index in range(count)])
    return result


def importance(tile: Sequence[int]) -> Tensor:
    """How much each voxel of a tile counts: a Gaussian whose sigma is an eighth of the tile, 10 in the middle, float32.

    Examples
    --------
    >>> importance((8, 8)).max().item()
    10.0
    """
    axes = []
    for size in tile:
        pulse = np.zeros(size)
        pulse[size // 2] = 1
        axes.append(gaussian_filter1d(pulse, size * SIGMA, mode="constant") if size > 1 else pulse)
    weights = torch.from_numpy(np.asarray(math.prod(np.ix_(*axes), start=np.float64(1))))
    weights = (weights * (PEAK / weights.max())).float()
    positive = weights[weights > 0]
    return weights.clamp(min=float(positive.min()))


def mirrored_mean(network: Callable[[Tensor], Tensor], tiles: Tensor, axes: Sequence[int]) -> Tensor:
    """Mean prediction over all mirror images of `tiles` (B, C, *spatial) along `axes` (spatial, 0 is the first), each mirrored back."""
    total = network(tiles)
    flips = [[axis + 2 for axis in chosen] for count in range(1, len(axes) + 1) for chosen in itertools.combinations(axes, count)]
    for dimensions in flips:
        total = total + network(tiles.flip(dimensions)).flip(dimensions)
    return total / (len(flips) + 1)


@dataclass(frozen=True)
class SlidingWindow:
    """Logits of whole images.

    Attributes
    ----------
    networks
        ``network(tiles) -> logits``, or a list of them, finest first. Their logits are averaged.
    patch
        Of two axes for images of three: slices of the first are then predicted one by one.
    device
        Where the networks are.
    step_size
        Distance of neighbouring tiles, as a share of the patch.
    mirror_axes
        Of the patch: predictions of the mirrored tiles are averaged too.
    precision
        Of the networks' arithmetic; sums are float32.
    largest_in_memory : bytes
        Logits of more than this are held in a temporary file, in half precision.
    multiple
        Of what the networks need the size of a part to be, per axis of the patch; any size unless given.
    """

    networks: Sequence[nn.Module | Callable[[Tensor], Tensor]]
    patch: tuple[int, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    step_size: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    precision: Precision = "off"
    largest_in_memory: int = LARGEST_IN_MEMORY
    multiple: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        wrong = [axis for axis in self.mirror_axes if not 0 <= axis < len(self.patch)]
        if wrong:
            raise PredictionError(f"mirror axis {wrong[0]}: a patch of {len(self.patch)} axes has 0 to {len(self.patch) - 1}.")
        if not self.networks:
            raise PredictionError("no network was given: name a fold that is trained.")

    def __call__(self, image: Tensor | np.ndarray, on_tile: OnTile = lambda done, total: None) -> Tensor:
        """Logits (K, *spatial) of an image (C, *spatial), on the CPU.

        Parameters
        ----------
        image
            Of one axis more than the patch for slice by slice. Where it is smaller than the patch, zeros are put around it for the while.
        on_tile
            Called with (tiles done, tiles in all).
        """
        source = torch.as_tensor(image)
        flat = source.ndim - 1 == len(self.patch) + 1
        tile = (1, *self.patch) if flat else self.patch
        if source.ndim - 1 != len(tile):
            raise PredictionError(f"an image of shape {tuple(source.shape)} does not fit a patch of {len(self.patch)} axes: expected (C, *spatial).")
        source, (_, *inside) = pad_nd_image(source, tile, return_slicer=True)
        with torch.inference_mode(), fastest_convolutions(self.device):
            logits = self._logits(source, tile, flat, on_tile)
        return logits[(slice(None), *inside)]

    def _logits(self, source: Tensor, tile: tuple[int, ...], flat: bool, on_tile: OnTile) -> Tensor:
        shape = tuple(source.shape[1:])
        depths, *others = tile_starts(shape, tile, self.step_size)
        weight = importance(tile).to(self.device)
        places = list(itertools.product(*others))
        result: Tensor | None = None
        sums = counts = torch.empty(0)
        home = self.device
        done = 0
        for index, depth in enumerate(depths):
            finite: dict[tuple[int, ...], Tensor] = {}
            for starts, predicted in self._predicted(source, tile, depth, places, flat, finite):
                if result is None:
                    result = roomy((predicted.shape[0], *shape), self.largest_in_memory)
                    home = self._home(predicted.shape[0] * tile[0] * math.prod(shape[1:]))
                    sums = torch.zeros((predicted.shape[0], tile[0], *shape[1:]), device=home)
                    counts = torch.zeros((tile[0], *shape[1:]), device=home)
                region = (slice(None), *(slice(start, start + part) for start, part in zip(starts, tile[1:], strict=True)))
                sums[(slice(None), *region)] += (predicted * weight).to(home)
                counts[region] += weight.to(home)
                done += 1
                on_tile(done, len(depths) * len(places))
            _check_finite(finite)  # not tile by tile: a GPU waits for every reading
            finished = (depths[index + 1] if index + 1 < len(depths) else shape[0]) - depth
            if result is None:
                continue
            # half precision ends at 65504; in place, as what is finished is needed no more
            largest = torch.finfo(result.dtype).max
            result[:, depth : depth + finished] = sums[:, :finished].div_(counts[:finished]).clamp_(-largest, largest)
            for total in (sums.movedim(1, 0), counts):
                _advance(total, finished)
        if result is None:
            raise PredictionError(f"an image of shape {shape} has no voxels.")
        return result

    def _predicted(
        self, source: Tensor, tile: tuple[int, ...], depth: int, places: list[tuple[int, ...]], flat: bool, finite: dict[tuple[int, ...], Tensor]
    ) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """In-plane starts and logits (K, *tile) of all tiles that start at `depth`, several through the network at once where they are small.

        Whether they are finite goes into `finite`, by the start of the first of those.
        """
        together = max(1, VOXELS_PER_CALL // math.prod(tile)) if self.device.type == "cuda" else 1
        for first in range(0, len(places), together):
            chosen = places[first : first + together]
            regions = [tuple(slice(start, start + part) for start, part in zip((depth, *starts), tile, strict=True)) for starts in chosen]
            tiles = torch.stack([source[(slice(None), *region)] for region in regions]).to(self.device, torch.float32)
            predicted = self.mean_logits(tiles[:, :, 0] if flat else tiles)
            finite[(depth, *chosen[0])] = torch.isfinite(predicted).all()
            yield from zip(chosen, predicted[:, :, None] if flat else predicted, strict=True)

    def mean_logits(self, tiles: Tensor) -> Tensor:
        """Mean float32 logits (B, K, *tile) of all networks and mirror images.

        Where the memory of the device is too small for the tiles, they go through one by one, and one that is too large by itself in two parts.
        A warning says so.

        Raises
        ------
        PredictionError
            If a part that cannot be cut any more is too large.
        """
        try:
            with autocast(self.device, self.precision):
                return torch.stack([mirrored_mean(_Finest(network), tiles, self.mirror_axes) for network in self.networks]).mean(dim=0)
        except torch.OutOfMemoryError:
            pass  # what the failed attempt holds is released when the block is left
        free = release_memory(self.device)
        if len(tiles) > 1:
            warnings.warn(f"{self.device}: {len(tiles)} tiles at a time do not fit into its memory{free}. They are predicted one by one.", stacklevel=2)
            return torch.cat([self.mean_logits(tile[None]) for tile in tiles])
        return self._in_two(tiles, free)

    def _in_two(self, tile: Tensor, free: str) -> Tensor:
        """Logits of one tile (1, C, *tile) from two overlapping parts of it, each of which counts for its half."""
        shape = tile.shape[2:]
        multiples = self.multiple or (1,) * len(shape)
        parts = [-(-int(PART * size) // step) * step for size, step in zip(shape, multiples, strict=True)]
        axis = max((axis for axis, (size, part) in enumerate(zip(shape, parts, strict=True)) if part < size), key=lambda axis: shape[axis], default=None)
        said = f"{self.device}: a tile of {'x'.join(map(str, shape))} voxels does not fit into its memory{free}."
        if axis is None:
            raise PredictionError(f"{said} Predict with -device cpu, or end what else uses its memory.")
        size, part = shape[axis], parts[axis]
        warnings.warn(f"{said} It is predicted in two parts of {part} of its {size} voxels along axis {axis}: labels near the cut may differ.", stacklevel=2)
        first, second = (self.mean_logits(tile.narrow(axis + 2, start, part)) for start in (0, size - part))
        half = size // 2
        return torch.cat([first.narrow(axis + 2, 0, half), second.narrow(axis + 2, half - (size - part), size - half)], dim=axis + 2)

    def _home(self, elements: int) -> torch.device:
        """Where sums are kept: beside the networks, unless they would take more than half of what is free there."""
        if self.device.type != "cuda" or elements * 4 <= torch.cuda.mem_get_info(self.device)[0] / 2:
            return self.device
        return torch.device("cpu")


def _check_finite(finite: dict[tuple[int, ...], Tensor]) -> None:
    """Raise a PredictionError that names the first tile whose logits are not finite, after one reading for all of them."""
    if finite and not all(found := torch.stack(list(finite.values())).tolist()):
        place = list(finite)[found.index(False)]
        raise PredictionError(f"the tile at {place} gave logits that are not finite. Check the checkpoint, or predict with -device cpu.")


@dataclass(frozen=True)
class _Finest:
    """The finest float32 logits of a network that may return several."""

    network: Callable[[Tensor], Tensor | Sequence[Tensor]]

    def __call__(self, tiles: Tensor) -> Tensor:
        found = self.network(tiles)
        return (found if isinstance(found, Tensor) else found[0]).float()


def roomy(shape: Sequence[int], largest: int = LARGEST_IN_MEMORY) -> Tensor:
    """An empty float32 tensor; of more than `largest` bytes one of half precision in a temporary file, which is gone with its last reference."""
    count = math.prod(shape)
    if count * 4 <= largest:
        return torch.empty(tuple(shape))
    with tempfile.TemporaryDirectory(prefix="nnreg_", ignore_cleanup_errors=True) as folder:
        return torch.from_file(str(Path(folder) / "values"), shared=True, size=count, dtype=torch.float16).reshape(tuple(shape))


def _advance(total: Tensor, by: int) -> None:
    """Drop the first `by` slices, move the rest to the front, make room."""
    kept = max(total.shape[0] - by, 0)
    for index in range(kept):  # one by one: source and target overlap
        total[index] = total[index + by]
    total[kept:] = 0

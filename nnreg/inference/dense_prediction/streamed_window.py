"""Tile by tile through an image that does not fit into memory, part of its plane after the other; the numbers are those of :class:`SlidingWindow`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnreg.errors import PredictionError
from nnreg.imageio.lazy import Box
from nnreg.inference.dense_prediction.sliding_window import OnTile, SlidingWindow, importance, tile_starts

Read = Callable[[Box], npt.NDArray[np.float32]]
SUMS_BYTES = 2**29  # of the logits that are summed at once


@dataclass(frozen=True)
class StreamedWindow:
    """Logits of an image that is read box by box.

    Sums are kept for a strip of the plane and as many slices as tiles still reach into. Tiles that reach into two strips are predicted for each,
    so strips are as large as `sums_bytes` allows. A tile that is one value throughout (outside a sparse object) is predicted once.

    Attributes
    ----------
    window : SlidingWindow
        Networks, patch, step and mirroring.
    read
        (C, *box) values of the image.
    shape : voxels per axis
    heads
        Logits per voxel.
    sums_bytes
        Of what is summed at once.
    """

    window: SlidingWindow
    read: Read
    shape: tuple[int, ...]
    heads: int
    sums_bytes: int = SUMS_BYTES

    def __call__(self, region: Box | None = None, on_tile: OnTile = lambda done, total: None) -> Iterator[tuple[Box, Tensor]]:
        """Boxes that cover `region` (everything), and their logits (K, *box), float32 on the CPU.

        Raises
        ------
        PredictionError
            If the network gives another number of logits, or some that are not finite.
        """
        region = region or tuple((0, size) for size in self.shape)
        flat = len(self.window.patch) == 2
        tile = (1, *self.window.patch) if flat else self.window.patch
        # an image smaller than the patch has zeros put around it
        before = [max(0, part - size) // 2 for size, part in zip(self.shape, tile, strict=True)]
        padded = [max(size, part) for size, part in zip(self.shape, tile, strict=True)]
        wanted = [(low + first, high + first) for (low, high), first in zip(region, before, strict=True)]
        starts = tile_starts(padded, tile, self.window.step_size)
        strips = list(itertools.product(*(self._strips(sides, tile) for sides in self._split(wanted, tile))))
        touched = [[self._touching(axis, sides, part) for axis, sides, part in zip(starts, (wanted[0], *strip), tile, strict=True)] for strip in strips]
        total = sum(math.prod(len(axis) for axis in chosen) for chosen in touched)
        done = 0
        tiles = _Tiles(self, tile, before, flat)
        for strip, chosen in zip(strips, touched, strict=True):
            for finished in self._strip(tiles, wanted[0], strip, chosen):
                if finished is None:
                    done += 1
                    on_tile(done, total)
                else:
                    box, logits = finished
                    yield tuple((low - first, high - first) for (low, high), first in zip(box, before, strict=True)), logits

    def _split(self, wanted: Sequence[tuple[int, int]], tile: Sequence[int]) -> list[tuple[int, int, int]]:
        """First, last and size of the strips along rows and columns: rows are cut first."""
        (top, bottom), (left, right) = wanted[1:]
        plane = max(1, self.sums_bytes // (4 * (self.heads + 1) * tile[0]))
        width = right - left if (right - left) * tile[1] <= plane else max(tile[2], plane // tile[1])
        height = max(tile[1], plane // min(width, right - left))
        return [(top, bottom, height), (left, right, width)]

    @staticmethod
    def _strips(sides: tuple[int, int, int], tile: Sequence[int]) -> list[tuple[int, int]]:
        low, high, size = sides
        count = -(-(high - low) // size)
        # all alike, so that the last is not a sliver
        edges = [low + round((high - low) * index / count) for index in range(count + 1)]
        return list(itertools.pairwise(edges))

    @staticmethod
    def _touching(starts: Sequence[int], sides: tuple[int, int], part: int) -> list[int]:
        return [start for start in starts if start < sides[1] and start + part > sides[0]]

    def _strip(
        self, tiles: _Tiles, depths: tuple[int, int], strip: tuple[tuple[int, int], ...], chosen: list[list[int]]
    ) -> Iterator[tuple[Box, Tensor] | None]:
        """Finished boxes with their logits, and None after each tile."""
        depth, (top, bottom), (left, right) = tiles.tile[0], *strip
        sums = torch.zeros((self.heads, depth, bottom - top, right - left))
        counts = torch.zeros((depth, bottom - top, right - left))
        for index, first in enumerate(chosen[0]):
            for row, column in itertools.product(*chosen[1:]):
                predicted, weight = tiles.predict((first, row, column)), tiles.weight
                inner, outer = [], []
                for start, part, (low, high) in zip((row, column), tiles.tile[1:], strip, strict=True):
                    inner.append(slice(max(0, low - start), min(part, high - start)))
                    outer.append(slice(max(0, start - low), min(high, start + part) - low))
                sums[(slice(None), slice(None), *outer)] += predicted[(slice(None), slice(None), *inner)]
                counts[(slice(None), *outer)] += weight[(slice(None), *inner)]
                yield None
            following = chosen[0][index + 1] if index + 1 < len(chosen[0]) else first + depth
            low, high = max(first, depths[0]), min(following, depths[1])
            if low < high:
                ready = slice(low - first, high - first)
                yield ((low, high), *strip), sums[:, ready] / counts[ready]
            moved = following - first
            for total in (*sums, counts):
                total[: depth - moved] = total[moved:].clone()
                total[depth - moved :] = 0


class _Tiles:
    """Weighted logits of tiles; those that are one value throughout are remembered."""

    def __init__(self, streamed: StreamedWindow, tile: tuple[int, ...], before: Sequence[int], flat: bool) -> None:
        self.streamed, self.tile, self.before, self.flat = streamed, tile, before, flat
        self.weight = importance(tile)
        self._uniform: dict[tuple[float, ...], Tensor] = {}

    def predict(self, start: tuple[int, ...]) -> Tensor:
        """(K, *tile)."""
        image = self._read(start)
        corner = image[:, :1, :1, :1]
        key = tuple(corner.ravel().tolist()) if (image == corner).all() else None
        if key is not None and key in self._uniform:
            return self._uniform[key]
        window = self.streamed.window
        tensor = torch.from_numpy(np.ascontiguousarray(image))[None].to(window.device)
        with torch.inference_mode():
            predicted = window.mean_logits(tensor[:, :, 0] if self.flat else tensor)[0].cpu()
        predicted = predicted[:, None] if self.flat else predicted
        if predicted.shape[0] != self.streamed.heads:
            raise PredictionError(f"the network gives {predicted.shape[0]} logits per voxel, the labels of dataset.json need {self.streamed.heads}.")
        if not torch.isfinite(predicted).all():
            raise PredictionError(f"the tile at {start} gave logits that are not finite. Check the checkpoint, or predict with -device cpu.")
        predicted = predicted * self.weight
        if key is not None:
            self._uniform = {key: predicted}
        return predicted

    def _read(self, start: tuple[int, ...]) -> npt.NDArray[np.float32]:
        sides = [(at - first, at - first + part) for at, first, part in zip(start, self.before, self.tile, strict=True)]
        inner = tuple((max(0, low), min(high, size)) for (low, high), size in zip(sides, self.streamed.shape, strict=True))
        found = self.streamed.read(inner)
        if found.shape[1:] == self.tile:
            return found
        result = np.zeros((found.shape[0], *self.tile), np.float32)
        result[(slice(None), *(slice(low - first, high - first) for (low, high), (first, _) in zip(inner, sides, strict=True)))] = found
        return result

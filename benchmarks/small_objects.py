"""What losses of components and of surfaces change: one large object and thirty small ones in noise, the same network and batches for every loss.

``python benchmarks/small_objects.py`` - see README.md.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter, label

from nnreg.architecture import build_dense_network
from nnreg.files import write_json
from nnreg.losses.base import LOSSES
from nnreg.losses.blobs import BlobDice
from nnreg.metrics.surface import average_surface_distance

SIZE, SMALL = {2: 96, 3: 48}, 30
RADII = (1.2, 2.4)  # voxels, of the small objects
CONTRAST = (0.5, 1.0)  # of each small object; the large one has 1
BLUR, NOISE = 0.7, 0.4
FOUND = 0.5  # share of an object's voxels
BATCH, BATCHES, RATE, TESTED = 4, 16, 2e-3, 16
LOSSES["blob_dice of the paper"] = functools.partial(BlobDice, cells=False)
LOSS_NAMES = ("dice", "dice_ce", "blob_dice", "blob_dice_ce", "dice_blob_ce", "blob_dice of the paper", "region_dice", "region_dice_ce")
PLAIN = "dice"
Array = npt.NDArray[Any]


class Bar(NamedTuple):
    """What the mean over seeds of a loss' difference to Dice must be."""

    loss: str
    key: str
    above: float
    below: float
    says: str


BARS = (
    Bar("blob_dice", "found", 10.0, np.inf, "more than 10 points"),
    Bar("region_dice", "surface", -np.inf, 0.0, "less than 0"),
)


def scene(rng: np.random.Generator, ndim: int) -> tuple[Array, Array]:
    """An image and its truth: 1 where the objects are. Small objects touch neither each other nor the large one, whose outline is uneven."""
    shape = (SIZE[ndim],) * ndim
    grid = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in shape), indexing="ij"))
    away = grid - rng.uniform(0.35, 0.65, ndim).reshape(-1, *(1,) * ndim) * SIZE[ndim]
    bumps = gaussian_filter(rng.standard_normal(shape), 0.06 * SIZE[ndim])
    truth = np.sqrt((away**2).sum(axis=0)) < SIZE[ndim] * (0.2 + 0.03 * bumps / bumps.std())
    image = truth.astype(np.float32)
    placed = 0
    while placed < SMALL:
        radius = rng.uniform(*RADII)
        centre = rng.uniform(radius + 1, SIZE[ndim] - radius - 1, ndim)
        near = tuple(slice(max(0, int(place - radius - 3)), int(place + radius + 4)) for place in centre)
        distance = np.sqrt(((grid[(slice(None), *near)] - centre.reshape(-1, *(1,) * ndim)) ** 2).sum(axis=0))
        if not truth[near][distance < radius + 2.5].any():
            truth[near][distance < radius] = True
            image[near][distance < radius] = rng.uniform(*CONTRAST)
            placed += 1
    return gaussian_filter(image, BLUR) + NOISE * rng.standard_normal(shape), truth


@functools.cache
def batch(seed: int, index: int, count: int, ndim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, 1, *spatial) and labels of the same shape; the same seed and index give the same ones."""
    made = [scene(np.random.default_rng([seed, index, number]), ndim) for number in range(count)]
    images, truths = (np.stack([pair[part] for pair in made])[:, None] for part in (0, 1))
    return torch.from_numpy(images).float(), torch.from_numpy(truths).long()


def score(predicted: Array, truth: Array) -> dict[str, float]:
    """Small objects found, objects that are not there per image, Dice, and mean distances in voxels between surfaces."""
    whole = np.ones((3,) * truth.ndim)
    objects, count = label(truth, structure=whole)
    guesses, guessed = label(predicted, structure=whole)
    sizes = np.bincount(objects.ravel(), minlength=count + 1)
    largest = int(sizes[1:].argmax()) + 1
    hits = np.bincount(objects.ravel(), weights=predicted.ravel(), minlength=count + 1)[1:] / sizes[1:]
    touched = np.unique(guesses[truth & predicted])
    large = np.isin(guesses, np.unique(guesses[(objects == largest) & predicted])) & predicted
    return {
        "found": 100 * float(np.delete(hits >= FOUND, largest - 1).mean()),
        "false objects": float(guessed - len(touched)),
        "dice": 100 * 2 * float((truth & predicted).sum()) / float(truth.sum() + predicted.sum()),
        "surface": _surface(objects > 0, predicted),
        "large surface": _surface(objects == largest, large),
    }


def _surface(truth: Array, predicted: Array) -> float:
    return average_surface_distance(truth.astype(np.uint8), predicted.astype(np.uint8), [1], (1.0,) * truth.ndim)[1]


def trained(name: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Means over held-out images after a training with one loss."""
    torch.manual_seed(seed)
    network = build_dense_network("plain_unet", channels=1, outputs=2, **plan(options.ndim), deep_supervision=False)
    loss = LOSSES[name]()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    begun = time.monotonic()
    for index in range(options.steps):
        images, truth = batch(seed, index % BATCHES, BATCH, options.ndim)
        optimizer.zero_grad()
        loss(network(images)[0], truth).backward()
        optimizer.step()
    images, truth = batch(seed + 10_000, 0, TESTED, options.ndim)
    with torch.no_grad():
        predicted = torch.cat([network(image[None])[0].argmax(dim=1) for image in images])
    rows = [score(one.numpy() > 0, other[0].numpy() > 0) for one, other in zip(predicted, truth, strict=True)]
    return {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]} | {"seconds": time.monotonic() - begun}


def plan(ndim: int) -> dict[str, Any]:
    """A small U-Net."""
    return {
        "ndim": ndim,
        "strides": [(1,) * ndim, *[(2,) * ndim] * 2],
        "kernel_sizes": [(3,) * ndim] * 3,
        "features_per_stage": (8, 16, 32),
        "blocks_per_stage": (1,) * 3,
    }


def main() -> int:
    """Train with every loss from every seed and print means and standard deviations over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ndim", type=int, default=2, choices=(2, 3))
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--losses", nargs="+", default=list(LOSS_NAMES), choices=sorted(LOSSES), metavar="NAME")
    parser.add_argument("-o", "--output", type=Path, default=Path("small_objects.json"))
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {}
    columns = ("loss", "small found %", "false objects", "Dice %", "surface distance", "of the large object", "s")
    print(f"{options.seeds} seeds, {options.steps} steps\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in options.losses:
        runs = results[name] = [trained(name, seed, options) for seed in range(options.seeds)]
        cells = [f"{np.mean([run[key] for run in runs]):.2f} ± {np.std([run[key] for run in runs]):.2f}" for key in runs[0] if key != "seconds"]
        print(f"| {name} | {' | '.join(cells)} | {np.mean([run['seconds'] for run in runs]):.0f} |", flush=True)
    write_json(options.output, results)
    print()
    reached = [met(results, bar) for bar in BARS if {bar.loss, PLAIN} <= results.keys()]
    return 0 if all(reached) else 1


def met(results: dict[str, list[dict[str, float]]], bar: Bar) -> bool:
    """Print what a loss gains over Dice, seed by seed, and whether the mean is as much as it should be."""
    gains = [own[bar.key] - plain[bar.key] for own, plain in zip(results[bar.loss], results[PLAIN], strict=True)]
    spread = f" ± {2 * np.std(gains, ddof=1) / np.sqrt(len(gains)):.2f} (two standard errors)" if len(gains) > 1 else ""
    reached = bool(bar.above < np.mean(gains) < bar.below)
    print(f"{bar.loss}, {bar.key}: {np.mean(gains):+.2f}{spread} beside {PLAIN}, {bar.says}: {'met' if reached else 'MISSED'}")
    return reached


if __name__ == "__main__":
    sys.exit(main())

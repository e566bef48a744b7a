"""How well the map of uncertainty follows the true error: images against themselves under known smooth warps, with noise and shading."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from failure_pairs import Pairs, image, shaded, smooth_field
from scipy.stats import spearmanr

from nnreg.engine import register, uncertainty_map
from nnreg.engine.prepared_image import foreground, prepare
from nnreg.geometry import Transform, resample_image
from nnreg.imageio import Image

LEAST_CORRELATION = 0.5
NOISE = 0.03  # of the 99th percentile


def measured(path: Path, seed: int, preset: str) -> dict[str, Any]:
    """Rank correlation inside the foreground, and percentiles of the true error and of the estimate, mm."""
    moving = image(path)
    space = moving.space
    truth = Transform((smooth_field(space, seed),), space.ndim)
    array = resample_image(moving.array, moving=space, fixed=space, transform=truth)
    noise = np.random.default_rng(seed).normal(size=array.shape).astype(np.float32) * NOISE * float(np.percentile(array, 99))
    fixed = Image(array + noise, space)
    found = register(fixed=fixed, moving=shaded(moving, seed), preset=preset)
    estimate = uncertainty_map(found)
    steps = np.asarray(space.spacing).reshape(-1, *(1,) * space.ndim)
    error = np.sqrt((((found.transform.sampled_on(space).displacement - truth.sampled_on(space).displacement) * steps) ** 2).sum(axis=0))
    body = foreground(prepare(fixed.array, space, None, "fixed")) > 0.5
    return {
        "rank_correlation": round(float(spearmanr(estimate[body], error[body])[0]), 3),
        "error_mm": np.percentile(error[body], (50, 90)).round(2).tolist(),
        "estimate_mm": np.percentile(estimate[body], (50, 90)).round(2).tolist(),
        "error_below_estimate": round(float((error <= estimate)[body].mean()), 3),
    }


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the datasets that failure_pairs.py names")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--count", type=int, default=2, help="images of each dataset")
    parser.add_argument("--datasets", nargs="+", default=["oasis35", "acdc_ed_es", "msd_hippocampus"])
    options = parser.parse_args()
    people, correlations = Pairs(options.data).people, []
    for number in range(options.count):
        for dataset in options.datasets:
            path = people[dataset]["report"][3 * number]
            row = measured(path, number, options.preset)
            correlations.append(row["rank_correlation"])
            print(json.dumps({"dataset": dataset, "image": path.name, **row}), flush=True)
    print(f"mean rank correlation {np.mean(correlations):.3f}, lowest {min(correlations):.3f}")
    return int(float(np.mean(correlations)) < LEAST_CORRELATION)


if __name__ == "__main__":
    sys.exit(main())

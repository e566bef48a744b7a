"""The engine in torch on a device beside the compiled kernels: how far their fields are apart, and the seconds of each level.

``python benchmarks/engine_gpu.py`` needs a GPU and no network, makes its own phantoms, prints a table, writes JSON and exits 1 where fields are further apart
than the bar. ``--device torch`` runs the same code on the processor.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nnreg
from nnreg.files import write_json
from nnreg.geometry import Space, resize, resize_field, warp
from nnreg.imageio import Image

BAR = 1e-3  # voxels, mean distance of the fields
CASES = {
    "slice": ((256, 224), (1.0, 1.0), "lncc"),
    "heart": ((12, 216, 256), (8.0, 1.5, 1.5), "lncc"),
    "brain": ((160, 192, 224), (1.0, 1.0, 1.0), "lncc"),
    "brain, two contrasts": ((160, 192, 224), (1.0, 1.0, 1.0), "nmi"),
    "brain, self-similarity": ((160, 192, 224), (1.0, 1.0, 1.0), "mind"),
}


def phantom(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int = 0) -> tuple[Image, Image]:
    """A textured ellipsoid, and the same under a smooth warp of up to three voxels."""
    generator, ndim = torch.Generator().manual_seed(seed), len(shape)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size) for size in shape], indexing="ij")
    inside = torch.sigmoid((1 - sum((axis / 0.8) ** 2 for axis in axes)) * 20)
    texture = sum(resize(torch.rand(1, 1, *(max(2, size // step) for size in shape), generator=generator), shape) for step in (4, 12))
    image = inside * (0.3 + texture) * 300
    field = resize_field(torch.randn(1, ndim, *(6,) * ndim, generator=generator), shape)
    moving = warp(image, field * (3 / field.abs().max()))
    noise = torch.randn(2, *shape, generator=generator)
    space = Space(shape, spacing, (0.0,) * ndim, tuple(np.eye(ndim).ravel().tolist()))
    return tuple(Image((one[0] + 3 * grain).numpy(), space) for one, grain in zip((image, moving), noise, strict=True))  # type: ignore[return-value]


def registered(pair: tuple[Image, Image], similarity: str, device: str, preset: str) -> tuple[Any, float, dict[str, float]]:
    """Field, seconds of all levels, and seconds per stage, of the second of two runs: the first loads and compiles."""
    for _ in range(2):
        started = time.perf_counter()
        found = nnreg.register(fixed=pair[0], moving=pair[1], similarity=similarity, alignment="none", device=device, preset=preset)
        whole = time.perf_counter() - started
    levels = sum(seconds for name, seconds in found.timings.items() if name.startswith("level"))
    return found, levels, {name: round(seconds, 4) for name, seconds in found.timings.items()} | {"whole": round(whole, 3)}


def measured(name: str, device: str, preset: str) -> dict[str, Any]:
    """One row of the table."""
    shape, spacing, similarity = CASES[name]
    pair = phantom(shape, spacing)
    compiled, seconds, stages = registered(pair, similarity, "cpu", preset)
    found, device_seconds, device_stages = registered(pair, similarity, device, preset)
    apart = np.sqrt(((compiled.field.displacement - found.field.displacement) ** 2).sum(axis=0))
    row = {
        "mean_voxels": float(apart.mean()),
        "p999_voxels": float(np.quantile(apart, 0.999)),
        "largest_voxels": float(apart.max()),
        "similarity": [compiled.similarity_after, found.similarity_after],
        "levels_seconds": [seconds, device_seconds],
        "stages": {"cpu": stages, device: device_stages},
    }
    if device.startswith("cuda"):
        row["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
        torch.cuda.reset_peak_memory_stats(device)
    print(
        f"{name:24} {row['mean_voxels']:9.1e} {row['p999_voxels']:9.1e} {row['largest_voxels']:9.1e} {seconds:9.2f} {device_seconds:9.3f} "
        f"{row.get('peak_gb', float('nan')):8.2f}",
        flush=True,
    )
    return row


def main() -> int:
    """Measure and say whether fields agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--preset", default="default")
    parser.add_argument("-o", "--output", type=Path, default=Path("engine_gpu.json"))
    options = parser.parse_args()
    where = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "processor"
    print("distance of the fields in voxels, seconds of all levels")
    print(f"torch {torch.__version__}, {where}, {torch.get_num_threads()} threads for the compiled kernels")
    print(f"{'case':24} {'mean':>9} {'99.9 %':>9} {'largest':>9} {'cpu s':>9} {options.device + ' s':>9} {'peak GB':>8}")
    rows = {name: measured(name, options.device, options.preset) for name in options.only}
    write_json(options.output, {"torch": torch.__version__, "device": where, "preset": options.preset, "cases": rows})
    missed = [name for name, row in rows.items() if row["mean_voxels"] > BAR]
    print(f"further apart than {BAR:g} voxels in the mean: {', '.join(missed)}" if missed else "all fields agree")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""nnReg's kernels beside plain torch and, where installed, MONAI, SciPy and SimpleITK: seconds, added memory, share of the copy bandwidth.

``python benchmarks/kernels.py --shape 160 192 224`` prints a table, writes JSON, exits 1 where local correlation, warp or integration miss their bar.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as nnf

from nnreg.files import read_json, write_json
from nnreg.geometry import compose, identity_grid, integrate, warp
from nnreg.kernels import volumes
from nnreg.losses import LNCC

WINDOW, STEPS, SIGMA = 9, 7, 1.7
# (kernel, opponent): how many times faster, share of its memory
BARS = {("lncc", "monai"): (20.0, 0.25), ("warp", "monai"): (3.0, None), ("integrate", "torch"): (2.0, None)}
# bytes a voxel that a kernel has to read or write at least once: images of one channel, fields of three components, float32
LEAST_BYTES = {"lncc": 44, "warp": 4 * (1 + 3 + 1) + 4 * (1 + 1 + 3 + 1 + 3), "compose": 36, "integrate": STEPS * 36 + STEPS * 48, "gaussian": 24}
Work = Callable[[], object]


def torch_lncc(fixed: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    """The textbook: means over boxes by pooling."""

    def mean(values: torch.Tensor) -> torch.Tensor:
        return nnf.avg_pool3d(values, WINDOW, stride=1, padding=WINDOW // 2)

    means = mean(fixed), mean(warped)
    cross = mean(fixed * warped) - means[0] * means[1]
    powers = mean(fixed**2) - means[0] ** 2, mean(warped**2) - means[1] ** 2
    return -(cross**2 / (powers[0] * powers[1] + 1e-5)).mean()


def torch_warp(image: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """grid_sample with the grid made for each call."""
    sizes = torch.tensor(field.shape[2:]).reshape(1, 3, 1, 1, 1)
    grid = (identity_grid(field.shape[2:]) + field) * 2 / (sizes - 1) - 1
    return nnf.grid_sample(image, grid.movedim(1, -1).flip(-1), padding_mode="border", align_corners=True)


def torch_integrate(velocity: torch.Tensor) -> torch.Tensor:
    """Scaling and squaring with :func:`torch_warp`."""
    field = velocity / 2**STEPS
    for _ in range(STEPS):
        field = field + torch_warp(field, field)
    return field


def backward(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Work:
    """Forward and backward with respect to all inputs that ask for it."""

    def work() -> None:
        for tensor in inputs:
            tensor.grad = None
        result = function(*inputs)
        (result if result.ndim == 0 else result.mean()).backward()

    return work


def works(shape: tuple[int, ...]) -> dict[tuple[str, str], Work]:
    """Every kernel by every program."""
    generator = torch.Generator().manual_seed(0)
    fixed, moving = (torch.rand(1, 1, *shape, generator=generator) for _ in range(2))
    coarse = torch.randn(1, 3, 6, 6, 6, generator=generator) * 2
    field = nnf.interpolate(coarse, size=shape, mode="trilinear").requires_grad_()
    warped = moving.clone().requires_grad_()
    plain, flat = field.detach(), moving[0].numpy()
    sigma = (SIGMA,) * 3
    similarity = LNCC(WINDOW)
    result: dict[tuple[str, str], Work] = {
        ("lncc", "nnreg"): backward(lambda image: similarity(fixed=fixed, warped=image), warped),
        ("lncc", "torch"): backward(lambda image: torch_lncc(fixed, image), warped),
        ("warp", "nnreg"): backward(warp, warped, field),
        ("warp", "torch"): backward(torch_warp, warped, field),
        ("compose", "nnreg"): lambda: volumes.compose(plain[0].numpy(), plain[0].numpy()),
        ("compose", "torch"): lambda: plain + torch_warp(plain, plain),
        ("compose", "nnreg autograd"): lambda: compose(plain, plain),
        ("integrate", "nnreg"): backward(lambda velocity: integrate(velocity, STEPS), field),
        ("integrate", "torch"): backward(torch_integrate, field),
        ("gaussian", "nnreg"): lambda: volumes.smooth(plain[0].numpy(), sigma),
    }
    if importlib.util.find_spec("monai"):
        from monai.losses import LocalNormalizedCrossCorrelationLoss
        from monai.networks.blocks import Warp

        loss, sampler = LocalNormalizedCrossCorrelationLoss(kernel_size=WINDOW), Warp(mode="bilinear", padding_mode="border")
        result["lncc", "monai"] = backward(lambda image: loss(image, fixed), warped)
        result["warp", "monai"] = backward(sampler, warped, field)
    from scipy.ndimage import gaussian_filter, map_coordinates

    positions = (identity_grid(shape) + plain)[0].numpy()
    result["warp", "scipy, forward only"] = lambda: map_coordinates(flat[0], positions, order=1, mode="nearest")
    result["gaussian", "scipy"] = lambda: np.stack([gaussian_filter(part, SIGMA, mode="nearest", truncate=volumes.TRUNCATE) for part in plain[0].numpy()])
    if importlib.util.find_spec("SimpleITK"):
        import SimpleITK as sitk

        image, vectors = sitk.GetImageFromArray(flat[0]), sitk.GetImageFromArray(plain[0].flip(0).movedim(0, -1).double().numpy(), isVector=True)
        transform = sitk.DisplacementFieldTransform(vectors)
        result["warp", "simpleitk, forward only"] = lambda: sitk.Resample(image, image, transform, sitk.sitkLinear, 0.0)
    return result


def measure(shape: tuple[int, ...], name: tuple[str, str], repeats: int) -> dict[str, float]:
    """Median seconds, CPU seconds and added peak memory (MB) of one piece of work."""
    works((8, 8, 8))[name]()  # loads code, which is memory too
    work = works(shape)[name]
    forget_peak()
    before = peak_mb()
    work()
    added = peak_mb() - before
    seconds, cpu = [], []
    for _ in range(repeats):
        start, spent = time.perf_counter(), time.process_time()
        work()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - spent)
    return {"seconds": float(np.median(seconds)), "cpu_seconds": float(np.median(cpu)), "added_mb": added}


def forget_peak() -> None:
    """Let the peak of resident memory start anew from what is held now, where the system can (Linux): imports and inputs peaked higher."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def peak_mb() -> float:
    """Peak of this process's resident memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of copying a large warm array with all threads."""
    source = torch.ones(64_000_000)
    target = torch.empty_like(source)
    target.copy_(source)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * source.numel() * 4 / min(times)


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 96, 96), metavar="N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmark_kernels.json"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = tuple(options.shape)
    torch.set_num_threads(options.threads)
    if options.one:
        # in a process of its own, so that the peak of its memory is its own
        write_json(options.output, measure(shape, (options.one[0], options.one[1]), options.repeats))
        return 0
    bandwidth = copy_bandwidth()
    print(f"{shape}, {options.threads} threads, copy bandwidth {bandwidth / 1e9:.1f} GB/s")
    print("kernel     program                  seconds  CPU s   added MB  of bandwidth")
    table: dict[str, dict[str, dict[str, float]]] = {}
    part = options.output.with_name(f".{options.output.name}.part.json")
    for kernel, program in works((8, 8, 8)):
        command = [sys.executable, __file__, "--shape", *map(str, shape), "--threads", str(options.threads), "--repeats", str(options.repeats)]
        subprocess.run([*command, "-o", str(part), "--one", kernel, program], check=True)
        row = read_json(part)
        row["of_bandwidth"] = LEAST_BYTES[kernel] * float(np.prod(shape)) / row["seconds"] / bandwidth
        table.setdefault(kernel, {})[program] = row
        print(
            f"{kernel:10} {program:24} {row['seconds']:7.3f} {row['cpu_seconds']:6.2f} {row['added_mb']:10.0f} {100 * row['of_bandwidth']:11.1f} %", flush=True
        )
    part.unlink(missing_ok=True)
    missed = []
    for (kernel, opponent), (times, share) in BARS.items():
        if opponent not in table[kernel]:
            print(f"{kernel}: {opponent} is not installed, bar not checked")
            continue
        own, other = table[kernel]["nnreg"], table[kernel][opponent]
        if own["seconds"] * times > other["seconds"]:
            missed.append(f"{kernel} {other['seconds'] / own['seconds']:.1f} times faster than {opponent}, wanted {times:g}")
        if share is not None and own["added_mb"] > share * other["added_mb"]:
            missed.append(f"{kernel} takes {own['added_mb']:.0f} MB, wanted at most {share:g} of {opponent}'s {other['added_mb']:.0f} MB")
    write_json(options.output, {"shape": shape, "threads": options.threads, "bandwidth": bandwidth, "table": table, "missed": missed})
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

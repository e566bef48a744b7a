"""nnReg's kernels beside plain torch and, where installed, MONAI, SciPy and SimpleITK: seconds, added memory, share of the copy bandwidth.

``python benchmarks/kernels.py --shape 160 192 224`` prints a table, writes JSON, exits 1 where local correlation, warp or integration miss their bar.
With ``--device cuda`` the same for what runs on a GPU, where nothing has a bar.
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
from nnreg.kernels.correlation import Windows
from nnreg.losses import LNCC
from nnreg.losses.lncc import lncc_value_and_gradient

WINDOW, STEPS, SIGMA = 9, 7, 1.7
SMALL = (12, 12, 12)  # a volume that loads the code; no smaller than the window
ENOUGH_SECONDS = 20.0  # of repeating one piece of work
# (kernel, opponent): how many times faster, share of its memory
BARS = {("lncc", "monai"): (20.0, 0.25), ("warp", "monai"): (3.0, None), ("integrate", "torch"): (2.0, None)}
# bytes a voxel that a kernel has to read or write at least once: images of one channel, fields of three components, float32
LEAST_BYTES = {
    "lncc": 44,
    "warp": 4 * (1 + 3 + 1) + 4 * (1 + 1 + 3 + 1 + 3),
    "compose": 36,
    "integrate": STEPS * 36 + STEPS * 48,
    "gaussian": 24,
    # of a large level of the engine, whose field has half the voxels along each axis
    "level: sample": 4 * 2 + 12 / 8,
    "level: lncc": 4 * 5,
    "level: force": 4 * 2 + 2 * 12 / 8,
}
Work = Callable[[], object]
Name = tuple[str, str]  # kernel, program


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
    sizes = torch.tensor(field.shape[2:], device=field.device).reshape(1, 3, 1, 1, 1)
    grid = (identity_grid(field.shape[2:], field.device) + field) * 2 / (sizes - 1) - 1
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


def works(shape: tuple[int, ...], device: str) -> dict[Name, Callable[[], Work]]:
    """What makes every kernel by every program: a process imports and holds only what it measures."""
    generator = torch.Generator().manual_seed(0)
    fixed, moving = (torch.rand(1, 1, *shape, generator=generator).to(device) for _ in range(2))
    coarse = torch.randn(1, 3, 6, 6, 6, generator=generator) * 2
    field = nnf.interpolate(coarse, size=shape, mode="trilinear").to(device).requires_grad_()
    warped = moving.clone().requires_grad_()
    plain = field.detach()
    similarity = LNCC(WINDOW)
    result: dict[Name, Callable[[], Work]] = {
        ("lncc", "nnreg"): lambda: backward(lambda image: similarity(fixed=fixed, warped=image), warped),
        ("lncc", "torch"): lambda: backward(lambda image: torch_lncc(fixed, image), warped),
        ("warp", "nnreg"): lambda: backward(warp, warped, field),
        ("warp", "torch"): lambda: backward(torch_warp, warped, field),
        ("compose", "torch"): lambda: lambda: plain + torch_warp(plain, plain),
        ("compose", "nnreg autograd"): lambda: lambda: compose(plain, plain),
        ("integrate", "nnreg"): lambda: backward(lambda velocity: integrate(velocity, STEPS), field),
        ("integrate", "torch"): lambda: backward(torch_integrate, field),
    }
    if importlib.util.find_spec("monai"):
        result["lncc", "monai"] = lambda: _monai_lncc(fixed, warped)
        result["warp", "monai"] = lambda: _monai_warp(warped, field)
    if device == "cpu":
        return {**result, **_array_works(moving[0, 0].numpy(), plain[0].numpy())}
    # what a GPU without triton gets, and what torch's own compiler makes of it
    options = fixed[0], moving[0], (WINDOW,) * 3
    result["lncc", "nnreg, plain torch"] = lambda: lambda: lncc_value_and_gradient(*options)
    result["lncc", "nnreg, torch.compile"] = lambda: _compiled_lncc(*options)
    return result


def _compiled_lncc(*options: object) -> Work:
    compiled = torch.compile(lncc_value_and_gradient)
    return lambda: compiled(*options)


def _monai_lncc(fixed: torch.Tensor, warped: torch.Tensor) -> Work:
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    loss = LocalNormalizedCrossCorrelationLoss(kernel_size=WINDOW).to(fixed.device)
    return backward(lambda image: loss(image, fixed), warped)


def _monai_warp(warped: torch.Tensor, field: torch.Tensor) -> Work:
    from monai.networks.blocks import Warp

    return backward(Warp(mode="bilinear", padding_mode="border"), warped, field)


def _array_works(image: np.ndarray, field: np.ndarray) -> dict[Name, Callable[[], Work]]:
    """What works on arrays of numpy, on the CPU."""
    result: dict[Name, Callable[[], Work]] = {
        ("compose", "nnreg"): lambda: lambda: volumes.compose(field, field),
        ("gaussian", "nnreg"): lambda: lambda: volumes.smooth(field, (SIGMA,) * 3),
        ("level: sample", "nnreg"): lambda: _level_works(image, field)[0],
        ("level: lncc", "nnreg"): lambda: _level_works(image, field)[1],
        ("level: force", "nnreg"): lambda: _level_works(image, field)[2],
        ("warp", "scipy, forward only"): lambda: _scipy_warp(image, field),
        ("gaussian", "scipy"): lambda: _scipy_gaussian(field),
    }
    if importlib.util.find_spec("SimpleITK"):
        result["warp", "simpleitk, forward only"] = lambda: _simpleitk_warp(image, field)
    return result


def _level_works(image: np.ndarray, field: np.ndarray) -> tuple[Work, Work, Work]:
    """What an iteration of the engine does on the images of a large level: warp, local correlation, force on the coarser field."""
    blocks = volumes.Blocks(image.shape, (2, 2, 2), (0, 0, 0))
    coarse = volumes.block_means(field[(slice(None), *(slice(size // 2 * 2) for size in image.shape))], (2, 2, 2)) / 2
    warped, gradient, force = np.empty((1, *image.shape), np.float32), image[None] - 0.5, np.empty_like(coarse)
    windows = Windows.of(image, (2, 2, 2), floor=0.1)
    return (
        lambda: volumes.sample(image[None], coarse, blocks=blocks, out=warped),
        lambda: windows.correlation(image, gradient[0]),
        lambda: volumes.smooth_force(gradient, image[None], (0.6,) * 3, out=force, blocks=blocks),
    )


def _scipy_warp(image: np.ndarray, field: np.ndarray) -> Work:
    from scipy.ndimage import map_coordinates

    positions = np.indices(image.shape, dtype=np.float32) + field
    return lambda: map_coordinates(image, positions, order=1, mode="nearest")


def _scipy_gaussian(field: np.ndarray) -> Work:
    from scipy.ndimage import gaussian_filter

    return lambda: np.stack([gaussian_filter(part, SIGMA, mode="nearest", truncate=volumes.TRUNCATE) for part in field])


def _simpleitk_warp(image: np.ndarray, field: np.ndarray) -> Work:
    import SimpleITK as sitk

    moving, vectors = sitk.GetImageFromArray(image), sitk.GetImageFromArray(np.moveaxis(field[::-1], 0, -1).astype(np.float64), isVector=True)
    transform = sitk.DisplacementFieldTransform(vectors)
    return lambda: sitk.Resample(moving, moving, transform, sitk.sitkLinear, 0.0)


def measure(shape: tuple[int, ...], name: Name, repeats: int, device: str) -> dict[str, float]:
    """Median seconds, CPU seconds and added peak memory (MB) of one piece of work.

    The first run is the one whose memory is measured, and is left out of the times if there are others. What takes long is not repeated once that would take
    more than ENOUGH_SECONDS: volumes are allocated anew in every run, so that the first of a slow one is hardly slower than the next.
    """
    works(SMALL, device)[name]()()  # loads code, which is memory too
    work = works(shape, device)[name]()
    forget_peak(device)
    before, seconds, cpu = peak_mb(device), [], []
    added = 0.0
    while not seconds or (len(seconds) <= repeats and sum(seconds) + seconds[-1] < ENOUGH_SECONDS):
        start, spent = time.perf_counter(), time.process_time()
        work()
        wait(device)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - spent)
        added = added if len(seconds) > 1 else peak_mb(device) - before
    first = min(1, len(seconds) - 1)
    times = {"seconds": float(np.median(seconds[first:])), "cpu_seconds": float(np.median(cpu[first:]))}
    return {**times, "added_mb": added, "runs": len(seconds) - first}


def wait(device: str) -> None:
    """Until the device has done what it was asked to."""
    if device == "cuda":
        torch.cuda.synchronize()


def forget_peak(device: str) -> None:
    """Let the peak of memory start anew from what is held now (on the CPU where the system can: Linux), because imports and inputs peaked higher."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def peak_mb(device: str) -> float:
    """Peak of this process's resident memory, or of what its tensors took on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1024**2
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of copying a large warm array with all threads."""
    source = torch.ones(64_000_000, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    wait(device)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        wait(device)
        times.append(time.perf_counter() - start)
    return 2 * source.numel() * 4 / min(times)


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 96, 96), metavar="N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help=f"at most; fewer where they would take more than {ENOUGH_SECONDS:g} s (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmark_kernels.json"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = tuple(options.shape)
    torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here. Run this on a machine with a GPU and a CUDA build of torch.")
    if options.one:
        # in a process of its own, so that the peak of its memory is its own
        write_json(options.output, measure(shape, (options.one[0], options.one[1]), options.repeats, options.device))
        return 0
    bandwidth = copy_bandwidth(options.device)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads"
    print(f"{shape}, {where}, copy bandwidth {bandwidth / 1e9:.1f} GB/s")
    table = table_of(shape, options, bandwidth)
    missed = [] if options.device == "cuda" else missed_bars(table)
    write_json(options.output, {"shape": shape, "device": where, "threads": options.threads, "bandwidth": bandwidth, "table": table, "missed": missed})
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


def table_of(shape: tuple[int, ...], options: argparse.Namespace, bandwidth: float) -> dict[str, dict[str, dict[str, float]]]:
    """Measure every kernel by every program and print it."""
    print("kernel     program                  seconds  CPU s  runs   added MB  of bandwidth")
    table: dict[str, dict[str, dict[str, float]]] = {}
    part = options.output.with_name(f".{options.output.name}.part.json")
    asked = ["--shape", *map(str, shape), "--threads", str(options.threads), "--repeats", str(options.repeats), "--device", options.device]
    for kernel, program in works(SMALL, options.device):
        command = [sys.executable, __file__, *asked, "-o", str(part), "--one", kernel, program]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{kernel:10} {program:24} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", flush=True)
            continue
        row = read_json(part)
        row["of_bandwidth"] = LEAST_BYTES[kernel] * float(np.prod(shape)) / row["seconds"] / bandwidth
        table.setdefault(kernel, {})[program] = row
        figures = f"{row['seconds']:7.4f} {row['cpu_seconds']:6.2f} {row['runs']:5d} {row['added_mb']:10.0f} {100 * row['of_bandwidth']:11.1f} %"
        print(f"{kernel:10} {program:24} {figures}", flush=True)
    part.unlink(missing_ok=True)
    return table


def missed_bars(table: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """The bars that nnReg misses on the CPU."""
    missed = []
    for (kernel, opponent), (times, share) in BARS.items():
        if not {"nnreg", opponent} <= table.get(kernel, {}).keys():
            print(f"{kernel}: no figures of {opponent} and nnreg, bar not checked")
            continue
        own, other = table[kernel]["nnreg"], table[kernel][opponent]
        if own["seconds"] * times > other["seconds"]:
            missed.append(f"{kernel} {other['seconds'] / own['seconds']:.1f} times faster than {opponent}, wanted {times:g}")
        if share is not None and own["added_mb"] > share * other["added_mb"]:
            missed.append(f"{kernel} takes {own['added_mb']:.0f} MB, wanted at most {share:g} of {opponent}'s {other['added_mb']:.0f} MB")
    return missed


if __name__ == "__main__":
    sys.exit(main())

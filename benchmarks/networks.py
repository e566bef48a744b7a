"""Every network: parameters, seconds of a forward and backward pass, memory predicted and measured.

``python benchmarks/networks.py --size 96`` (3D) or ``--size 256 --ndim 2`` prints a table and writes JSON; each network runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from nnreg.architecture import build_network
from nnreg.architecture.memory import training_memory
from nnreg.errors import NnRegError
from nnreg.files import write_json
from nnreg.planning.topology import topology

GB = 1024**3
# the C library keeps what is freed for later, so that nothing outside it sees what a step takes: where memory is measured, it gives all back
NOTHING_KEPT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# what -tr NAME builds
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "dual_pyramid": ("dual_pyramid", {}),
    "unetreg": ("unetreg", {}),
    "plain_unet": ("plain_unet", {}),
    "resenc_m": ("resenc_unet", {"encoder_blocks": (1, 3, 4, 6), "encoder_features": (8, 16, 32, 64, 80)}),
    "resenc_l": ("resenc_unet", {"encoder_blocks": (1, 3, 4, 6), "encoder_features": (16, 32, 64, 128, 160)}),
    "resenc_xl": ("resenc_unet", {"encoder_blocks": (1, 3, 4, 6), "encoder_features": (32, 64, 128, 256, 320)}),
    "kiunet": ("kiunet", {}),
    "kiunet_conv": ("kiunet", {"pool_type": "conv"}),
    "kiunet_minimal": ("kiunet", {"width": 0.5}),
    "kiunet_large": ("kiunet", {"ki_levels": 3, "checkpointing": True}),
    "uiunet": ("uiunet", {}),
    "uiunet_minimal": ("uiunet", {"width": 0.5, "height": 5}),
    "globalnet": ("globalnet", {}),
    "localnet": ("localnet", {}),
    "corrmlp": ("corrmlp", {}),
    "primus": ("primus", {}),
    "swin_unetr": ("swin_unetr", {}),
}


def plan(size: int, ndim: int) -> dict[str, Any]:
    """What nnReg plans for a cube of that size: features from 8, doubled up to 64, one block per stage."""
    found = topology((1.0,) * ndim, (size,) * ndim)
    stages = len(found.strides)
    return {
        "channels": 1,
        "ndim": ndim,
        "strides": found.strides,
        "kernel_sizes": found.kernel_sizes,
        "features_per_stage": [min(8 * 2**stage, 64) for stage in range(stages)],
        "blocks_per_stage": [1] * stages,
    }


def resident() -> int:
    """Bytes held now, or the most ever where the system does not say."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def step(network: torch.nn.Module, images: dict[str, torch.Tensor]) -> float:
    """Seconds of a forward and backward pass."""
    network.zero_grad()
    start = time.perf_counter()
    sum(field.square().mean() for field in network(**images)).backward()  # type: ignore[union-attr]
    if images["fixed"].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(name: str, size: int, ndim: int, device: str, what: str) -> dict[str, float]:
    """One network: its `seconds`, or its `memory`, predicted and measured, which is what both passes add to weights that are there already."""
    network_name, options = NETWORKS[name]
    arguments = plan(size, ndim)
    network = build_network(network_name, **arguments, **options).to(device)
    images = {key: torch.rand(1, 1, *(size,) * ndim, device=device) for key in ("fixed", "moving")}
    small = {key: torch.rand(1, 1, *(64,) * ndim, device=device) for key in ("fixed", "moving")} if size > 64 else images
    step(network, small)  # loads code, which is memory too
    if what == "seconds":
        return {"seconds": min(step(network, images) for _ in range(2))}
    predicted = training_memory(lambda: build_network(network_name, **arguments, **options), (size,) * ndim, channels=1)
    if predicted is None:
        raise NnRegError(f"{name} cannot run without numbers: its memory is not predicted.")
    taken = added(network, images)
    return {
        "parameters": predicted.parameters,
        "predicted_gb": predicted.passes / GB,
        "measured_gb": taken / GB,
        "ratio": predicted.passes / max(1, taken),
        "training_gb": predicted.gb,
    }


def added(network: torch.nn.Module, images: dict[str, torch.Tensor]) -> int:
    """Bytes that a step adds at its peak."""
    network.zero_grad(set_to_none=True)
    if images["fixed"].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(network, images)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident()
    step(network, images)
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")) - before


def in_a_process(name: str, what: str, options: argparse.Namespace) -> dict[str, Any]:
    """What :func:`measure` returns, or why not."""
    command = [sys.executable, __file__, "--one", name, "--what", what, "--size", str(options.size), "--ndim", str(options.ndim), "--device", options.device]
    environment = os.environ | (NOTHING_KEPT if what == "memory" else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"skipped": why(done)}
    return found


def why(done: subprocess.CompletedProcess[str]) -> str:
    """What stopped a process: its last words, or what the system did to it."""
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"stopped without a word by signal {-done.returncode} (9: out of memory)" if done.returncode < 0 else f"exit {done.returncode}"


def main() -> int:
    """Run every network in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description="Networks: parameters, time and memory of a training step")
    parser.add_argument("--size", type=int, default=96, help="voxels per axis")
    parser.add_argument("--ndim", type=int, default=3, choices=(2, 3))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("-o", "--output", type=Path, default=Path("networks.json"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        try:
            print(json.dumps(measure(options.one, options.size, options.ndim, options.device, options.what)))
        except NnRegError as error:
            print(json.dumps({"skipped": str(error)}))
        return 0
    results: dict[str, dict[str, Any]] = {}
    print(f"| network, {'x'.join([str(options.size)] * options.ndim)} | parameters | forward + backward s | predicted GB | measured GB | ratio |")
    print("|---|---|---|---|---|---|")
    for name in options.networks:
        found = in_a_process(name, "seconds", options)
        if "skipped" not in found:
            found |= in_a_process(name, "memory", options)
        results[name] = found
        if "skipped" in found:
            print(f"| {name} | {found['skipped']} |", flush=True)
            continue
        print(
            f"| {name} | {found['parameters']:,} | {found['seconds']:.2f} | {found['predicted_gb']:.2f} | {found['measured_gb']:.2f} | {found['ratio']:.2f} |",
            flush=True,
        )
    write_json(options.output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())

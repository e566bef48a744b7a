"""How much of a registration's training step each similarity takes: network, warps and gradient of the field being the rest.

``python benchmarks/step_share.py --shape 64 64 64`` - see README.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from networks import plan
from torch import Tensor

from nnreg.architecture import build_network
from nnreg.files import write_json
from nnreg.geometry import resize, warp
from nnreg.losses import LOSSES, deep_supervision_weights

SIMILARITIES: dict[str, dict[str, Any]] = {"lncc": {"window": 9}, "ncc": {}, "mse": {}, "nmi": {}, "mind": {}}
BAR = 0.5  # a similarity that takes longer than all else is the bottleneck


def seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """Least of several, after one that does not count."""
    found = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return min(found[1:])


class Step:
    """A training step of the planned network on random images, smooth enough to have structure."""

    def __init__(self, shape: Sequence[int], device: str) -> None:
        torch.manual_seed(0)
        arguments = plan(min(shape), len(shape))
        self.network = build_network("dual_pyramid", **arguments).to(device).train()
        coarse = torch.rand(2, 1, *(max(4, size // 4) for size in shape), device=device)
        self.fixed, self.moving = resize(coarse, shape).chunk(2)

    def whole(self, name: str | None) -> None:
        """Everything; without a similarity, the sum of the warped images instead."""
        self.network.zero_grad()
        loss = self.fixed.new_zeros(())
        for field, weight in self._levels(self.network(fixed=self.fixed, moving=self.moving)):
            fixed, warped = resize(self.fixed, field.shape[2:]), warp(resize(self.moving, field.shape[2:]), field)
            value = warped.sum() if name is None else LOSSES[name](**SIMILARITIES[name])(warped=warped, fixed=fixed)
            loss = loss + weight * (value + LOSSES["diffusion"]()(field))
        loss.backward()

    @staticmethod
    def _levels(fields: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
        return list(zip(fields, deep_supervision_weights(len(fields)), strict=True))


def main() -> int:
    """Print the share of every similarity."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs="+", default=[64, 64, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=Path("step_share.json"))
    options = parser.parse_args()
    step = Step(options.shape, options.device)
    rest = seconds(lambda: step.whole(None), options.repeats, options.device)
    results = {}
    print(f"without a similarity {rest:.3f} s\n\n| similarity | s of a step | share of the step |\n|---|---|---|")
    for name in SIMILARITIES:
        whole = seconds(lambda name=name: step.whole(name), options.repeats, options.device)  # type: ignore[misc]
        results[name] = {"seconds": whole, "share": max(0.0, 1 - rest / whole)}
        print(f"| {name} | {whole:.3f} | {results[name]['share']:.0%} |", flush=True)
    write_json(options.output, results)
    return int(results["lncc"]["share"] > BAR)


if __name__ == "__main__":
    sys.exit(main())

"""The memory that plans predict for a training step, beside what the step takes.

``python benchmarks/planned_memory.py PLANS.json ...`` - see README.md. Each configuration runs in a process of its own; a prediction may be off by a fifth.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from networks import NOTHING_KEPT, resident

from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.errors import NnRegError
from nnreg.files import write_json
from nnreg.planning.plans import Configuration, Plans
from nnreg.planning.registration.rules.training import drawn_labels
from nnreg.task import task_named
from nnreg.training.configs.trainer_config import TrainerConfig
from nnreg.training.trainer.optimizers import build_optimizer

GB = 1024**3
BAR = 0.2
STEPS = 2  # the optimizer's moments are there from the second on


def batch_of(plans: Plans, configuration: Configuration, device: str) -> dict[str, torch.Tensor]:
    """Random images, labels too where the plan has a term for them, as a loader gives them."""
    size = (configuration.training.batch_size, len(plans.channel_names), *configuration.grid)
    images = {role: torch.rand(size, device=device) for role in ("fixed", "moving")}
    batch = images | {f"{role}_input": image.clone() for role, image in images.items()}
    labels = drawn_labels(configuration.training.supervision)
    if labels:
        shape = (size[0], 1, *configuration.grid)
        batch |= {f"{role}_labels": torch.randint(0, labels + 1, shape, device=device, dtype=torch.int16) for role in ("fixed", "moving")}
        batch["label_subset"] = torch.arange(1, labels + 1, dtype=torch.int16, device=device).repeat(size[0], 1)
    return batch


def measure(path: Path, name: str, device: str) -> dict[str, float]:
    """One configuration, trained for two steps in float32."""
    plans = Plans.read(path)
    configuration = plans.configuration(name)
    task, recipe = task_named(plans.task), TrainerConfig()
    before = resident()
    spec = DatasetSpec.read(path.with_name(FILE_NAME))
    planned: dict[str, Any] = {"plans": plans, "spec": spec, "configuration": configuration, "recipe": recipe}
    network = task.network(**planned).to(device).train()
    objective: Any = task.objective(**planned)
    optimizer = build_optimizer(configuration.training, network.parameters())
    batch = batch_of(plans, configuration, device)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        objective(network, batch)[0].backward()
        optimizer.step()
    peak = torch.cuda.max_memory_allocated() if device != "cpu" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"predicted_gb": float(configuration.memory_gb), "measured_gb": peak / GB, "ratio": float(configuration.memory_gb) * GB / peak}


def main() -> int:
    """Run every configuration in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plans", type=Path, nargs="+", metavar="PLANS.json")
    parser.add_argument("-c", "--configurations", nargs="+", metavar="NAME", help="which of each file's configurations (default: all)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=Path("planned_memory.json"))
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.plans[0], options.one, options.device)))
        return 0
    results: dict[str, dict[str, Any]] = {}
    print("| plan | grid | batch | predicted GB | measured GB | ratio |\n|---|---|---|---|---|---|")
    for path in options.plans:
        plans = Plans.read(path)
        for name, configuration in plans.configurations.items():
            if options.configurations and name not in options.configurations:
                continue
            command = [sys.executable, __file__, str(path), "--one", name, "--device", options.device]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | NOTHING_KEPT)
            if done.returncode:
                raise NnRegError(f"{path}: {name} cannot be trained: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
            found = results[f"{plans.dataset_name} {name}"] = json.loads(done.stdout.splitlines()[-1])
            shape = "x".join(map(str, configuration.grid))
            row = (f"{plans.dataset_name} {name}", shape, str(configuration.training.batch_size), *(f"{found[key]:.2f}" for key in found))
            print(f"| {' | '.join(row)} |", flush=True)
    write_json(options.output, results)
    off = [name for name, found in results.items() if abs(found["ratio"] - 1) > BAR]
    print(f"\n{len(results) - len(off)} of {len(results)} within {BAR:.0%}" + (f"; not: {', '.join(off)}" if off else ""))
    return 1 if off else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NnRegError as error:
        sys.exit(str(error))

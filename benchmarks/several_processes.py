"""A training by two processes beside the same one by one process: losses of every step, and steps per second on the same cores.

``python benchmarks/several_processes.py --size 48`` - see README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nnreg.files import write_json
from nnreg.training.execution.launch import launch

LARGEST = 1e-5  # difference of a loss: the bar
PAIRS, LABELS = "Dataset001_Pairs", "Dataset002_Labels"


def prepare(root: Path, size: int) -> None:
    """Synthetic pairs as a dataset of registration, and their images and labels as one of dense prediction; both planned."""
    from nnreg.dataset.synthetic_writer import write_synthetic_dataset
    from nnreg.preprocessing import plan_and_preprocess
    from nnreg.workspace import Workspace

    workspace = Workspace.resolve(root)
    write_synthetic_dataset(workspace.raw / PAIRS, pairs=6, test_pairs=0, shape=(size,) * 3)
    shutil.copytree(workspace.raw / PAIRS, workspace.raw / LABELS, ignore=shutil.ignore_patterns("fields*"))
    spec = json.loads((workspace.raw / LABELS / "dataset.json").read_text())
    kept = {key: spec[key] for key in ("channel_names", "labels", "numTraining", "file_ending")}
    write_json(workspace.raw / LABELS / "dataset.json", {**kept, "task": "dense_prediction"})
    plan_and_preprocess(workspace, PAIRS, processes=1, pair_budget=0)
    plan_and_preprocess(workspace, LABELS, processes=1)


def measure(root: Path, dataset: str, configuration: str, settings: dict[str, Any], nudge: float, into: Path) -> None:
    """Train an epoch in this process, one of as many as there are; the first writes losses and seconds per step."""
    import torch

    from nnreg.training.distributed import Ranks, left_in_order
    from nnreg.training.execution.run import build_trainer
    from nnreg.training.execution.shared import join
    from nnreg.workspace import Workspace

    ranks = Ranks.of_environment()
    trainer = build_trainer(Workspace.resolve(root), dataset, configuration, "all", overrides=settings, device="cpu", ranks=ranks)
    trainer.initialize()
    if ranks.size > 1:
        join(trainer)
    train, validation = trainer.get_dataloaders()
    if ranks.size > 1:
        trainer._share(train, validation)
    with torch.no_grad(), left_in_order(ranks):
        generator = torch.Generator().manual_seed(1)
        for parameter in trainer.network.parameters():
            parameter.mul_(1 + nudge * torch.randn(parameter.shape, generator=generator))
        with torch.enable_grad():
            trainer.on_epoch_start()
            trainer.network.train()
            terms, seconds, begun, used = [], [], time.perf_counter(), time.process_time()
            for batch in train:
                terms.append(trainer.train_step(batch))
                seconds.append(time.perf_counter() - begun)
                begun = time.perf_counter()
        losses = [float(step["loss"]) for step in (ranks.averaged(terms, trainer.plan.batch_size) if ranks.size > 1 else terms)]
        if ranks.leads:
            write_json(into, {"losses": losses, "seconds": seconds, "processor": ranks.size * (time.process_time() - used) / len(terms)})


def main() -> int:
    """Print a table, write JSON, return 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=48, help="voxels of a side of the synthetic volumes")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, help="a small one (1e-6) shows every step by itself: rounding is not amplified by the steps before")
    parser.add_argument("--threads", type=int, default=2, help="cores: of one process all, of two processes half each")
    parser.add_argument("--only", choices=("registration", "dense_prediction"), help="one task alone")
    parser.add_argument("-o", "--output", type=Path, default=Path("distributed.json"))
    options = parser.parse_args()
    # every run is in processes of its own, which share these threads
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    settings: dict[str, Any] = {"epochs": 1, "iterations_per_epoch": options.steps, "batch_size": options.batch_size}
    settings |= {} if options.learning_rate is None else {"learning_rate": options.learning_rate}
    result: dict[str, Any] = {"settings": {**settings, "size": options.size, "threads": options.threads}}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, options.size)
        print(f"{'task':18}{'processes':>10}{'s / step':>10}{'CPU s':>10}{'largest difference of a loss':>30}")
        for task, dataset in (("registration", PAIRS), ("dense_prediction", LABELS)):
            if options.only not in (None, task):
                continue
            found: dict[str, Any] = {}
            for name, processes, nudge in (("one", 1, 0.0), ("nudged", 1, 1e-7), ("two", 2, 0.0)):
                launch(measure, processes, root, dataset, "3d_fullres", settings, nudge, root / "found.json")
                found[name] = json.loads((root / "found.json").read_text())
                found[name]["difference"] = max(abs(a - b) for a, b in zip(found[name]["losses"], found["one"]["losses"], strict=True))
                median = statistics.median(found[name]["seconds"][2:])
                print(
                    f"{task:18}{'1, nudged' if nudge else processes:>10}{median:10.3f}{found[name]['processor']:10.3f}{found[name]['difference']:30.1e}",
                    flush=True,
                )
            failed = failed or found["two"]["difference"] > max(LARGEST, found["nudged"]["difference"])
            result[task] = found
    write_json(options.output, result)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

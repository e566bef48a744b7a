"""The same batches for both programs: nnU-Net records a short training, nnReg repeats it from the same weights.

    python vs_nnunet_lockstep.py {nnunetv2,nnreg} OPTIONS.json

Apart from what is drawn at random both must end at the same weights. The options name the file of the record and, for nnReg, the one its findings go to. For
nnU-Net nothing of nnReg is imported: its environment need not hold it.
"""

from __future__ import annotations

import copy
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

Options = dict[str, Any]


def record(options: Options) -> None:
    """Steps of nnU-Net's trainer: weights before and after, batches, losses."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    random.seed(options["seed"])
    np.random.seed(options["seed"])  # noqa: NPY002 - what the peer draws from
    torch.manual_seed(options["seed"])
    folder = Path(os.environ["nnUNet_preprocessed"]) / options["name"]
    plans, spec = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    trainer = nnUNetTrainer(plans | {"continue_training": False}, options["configuration"], options["fold"], spec, torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch = options["epochs"], options["iterations"]
    trainer.on_train_start()
    kept: Options = {"before": copy.deepcopy(trainer.network.state_dict()), "batches": [], "losses": []}
    for _ in range(options["epochs"]):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        for _ in range(options["iterations"]):
            batch = next(trainer.dataloader_train)
            labels = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
            kept["batches"].append({"image": batch["data"].clone(), "labels": labels.clone()})
            kept["losses"].append(float(trainer.train_step(batch)["loss"]))
        trainer.current_epoch += 1
    torch.save(kept | {"after": trainer.network.state_dict()}, options["record"])


def repeat(options: Options) -> None:
    """The same steps by nnReg's trainer, and how far it ends from there."""
    from nnreg import nnRegTrainer
    from nnreg.training.importers.dense_prediction.nnunet_model import weights_from

    recorded = torch.load(options["record"], weights_only=True)
    overrides = {"epochs": options["epochs"], "iterations_per_epoch": options["iterations"], "seed": options["seed"]}
    trainer = nnRegTrainer(options["dataset"], options["configuration"], options["fold"], name="lockstep", overrides=overrides, workers=0)
    trainer.initialize()
    decoded = len(trainer.configuration.architecture.strides) - 1
    before, after = (weights_from(recorded[name], decoded) for name in ("before", "after"))
    trainer.network.load_state_dict(before)
    trainer.network.train()
    losses = []
    for number, batch in enumerate(recorded["batches"]):
        if number % options["iterations"] == 0:
            trainer.lr_scheduler.step(number // options["iterations"])
        losses.append(float(trainer.train_step(batch)["loss"]))
    found = trainer.network.state_dict()
    content = {
        "steps": len(losses),
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "loss_difference": float(np.abs(np.subtract(losses, recorded["losses"])).max()),
        "weights_moved": max(float((after[name] - before[name]).abs().max()) for name in found),
        "weights_difference": max(float((found[name] - after[name]).abs().max()) for name in found),
    }
    Path(options["found"]).write_text(json.dumps(content))


if __name__ == "__main__":
    who, path = sys.argv[1:]
    given: Options = json.loads(Path(path).read_text())
    torch.set_num_threads(given["threads"])
    (repeat if who == "nnreg" else record)(given)

"""One step of one program for ``vs_nnunet.py``, in a process of its own. For nnU-Net's steps nothing of nnReg is imported: its environment need not hold it.

    python vs_nnunet_worker.py {nnunetv2,nnreg} {plan,preprocess,train,pace,predict} OPTIONS.json

The folders come by nnU-Net's and nnReg's environment variables. ``train`` and ``pace`` leave their timings in the file that the options name.
"""

from __future__ import annotations

import functools
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

Options = dict[str, Any]


def clock() -> np.ndarray:
    """Seconds on the clock and of this process' processor time."""
    return np.array([time.perf_counter(), time.process_time()])


class Timed:
    """Told apart, for every training step: the seconds until its batch was there, and its own. Both trainers have hooks of these names."""

    timings: list[np.ndarray]

    def on_epoch_start(self) -> None:
        """Begin to wait."""
        super().on_epoch_start()  # type: ignore[misc]
        self._since = clock()

    def train_step(self, batch: Any) -> Any:
        """A step, its seconds taken."""
        begun = clock()
        result = super().train_step(batch)  # type: ignore[misc]
        ended = clock()
        self.timings.append(np.concatenate([begun - self._since, ended - begun]))
        self._since = ended
        return result


class Paced(Timed):
    """Step by step in turns with another program, so that what else the machine does slows both alike. It ends with the last step."""

    def in_turns(self, options: Options) -> None:
        """A byte in `options["own"]` gives the turn to this program, one in `options["other"]` to the other."""
        # opened for both, a pipe does not wait for its other end
        self._own, self._other = (os.open(options[name], os.O_RDWR) for name in ("own", "other"))
        self._paced = options

    def on_epoch_start(self) -> None:
        """Wait for the first turn."""
        super().on_epoch_start()
        os.read(self._own, 1)
        self._since = clock()

    def train_step(self, batch: Any) -> Any:
        """A step, then the other's."""
        result = super().train_step(batch)
        os.write(self._other, b".")
        if len(self.timings) == self._paced["iterations"]:
            _leave(self.timings, self._paced)
            raise SystemExit(0)
        os.read(self._own, 1)
        self._since = clock()
        return result


TIMED: dict[str, type] = {"train": Timed, "pace": Paced}


def peer(step: str, options: Options) -> None:
    """A step of nnU-Net, through its own functions."""
    if step == "predict":
        _predict_peer(options)
        return
    if step in TIMED:
        _train_peer(step, options)
        return
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    dataset, processes = [options["dataset"]], options["threads"]
    if step == "plan":
        api.extract_fingerprints(dataset, num_processes=processes, verbose=False, show_progress_bar=False)
        api.plan_experiments(dataset)
    else:
        api.preprocess(dataset, configurations=[options["configuration"]], num_processes=[processes], show_progress_bar=False)


def _train_peer(step: str, options: Options) -> None:
    """The epochs and the validation, or the steps in turns."""
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class TimedTrainer(TIMED[step], nnUNetTrainer):  # type: ignore[misc]
        """nnU-Net's trainer, its steps timed."""

    # what the checkpoint names: predicting looks the trainer up
    TimedTrainer.__name__ = nnUNetTrainer.__name__
    seed = options["seed"]
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what the peer draws from
    torch.manual_seed(seed)
    folder = Path(str(nnUNet_preprocessed)) / options["name"]
    plans, spec = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    trainer = TimedTrainer(plans | {"continue_training": False}, options["configuration"], options["fold"], spec, torch.device("cpu"))
    trainer.timings = []
    trainer.num_epochs, trainer.num_iterations_per_epoch = options["epochs"], options["iterations"]
    trainer.num_val_iterations_per_epoch = options["validation_iterations"]
    if step == "pace":
        trainer.in_turns(options)
    trainer.run_training()
    _leave(trainer.timings, options)
    trainer.perform_actual_validation()


def _predict_peer(options: Options) -> None:
    """nnU-Net's command, with its sums over tiles as they are (float16) or in float32."""
    from nnunetv2.inference import predict_from_raw_data

    class Float32:
        """torch, but that its half is float32."""

        half = torch.float32

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    if options["float32"]:
        predict_from_raw_data.torch = Float32()
        weights = functools.partial(predict_from_raw_data.compute_gaussian, dtype=torch.float32)
        predict_from_raw_data.compute_gaussian = functools.lru_cache(weights)  # its cache is emptied by name
    sys.argv[1:] = options["arguments"]
    predict_from_raw_data.predict_entry_point()


def own(step: str, options: Options) -> None:
    """The epochs and the validation of nnReg, or the steps in turns."""
    from nnreg.training.trainer.trainer import nnRegTrainer

    class TimedTrainer(TIMED[step], nnRegTrainer):  # type: ignore[misc]
        """nnReg's trainer, its steps timed."""

    keys = {"epochs": "epochs", "iterations_per_epoch": "iterations", "validation_iterations": "validation_iterations", "seed": "seed"}
    overrides = {name: options[key] for name, key in keys.items()}
    trainer = TimedTrainer(
        options["dataset"],
        options["configuration"],
        options["fold"],
        name="pace" if step == "pace" else f"seed{options['seed']}",
        overrides=overrides,
        workers=options["workers"],
    )
    trainer.timings = []
    if step == "pace":
        trainer.in_turns(options)
    trainer.run_training()
    _leave(trainer.timings, options)


def _leave(timings: list[np.ndarray], options: Options) -> None:
    """Waiting and computing of every step, on the clock and of the processor."""
    Path(options["timings"]).write_text(json.dumps(np.stack(timings).tolist()))


if __name__ == "__main__":
    who, what, path = sys.argv[1:]
    given: Options = json.loads(Path(path).read_text())
    torch.set_num_threads(given["threads"])
    if who == "nnreg":
        own(what, given)
    else:
        peer(what, given)

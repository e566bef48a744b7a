"""The whole pipeline on synthetic pairs whose true fields are known: first a pair without training, then a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnreg.dataset import RawDataset
from nnreg.dataset.synthetic_writer import write_synthetic_dataset
from nnreg.errors import NnRegError
from nnreg.evaluation import evaluate_folder, evaluate_pair
from nnreg.files import read_json, writable_folder, write_json
from nnreg.inference.prediction import predict
from nnreg.inference.registration.register import PairFiles, register_files
from nnreg.planning.registration.plans import RegistrationPlans
from nnreg.preprocessing import plan_and_preprocess
from nnreg.training.execution.run import train
from nnreg.training.trainer.parts import Listeners
from nnreg.typed import from_mapping, to_mapping
from nnreg.workspace import Workspace

DATASET = "Dataset999_Demo"
SUMMARY = "demo_summary.json"
SIZE = "demo_size.json"
PAIR_BUDGET = 8.0  # seconds: six pairs of the default size
PLANNED_FOR = "cuda"  # as for a GPU, wherever it runs: no minute goes by measuring how fast this machine trains, because the demo says how long it does
PICTURE = "overview.png"
NOISE_STD = 0.01  # a fifth of the texture's: with more, nothing could tell how the background moved


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does: under three minutes of one core. `first_shape` is of the pair that is registered without training, the rest of the training."""

    shape: tuple[int, ...] = (24, 24, 24)
    pairs: int = 20
    test_pairs: int = 4
    epochs: int = 5
    iterations_per_epoch: int = 40
    seed: int = 0
    first_shape: tuple[int, ...] = (72, 88, 72)

    @property
    def flow(self) -> dict[str, Any]:
        """Of the synthetic pairs, in voxels: large and smooth against the structures, as anatomy moves."""
        return {"max_displacement": 0.25 * min(self.shape), "control_spacing": 0.5 * min(self.shape)}


def run_demo(
    output: Path,
    size: DemoSize,
    *,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Synthesise, plan, preprocess, train, predict held-out pairs and evaluate them against the exact truth.

    Parameters
    ----------
    output
        Folder of the demo's own workspace, predictions and ``demo_summary.json``; an interrupted demo goes on.
    size
        Grid, pairs and length of the training.
    device
        As in ``nnreg_train``.
    say
        Hears a line per step.

    Returns
    -------
    dict
        ``epe_header`` and ``epe_after`` (mean end-point error in voxels on the held-out pairs, by headers and in the end), ``body_epe_header`` and
        ``body_epe_after`` (the same inside the bodies: what lies at the border of the image is seen from one side only), ``folding_percent``,
        ``seconds`` (in all and by step), paths of the pictures; ``first`` has the same two errors of the pair that was registered without training.
    """
    started = time.monotonic()
    seconds: dict[str, float] = {}
    workspace = Workspace.resolve(writable_folder(output) / "workspace")
    _claim(output, size)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.monotonic()
        result = work()
        seconds[name] = round(time.monotonic() - begun, 1)
        return result

    say("1  One pair, no training: two synthetic bodies whose true deformation is known.")
    first = timed("first pair", lambda: _first_pair(output / "first_pair", size))
    say(f"   error {first['header']:.2f} -> {first['after']:.2f} voxels in the bodies, {seconds['first pair']:.0f} s. Look: {output / 'first_pair' / PICTURE}")
    say(f"2  A dataset: {size.pairs} training pairs and {size.test_pairs} held-out ones of {'x'.join(map(str, size.shape))} voxels; fingerprint and plans.")
    raw = timed("synthesise", lambda: _dataset(workspace.raw / DATASET, size))
    plans = timed("plan and preprocess", lambda: plan_and_preprocess(workspace, DATASET, processes=1, pair_budget=PAIR_BUDGET, device=PLANNED_FOR))
    say(f"3  A network learns them, {size.epochs} epochs of {size.iterations_per_epoch} steps.")
    model = timed("train", lambda: _trained(workspace, plans, size, device, say))
    say("4  It registers the held-out pairs, and the truth judges.")
    predictions = output / "predictions"
    timed("predict", lambda: predict(model, raw.folder / "imagesTs", predictions, folds=["0"], device=device))
    summary = timed("evaluate", lambda: evaluate_folder(predictions, raw, processes=1, surface=False))
    write_json(predictions / "summary.json", summary)
    content = {
        "first": first,
        "epe_header": summary["mean"]["epe_header"],  # what the pairs were made with: alignment is part of the pipeline
        "epe_after": summary["mean"]["epe_after"],
        "body_epe_header": summary["mean"]["epe_labels_header"],
        "body_epe_after": summary["mean"]["epe_labels_after"],
        "folding_percent": summary["mean"]["folding_percent"],
        "seconds": round(time.monotonic() - started, 1),
        "seconds_by_step": seconds,
        "held_out_pairs": len(summary["pairs"]),
        "configuration": plans.to_train,
        "pictures": [str(path) for path in _pictures(predictions, model)],
    }
    write_json(output / SUMMARY, content)
    return content


def _first_pair(folder: Path, size: DemoSize) -> dict[str, float]:
    """Register one pair as ``nnreg_register`` does; the mean error in voxels inside the bodies, by headers and in the end."""
    data = folder / "dataset"
    flow = DemoSize(shape=size.first_shape).flow
    raw = RawDataset.open(data) if data.is_dir() else write_synthetic_dataset(data, shape=size.first_shape, pairs=1, test_pairs=0, noise_std=NOISE_STD, **flow)
    pair = raw.pairs()[0]
    fixed, moving = (list(raw.image_paths(case)) for case in (pair.fixed, pair.moving))
    found = register_files(PairFiles(fixed, moving), folder)
    case, truth = raw.read_case(pair.fixed), raw.true_field(pair)
    figures = evaluate_pair(fixed=case, moving=raw.read_case(pair.moving), transform=found.transform, aligned=found.start, truth=truth, surface=False)[
        "metrics"
    ]
    return {stage: float(figures[f"epe_labels_{stage}"]) for stage in ("header", "after")}


def _claim(output: Path, size: DemoSize) -> None:
    """A demo that was interrupted goes on; one of another size must not mix with it."""
    path = output / SIZE
    if not path.is_file():
        write_json(path, to_mapping(size))
    elif from_mapping(DemoSize, read_json(path, NnRegError), where=str(path), error=NnRegError) != size:
        raise NnRegError(f"{path}: an earlier demo was made with other options. Remove {output}, or choose another -o.")


def _dataset(folder: Path, size: DemoSize) -> RawDataset:
    if folder.is_dir():
        return RawDataset.open(folder)
    return write_synthetic_dataset(folder, shape=size.shape, pairs=size.pairs, test_pairs=size.test_pairs, seed=size.seed, noise_std=NOISE_STD, **size.flow)


def _trained(workspace: Workspace, plans: RegistrationPlans, size: DemoSize, device: str, say: Callable[[str], None]) -> Path:
    """The folder of the trained model."""
    train(
        workspace,
        DATASET,
        plans.to_train,
        0,
        overrides={"epochs": size.epochs, "iterations_per_epoch": size.iterations_per_epoch},
        device=device,
        continue_training=True,
        listeners=Listeners(line=lambda line: say(f"   {_short(line)}") if line.startswith("[Epoch") else None),
    )
    return workspace.model_folder(DATASET, "nnRegTrainer", plans.plans_name, plans.to_train)


def _short(line: str) -> str:
    """Of an epoch's line its number, the loss and what the validation measures."""
    head, _, rest = line.partition("] ")
    shown = ("train_loss", "val_dice", "val_epe")
    return head.removeprefix("[") + ": " + ", ".join(part for part in rest.split(", ") if part.startswith(shown))


def _pictures(predictions: Path, model: Path) -> Sequence[Path]:
    return [predictions.parent / "first_pair" / PICTURE, *sorted(predictions.glob(f"*/{PICTURE}")), *sorted(model.glob("fold_*/progress.png"))]

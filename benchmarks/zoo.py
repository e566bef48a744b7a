"""Every recipe that ``nnreg_list configs`` shows, trained on crops of real images in 2D and 3D.

``python benchmarks/zoo.py DATA_DIR`` - see README.md. Of each: the loss on fixed batches falls, a continued training equals an uninterrupted one bit for bit,
and the validation predicts finite fields or labels on the native grids.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nnreg.architecture import NETWORKS
from nnreg.architecture.base import RegistrationNetwork
from nnreg.cli import plan_and_preprocess
from nnreg.dataset.keypoints import write_keypoints
from nnreg.errors import NnRegError
from nnreg.files import write_json
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image
from nnreg.training.configs import TRAINER_CONFIGS
from nnreg.training.execution.run import build_trainer
from nnreg.training.logging import report
from nnreg.training.trainer.checkpoint import FINAL, load_checkpoint
from nnreg.training.trainer.trainer import nnRegTrainer
from nnreg.workspace import Workspace

Array = npt.NDArray[Any]
CASES = 3
CROPS = {2: (56, 64), 3: (24, 34, 28)}
CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}
FEATURES = (8, 16, 32, 64)  # of the planned networks; recipes of other widths keep theirs
EPOCHS, ITERATIONS = 2, 6
SETTINGS = {
    "epochs": EPOCHS,
    "iterations_per_epoch": ITERATIONS,
    "validation_iterations": 3,
    "augmentation": {},
    "validation_pairs": 1,
    "checkpoints.every": 1,
}
# the planned rate is for thousands of steps: from the identity, its first ones lead away from it
BY_KIND: dict[str, dict[str, Any]] = {
    "registration": {"batch_size": 1, "learning_rate": 1e-4},
    "dense prediction": {"batch_size": 2},
    "regions": {"batch_size": 2},
}
SYNTHETIC = {split: {"name": "deepreg_synthetic", "num_samples": 8, "seed": seed} for seed, split in enumerate(("train", "val"))}
# what a recipe cannot do without
NEEDED: dict[str, dict[str, Any]] = {"true_field": {"synthetic": SYNTHETIC}}
UNMEASURED = {"registration": ("--pair_budget", "0")}
REGIONS = {"bce"}
ON_A_GPU = {"fp16"}


def crop(array: Array, shape: Sequence[int]) -> Array:
    """The middle of (1, *spatial)."""
    starts = [(size - wanted) // 2 for size, wanted in zip(array.shape[1:], shape, strict=True)]
    return array[(slice(None), *(slice(start, start + wanted) for start, wanted in zip(starts, shape, strict=True)))]


def sources(data: Path, ndim: int) -> list[tuple[Array, Array, tuple[float, ...]]]:
    """Image, labels 1 and 2, and spacing of every case: brain slices, or hippocampi."""
    folder, images, labels = (data / "oasis_trt20_2d", "Atlases", "Labels") if ndim == 2 else (data / "msd_hippocampus", "images", "labels")
    found = []
    for path in sorted((folder / images).iterdir())[:CASES]:
        other = next((folder / labels).glob(f"{path.name.split('_slice')[0].split('.')[0]}*"))
        image, truth = read_image(path), read_image(other)
        values = truth.array if ndim == 3 else np.where(truth.array >= 1000, 2, truth.array > 0)  # cortex, and what else has a label
        found.append((crop(image.array, CROPS[ndim]).astype(np.float32), crop(values, CROPS[ndim]).astype(np.uint8), image.space.spacing))
    return found


def centroids(labels: Array) -> Array:
    """Of both labels, x first."""
    return np.stack([np.argwhere(labels[0] == value).mean(axis=0)[::-1] for value in (1, 2)])


def write_raw(folder: Path, data: Path, ndim: int, **spec: Any) -> None:
    """One raw dataset."""
    for number, (image, labels, spacing) in enumerate(sources(data, ndim)):
        space = Space.plain(image.shape[1:], spacing)
        write_image(folder / "imagesTr" / f"case{number}_0000.nii.gz", image, space)
        write_image(folder / "labelsTr" / f"case{number}.nii.gz", labels, space)
        if "pairing" in spec:
            (folder / "keypointsTr").mkdir(exist_ok=True)
            write_keypoints(folder / "keypointsTr" / f"case{number}.csv", centroids(labels))
    content = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "one": 1, "two": 2}, "numTraining": CASES, "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", content | spec)


def prepare(work: Path, data: Path) -> dict[tuple[str, int], int]:
    """Raw datasets, planned and preprocessed; (kind, axes) to the dataset's number."""
    kinds: dict[str, dict[str, Any]] = {
        "registration": {"pairing": "all"},
        "dense prediction": {"task": "dense_prediction"},
        "regions": {"task": "dense_prediction", "labels": {"background": 0, "all": [1, 2], "two": 2}, "regions_class_order": [1, 2]},
    }
    numbers = {}
    for place, (kind, spec) in enumerate(kinds.items()):
        for ndim in (2, 3):
            numbers[kind, ndim] = number = 100 * ndim + place
            folder = work / "nnReg_raw" / f"Dataset{number}_Zoo"
            if folder.is_dir():
                continue
            write_raw(folder, data, ndim, **spec)
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = plan_and_preprocess.main(["-d", str(number), "-np", "1", "--no_pbar", "--workspace", str(work), *UNMEASURED.get(kind, ())])
            if code:
                raise NnRegError(f"{folder.name} cannot be planned: {said.getvalue().strip().splitlines()[-1]}")
    return numbers


def kinds_of(name: str) -> list[str]:
    """Where a recipe can be used: one that says nothing of a task, in both."""
    recipe = TRAINER_CONFIGS[name]
    for kind in ("registration", "dense prediction"):
        if recipe.description.startswith(f"{kind}:"):
            return ["regions" if name in REGIONS else kind]
    made = NETWORKS[recipe.architecture] if isinstance(recipe.architecture, str) else None
    pairs_only = isinstance(made, type) and issubclass(made, RegistrationNetwork | LOCAL)
    return ["registration"] if pairs_only else ["registration", "dense prediction"]


LOCAL: type = NETWORKS["localnet"]  # type: ignore[assignment]  # a class


def fixed_loss(trainer: nnRegTrainer) -> float:
    """Mean loss on the batches of the online validation, which are not augmented and always the same."""
    trainer.network.eval()
    _, loader = trainer.get_dataloaders()
    return float(np.mean([float(trainer.validation_step(batch)["loss"]) for batch in loader]))


def made(work: Path, number: int, kind: str, ndim: int, name: str) -> nnRegTrainer:
    """The trainer of a recipe, narrow and slow where the recipe does not say how wide and fast."""
    workspace, configuration = Workspace.resolve(work), CONFIGURATIONS[ndim]
    settings = {**SETTINGS, **BY_KIND[kind], **NEEDED.get(name, {})}
    settings = {key: value for key, value in settings.items() if key not in TRAINER_CONFIGS[name].training}
    plain = build_trainer(workspace, number, configuration, "all", device="cpu")
    stages = len(plain.configuration.architecture.strides)
    settings["architecture.features_per_stage"] = [*FEATURES, *[FEATURES[-1]] * stages][:stages]
    return build_trainer(workspace, number, configuration, "all", trainer=name, overrides=settings, device="cpu")


def check(work: Path, number: int, kind: str, ndim: int, name: str) -> dict[str, Any]:
    """One recipe on one dataset."""
    begun = time.monotonic()
    trainer = made(work, number, kind, ndim, name)
    trainer.initialize()
    before = fixed_loss(trainer)
    trainer.run_training()
    after, folder = fixed_loss(trainer), trainer.output_folder
    problems = [] if after < before else ["the loss does not fall"]
    whole = load_checkpoint(folder / FINAL)["network_weights"]
    problems += predicted(folder / "validation_raw", CROPS[ndim])
    resumed = made(work, number, kind, ndim, name)
    resumed.load_checkpoint(folder / "checkpoint_epoch_0001.pth")
    resumed.perform_actual_validation = dict  # type: ignore[method-assign]  # the weights tell
    resumed.run_training()
    again = load_checkpoint(folder / FINAL)["network_weights"]
    if any(not torch.equal(value, again[key]) for key, value in whole.items()):
        problems.append("a continued training differs")
    return {"before": before, "after": after, "seconds": time.monotonic() - begun, "problems": problems}


def predicted(folder: Path, shape: tuple[int, ...]) -> list[str]:
    """What is wrong with the images that a validation wrote."""
    paths = sorted(folder.rglob("*.nii.gz"))
    problems = [] if paths else ["nothing is predicted"]
    for path in paths:
        image = read_image(path)
        if image.space.shape != shape or not np.isfinite(image.array).all():
            problems.append(f"{path.name} is {image.space.shape}, expected {shape} and finite")
    return problems


def main() -> int:
    """Go through all recipes and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--work", type=Path, default=Path("zoo_work"))
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*TRAINER_CONFIGS], default=[*TRAINER_CONFIGS])
    parser.add_argument("--ndim", type=int, nargs="+", choices=(2, 3), default=[2, 3])
    options = parser.parse_args()
    report.plot_progress = lambda *arguments, **named: None  # type: ignore[assignment]  # the curves would take longer than the training
    numbers = prepare(options.work, options.data)
    results: list[dict[str, Any]] = []
    print("| recipe | task | axes | loss before | after | s | |\n|---|---|---|---|---|---|---|")
    for name in options.only:
        for kind in kinds_of(name):
            for ndim in options.ndim:
                row = {"recipe": name, "task": kind, "axes": ndim} | attempted(options.work, numbers[kind, ndim], kind, ndim, name)
                results.append(row)
                said = "; ".join(row["problems"]) or ("refused: " + row["refused"] if row["refused"] else "")
                print(f"| {name} | {kind} | {ndim} | {row['before']:.4f} | {row['after']:.4f} | {row['seconds']:.0f} | {said} |", flush=True)
    write_json(options.work / "zoo.json", results)
    wrong = sorted({row["recipe"] for row in results if row["problems"]})
    print(
        f"\n{len(results) - sum(bool(row['problems']) for row in results)} of {len(results)} as they should" + (f"; not: {', '.join(wrong)}" if wrong else "")
    )
    return 1 if wrong else 0


def attempted(work: Path, number: int, kind: str, ndim: int, name: str) -> dict[str, Any]:
    """What :func:`check` returns; a refusal is a problem unless it must be."""
    row: dict[str, Any] = {"before": float("nan"), "after": float("nan"), "seconds": 0.0, "problems": [], "refused": ""}
    try:
        row |= check(work, number, kind, ndim, name)
    except NnRegError as error:
        row |= {"refused": str(error)} if name in ON_A_GPU else {"problems": [str(error)]}
    return row


if __name__ == "__main__":
    sys.exit(main())

"""A whole task of another package, in one file: it counts the voxels above a threshold that its plans hold. The test installs it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nnreg.dataset import RawDataset
from nnreg.files import read_json, write_json
from nnreg.imageio import read_image
from nnreg.planning.plans import Architecture, Configuration, Normalization, Plans, Training
from nnreg.task import TaskEntry
from nnreg.workspace import Workspace

if TYPE_CHECKING:
    from nnreg.inference.predictor import TrainedModel

FILE_NAME = "dataset_fingerprint_counting.json"
PLANNERS: dict[str, dict[str, Any]] = {"default": {}, "low": {"threshold": 0.5}}
TRAINING = Training(
    supervision=(),
    deep_supervision_weights=(1.0,),
    batch_size=1,
    epochs=1,
    iterations_per_epoch=1,
    validation_iterations=1,
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=0.0,
    gradient_clip=None,
    lr_schedule="poly",
)
ENTRY = TaskEntry(
    title="counting",
    plans="outside_counting:CountingPlans",
    plan_checks="outside_counting:problems",
    pipeline="outside_counting",
    planners="outside_counting:PLANNERS",
    training="outside_counting:CountingTask",
    predictor="outside_counting:predict_folder",
    evaluator="outside_counting:evaluate_folder",
    fingerprint="outside_counting:CountingFingerprint",
    fingerprint_file="outside_counting:FILE_NAME",
    print_fingerprint="outside_counting:print_fingerprint",
    print_plans="outside_counting:print_plans",
    print_arrays="outside_counting:print_arrays",
    predict_command="outside_counting:predict_command",
    evaluate_command="outside_counting:evaluate_command",
    add_predict_options="outside_counting:add_options",
    own_options={"least": "--least"},
)


@dataclass(frozen=True, kw_only=True)
class CountingPlans(Plans):
    threshold: float


class CountingTask:
    name = "counting"


@dataclass(frozen=True)
class CountingFingerprint:
    largest: float

    @classmethod
    def read(cls, path: Path) -> CountingFingerprint:
        return cls(**read_json(path))


def problems(plans: CountingPlans) -> Iterator[str]:
    if plans.threshold < 0:
        yield f"threshold is {plans.threshold}: expected 0 or more."


def fingerprint_dataset(workspace: Workspace, dataset: int | str, **options: Any) -> CountingFingerprint:
    raw = RawDataset.open(workspace.raw_folder(dataset))
    found = CountingFingerprint(max(float(read_image(raw.image_paths(case)[0]).array.max()) for case in raw.cases))
    write_json(workspace.preprocessed / raw.name / FILE_NAME, {"largest": found.largest})
    return found


def plan_dataset(workspace: Workspace, dataset: int | str, *, threshold: float | None = None, **options: Any) -> CountingPlans:
    name = workspace.dataset_name(dataset)
    measured = CountingFingerprint.read(workspace.preprocessed / name / FILE_NAME)
    stages = Architecture("none", ((1, 1, 1),), ((3, 3, 3),), (1,), (1,))
    plans = CountingPlans(
        dataset_name=name,
        plans_name="nnRegPlans",
        task="counting",
        planner="default",
        channel_names=("T1",),
        configurations={"3d": Configuration("counts", (1.0,) * 3, (4, 5, 6), (Normalization("none"),), stages, TRAINING, 0.0)},
        recommended="3d",
        threshold=measured.largest / 2 if threshold is None else threshold,
    )
    plans.write(workspace.preprocessed / name / "nnRegPlans.json")
    return plans


def plan_and_preprocess(workspace: Workspace, dataset: int | str, **options: Any) -> CountingPlans:
    fingerprint_dataset(workspace, dataset)
    return plan_dataset(workspace, dataset)


def preprocess_dataset(workspace: Workspace, dataset: int | str, **options: Any) -> dict[str, Path]:
    folder = workspace.preprocessed / workspace.dataset_name(dataset) / "counts"
    folder.mkdir(exist_ok=True)
    return {"3d": folder}


def predict_folder(model: TrainedModel, images: Path, output: Path, *, least: int = 0, **options: Any) -> dict[str, Any]:
    threshold = cast(CountingPlans, model.folder.plans).threshold
    counts = {path.name.rpartition("_")[0]: int((read_image(path).array > threshold).sum()) for path in sorted(images.glob("*_0000.*"))}
    content = {"task": "counting", "counts": {case: count for case, count in counts.items() if count >= least}}
    write_json(output / "prediction.json", content)
    return content


def evaluate_folder(predictions: Path, raw: RawDataset, **options: Any) -> dict[str, Any]:
    return {"found": sum(read_json(predictions / "prediction.json")["counts"].values()), "dataset": raw.name}


def add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--least", type=int, default=0, help="smallest count that is written")


def predict_command(options: argparse.Namespace, configuration: str | None) -> str:
    from nnreg.inference.predictor import ModelFolder, TrainedModel

    content = predict_folder(TrainedModel(ModelFolder.open(Path(options.model_folder))), Path(options.input), Path(options.output), least=options.least)
    return f"{len(content['counts'])} counts"


def evaluate_command(options: argparse.Namespace, predictions: Path, raw: RawDataset) -> tuple[dict[str, Any], str]:
    summary = evaluate_folder(predictions, raw)
    return summary, f"{summary['found']} voxels"


def print_fingerprint(fingerprint: CountingFingerprint) -> None:
    print(f"largest {fingerprint.largest:g}")


def print_plans(plans: CountingPlans) -> None:
    print(f"threshold {plans.threshold:g}")


def print_arrays(name: str, folder: Path) -> None:
    print(f"{name}: {folder.name}")

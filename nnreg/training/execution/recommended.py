"""From raw images to predictions by what the plans recommend: the steps of the single commands, each left out where it is done already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.errors import EvaluationError, PlansError
from nnreg.files import write_json
from nnreg.planning.plans import OPTIMISE, Plans
from nnreg.planning.registration.duration import readable_duration
from nnreg.task import TASKS, imported
from nnreg.training.configs.lookup import DEFAULT_TRAINER
from nnreg.training.execution.run import train
from nnreg.training.run_folders import DEFAULT_PLANS
from nnreg.training.trainer.parts import Listeners
from nnreg.workspace import Workspace

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset
    from nnreg.progress import Progress

SUMMARY = "validation_summary.json"
TEST_IMAGES, TRAINING_IMAGES = "imagesTs", "imagesTr"


def _no_progress(step: str) -> Progress:
    return lambda done, total, what: None


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked for beside the dataset.

    Attributes
    ----------
    plans_name, task, time_budget
        As in :func:`nnreg.preprocessing.plan_and_preprocess`; they matter where there are no plans yet.
    fold
        That is trained, where training is recommended.
    images, output
        Images to predict (default: ``imagesTs``, else the listed pairs of ``imagesTr``) and where to (default: ``predicted`` in the dataset's results).
    device, processes
        As in the single commands.
    """

    plans_name: str = DEFAULT_PLANS
    task: str | None = None
    time_budget: float | None = None
    fold: int | str = 0
    images: Path | None = None
    output: Path | None = None
    device: str = "auto"
    processes: int | None = None


@dataclass(frozen=True)
class Watcher:
    """Who hears of a run: a line per step, progress within a step, and of the training's own log and bar."""

    say: Callable[[str], None] = lambda line: None
    progress: Callable[[str], Progress] = _no_progress
    training: Listeners = field(default_factory=Listeners)


def run_recommended(workspace: Workspace, dataset: int | str, options: RunOptions = RunOptions(), watcher: Watcher = Watcher()) -> Path | None:
    """Plan, preprocess, train or not, and predict a dataset as its plans recommend; what is finished is kept, so the same call goes on after an interruption.

    Returns
    -------
    Path or None
        The folder of predictions; None where there are no images to predict.

    Raises
    ------
    PlansError
        If there are plans already that the time budget would change.
    NnRegError
        As the steps raise it.
    """
    from nnreg.dataset import RawDataset

    name = workspace.dataset_name(dataset)
    plans = _planned(workspace, name, options, watcher)
    trained = plans.recommended != OPTIMISE
    if trained:
        _preprocess(workspace, name, plans, options, watcher)
        _train(workspace, name, plans, options, watcher)
    else:
        watcher.say("2 training: none, every pair goes through the engine")
    raw = RawDataset.open(workspace.raw / name)
    images = options.images or _images_of(raw)
    if images is None:
        watcher.say(f"3 prediction: {raw.folder} has no {TEST_IMAGES}. New images: nnreg_predict -d {name[7:10]} -i IMAGES -o OUT")
        return None
    output = options.output or workspace.results / name / "predicted"
    predicted = _predict(workspace, raw, plans, images, output, options, watcher)
    watcher.say(f"3 prediction: {len(predicted)} in {output}")
    if trained and images == raw.folder / TRAINING_IMAGES:
        # figures of images that were trained on would flatter
        watcher.say(f"next: look into {output}; figures of held-out pairs: {_model(workspace, name, plans) / f'fold_{options.fold}' / SUMMARY}")
    else:
        _evaluate(raw, images, output, predicted, watcher)
    return output


def _planned(workspace: Workspace, name: str, options: RunOptions, watcher: Watcher) -> Plans:
    """The plans of the dataset; made where there are none."""
    from nnreg.preprocessing import plan_and_preprocess, read_plans
    from nnreg.preprocessing.datasets import task_of

    folder = workspace.preprocessed / name
    path = folder / f"{options.plans_name}.json"
    if path.is_file():
        plans = read_plans(folder, options.plans_name, name)
        _check_budget(plans, path, options.time_budget)
        watcher.say(f"1 plans: kept, {path}")
    else:
        own = TASKS[task_of(workspace, name, options.task)].own_options
        asked = {"time_budget": options.time_budget, "task": options.task, "device": options.device if "device" in own else None}
        asked["plans_name"] = None if options.plans_name == DEFAULT_PLANS else options.plans_name  # else the planner's own
        given: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        plans = plan_and_preprocess(workspace, name, processes=options.processes, preprocess_too=False, progress=watcher.progress, on_note=watcher.say, **given)
        watcher.say(f"1 plans: {path}")
    watcher.say(f"  recommended: {plans.recommended}, {plans.because.get('recommended', 'set by hand')}")
    return plans


def _check_budget(plans: Plans, path: Path, asked: float | None) -> None:
    """Refuse a time budget that the plans at hand were not made for."""
    if asked is None:
        return
    configuration = plans.configuration(plans.to_train)
    if f"--time_budget {readable_duration(asked)}:" not in configuration.because.get("training.epochs", ""):
        raise PlansError(
            f"{path}: was not made for --time_budget {readable_duration(asked)}. Plan again (nnreg_plan_experiment --time_budget ...), or leave the option out."
        )


def _preprocess(workspace: Workspace, name: str, plans: Plans, options: RunOptions, watcher: Watcher) -> None:
    from nnreg.preprocessing import preprocess_dataset

    preprocess_dataset(
        workspace,
        name,
        plans_name=plans.plans_name,
        configurations=[plans.recommended],
        processes=options.processes,
        progress=watcher.progress,
    )


def _train(workspace: Workspace, name: str, plans: Plans, options: RunOptions, watcher: Watcher) -> None:
    """The recommended fold, unless it is validated already."""
    folder = _model(workspace, name, plans) / f"fold_{options.fold}"
    if (folder / SUMMARY).is_file():
        watcher.say(f"2 training: kept, {folder}")
        return
    seconds = plans.configuration(plans.recommended).training_seconds
    planned = "" if seconds is None else f", {readable_duration(seconds)} planned"
    watcher.say(f"2 training: {plans.recommended}, fold {options.fold}{planned}: {folder}")
    train(
        workspace,
        name,
        plans.recommended,
        options.fold,
        continue_training=True,
        plans=plans.plans_name,
        device=options.device,
        listeners=watcher.training,
    )


def _model(workspace: Workspace, name: str, plans: Plans) -> Path:
    return workspace.model_folder(name, DEFAULT_TRAINER, plans.plans_name, plans.recommended)


def _images_of(raw: RawDataset) -> Path | None:
    """Images that wait for a prediction: those for testing; else, where pairs are given and not made of every two subjects, those for training."""
    tests, training = raw.folder / TEST_IMAGES, raw.folder / TRAINING_IMAGES
    if tests.is_dir() and any(tests.iterdir()):
        return tests
    return training if TASKS[raw.spec.task].registers_pairs and raw.spec.pairing != "all" and training.is_dir() else None


def _predict(workspace: Workspace, raw: RawDataset, plans: Plans, images: Path, output: Path, options: RunOptions, watcher: Watcher) -> Sequence[Any]:
    """What was predicted: pairs or cases."""
    from nnreg.inference.predictor import ModelFolder, TrainedModel

    show, entry = watcher.progress("predicting"), TASKS[plans.task]
    model = None
    if plans.recommended != OPTIMISE:
        model = TrainedModel(ModelFolder.open(_model(workspace, raw.name, plans)), [str(options.fold)], device=options.device)
    if entry.predict_dataset is not None:
        by_plans = imported(entry.predict_dataset)
        predicted: Sequence[Any] = by_plans(plans, raw, model, images, output, device=options.device, on_note=watcher.say, on_progress=show)
        return predicted
    content = imported(entry.predictor)(model, images, output, on_progress=show)
    return list(content.get("cases", content))


def _evaluate(raw: RawDataset, images: Path, output: Path, predicted: Sequence[Any], watcher: Watcher) -> None:
    """Figures of the predictions, where every case of this dataset has labels."""
    from nnreg.evaluation.evaluation import evaluate
    from nnreg.training.trainer.parts import headline

    labels = images.with_name(images.name.replace("images", "labels", 1))
    again = f"nnreg_evaluate {output} -d {raw.name[7:10]}"
    if images.parent != raw.folder or not labels.is_dir() or not predicted:
        watcher.say(f"next: look into {output}; with labels, {again}")
        return
    try:
        summary = evaluate(output, raw, on_progress=watcher.progress("evaluating"))
    except EvaluationError as error:
        watcher.say(f"4 evaluation: {error}")
        return
    write_json(output / "summary.json", summary)
    watcher.say(f"4 evaluation: {headline(summary)}; {output / 'summary.json'}")
    watcher.say(f"next: look into {output}; the whole table: {again}")


__all__ = ["RunOptions", "Watcher", "run_recommended"]

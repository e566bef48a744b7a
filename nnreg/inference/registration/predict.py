"""Predict pairs into a folder: transforms, fields, warped images and labels on native grids."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnreg.dataset import RawDataset
from nnreg.dataset.pairs import Pair, check_pair_names, pairs_among
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import PredictionError
from nnreg.evaluation.registration.pictures import overview_of_transform
from nnreg.files import read_json, writable_folder, write_json
from nnreg.geometry.transform_files import write_learn2reg
from nnreg.imageio import ending_of
from nnreg.inference.predictor import ModelFolder, Predictor
from nnreg.inference.registration.cases import CaseSource, FolderCases, TrainingCases, folder_beside, refuse_own_folder
from nnreg.inference.registration.export import DONE, write_pair
from nnreg.inference.registration.method import mapper_named, method_of
from nnreg.inference.registration.pair_predictors import EnginePredictor, NetworkPredictor, PairMapper
from nnreg.planning.decision import Decision
from nnreg.planning.plans import OPTIMISE
from nnreg.planning.registration.engine_settings import Optimisation
from nnreg.planning.registration.plans import RegistrationPlans, registration_plans
from nnreg.preprocessing.registration.preprocessor import Preprocessor
from nnreg.progress import Progress
from nnreg.training.runtime_utils.runtime import device_named

PREDICTION_FILE = "prediction.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class PredictOptions:
    """What is written beside the transforms, whether finished pairs are kept, and by which of ``METHODS`` pairs are predicted.

    Without a `method` it is what validation found best.
    """

    method: str | None = None
    learn2reg: bool = False
    pictures: bool = True
    continue_prediction: bool = False


def predict_pairs(
    mapper: PairMapper,
    source: CaseSource,
    pairs: Sequence[Pair],
    output: Path,
    *,
    dataset: str,
    model: str,
    method: Decision[str] | None = None,
    options: PredictOptions = PredictOptions(),
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Predict `pairs` into `output`, one folder each, and list them in ``prediction.json`` as they finish.

    Returns
    -------
    dict
        The content of ``prediction.json``.
    """
    writable_folder(output)
    content: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "dataset": dataset, "model": model}
    content |= {} if method is None else {"method": method.value, "because": method.because}
    earlier = _earlier(output, content) if options.continue_prediction else {}
    content["pairs"] = []
    for done, pair in enumerate(pairs):
        on_progress(done, len(pairs), pair.name)
        if pair.name in earlier and (output / pair.name / DONE).is_file():
            content["pairs"].append(earlier[pair.name])
            continue
        started = time.monotonic()
        notes = _predict_pair(mapper, source, pair, output, options)
        content["pairs"].append(
            {
                "name": pair.name,
                "fixed": pair.fixed,
                "moving": pair.moving,
                "fixed_images": [path.name for path in source.paths(pair.fixed)],
                "moving_images": [path.name for path in source.paths(pair.moving)],
                "seconds": round(time.monotonic() - started, 3),
                **notes,
            }
        )
        write_json(output / PREDICTION_FILE, content)
    write_json(output / PREDICTION_FILE, content)
    on_progress(len(pairs), len(pairs), "done")
    return content


def _predict_pair(mapper: PairMapper, source: CaseSource, pair: Pair, output: Path, options: PredictOptions) -> dict[str, Any]:
    transforms = mapper.transforms(pair, source)
    fixed, moving = source.image(pair.fixed), source.image(pair.moving)
    ending = ending_of(source.paths(pair.fixed)[0])
    write_pair(
        output / pair.name,
        transforms,
        fixed=fixed,
        moving=moving,
        moving_labels=source.labels(pair.moving),
        ending=ending,
        picture=overview_of_transform if options.pictures else None,
    )
    if options.learn2reg:
        write_learn2reg(output / "learn2reg" / f"disp_{pair.fixed}_{pair.moving}.nii.gz", transforms.transform, fixed=fixed.space, moving=moving.space)
    return transforms.notes


def _earlier(output: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """Pairs of an earlier prediction by name; one by another model or method is not gone on with: the folder would hold a mixture."""
    path = output / PREDICTION_FILE
    if not path.is_file():
        return {}
    content = read_json(path, PredictionError)
    for key in ("model", "method"):
        if content.get(key, now.get(key)) != now.get(key):
            found = f"{key} {content[key]}, now it is {now.get(key)}"
            raise PredictionError(f"{path}: its pairs were predicted by {found}. Predict into another folder, or without --continue_prediction.")
    return {entry["name"]: entry for entry in content["pairs"]}


def predict_training_cases(predictor: Predictor, raw: RawDataset, arrays: Path, pairs: Sequence[Pair], output: Path, *, on_progress: Progress) -> None:
    """Predict pairs of a dataset's own cases from their stored arrays (the full validation of a fold): what the network does, without refinement."""
    plans = predictor.plans
    predict_pairs(
        NetworkPredictor(predictor),
        TrainingCases(raw, arrays),
        pairs,
        output,
        dataset=plans.dataset_name,
        model=plans.plans_name,
        on_progress=on_progress,
    )


def predict_folder(
    model_folder: Path,
    images: Path,
    output: Path,
    *,
    folds: Sequence[str] = (),
    checkpoint: str = "checkpoint_final.pth",
    trainer: str | None = None,
    labels: Path | None = None,
    pairs: Sequence[Pair] | None = None,
    atlas_images: dict[str, list[Path]] | None = None,
    device: str = "auto",
    options: PredictOptions = PredictOptions(),
    on_note: Callable[[str], None] = lambda text: None,
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Register the images of a folder with a trained model, by what its validation found best: network, refined network or engine.

    Parameters
    ----------
    model_folder
        ``TRAINER__PLANS__CONFIGURATION``.
    images
        Folder of ``CASE_0000.ending`` files.
    output
        Where ``FIXED__MOVING`` folders and ``prediction.json`` go.
    folds
        Folds whose fields are averaged; all trained ones if empty.
    checkpoint
        File name in each fold's folder.
    trainer
        What ``-tr`` said in training, where the network is made by code of one's own.
    labels
        Folder of label files to warp along; ``labelsTs`` beside ``imagesTs`` by default.
    pairs
        Which pairs; by the dataset's pairing if None.
    atlas_images
        Channel files of the atlas, where the dataset has one and it is not among the images.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    on_note
        Hears in a sentence what predicts, and why.

    Returns
    -------
    dict
        The content of ``prediction.json``.
    """
    model = ModelFolder.open(model_folder)
    refuse_own_folder(output, images, labels)
    writable_folder(output)
    plans = registration_plans(model.plans)
    preprocessor = Preprocessor.from_folder(plans, model.configuration_name, model.path)
    ndim = plans.configuration(model.configuration_name).ndim
    source = FolderCases(images, labels or folder_beside(images, "labels"), model.spec, preprocessor, atlas_images, ndim)
    chosen = _chosen(model.spec, source, images, pairs, options)
    predictor = model.predictor(folds=folds, checkpoint=checkpoint, device=device_named(device), trainer=trainer)
    method = Decision(options.method, "asked for by --method") if options.method else _method(model, folds, predictor, plans.optimisation)
    on_note(f"predicting by {method.value}: {method.because}")
    mapper = mapper_named(method.value, predictor, plans.optimisation)
    name = model.path.name
    return predict_pairs(mapper, source, chosen, output, dataset=plans.dataset_name, model=name, method=method, options=options, on_progress=on_progress)


def _method(model: ModelFolder, folds: Sequence[str], predictor: Predictor, settings: Optimisation) -> Decision[str]:
    """What the validation of the folds found best."""
    return method_of(model.path, list(folds) or model.folds(), settings, supervised=bool(predictor.configuration.training.supervision))


def optimise_folder(
    plans: RegistrationPlans,
    spec: DatasetSpec,
    images: Path,
    output: Path,
    *,
    labels: Path | None = None,
    pairs: Sequence[Pair] | None = None,
    atlas_images: dict[str, list[Path]] | None = None,
    options: PredictOptions = PredictOptions(),
    on_progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Register the images of a folder pair by pair with the plan's settings: nothing is trained, no checkpoint is needed.

    Parameters
    ----------
    plans, spec
        Of the dataset the images are of the kind of.
    images, output, labels, pairs, atlas_images, options, on_progress
        As in :func:`predict_folder`; what is written is the same.
    """
    refuse_own_folder(output, images, labels)
    writable_folder(output)
    ndims = {configuration.ndim for configuration in plans.configurations.values()}
    ndim = ndims.pop() if len(ndims) == 1 else None
    source = FolderCases(images, labels or folder_beside(images, "labels"), spec, None, atlas_images, ndim)
    chosen = _chosen(spec, source, images, pairs, options)
    model = f"{OPTIMISE}__{plans.plans_name}"
    mapper = EnginePredictor(plans.optimisation)
    return predict_pairs(mapper, source, chosen, output, dataset=plans.dataset_name, model=model, options=options, on_progress=on_progress)


def _chosen(spec: DatasetSpec, source: FolderCases, images: Path, pairs: Sequence[Pair] | None, options: PredictOptions) -> list[Pair]:
    """The pairs to register, with every file there."""
    chosen = list(pairs) if pairs is not None else list(pairs_among(spec, source.cases))
    if not chosen:
        raise PredictionError(
            f"{images}: its cases ({', '.join(source.cases[:8])}) form no pair under pairing {spec.pairing!r}. Name them with --pairs or --fixed and --moving."
        )
    check_pair_names(chosen)
    for pair in chosen:
        source.paths(pair.fixed), source.paths(pair.moving)
    if options.learn2reg and source.image(chosen[0].fixed).ndim != 3:
        raise PredictionError(f"--learn2reg: its field format is three-dimensional, {images} holds 2D images. Leave it out.")
    return chosen


def read_pairs(path: Path) -> list[Pair]:
    """Pairs from a JSON list of ``{"fixed": ..., "moving": ...}`` or ``[fixed, moving]``.

    Raises
    ------
    PredictionError
        If an entry is neither.
    """
    pairs = []
    content = read_json(path, PredictionError)
    for entry in content if isinstance(content, list) else [content]:
        if isinstance(entry, dict) and {"fixed", "moving"} <= entry.keys():
            pairs.append(Pair(str(entry["fixed"]), str(entry["moving"])))
        elif isinstance(entry, list) and len(entry) == 2:
            pairs.append(Pair(str(entry[0]), str(entry[1])))
        else:
            raise PredictionError(f'{path}: found {str(entry)[:60]!r}, expected a list of {{"fixed": CASE, "moving": CASE}}.')
    return pairs

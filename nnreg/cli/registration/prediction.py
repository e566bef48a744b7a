"""``nnreg_predict`` for pairs of images: its options, and the library function that they go to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.cli.common import progress_bar, workspace_of
from nnreg.cli.prediction import model_folder, own_trainer
from nnreg.planning.registration.engine_settings import METHODS, NETWORK

if TYPE_CHECKING:
    from nnreg.dataset.pairs import Pair
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.planning.plans import Plans


def add_options(group: argparse._ArgumentGroup) -> None:
    """What only pairs have."""
    group.add_argument("-l", "--labels", metavar="DIR", help="label files CASE.ending to warp along (default: labelsTs beside imagesTs)")
    group.add_argument("--pairs", metavar="FILE", help='JSON list of {"fixed": CASE, "moving": CASE} (default: by the dataset\'s pairing)')
    group.add_argument("--fixed", metavar="CASE", help="register to this case (with --moving: only that pair; alone: every other case to it)")
    group.add_argument("--moving", metavar="CASE", help="the case to be moved")
    group.add_argument("--learn2reg", action="store_true", help="also write Learn2Reg displacement files")
    group.add_argument(
        "--method",
        choices=METHODS,
        help="the network alone, the engine going on from it (refined), or the engine alone (default: what was best in the validation of the folds)",
    )
    group.add_argument("--no_refinement", dest="method", action="store_const", const=NETWORK, help="the same as --method network")


def register_images(options: argparse.Namespace, configuration: str | None) -> str:
    """Register the images of a folder; returns what was done."""
    from nnreg.inference.registration.predict import PredictOptions, optimise_folder, predict_folder
    from nnreg.planning.plans import OPTIMISE
    from nnreg.planning.registration.plans import registration_plans

    shared: dict[str, Any] = {
        "labels": Path(options.labels) if options.labels else None,
        "pairs": _pairs(options),
        "options": PredictOptions(
            method=options.method,
            learn2reg=options.learn2reg,
            pictures=not options.no_pictures,
            continue_prediction=options.continue_prediction,
        ),
    }
    images, output, show = Path(options.input), Path(options.output), progress_bar("predicting", quiet=options.quiet)
    if configuration == OPTIMISE:
        plans, spec = _planned(options)
        content = optimise_folder(registration_plans(plans), spec, images, output, atlas_images=_atlas_images(options, spec), on_progress=show, **shared)
    else:
        folder = model_folder(options, configuration)
        content = predict_folder(
            folder,
            images,
            output,
            folds=options.folds,
            checkpoint=options.checkpoint,
            trainer=own_trainer(options),
            atlas_images=_atlas_images(options, _model_spec(folder)),
            device=options.device,
            on_note=print,
            on_progress=show,
            **shared,
        )
    return f"{len(content['pairs'])} pairs by {content['model']} in {output.absolute()}"


def _planned(options: argparse.Namespace) -> tuple[Plans, DatasetSpec]:
    """Plans and dataset.json of the dataset, or of the model folder."""
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.inference.predictor import ModelFolder
    from nnreg.preprocessing import read_plans

    if options.model_folder:
        model = ModelFolder.open(Path(options.model_folder))
        return model.plans, model.spec
    workspace = workspace_of(options)
    folder = workspace.preprocessed_folder(options.dataset)
    return read_plans(folder, options.plans_identifier, folder.name), DatasetSpec.read(folder / "dataset.json")


def _model_spec(folder: Path) -> DatasetSpec:
    from nnreg.inference.predictor import ModelFolder

    return ModelFolder.open(folder).spec


def _pairs(options: argparse.Namespace) -> list[Pair] | None:
    from nnreg.dataset.pairs import Pair
    from nnreg.errors import PredictionError
    from nnreg.inference.registration.cases import case_names
    from nnreg.inference.registration.predict import read_pairs

    if options.pairs:
        return read_pairs(Path(options.pairs))
    if options.moving and not options.fixed:
        raise PredictionError("--moving needs --fixed: name the case it is registered to.")
    if options.fixed:
        moving = [options.moving] if options.moving else [case for case in case_names(Path(options.input)) if case != options.fixed]
        return [Pair(options.fixed, case) for case in moving]
    return None


def _atlas_images(options: argparse.Namespace, spec: DatasetSpec) -> dict[str, list[Path]]:
    """The atlas of the training data, so that new images can be registered to it without copying it."""
    from nnreg.dataset import RawDataset

    if spec.atlas is None or not options.dataset:
        return {}
    raw = workspace_of(options).raw_folder(options.dataset)
    return {spec.atlas: list(RawDataset.open(raw).image_paths(spec.atlas))} if raw.is_dir() else {}

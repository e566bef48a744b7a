"""``nnreg_predict``, task by task: the options of each, and the library function that they go to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.cli.common import progress_bar, workspace_of

if TYPE_CHECKING:
    from nnreg.dataset.pairs import Pair
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.planning.plans import Plans

DEFAULT_TRAINER = "nnRegTrainer"


# -- registration -----------------------------------------------------------------------------------------------------


def add_registration_options(group: argparse._ArgumentGroup) -> None:
    """What only pairs have."""
    group.add_argument("-l", "--labels", metavar="DIR", help="label files CASE.ending to warp along (default: labelsTs beside imagesTs)")
    group.add_argument("--pairs", metavar="FILE", help='JSON list of {"fixed": CASE, "moving": CASE} (default: by the dataset\'s pairing)')
    group.add_argument("--fixed", metavar="CASE", help="register to this case (with --moving: only that pair; alone: every other case to it)")
    group.add_argument("--moving", metavar="CASE", help="the case to be moved")
    group.add_argument("--learn2reg", action="store_true", help="also write Learn2Reg displacement files")
    group.add_argument("--no_refinement", action="store_true", help="the network's field as it is; the engine does not go on from it")


def register_images(options: argparse.Namespace, configuration: str | None) -> str:
    """Register the images of a folder; returns what was done."""
    from nnreg.inference.registration.predict import PredictOptions, optimise_folder, predict_folder
    from nnreg.planning.plans import OPTIMISE

    shared: dict[str, Any] = {
        "labels": Path(options.labels) if options.labels else None,
        "pairs": _pairs(options),
        "options": PredictOptions(
            refine=not options.no_refinement,
            learn2reg=options.learn2reg,
            pictures=not options.no_pictures,
            continue_prediction=options.continue_prediction,
        ),
    }
    images, output, show = Path(options.input), Path(options.output), progress_bar("predicting", quiet=options.quiet)
    if configuration == OPTIMISE:
        plans, spec = _planned(options)
        content = optimise_folder(plans, spec, images, output, atlas_images=_atlas_images(options, spec), on_progress=show, **shared)
    else:
        folder = model_folder(options, configuration)
        content = predict_folder(
            folder,
            images,
            output,
            folds=options.folds,
            checkpoint=options.checkpoint,
            trainer=_own_trainer(options),
            atlas_images=_atlas_images(options, _model_spec(folder)),
            device=options.device,
            on_progress=show,
            **shared,
        )
    return f"{len(content['pairs'])} pairs by {content['model']} in {output.absolute()}"


def _own_trainer(options: argparse.Namespace) -> str | None:
    return None if options.trainer == DEFAULT_TRAINER else str(options.trainer)


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


def model_folder(options: argparse.Namespace, configuration: str | None) -> Path:
    """The folder of the model that the options name."""
    from nnreg.errors import PredictionError
    from nnreg.planning.plans import Plans
    from nnreg.training.configs.lookup import resolve_trainer

    if options.model_folder:
        return Path(options.model_folder)
    workspace = workspace_of(options)
    dataset = workspace.dataset_name(options.dataset)
    folder = workspace.model_folder(dataset, resolve_trainer(options.trainer).name, options.plans_identifier, str(configuration))
    made_for = Plans.read(folder / "plans.json").dataset_name if (folder / "plans.json").is_file() else dataset
    if made_for != dataset:
        raise PredictionError(f"{folder / 'plans.json'}: was made for {made_for}, not for {dataset}. Train on this dataset, or name the folder with -m.")
    return folder


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


# -- dense prediction -------------------------------------------------------------------------------------------------


def add_dense_options(group: argparse._ArgumentGroup) -> None:
    """What only label maps have; named as nnU-Net names them."""
    group.add_argument("-step_size", type=float, default=0.5, metavar="SHARE", help="distance of neighbouring tiles as a share of the patch (default: 0.5)")
    group.add_argument("--disable_tta", action="store_true", help="do not average over mirrored tiles: faster, a little worse")
    group.add_argument("--save_probabilities", action="store_true", help="also write CASE.npz, for nnreg_ensemble")
    group.add_argument(
        "-prev_stage_predictions", metavar="DIR", help="in a cascade: label maps of the stage before (default: its model predicts them into OUTPUT/STAGE)"
    )
    group.add_argument("-npp", type=int, default=1, metavar="N", help="images preprocessed ahead of the network (default: 1; 0: one after the other)")
    group.add_argument("-nps", type=int, default=1, metavar="N", help="label maps written behind the network (default: 1; 0: one after the other)")
    group.add_argument("-num_parts", type=int, default=1, metavar="N", help="number of machines that share the folder")
    group.add_argument("-part_id", type=int, default=0, metavar="K", help="which of them this is, from 0")


def predict_label_maps(options: argparse.Namespace, configuration: str | None) -> str:
    """Predict a label map for every image of a folder; returns what was done."""
    from nnreg.inference.dense_prediction.predict import DenseOptions, predict_folder
    from nnreg.inference.dense_prediction.predictor import TileOptions

    output = Path(options.output)
    content = predict_folder(
        model_folder(options, configuration),
        Path(options.input),
        output,
        folds=options.folds,
        checkpoint=options.checkpoint,
        trainer=_own_trainer(options),
        previous=Path(options.prev_stage_predictions) if options.prev_stage_predictions else None,
        device=options.device,
        tiles=TileOptions(step_size=options.step_size, mirror=not options.disable_tta),
        options=DenseOptions(
            save_probabilities=options.save_probabilities,
            pictures=not options.no_pictures,
            continue_prediction=options.continue_prediction,
            readers=options.npp,
            writers=options.nps,
            part=options.part_id,
            parts=options.num_parts,
        ),
        on_progress=progress_bar("predicting", quiet=options.quiet),
    )
    return f"{len(content['cases'])} label maps by {content['model']} in {output.absolute()}"

"""``nnreg_predict``: register new images with a trained model, or pair by pair without one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.cli.common import Parser, progress_bar, run, workspace_of

if TYPE_CHECKING:
    from nnreg.dataset.pairs import Pair
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.planning.plans import Plans


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_predict", "Register new images: transforms for ITK, fields, warped images and labels on the native grids.")
    result.add_argument("-i", "--input", required=True, metavar="DIR", help="folder of images CASE_0000.ending")
    result.add_argument("-o", "--output", required=True, metavar="DIR", help="where FIXED__MOVING folders and prediction.json go")
    result.add_argument("-d", "--dataset", metavar="ID", help="dataset the model was trained on")
    result.add_argument(
        "-c",
        "--configuration",
        metavar="NAME",
        help="2d, 3d_lowres, 3d_fullres, or optimise: no network, each pair by itself (default: what the plans recommend)",
    )
    result.add_argument("-tr", "--trainer", default="nnRegTrainer", metavar="NAME", help="as in nnreg_train")
    result.add_argument("-p", "--plans_identifier", default="nnRegPlans", metavar="NAME", help="as in nnreg_train")
    result.add_argument("-m", "--model_folder", metavar="DIR", help="a folder TRAINER__PLANS__CONFIGURATION, instead of -d, -c, -tr and -p")
    result.add_argument("-f", "--folds", nargs="+", default=[], metavar="K", help="folds whose fields are averaged (default: all trained ones)")
    result.add_argument("-chk", "--checkpoint", default="checkpoint_final.pth", metavar="FILE", help="checkpoint of each fold")
    result.add_argument("-l", "--labels", metavar="DIR", help="label files CASE.ending to warp along (default: labelsTs beside imagesTs)")
    result.add_argument("--pairs", metavar="FILE", help='JSON list of {"fixed": CASE, "moving": CASE} (default: by the dataset\'s pairing)')
    result.add_argument("--fixed", metavar="CASE", help="register to this case (with --moving: only that pair; alone: every other case to it)")
    result.add_argument("--moving", metavar="CASE", help="the case to be moved")
    result.add_argument("--learn2reg", action="store_true", help="also write Learn2Reg displacement files")
    result.add_argument("--no_refinement", action="store_true", help="the network's field as it is; the engine does not go on from it")
    result.add_argument("--no_pictures", action="store_true", help="write no overview.png")
    result.add_argument("--continue_prediction", action="store_true", help="keep pairs that are finished")
    result.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    result.add_quiet("--disable_progress_bar")
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from nnreg.inference.predict import PredictOptions, optimise_folder, predict_folder
    from nnreg.planning.plans import OPTIMISE

    configuration = _configuration(options)
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
        folder = _model_folder(options, configuration)
        content = predict_folder(
            folder,
            images,
            output,
            folds=options.folds,
            checkpoint=options.checkpoint,
            trainer=None if options.trainer == "nnRegTrainer" else options.trainer,
            atlas_images=_atlas_images(options, _model_spec(folder)),
            device=options.device,
            on_progress=show,
            **shared,
        )
    print(f"{len(content['pairs'])} pairs by {content['model']} in {output.absolute()}")


def _configuration(options: argparse.Namespace) -> str | None:
    """What ``-c`` says, or the plans recommend; None where a model folder says it."""
    from nnreg.errors import PredictionError

    if not options.dataset and not options.model_folder:
        raise PredictionError("-d or -m is needed: name the dataset the model was trained on, or the model folder.")
    if options.configuration or options.model_folder:
        return None if options.configuration is None else str(options.configuration)
    return _planned(options)[0].recommended


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


def _model_folder(options: argparse.Namespace, configuration: str | None) -> Path:
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
    from nnreg.inference.cases import case_names
    from nnreg.inference.predict import read_pairs

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


if __name__ == "__main__":
    sys.exit(main())

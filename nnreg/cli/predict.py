"""``nnreg_predict``: register new images with a trained model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.cli.common import Parser, progress_bar, run, workspace_of

if TYPE_CHECKING:
    from nnreg.dataset.pairs import Pair


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_predict", "Register new images: transforms for ITK, fields, warped images and labels on the native grids.")
    result.add_argument("-i", "--input", required=True, metavar="DIR", help="folder of images CASE_0000.ending")
    result.add_argument("-o", "--output", required=True, metavar="DIR", help="where FIXED__MOVING folders and prediction.json go")
    result.add_argument("-d", "--dataset", metavar="ID", help="dataset the model was trained on")
    result.add_argument("-c", "--configuration", metavar="NAME", help="2d, 3d_lowres, 3d_fullres (default: the recommended one of the plans)")
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
    from nnreg.inference.predict import PredictOptions, predict_folder

    folder = _model_folder(options)
    content = predict_folder(
        folder,
        Path(options.input),
        Path(options.output),
        folds=options.folds,
        checkpoint=options.checkpoint,
        trainer=None if options.trainer == "nnRegTrainer" else options.trainer,
        labels=Path(options.labels) if options.labels else None,
        pairs=_pairs(options),
        atlas_images=_atlas_images(options, folder),
        device=options.device,
        options=PredictOptions(learn2reg=options.learn2reg, pictures=not options.no_pictures, continue_prediction=options.continue_prediction),
        on_progress=progress_bar("predicting", quiet=options.quiet),
    )
    print(f"{len(content['pairs'])} pairs in {Path(options.output).absolute()}")


def _model_folder(options: argparse.Namespace) -> Path:
    from nnreg.errors import PredictionError
    from nnreg.planning.plans import Plans
    from nnreg.training.configs.lookup import resolve_trainer

    if options.model_folder:
        return Path(options.model_folder)
    if not options.dataset:
        raise PredictionError("-d or -m is needed: name the dataset the model was trained on, or the model folder.")
    workspace = workspace_of(options)
    dataset = workspace.dataset_name(options.dataset)
    configuration = options.configuration or Plans.read(workspace.preprocessed_folder(options.dataset) / f"{options.plans_identifier}.json").recommended
    folder = workspace.model_folder(dataset, resolve_trainer(options.trainer).name, options.plans_identifier, configuration)
    made_for = Plans.read(folder / "plans.json").dataset_name if (folder / "plans.json").is_file() else dataset
    if made_for != dataset:
        raise PredictionError(f"{folder / 'plans.json'}: was made for {made_for}, not for {dataset}. Train on this dataset, or name the folder with -m.")
    return folder


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


def _atlas_images(options: argparse.Namespace, model_folder: Path) -> dict[str, list[Path]]:
    """The atlas of the training data, so that new images can be registered to it without copying it."""
    from nnreg.dataset import RawDataset
    from nnreg.inference.predictor import ModelFolder

    atlas = ModelFolder.open(model_folder).spec.atlas
    if atlas is None or not options.dataset:
        return {}
    raw = workspace_of(options).raw_folder(options.dataset)
    return {atlas: list(RawDataset.open(raw).image_paths(atlas))} if raw.is_dir() else {}


if __name__ == "__main__":
    sys.exit(main())

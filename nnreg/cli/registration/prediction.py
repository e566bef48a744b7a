"""``nnreg_predict`` for pairs of images: its options, and the library function that they go to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.cli.common import add_processes, workspace_of
from nnreg.cli.dry_run import Files
from nnreg.cli.prediction import dataset_plans, trained_model
from nnreg.planning.registration.engine_settings import METHODS, NETWORK
from nnreg.progress import progress_bar

if TYPE_CHECKING:
    from nnreg.dataset.pairs import Pair
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.groups.training_guides import TrainingGuides
    from nnreg.inference.registration.cases import NewImages
    from nnreg.inference.registration.models import PairModel, PlannedEngine, TrainedPairs


NATIVE = "native"
LAYOUTS = (NATIVE, "bids")
NO_GUIDES = "none"  # a folder of that name: ./none
LAYOUT_HELP = "native (default), or bids: derivatives sub-01/anat/sub-01_from-T1w_to-..._mode-image_xfm.h5 with sidecars, without report"


def add_options(group: argparse._ArgumentGroup) -> None:
    """What only pairs have."""
    group.add_argument("-l", "--labels", metavar="DIR", help="label files CASE.ending to warp along (default: labelsTs beside imagesTs)")
    group.add_argument(
        "--guides",
        metavar="DIR",
        help="label files CASE.ending that guide the engine and measure nothing, or none (default: fused from training cases, where the plans say so)",
    )
    group.add_argument("--pairs", metavar="FILE", help='JSON list of {"fixed": CASE, "moving": CASE} (default: by the dataset\'s pairing)')
    group.add_argument("--fixed", metavar="CASE", help="register to this case (with --moving: only that pair; alone: every other case to it)")
    group.add_argument("--moving", metavar="CASE", help="the case to be moved")
    group.add_argument("--inverse", action="store_true", help="also write inverse_transform.h5, from the moving to the fixed world")
    group.add_argument("--field", action="store_true", help="also write field.nii.gz (2D: field.mha): the whole map as displacement in mm on the fixed grid")
    group.add_argument("--no_field", dest="field", action="store_false", default=False, help="the default: transform.h5 holds the same map")
    group.add_argument("--output_layout", choices=LAYOUTS, default=NATIVE, help=LAYOUT_HELP)
    group.add_argument("--learn2reg", action="store_true", help="also write Learn2Reg displacement files")
    group.add_argument(
        "--method",
        choices=METHODS,
        help="the network alone, the engine going on from it (refined), or the engine alone (default: what was best in the validation of the folds)",
    )
    add_processes(group, "pairs", "1, with all threads; more take one thread and their own memory each")
    group.add_argument("--no_refinement", dest="method", action="store_const", const=NETWORK, help="the same as --method network")


def files(options: argparse.Namespace, configuration: str | None) -> Files:
    """What would be read and written."""
    from nnreg.inference.registration.predict import GUIDES, PREDICTION_FILE, chosen_pairs

    model, output = _model(options, configuration), Path(options.output)
    images = _images(options, model)
    source = model.source(images)
    pairs = chosen_pairs(model.spec, source, images)
    cases = sorted({case for pair in pairs for case in (pair.fixed, pair.moving)})
    reads = [path for case in cases for path in source.paths(case)]
    notes = [f"where the engine registers, labels of {model.settings.guides} training cases guide it"] if _fuses(options, model) else []
    if options.output_layout != NATIVE:
        return Files.of([*reads, images.labels, images.guides], [output], f"{len(pairs)} pairs, with names by BIDS", *notes)
    writes = [*(output / pair.name for pair in pairs), output / PREDICTION_FILE, *([output / GUIDES] if notes else [])]
    return Files.of([*reads, images.labels, images.guides], writes, *notes)


def _fuses(options: argparse.Namespace, model: PairModel) -> bool:
    """Whether labels of training cases may have to be fused."""
    return model.settings.guides > 0 and options.guides is None and options.method != NETWORK


def _images(options: argparse.Namespace, model: PairModel) -> NewImages:
    from nnreg.inference.registration.cases import NewImages

    labels, guides = (Path(folder) if folder else None for folder in (options.labels, None if options.guides == NO_GUIDES else options.guides))
    return NewImages(Path(options.input), labels, _pairs(options), _atlas_images(options, model.spec), guides)


def register_images(options: argparse.Namespace, configuration: str | None) -> str:
    """Register the images of a folder; returns what was done."""
    from nnreg.inference.registration.output_layout import predict_as_bids
    from nnreg.inference.registration.predict import PredictOptions
    from nnreg.inference.registration.predict import register_images as register_natively

    register = register_natively if options.output_layout == NATIVE else predict_as_bids
    model, output = _model(options, configuration), Path(options.output)
    images = _images(options, model)
    wanted = PredictOptions(
        method=options.method,
        learn2reg=options.learn2reg,
        field=options.field,
        inverse=options.inverse,
        pictures=not options.no_pictures,
        continue_prediction=options.continue_prediction,
        processes=options.processes or 1,
        guided=options.guides != NO_GUIDES,
    )
    bar = progress_bar("predicting", quiet=options.quiet)
    content = register(model, images, output, options=wanted, make_guides=_training_guides(options, model), on_note=print, on_progress=bar)
    return f"{len(content['pairs'])} pairs by {content['model']} in {output.absolute()}"


def _training_guides(options: argparse.Namespace, model: TrainedPairs | PlannedEngine) -> TrainingGuides:
    """Labels of the dataset's training cases, for plans in which they guide."""
    from nnreg.groups.training_guides import guides_of

    return guides_of(model, workspace_of(options).raw / model.dataset_name)


def _model(options: argparse.Namespace, configuration: str | None) -> TrainedPairs | PlannedEngine:
    """Networks, or the engine with the plans of the model folder or of the dataset."""
    from nnreg.inference.registration.models import PlannedEngine, TrainedPairs
    from nnreg.planning.plans import OPTIMISE
    from nnreg.planning.registration.plans import registration_plans

    if configuration != OPTIMISE:
        return TrainedPairs(trained_model(options, configuration))
    if options.model_folder:
        folder = trained_model(options, configuration).folder
        return PlannedEngine(registration_plans(folder.plans), folder.spec, options.device)
    plans, spec = dataset_plans(options)
    return PlannedEngine(registration_plans(plans), spec, options.device)


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
    from nnreg.groups.training_guides import atlas_images_of

    if spec.atlas is None or not options.dataset:
        return {}
    raw = workspace_of(options).raw_folder(options.dataset)
    return atlas_images_of(RawDataset.open(raw)) if raw.is_dir() else {}

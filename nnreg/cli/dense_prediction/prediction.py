"""``nnreg_predict`` for label maps: its options, and the library function that they go to."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnreg.cli.dry_run import Files
from nnreg.cli.prediction import trained_model
from nnreg.progress import progress_bar


def add_options(group: argparse._ArgumentGroup) -> None:
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


def files(options: argparse.Namespace, configuration: str | None) -> Files:
    """What would be read and written."""
    from nnreg.inference.registration.cases import cases_in

    model = trained_model(options, configuration).folder
    output, found = Path(options.output), cases_in(Path(options.input), len(model.spec.channel_names))
    reads = [path for case in found.values() for path in case]
    writes = [output / f"{case}{model.spec.file_ending}" for case in found] if len(model.spec.targets) < 2 else [output]
    return Files.of([model.path, *reads, options.prev_stage_predictions], [*writes, output / "prediction.json"])


def predict_label_maps(options: argparse.Namespace, configuration: str | None) -> str:
    """Predict a label map for every image of a folder; returns what was done."""
    from nnreg.inference.dense_prediction.predict import DenseOptions, predict_folder
    from nnreg.inference.dense_prediction.predictor import TileOptions

    output = Path(options.output)
    content = predict_folder(
        trained_model(options, configuration),
        Path(options.input),
        output,
        previous=Path(options.prev_stage_predictions) if options.prev_stage_predictions else None,
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

"""Options of other programs' commands that ``nnreg_import`` and ``nnreg_train`` both take."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnreg.training.importers import ImportedRun

LABELLED = ("format", "batch_size", "patch_size", "loss", "train_split", "loss_on_label_only")


def add_labelled(parser: argparse.ArgumentParser) -> None:
    """Options of labelled images with several targets."""
    group = parser.add_argument_group("labelled images, with several targets")
    group.add_argument("-i", "--input", metavar="DIR", help="folder with images/, labels/ and perhaps masks/")
    group.add_argument("-o", "--output", metavar="DIR", help="folder for the model folder, named after the model (default: nnReg_results/DATASET)")
    group.add_argument("--config-path", metavar="FILE", help="its YAML file")
    group.add_argument("--format", help="zarr, tif or napari; told by the files' endings")
    group.add_argument("--batch-size", "--batch_size", type=int, metavar="N", help="samples in a step")
    group.add_argument("--patch-size", metavar="Z,Y,X", help="size of a patch, Y,X for training on slices (default: planned from the data)")
    group.add_argument("--loss", metavar="NAME,NAME", help="losses of every target")
    group.add_argument("--train-split", type=float, metavar="SHARE", help="share of the images to train on: 0.9")
    group.add_argument("--loss-on-label-only", action="store_true", default=None, help="score labelled voxels alone")


def with_output(run: ImportedRun, options: argparse.Namespace) -> ImportedRun:
    """The run, its output as ``-o`` says where it was given."""
    return run if options.output is None else dataclasses.replace(run, output=Path(options.output))


def labelled_flags(options: argparse.Namespace) -> dict[str, Any]:
    """What was given of them, as the importers take it."""
    return {name: getattr(options, name) for name in LABELLED if getattr(options, name) is not None}


def read_source(source: str, given: dict[str, Any], folder: str | None) -> ImportedRun:
    """The run of a file or folder, with the options that were given; `folder` is where its images are, if that was said.

    Raises
    ------
    ConfigurationError
        If an option belongs to another form.
    """
    from nnreg.errors import ConfigurationError
    from nnreg.training.importers import read_run

    data = {"data_path": folder} if folder is not None and folder != source else {}
    try:
        return read_run(Path(source), **given, **data)
    except TypeError as error:
        raise ConfigurationError(f"{source}: an option does not go with this form of import ({error}).") from error


__all__ = ["LABELLED", "add_labelled", "labelled_flags", "read_source", "with_output"]

"""``nnreg_import``: a run description of another program becomes a dataset, plans and a recipe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from nnreg.cli.common import Parser, run, workspace_of
from nnreg.cli.import_options import add_labelled, labelled_flags, read_source, with_output

ATLAS = (
    "atlas_name",
    "atlas_seg_name",
    "train_moving_subdir",
    "fixed_seg_subdir",
    "valid_moving_subdir",
    "valid_moving_seg_subdir",
    "img_pattern",
    "img_npz_key",
    "label_npz_key",
    "load_model",
    "log_dir",
    "model_dir",
    "device",
)
NUMBERS: dict[str, type] = {
    "epochs": int,
    "steps_per_epoch": int,
    "lr": float,
    "ncc_weight": float,
    "grad_weight": float,
    "validation_freq": int,
    "num_workers": int,
}


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_import",
        "Turn the YAML, JSON workflow or data folder of another program into a dataset, plans and a recipe, ready for nnreg_train;\n"
        "a model that nnU-Net v2 trained into one for nnreg_predict.",
    )
    result.add_argument(
        "source", nargs="?", help="FILE.yaml, FILE.json, a folder with fixed/ and moving/ or images/ and labels/, a model folder or checkpoint of nnU-Net"
    )
    result.add_argument("--template", metavar="NAME", help="print a file to copy, every key explained: synthetic or targets (--template synthetic > my.yaml)")
    result.add_argument("-d", "--dataset", type=int, metavar="ID", help="number of the new dataset (default: the first that is free)")
    result.add_processes("cases")
    add_labelled(result)
    atlas = result.add_argument_group("images onto an atlas")
    atlas.add_argument("--data_base_dir", metavar="DIR", help="folder with fixed/ and moving/")
    for name in ATLAS:
        atlas.add_argument(f"--{name}", metavar="NAME")
    for name, kind in NUMBERS.items():
        atlas.add_argument(f"--{name}", type=kind, metavar="N")
    atlas.add_argument("--run_validation", action=argparse.BooleanOptionalAction, default=None, help="whether validation images are used")
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from pathlib import Path

    from nnreg.errors import ConfigurationError
    from nnreg.training.importers import import_run
    from nnreg.training.importers.dense_prediction.nnunet_model import import_nnunet_model, is_nnunet_model
    from nnreg.training.importers.templates import template

    if options.template is not None:
        print(template(options.template), end="")
        return
    source = options.config_path or options.source or options.data_base_dir or options.input
    if source is None:
        raise ConfigurationError("nothing to import: name a FILE or a folder (nnreg_import -h).")
    if is_nnunet_model(Path(source)):
        folder = import_nnunet_model(Path(source), workspace_of(options), number=options.dataset)
        print(f"model: {folder}\nnnreg_predict -m {folder} -i INPUT_FOLDER -o OUTPUT_FOLDER")
        return
    flags: dict[str, Any] = {name: getattr(options, name) for name in (*ATLAS, *NUMBERS, "run_validation")}
    flags = {name: value for name, value in flags.items() if value is not None} | labelled_flags(options)
    imported = with_output(read_source(source, flags, options.input), options)
    for note in imported.notes:
        print(note)
    prepared = import_run(imported, Path(source), workspace_of(options), number=options.dataset, processes=options.processes, say=print)
    print(prepared.command(imported))


if __name__ == "__main__":
    sys.exit(main())

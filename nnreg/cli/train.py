"""``nnreg_train``: train one or several folds of a configuration."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnreg.cli.common import EXIT_ERROR, Parser, positive, run, workspace_of
from nnreg.cli.dry_run import Files
from nnreg.cli.import_options import add_labelled, labelled_flags, read_source, with_output
from nnreg.run_log import tell


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_train", "Train a planned and preprocessed dataset: nnreg_train 001 3d_fullres 0", _files)
    result.add_argument("dataset", nargs="?", help="dataset id or folder name: 1, 001 or Dataset001_Name")
    result.add_argument("configuration", nargs="?", help="a configuration of the plans: 2d, 3d_lowres, 3d_fullres")
    result.add_argument("fold", nargs="?", help="0 to 4, a range such as 0-4, or all (train on every case)")
    result.add_argument(
        "--from_config", metavar="FILE", help="a file (or folder) of another program: its recipe, and without a dataset named here its data too"
    )
    result.add_argument("-tr", "--trainer", default="nnRegTrainer", metavar="NAME", help="trainer config, trainer class, package.module:Class or FILE.yaml")
    result.add_argument("-p", "--plans_identifier", default="nnRegPlans", metavar="NAME", help="name of the plans file (default: nnRegPlans)")
    result.add_argument("-c", "--c", "--continue_training", dest="continue_training", action="store_true", help="go on from checkpoint_latest.pth")
    result.add_argument("--val", action="store_true", help="do not train, only validate")
    result.add_argument("--val_best", action="store_true", help="validate checkpoint_best.pth, not the final one: after the training, or with --val")
    result.add_argument("--npz", action="store_true", help="dense prediction: keep the probabilities of the validation cases, for ensembles")
    result.add_argument(
        "-pretrained_weights", "--load_model", dest="pretrained_weights", metavar="FILE", help="checkpoint or plain state dict whose weights are the start"
    )
    result.add_argument("--epochs", type=int, metavar="N", help="train N epochs instead of the planned number")
    result.add_argument("--iterations_per_epoch", "--steps_per_epoch", type=int, metavar="N", help="optimisation steps per epoch")
    result.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the plan's training; may be repeated")
    result.add_argument("-device", "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: a GPU if there is one)")
    result.add_argument(
        "-num_gpus",
        type=positive,
        default=1,
        metavar="N",
        help="processes that share every batch: a GPU each, or with -device cpu processes on processors (several hosts: torchrun)",
    )
    result.add_argument("--num_workers", type=int, metavar="N", help="processes that load data (default: 0 on a CPU)")
    result.add_no_report()
    result.add_quiet()
    result.add_workspace()
    add_labelled(result)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_under_torchrun if "LOCAL_RANK" in os.environ else _work, parser(), arguments)


def _under_torchrun(options: argparse.Namespace) -> int:
    """The work of one of the processes that torchrun starts. What stops all of a host alike is told by the first of them."""
    from nnreg.errors import ConfigurationError, NnRegError
    from nnreg.training.distributed import Ranks, is_joined

    try:
        if Ranks.of_environment().size > 1:
            for given, what in ((options.num_gpus > 1, "-num_gpus"), (options.from_config is not None, "--from_config")):
                if given:
                    raise ConfigurationError(f"{what} is for a command without torchrun. Leave one of them out.")
            if options.fold is not None and not (options.fold.isdigit() or options.fold == "all"):
                raise ConfigurationError(f"fold {options.fold}: torchrun trains one fold. Start it once for each.")
        _work(options)
    except NnRegError:
        if is_joined() or not int(os.environ["LOCAL_RANK"]):
            raise
        return EXIT_ERROR
    return 0


def _work(options: argparse.Namespace) -> None:
    from nnreg.errors import ConfigurationError
    from nnreg.training.configs.overrides import parse_assignments
    from nnreg.training.execution.run import parse_folds

    overrides = parse_assignments(options.set)
    for key, value in (("epochs", options.epochs), ("iterations_per_epoch", options.iterations_per_epoch)):
        if value is not None and value < 1:
            raise ConfigurationError(f"--{key} {value}: expected 1 or more.")
        if value is not None:
            overrides[key] = value
    _import(options)
    _require_names(options)
    for fold in parse_folds(options.fold):
        if options.num_gpus == 1:
            _train_fold(options, fold, overrides)
        else:
            _train_by_several(options, fold, overrides)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written; of an import only what it is made of, because it writes before it trains."""
    from nnreg.training.execution.run import parse_folds
    from nnreg.training.run_folders import prepared

    source = options.from_config or options.config_path or options.input
    if source is not None:
        return Files.of([source, options.pretrained_weights], [], "the import decides what is trained, and writes dataset, plans and recipe first")
    _require_names(options)
    reads: list[Path | str | None] = [options.pretrained_weights]
    writes: list[Path] = []
    for fold in parse_folds(options.fold):
        plans, _, folders = prepared(workspace_of(options), options.dataset, options.configuration, fold, options.plans_identifier, options.trainer)
        arrays = folders.preprocessed / plans.configuration(options.configuration).data_identifier
        reads += [folders.preprocessed / f"{options.plans_identifier}.json", folders.preprocessed / "splits_final.json", arrays, folders.raw]
        writes.append(folders.fold(fold))
    return Files.of(reads, writes)


def _require_names(options: argparse.Namespace) -> None:
    from nnreg.errors import ConfigurationError

    if options.dataset is None or options.configuration is None or options.fold is None:
        raise ConfigurationError("which dataset, configuration and fold? nnreg_train 001 3d_fullres 0, or nnreg_train --from_config FILE.")


def _train_fold(options: argparse.Namespace, fold: int | str, overrides: dict[str, Any]) -> None:
    """Train a fold in this process, which may be one of several."""
    from nnreg.cli.step_bar import StepBar
    from nnreg.training.distributed import Ranks
    from nnreg.training.execution.run import train
    from nnreg.training.trainer.parts import Listeners

    bar = StepBar(quiet=options.quiet)
    summary = train(
        **_what(options, fold, overrides),
        continue_training=options.continue_training,
        validate_only=options.val,
        validate_best=options.val_best,
        pretrained_weights=options.pretrained_weights,
        save_probabilities=options.npz,
        listeners=Listeners(line=bar.write, step=bar.step, finished=lambda folder: _report(options, folder, bar.write)),
        ranks=Ranks.of_environment(),
    )
    tell("figures", fold=fold, **summary.get("mean", {}))
    bar.close()


def _report(options: argparse.Namespace, fold: Path, say: Callable[[str], None]) -> None:
    """The page of a fold that is trained and validated."""
    from nnreg.report import report_after

    if not options.no_report:
        report_after(fold, say, workspace=workspace_of(options))


def _train_by_several(options: argparse.Namespace, fold: int | str, overrides: dict[str, Any]) -> None:
    """Train a fold in ``-num_gpus`` processes of this machine. What they would all refuse is refused here, once."""
    from nnreg.training.distributed import check_devices
    from nnreg.training.execution.launch import launch
    from nnreg.training.execution.run import build_trainer
    from nnreg.training.execution.shared import check_shareable

    check_devices(options.device, options.num_gpus)
    check_shareable(build_trainer(**_what(options, fold, overrides)), options.num_gpus)
    launch(_train_fold, options.num_gpus, options, fold, overrides)


def _what(options: argparse.Namespace, fold: int | str, overrides: dict[str, Any]) -> dict[str, Any]:
    """What a trainer is built from."""
    return {
        "workspace": workspace_of(options),
        "dataset": options.dataset,
        "configuration": options.configuration,
        "fold": fold,
        "trainer": options.trainer,
        "plans": options.plans_identifier,
        "overrides": overrides,
        "device": options.device,
        "workers": options.num_workers,
        "output": None if options.output is None else Path(options.output),
    }


def _import(options: argparse.Namespace) -> None:
    """Fill in dataset, configuration, fold and recipe from another program's file or folder, if one was named."""
    from nnreg.errors import ConfigurationError
    from nnreg.training.importers import import_run
    from nnreg.training.importers.run import write_recipe

    flags, named = labelled_flags(options), options.from_config or options.config_path or options.input
    if named is None:
        if flags:
            raise ConfigurationError(f"--{next(iter(flags)).replace('_', '-')}: belongs to an import. Name the images (-i DIR) or a file (--config-path).")
        return
    if options.dataset is not None and options.input is not None:
        raise ConfigurationError(f"-i {options.input}: names images to import, but dataset {options.dataset} is to be trained. Leave one of them out.")
    source = Path(named)
    imported = with_output(read_source(named, flags, options.input), options)
    for note in imported.notes:
        print(note)
    if options.dataset is None:
        prepared = import_run(imported, source, workspace_of(options), say=print)
        options.dataset, options.configuration, options.fold, recipe = prepared.dataset, prepared.configuration, "0", prepared.recipe
    else:
        workspace = workspace_of(options)
        if imported.dataset is not None:
            print(f"{source}: the network's options and the training are taken from it; images, targets and patch are those of dataset {options.dataset}")
        recipe = write_recipe(imported.recipe, workspace.preprocessed / workspace.dataset_name(options.dataset) / f"{source.stem}.yaml")
    options.pretrained_weights = imported.weights if options.pretrained_weights is None else options.pretrained_weights
    options.num_workers = imported.workers if options.num_workers is None else options.num_workers
    if options.device == "auto" and imported.device == "cpu":  # "cuda" means a GPU if there is one, as auto does
        options.device = "cpu"
    options.output = imported.output
    options.trainer = str(recipe) if options.trainer == "nnRegTrainer" else f"{recipe}+{options.trainer}"


if __name__ == "__main__":
    sys.exit(main())

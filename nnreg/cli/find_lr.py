"""``nnreg_find_lr``: a learning rate range test."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nnreg.cli.common import Parser, folder, run, workspace_of
from nnreg.progress import progress_bar


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_find_lr", "Suggest a learning rate: train a few steps while it rises, and see where the loss falls fastest.")
    result.add_argument("dataset", help="dataset id or folder name: 1, 001 or Dataset001_Name")
    result.add_argument("configuration", help="a configuration of the plans: 2d, 3d_lowres, 3d_fullres")
    result.add_argument("fold", nargs="?", default="0", help="0 to 4, or all (default: 0)")
    result.add_argument("-tr", "--trainer", default="nnRegTrainer", metavar="NAME", help="as in nnreg_train")
    result.add_argument("-p", "--plans_identifier", default="nnRegPlans", metavar="NAME", help="name of the plans file (default: nnRegPlans)")
    result.add_argument("--lowest", type=float, default=1e-7, metavar="RATE", help="where to begin (default: 1e-7)")
    result.add_argument("--highest", type=float, default=1.0, metavar="RATE", help="where to end (default: 1)")
    result.add_argument("--steps", type=int, default=100, metavar="N", help="optimisation steps (default: 100)")
    result.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the plan's training; may be repeated")
    result.add_argument("-o", "--output", type=folder, metavar="DIR", help="where find_lr.png and find_lr.json go (default: the fold's results folder)")
    result.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: a GPU if there is one)")
    result.add_quiet()
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from pathlib import Path

    from nnreg.files import writable_folder
    from nnreg.training.configs.overrides import parse_assignments
    from nnreg.training.execution.find_lr import find_learning_rate
    from nnreg.training.execution.run import build_trainer
    from nnreg.training.trainer.parts import Listeners

    trainer = build_trainer(
        workspace_of(options),
        options.dataset,
        options.configuration,
        options.fold,
        trainer=options.trainer,
        plans=options.plans_identifier,
        overrides=parse_assignments(options.set),
        device=options.device,
        listeners=Listeners(step=progress_bar("range test", quiet=options.quiet)),
    )
    folder = writable_folder(Path(options.output) if options.output else trainer.output_folder)
    found = find_learning_rate(trainer, lowest=options.lowest, highest=options.highest, steps=options.steps)
    print(f"learning_rate {found.suggestion:.1e}: nnreg_train {options.dataset} {options.configuration} {options.fold} --set lr={found.suggestion:.1e}")
    print(f"curve: {found.write(folder)}")


if __name__ == "__main__":
    sys.exit(main())

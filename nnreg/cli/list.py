"""``nnreg_list``: what can be named: networks, losses, recipes, trainers, optimisers, schedules."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnreg.cli.common import Parser, run

KINDS = ("networks", "losses", "configs", "trainers", "optimizers", "schedules")


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_list", "List what -tr, --set and plans may name, a line each. Recipes join with +: -tr unetreg+adamw+50epochs")
    result.add_argument("kinds", nargs="*", metavar="KIND", help=f"any of {', '.join(KINDS)} (default: all)")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from nnreg.errors import ConfigurationError, did_you_mean

    for kind in options.kinds:
        if kind not in KINDS:
            raise ConfigurationError(f"{kind!r} cannot be listed; {did_you_mean(kind, KINDS)}")
    for number, kind in enumerate(options.kinds or KINDS):
        entries = _LISTS[kind]()
        width = max((len(name) for name in entries), default=0)
        print(f"{'' if number == 0 else chr(10)}{kind}:")
        for name, line in sorted(entries.items()):
            print(f"  {name:{width}}  {line}".rstrip())


def _configs() -> dict[str, str]:
    from nnreg.training.configs import TRAINER_CONFIGS

    return {name: config.description for name, config in TRAINER_CONFIGS.items()} | {"Nepochs": "N epochs, for any number N: 50epochs"}


def _trainers() -> dict[str, str]:
    from nnreg.training.configs.lookup import trainer_classes

    return _described(trainer_classes())


def _networks() -> dict[str, str]:
    from nnreg.architecture import NETWORKS

    return _described(NETWORKS)


def _losses() -> dict[str, str]:
    from nnreg.losses import LOSSES

    return _described(LOSSES)


def _optimizers() -> dict[str, str]:
    from nnreg.training.trainer.optimizers import OPTIMIZERS

    return {name: f"torch.optim.{kind.__name__}" for name, kind in OPTIMIZERS.items()}


def _schedules() -> dict[str, str]:
    from nnreg.training.lr_scheduler import LR_SCHEDULES

    return _described(LR_SCHEDULES)


_LISTS: dict[str, Callable[[], dict[str, str]]] = {
    "networks": _networks,
    "losses": _losses,
    "configs": _configs,
    "trainers": _trainers,
    "optimizers": _optimizers,
    "schedules": _schedules,
}


def _described(entries: Mapping[str, Any]) -> dict[str, str]:
    """The first line of each one's documentation."""
    return {name: (entry.__doc__ or "").strip().partition("\n")[0] for name, entry in entries.items()}


if __name__ == "__main__":
    sys.exit(main())

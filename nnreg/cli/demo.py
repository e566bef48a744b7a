"""``nnreg_demo``: the whole pipeline on synthetic pairs with exact truth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, folder, run


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_demo", "Register one synthetic pair without training, then plan, train, predict and evaluate a small dataset; under three minutes of one core."
    )
    result.add_argument("-o", "--output", type=folder, default="nnreg_demo", metavar="DIR", help="folder for everything the demo makes (default: nnreg_demo)")
    result.add_argument("--shape", type=int, nargs="+", metavar="N", help="size of the images, 2 or 3 numbers (default: 24 24 24)")
    result.add_argument("--pairs", type=int, metavar="N", help="training pairs")
    result.add_argument("--test_pairs", type=int, metavar="N", help="held-out pairs")
    result.add_argument("--epochs", type=int, metavar="N", help="epochs of the training")
    result.add_argument("--iterations_per_epoch", type=int, metavar="N", help="steps per epoch")
    result.add_argument("--seed", type=int, default=0, help="of the synthetic images")
    result.add_argument("-device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> None:
    from nnreg.tasks.registration.demo import SUMMARY, DemoSize, run_demo

    named = {key: getattr(options, key) for key in ("pairs", "test_pairs", "epochs", "iterations_per_epoch") if getattr(options, key) is not None}
    if options.shape:
        named["shape"] = tuple(options.shape)
    output = Path(options.output).absolute()
    content = run_demo(output, DemoSize(**named, seed=options.seed), device=options.device, say=lambda line: print(line, flush=True))
    print(
        f"Error on {content['held_out_pairs']} held-out pairs: {content['body_epe_header']:.3f} -> {content['body_epe_after']:.3f} voxels "
        f"in the bodies, {content['epe_header']:.3f} -> {content['epe_after']:.3f} everywhere, "
        f"folding {content['folding_percent']:.4f} %, {content['seconds']:.0f} s"
    )
    print(f"summary: {output / SUMMARY}")
    for picture in content["pictures"]:
        print(f"picture: {picture}")


if __name__ == "__main__":
    sys.exit(main())

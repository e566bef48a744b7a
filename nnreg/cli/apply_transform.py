"""``nnreg_apply_transform``: apply a transform to an image, labels, points or another transform."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, run
from nnreg.cli.dry_run import Files

HOW = {"image": ", interpolated linearly,", "labels": ", by nearest neighbour,"}


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_apply_transform", "Apply transforms to an image, to labels, to points or to another transform; images are sampled once.", _files)
    result.add_argument("input", metavar="INPUT", help="image, label map, points (.csv: rows x,y,z, no header) or transform")
    result.add_argument(
        "-t", "--transforms", nargs="+", required=True, metavar="T", help="in the order of antsApplyTransforms; [FILE,1] is the inverse of FILE"
    )
    result.add_argument("-o", "--output", required=True, metavar="FILE", help="where the result goes; its ending chooses the format")
    result.add_argument("-r", "--reference", metavar="IMAGE", help="fixed image: the grid of the result; points count its voxels (without it: mm, LPS)")
    result.add_argument("--moving", metavar="IMAGE", help="for points: the image whose voxels the result counts (without it: mm, LPS)")
    result.add_argument(
        "--kind",
        default="auto",
        help="auto (by ending; images of few whole numbers or of regions are labels), image (linear), labels (nearest neighbour), points or field",
    )
    result.add_argument("--inverse", action="store_true", help="apply the inverse of the whole chain")
    result.add_argument("--outside", type=float, metavar="VALUE", help="value beyond the image (default: its minimum, or its bright background; labels: 0)")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    from nnreg.geometry.transform_files import files_of

    return Files.of([options.input, *files_of(options.transforms), options.reference, options.moving], [options.output])


def _work(options: argparse.Namespace) -> None:
    from nnreg.inference.registration.apply import apply_transform

    kind = apply_transform(
        options.input,
        options.output,
        options.transforms,
        reference=options.reference,
        moving=options.moving,
        kind=options.kind,
        inverse=options.inverse,
        outside=options.outside,
        on_note=lambda note: print(f"nnreg_apply_transform: {note}", file=sys.stderr),
    )
    print(f"{kind}{HOW.get(kind, '')} written to {Path(options.output).absolute()}")


if __name__ == "__main__":
    sys.exit(main())

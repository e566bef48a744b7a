"""``nnreg_compose``: several transforms as one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, run
from nnreg.cli.dry_run import Files


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_compose", "Compose transforms: a point of the fixed image goes through the first, then the second, as with antsApplyTransforms -t.", _files
    )
    result.add_argument("transforms", nargs="+", metavar="T", help="ITK, ANTs, 3D Slicer or Learn2Reg files; [FILE,1] is the inverse of FILE")
    result.add_argument("-o", "--output", required=True, metavar="FILE", help=".h5 or .tfm keep the chain; .nii.gz, .mha, .nrrd: one displacement field in mm")
    result.add_argument("-r", "--reference", metavar="IMAGE", help="fixed image: the grid of a displacement field")
    result.add_argument("--moving", metavar="IMAGE", help="moving image, for Learn2Reg files between images of different grids")
    result.add_argument("--inverse", action="store_true", help="write the inverse of the chain")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    from nnreg.geometry.transform_files import files_of

    return Files.of([*files_of(options.transforms), options.reference, options.moving], [options.output])


def _work(options: argparse.Namespace) -> None:
    from nnreg.files import refuse_overwriting
    from nnreg.geometry.transform_files import files_of, read_transforms, write_transform
    from nnreg.imageio import read_image

    refuse_overwriting(options.output, [*files_of(options.transforms), options.reference, options.moving])
    fixed, moving = (None if path is None else read_image(path).space for path in (options.reference, options.moving))
    transform = read_transforms(options.transforms, fixed=fixed, moving=moving, inverse=options.inverse)
    write_transform(options.output, transform, fixed=fixed, moving=moving)
    print(f"{len(options.transforms)} transforms written to {Path(options.output).absolute()}")


if __name__ == "__main__":
    sys.exit(main())

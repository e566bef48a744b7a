"""``nnreg_convert_transform``: a transform in the form of another program."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nnreg.cli.common import Parser, run
from nnreg.cli.dry_run import Files


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_convert_transform",
        "Convert transforms of ITK, 3D Slicer, ANTs and Learn2Reg into each other's form, and into those of FSL, AFNI, FreeSurfer, SPM, X5.",
        _files,
    )
    result.add_argument(
        "transforms", nargs="+", metavar="T", help="file, or what ANTs wrote in the order of antsApplyTransforms -t: 1Warp.nii.gz 0GenericAffine.mat"
    )
    result.add_argument("-o", "--output", required=True, metavar="FILE", help="with --to ants the prefix of the files")
    result.add_argument(
        "--to",
        default="itk",
        metavar="FORM",
        help="itk (by the ending of FILE; default), learn2reg (.nii.gz in voxels), ants, fsl (.mat, .nii.gz), afni (.aff12.1D, .nii.gz), freesurfer (.lta), "
        "spm (y_NAME.nii) or x5",
    )
    result.add_argument("-r", "--reference", metavar="IMAGE", help="fixed image: grid of a displacement field; needed for every form but itk and ants")
    result.add_argument("--moving", metavar="IMAGE", help="moving image, where its grid differs: for Learn2Reg, FSL, AFNI, FreeSurfer")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    from nnreg.geometry.transform_files import files_of, files_written

    return Files.of([*files_of(options.transforms), options.reference, options.moving], files_written(options.output, _form(options.to)))


def _form(name: str) -> str:
    """A form that there is."""
    from nnreg.errors import ConfigurationError, did_you_mean
    from nnreg.geometry.transform_files import FORMATS

    if name not in FORMATS:
        raise ConfigurationError(f"--to {name!r} is unknown; {did_you_mean(name, FORMATS)}")
    return name


def _work(options: argparse.Namespace) -> None:
    from nnreg.files import refuse_overwriting
    from nnreg.geometry.transform_files import files_of, files_written, read_transforms, write_transform
    from nnreg.imageio import read_image

    for path in files_written(options.output, _form(options.to)):
        refuse_overwriting(path, [*files_of(options.transforms), options.reference, options.moving])
    fixed, moving = (None if path is None else read_image(path).space for path in (options.reference, options.moving))
    transform = read_transforms(options.transforms, fixed=fixed, moving=moving)
    for path in write_transform(options.output, transform, form=options.to, fixed=fixed, moving=moving):
        print(f"written: {path.absolute()}")


if __name__ == "__main__":
    sys.exit(main())

"""``nnreg_register_group``: all pairs of a group, with maps that agree around loops."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, folder, run
from nnreg.cli.dry_run import Files
from nnreg.engine.names import ALIGNMENTS
from nnreg.engine.presets import PRESETS
from nnreg.engine.similarities import similarity_names
from nnreg.progress import progress_bar

EXIT_LEFT_OUT = 3


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_register_group",
        "Register all pairs of a group, without a template, and make their maps agree: the way over a third image then ends where the direct one does.",
        _files,
    )
    result.add_argument("-i", "--images", type=folder, required=True, metavar="IMAGES", help="folder of images: CASE.ending, or CASE_0000.ending per channel")
    result.add_argument("-o", "--output", type=folder, required=True, metavar="OUT", help="folder for maps, mean image and summary")
    result.add_argument("--labels", type=folder, metavar="FOLDER", help="label maps that measure the result (default: labelsTr beside imagesTr)")
    result.add_argument("--masks", type=folder, metavar="FOLDER", help="where each image may be looked at (default: masksTr beside imagesTr)")
    result.add_argument("--preset", default="default", help=", ".join(PRESETS))
    result.add_argument("--similarity", default="auto", help=f"auto (chosen from each pair), {', '.join(similarity_names())}")
    result.add_argument("--alignment", default="affine", help=f"freest linear map that may be used: {', '.join(ALIGNMENTS)}")
    result.add_argument("--pairs", action="store_true", help="also write the maps of all pairs; those to the middle and from there hold the same")
    result.add_accept_likely_failed("they are in no loop; images of which half of them failed are left out, exit code 3")
    result.add_processes("pairs registered")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    from nnreg.groups.members import members_in

    members, output = members_in(options.images, labels=options.labels, masks=options.masks), Path(options.output)
    ways = [f"{fixed.name}__{moving.name}.h5" for fixed in members for moving in members if fixed is not moving]
    middle = [f"middle/{one.name}{ending}" for one in members for ending in (".h5", "_inverse.h5")]
    pairs = [f"{kind}/{way}" for kind in ("direct", *["pairs"] * options.pairs) for way in ways]
    return Files.of([path for one in members for path in one.all_files()], [output / name for name in ("middle.nii.gz", "summary.json", *middle, *pairs)])


def _work(options: argparse.Namespace) -> int:
    from nnreg.engine.options import EngineOptions
    from nnreg.groups.consistency import register_group
    from nnreg.groups.members import members_in
    from nnreg.parallel import default_processes

    content = register_group(
        members_in(options.images, labels=options.labels, masks=options.masks),
        Path(options.output),
        EngineOptions(preset=options.preset, similarity=options.similarity, alignment=options.alignment),
        pairs=options.pairs,
        accept_likely_failed=options.accept_likely_failed,
        processes=options.processes or default_processes(),
        on_progress=progress_bar("pairs", quiet=options.quiet),
    )
    before, after = (content["loop_error_voxels"][when] for when in ("before", "after"))
    print(f"loop error {before['mean']:.3f} voxels before, {after['mean']:.3f} after (95th percentile {before['p95']:.3f} and {after['p95']:.3f})")
    if content["dice"] is not None:
        print(f"Dice {content['dice']['before']:.4f} before, {content['dice']['after']:.4f} after")
    for pair, around in content["replaced"].items():
        why = "likely failed" if pair in content["likely_failed"] else "disagreed with all ways around it"
        print(f"{pair}: {why}, taken over {around} instead")
    for name, reason in content["left_out"].items():
        print(f"left out: {name}: {reason}")
    print(f"{len(content['images'])} images, written to {Path(options.output).absolute()}")
    return EXIT_LEFT_OUT if content["left_out"] else 0


if __name__ == "__main__":
    sys.exit(main())

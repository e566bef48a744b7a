"""``nnreg_build_template``: the image in the middle of a group, and the maps from it to every image."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnreg.cli.common import Parser, folder, positive, print_table, run
from nnreg.cli.dry_run import Files
from nnreg.engine.presets import PRESETS
from nnreg.engine.similarities import similarity_names
from nnreg.progress import progress_bar


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_build_template", "Build the unbiased template of a group of images. The same command goes on where it was killed.", _files)
    result.add_argument("-i", "--images", type=folder, required=True, metavar="IMAGES", help="folder of images: CASE.ending, or CASE_0000.ending per channel")
    result.add_argument("-o", "--output", type=folder, required=True, metavar="OUT", help="folder for the template, its labels, all maps, summary and picture")
    result.add_argument("--labels", type=folder, metavar="FOLDER", help="label maps, fused onto the template (default: labelsTr beside imagesTr)")
    result.add_argument("--masks", type=folder, metavar="FOLDER", help="where each image may be looked at (default: masksTr beside imagesTr)")
    result.add_argument("--preset", default="fast", help=f"{', '.join(PRESETS)} (default: fast)")
    result.add_argument("--similarity", default="auto", help=f"auto, {', '.join(similarity_names())}; a named one is used whatever the images' contrast")
    result.add_argument("--alignment", default="affine", help="freest linear map between images: rigid, affine (default: affine)")
    result.add_argument("--spacing", type=float, metavar="MM", help="of the template (default: that of the image in the middle)")
    result.add_argument("--rounds", type=positive, metavar="N", help="at most, on the finest grid (default: 3)")
    result.add_argument("--sharpen", action="store_true", help="sharpen the mean by its Laplacian after each round, as ANTs does")
    result.add_argument("--no_sharpen", dest="sharpen", action="store_false", help="leave the mean as it is (default)")
    result.add_argument("--no_scaling", action="store_true", help="leave intensities as they are (CT, quantitative images)")
    result.add_argument(
        "--skip_failures", action="store_true", help="leave out images that cannot be read or registered or have another contrast (default: stop at the first)"
    )
    result.add_accept_likely_failed("stop there")
    result.add_processes("images registered")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    from nnreg.groups.members import members_in

    members, output = members_in(options.images, labels=options.labels, masks=options.masks), Path(options.output)
    names = ["template.nii.gz", "affine_mean.nii.gz", "overview.png", "summary.json", *["template_labels.nii.gz"] * any(one.labels for one in members)]
    maps = [f"maps/{one.name}{ending}" for one in members for ending in (".h5", "_inverse.h5")]
    return Files.of([path for one in members for path in one.all_files()], [output / name for name in (*names, *maps)])


def _work(options: argparse.Namespace) -> None:
    from nnreg.groups.members import members_in
    from nnreg.groups.template import TemplateOptions, build_template
    from nnreg.parallel import default_processes

    chosen = TemplateOptions(
        preset=options.preset,
        similarity=options.similarity,
        alignment=options.alignment,
        spacing=options.spacing,
        rounds=options.rounds,
        sharpen=options.sharpen,
        scale=not options.no_scaling,
        skip_failures=options.skip_failures,
        accept_likely_failed=options.accept_likely_failed,
    )
    content = build_template(
        members_in(options.images, labels=options.labels, masks=options.masks),
        Path(options.output),
        chosen,
        processes=options.processes or default_processes(),
        on_progress=progress_bar("template", quiet=options.quiet),
    )
    _report(content, Path(options.output))


def _report(content: dict[str, Any], output: Path) -> None:
    rows = [("spacing", "round", "drift (voxels)", "change", "gradient energy / affine mean's")]
    for found in content["rounds"]:
        spacing = " x ".join(f"{step:.3g}" for step in found["spacing_mm"])
        rows.append((f"{spacing} mm", str(found["round"]), f"{found['drift']:.3f}", f"{100 * found['change']:.2f} %", f"{found['sharpness']:.2f}"))
    print_table(rows)
    for name, reason in content["left_out"].items():
        print(f"left out: {name}: {reason}")
    print(f"template of {len(content['images'])} images written to {output.absolute()}")


if __name__ == "__main__":
    sys.exit(main())

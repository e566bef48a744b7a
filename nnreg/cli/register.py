"""``nnreg_register``: register one pair of images, without training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.cli.common import Parser, folder, run
from nnreg.engine.names import ALIGNMENTS
from nnreg.engine.presets import PRESETS
from nnreg.engine.similarities import similarity_names
from nnreg.progress import progress_bar

if TYPE_CHECKING:
    from nnreg.engine import Registration

EXIT_NOT_REGISTERED = 3


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_register", "Register one pair: linear alignment, global search, multi-resolution diffeomorphic refinement. Nothing is trained.")
    result.add_argument("fixed", metavar="FIXED", help="image whose grid the result lies on; channels in several files: FILE,FILE")
    result.add_argument("moving", metavar="MOVING", help="image that is moved; any grid, orientation and format")
    result.add_argument("-o", "--output", type=folder, required=True, metavar="OUT", help="folder for transforms, warped image, measures and picture")
    for side in ("fixed", "moving"):
        result.add_argument(f"--{side}_mask", metavar="FILE", help=f"where the {side} image may be looked at (not 0)")
        result.add_argument(f"--{side}_labels", metavar="FILE", help=f"label map of the {side} image")
        result.add_argument(f"--{side}_points", metavar="CSV", help=f"landmarks of the {side} image: rows x,y,z of voxel indices, no header")
    result.add_argument("--measure_only", action="store_true", help="labels and landmarks of both sides measure the result, they do not guide it")
    result.add_argument(
        "--init", nargs="+", default=[], metavar="TRANSFORM", help="start from these instead of aligning, in the order of antsApplyTransforms -t"
    )
    result.add_argument("--preset", default="default", help=", ".join(PRESETS))
    result.add_argument("--similarity", default="auto", help=f"auto (chosen from the pair), {', '.join(similarity_names())}")
    result.add_argument("--alignment", default="affine", help=f"freest linear map that may be used: {', '.join(ALIGNMENTS)}")
    result.add_argument("--affine_only", action="store_true", help="stop after linear alignment")
    result.add_argument(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="refine every level, or none, in both directions and go on from halfway between them (by default: all levels but the finest; with the preset "
        "fast none)",
    )
    result.add_argument("--radius", type=float, metavar="VOXELS", help="half the window of local correlation, 1 to 8 (default: the preset's, 2)")
    result.add_argument("--smoothness", type=float, default=1.0, metavar="FACTOR", help="0.25 to 4: more bends less (default: 1)")
    result.add_argument("--restrict", metavar="AXES", help="axes of the fixed grid along which the deformation may move: 1x1x0, or their names (x,y)")
    result.add_argument("--preserve", metavar="FILE", help="regions of the fixed image that keep their volume (not 0): each moves as a rigid body")
    result.add_argument("--landmark_weight", type=float, default=1.0, metavar="WEIGHT", help="of landmarks beside the images, 0 to 10 (default: 1)")
    result.add_argument(
        "--uncertainty", action="store_true", help="also write uncertainty.nii.gz: how far the map may be wrong, in mm (registers three times more)"
    )
    result.add_argument("--field", action="store_true", help="also write field.nii.gz: the whole map as displacement in mm on the fixed grid")
    result.add_argument(
        "-device", "--device", default="cpu", help="cpu, cuda or cuda:1: where levels are refined; alignment stays on the processor (default: cpu)"
    )
    result.add_argument("--report", action="store_true", help="also write report.html, as nnreg_report OUT does: it takes as long as a fast registration")
    result.add_argument("--no_pictures", action="store_true", help="write no overview.png")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> int:
    from nnreg.engine import Constraints
    from nnreg.inference.registration.register import PairFiles, register_files

    constraints = Constraints(restrict=options.restrict, landmark_weight=options.landmark_weight)  # refused before anything is read
    files = PairFiles(
        fixed=options.fixed.split(","),
        moving=options.moving.split(","),
        fixed_mask=options.fixed_mask,
        moving_mask=options.moving_mask,
        fixed_labels=options.fixed_labels,
        moving_labels=options.moving_labels,
        fixed_points=options.fixed_points,
        moving_points=options.moving_points,
        initial=options.init,
        preserve=options.preserve,
    )
    result = register_files(
        files,
        Path(options.output),
        preset=options.preset,
        similarity=options.similarity,
        alignment=options.alignment,
        affine_only=options.affine_only,
        symmetric=options.symmetric,
        radius=options.radius,
        smoothness=options.smoothness,
        device=options.device,
        guided=not options.measure_only,
        picture=not options.no_pictures,
        field=options.field,
        uncertainty=options.uncertainty,
        constraints=constraints,
        on_progress=progress_bar("registering", quiet=options.quiet),
    )
    for note in (*result.fixed.notes, *result.moving.notes):
        print(f"nnreg_register: {note}", file=sys.stderr)
    print(_report(result, Path(options.output)))
    if options.report:
        from nnreg.report import report_after

        report_after(options.output, print)
    if not result.succeeded:
        inverse = "" if (Path(options.output) / "inverse_transform.h5").exists() else ", it has no inverse"
        print(
            f"nnreg_register: {_why_failed(result)}{inverse}; the transform in {options.output} is the best that was found, do not trust it.", file=sys.stderr
        )
        return EXIT_NOT_REGISTERED
    return 0


def _why_failed(result: Registration) -> str:
    if not result.rose:
        return "the similarity did not rise"
    return f"the registration likely failed (probability {result.failure_probability:.2f}: {'; '.join(result.failure.reasons)})"


def _report(result: Registration, output: Path) -> str:
    lines = [f"{decision.name}: {decision.value} ({decision.because})" for decision in result.decisions]
    measures = result.measures
    lines.append(f"similarity ({result.similarity}): {result.similarity_before:.4f} before, {result.similarity_after:.4f} after")
    if "sdlogj" in measures:
        lines.append(f"SDlogJ {measures['sdlogj']:.3f}, folding {measures['folding_count']:.0f} voxels ({measures['folding_percent']:.4f} %)")
    lines.append(f"probability that it failed: {result.failure_probability:.3f}")
    if "dice" in measures:
        lines.append(f"Dice {measures['dice']['header']['mean']:.4f} before, {measures['dice']['after']['mean']:.4f} after")
    if "tre_mm" in measures:
        lines.append(f"landmarks {measures['tre_mm']['header']['median']:.3g} mm before, {measures['tre_mm']['after']['median']:.3g} mm after (median)")
    lines.append(f"{sum(result.timings.values()):.1f} s: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.timings.items()))
    return "\n".join([*lines, f"written to {output.absolute()}"])


if __name__ == "__main__":
    sys.exit(main())

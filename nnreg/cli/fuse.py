"""``nnreg_fuse``: label images by atlases that are registered to them and fused."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.cli.common import Parser, folder, positive, run
from nnreg.cli.dry_run import Files
from nnreg.engine.presets import PRESETS
from nnreg.engine.similarities import similarity_names
from nnreg.progress import progress_bar

if TYPE_CHECKING:
    from nnreg.groups.fusion.registrars import Registrar

EXIT_NOT_LABELLED = 3


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_fuse", "Label images by atlases: the most similar ones are registered, warped once and fused voxel by voxel.", _files)
    result.add_argument("-i", "--input", required=True, metavar="DIR", help="folder of images CASE_0000.ending to label")
    result.add_argument("--atlases", required=True, metavar="DIR", help="folder of images whose labels are known; labelsTr beside imagesTr has them")
    result.add_argument("--atlas_labels", metavar="DIR", help="folder of the atlases' labels CASE.ending, where they lie elsewhere")
    result.add_argument("-o", "--output", type=folder, required=True, metavar="DIR", help="where label maps, uncertainty and summary.json go")
    result.add_argument("--labels", metavar="DIR", help="true labels of the images, to measure with (default: labelsTs beside imagesTs, if it is there)")
    result.add_argument(
        "--method",
        default="joint",
        help="majority, weighted (by local likeness), joint (allows for errors that atlases make together) or staple (SimpleITK's) (default: joint)",
    )
    result.add_argument("--atlases_used", type=positive, metavar="N", help="the N most similar after linear alignment (default: all, at most 15)")
    result.add_argument("--patch_radius", type=positive, default=2, metavar="VOXELS", help="half the patches that are compared, 1 to 6 (default: 2)")
    result.add_argument("--search_radius", type=int, default=3, metavar="VOXELS", help="how far joint searches for the best patch, 0 to 6 (default: 3)")
    result.add_argument("--preset", default="default", help=f"of the registrations: {', '.join(PRESETS)}")
    result.add_argument("--similarity", default="auto", help=f"of the registrations: auto, {', '.join(similarity_names())}")
    result.add_argument("-m", "--model_folder", metavar="DIR", help="register by this trained model (TRAINER__PLANS__CONFIGURATION) instead of the engine")
    result.add_argument("-f", "--folds", nargs="+", default=[], metavar="K", help="of the model (default: all trained ones)")
    result.add_argument("-device", "--device", default="cpu", help="of the registrations: cpu, cuda or cuda:1 (default: cpu)")
    result.add_argument("--probabilities", action="store_true", help="also write probabilities/CASE.npz: the share of every label")
    result.add_argument("--save_transforms", action="store_true", help="also write maps/CASE__ATLAS.h5")
    result.add_argument("--keep_warped", action="store_true", help="keep work/CASE: another --method then fuses without registering")
    result.add_argument(
        "--check", type=positive, default=0, metavar="N", help="label N atlases by all others, by every method, and compare with the best alone"
    )
    result.add_argument("--strict", action="store_true", help="stop at the first atlas or image that cannot be used (default: leave it out and say so)")
    result.add_argument("--no_pictures", action="store_true", help="draw no pictures/CASE.png")
    result.add_accept_likely_failed("leave such atlases out")
    result.add_processes("atlases registered")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    from nnreg.groups.members import members_in
    from nnreg.imageio import ending_of

    images, atlases = members_in(options.input, labels=options.labels), members_in(options.atlases, labels=options.atlas_labels)
    output, names = Path(options.output), ["summary.json"]
    for member in images:
        names += [f"{kind}{member.name}{ending_of(member.files[0])}" for kind in ("", "uncertainty/")]
        names += [f"pictures/{member.name}.png"] * (not options.no_pictures) + [f"probabilities/{member.name}.npz"] * options.probabilities
    return Files.of([path for one in (*images, *atlases) for path in one.all_files()], [output / name for name in names])


def _work(options: argparse.Namespace) -> int:
    from nnreg.groups.fusion import FuseOptions, fuse
    from nnreg.parallel import default_processes

    content = fuse(
        options.input,
        options.atlases,
        options.output,
        labels=options.labels,
        atlas_labels=options.atlas_labels,
        registrar=_registrar(options),
        options=FuseOptions(
            method=options.method,
            atlases_used=options.atlases_used,
            patch_radius=options.patch_radius,
            search_radius=options.search_radius,
            probabilities=options.probabilities,
            keep_warped=options.keep_warped,
            keep_maps=options.save_transforms,
            pictures=not options.no_pictures,
            strict=options.strict,
        ),
        check=options.check,
        processes=options.processes or default_processes(),
        on_progress=progress_bar("fusing", quiet=options.quiet),
        on_note=lambda note: print(f"nnreg_fuse: {note}", file=sys.stderr),
    )
    print(_report(content, Path(options.output)))
    return EXIT_NOT_LABELLED if any("failed" in case for case in content["cases"].values()) else 0


def _registrar(options: argparse.Namespace) -> Registrar:
    from nnreg.engine.options import EngineOptions
    from nnreg.groups.fusion.registrars import EngineRegistrar, ModelRegistrar

    if options.model_folder is None:
        return EngineRegistrar(EngineOptions(preset=options.preset, similarity=options.similarity, device=options.device), options.accept_likely_failed)
    from nnreg.inference.predictor import ModelFolder

    ModelFolder.open(Path(options.model_folder))  # a folder that is no model is told before the work
    return ModelRegistrar(
        Path(options.model_folder), Path(options.input), tuple(options.folds), device=options.device, accept_likely_failed=options.accept_likely_failed
    )


def _report(content: dict[str, Any], output: Path) -> str:
    labelled = {name: case for name, case in content["cases"].items() if "failed" not in case}
    lines = [f"{len(labelled)} of {len(content['cases'])} images labelled by {content['method']} of {len(content['atlases'])} atlases"]
    for name, case in labelled.items():
        used = f"{name}: {len(case['used'])} atlases, they disagree at {case['disputed_percent']:.1f} % of the voxels"
        lines.append(used + (f", Dice {case['dice']['mean']:.4f}, the best atlas alone {case['dice']['best_single']['mean']:.4f}" if "dice" in case else ""))
    if "mean_dice" in content:
        lines.append(f"mean Dice {content['mean_dice']:.4f}, of the best atlas of each image alone {content['mean_dice_of_best_single']:.4f}")
    return "\n".join([*lines, f"written to {output.absolute()}"])


if __name__ == "__main__":
    sys.exit(main())

"""``nnreg_series``: motion correction of a series in time, or strain of a cine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnreg.cli.common import Parser, folder, run
from nnreg.cli.dry_run import Files
from nnreg.engine.presets import PRESETS
from nnreg.progress import progress_bar

EXIT_FRAMES_FAILED = 3
MODELS = ("rigid", "deformable", "strain")
OF_STRAIN = {"labels": None, "cavity": None, "first": 0, "open": False, "chain_only": False}
OF_CORRECTION = {"mask": None, "reference": "mean", "similarity": "auto", "interpolation": "cubic"}


def parser() -> Parser:
    """The command's options."""
    result = Parser("nnreg_series", "Correct the motion of a 4D series (each frame resampled once), or follow the points of a cine and measure strain.", _files)
    result.add_argument("-i", "--input", required=True, metavar="SERIES", help="NIfTI of four axes, or a folder of frames in the order of their names")
    result.add_argument("-o", "--output", type=folder, required=True, metavar="OUT", help="folder for the results")
    result.add_argument(
        "--model", default="rigid", choices=MODELS, help="how frames move; strain follows the points of a frame around a cycle (default: rigid)"
    )
    result.add_argument("--repetition", type=float, metavar="SECONDS", help="from frame to frame (default: the header's)")
    correction = result.add_argument_group("rigid and deformable")
    correction.add_argument(
        "--reference", default="mean", metavar="WHAT", help="mean (gets sharper), first, previous (composed), or a frame's number (default: mean)"
    )
    correction.add_argument("--similarity", default="auto", help="auto, ncc (one contrast), edges (several: diffusion weighting)")
    correction.add_argument("--interpolation", default="cubic", help="of the result: cubic or linear (default: cubic)")
    correction.add_argument("--mask", metavar="FILE", help="where the reference may be looked at (not 0)")
    strain = result.add_argument_group("strain")
    strain.add_argument("--first", type=int, default=0, metavar="N", help="frame whose points are followed, from 0 (default: 0)")
    strain.add_argument("--labels", metavar="FILE", help="label map of that frame: strain is told for each label")
    strain.add_argument("--cavity", type=int, metavar="LABEL", help="label about whose middle strain is radial and circumferential")
    strain.add_argument("--open", action="store_true", help="the last frame is not followed by the first")
    strain.add_argument("--chain_only", action="store_true", help="do not register each frame to the first one too: half the time, more drift")
    result.add_argument(
        "--preset", metavar="PRESET", help=f"of the engine, for deformable and strain: {', '.join(PRESETS)} (default: fast; default for strain)"
    )
    result.add_argument("--stop", action="store_true", help="refuse a series of which a frame cannot be registered (default: say which, and go on)")
    result.add_processes("frames")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    from nnreg.groups.series.frames import files_of_series

    _check_options(options)
    source = Path(options.input)
    names = ("strain.tsv", "strain.png") if options.model == "strain" else ("corrected.nii.gz", "mean.nii.gz", "motion.tsv", "motion.png")
    read = [*(files_of_series(source) if source.is_dir() else [source]), options.mask, options.labels]
    return Files.of(read, [Path(options.output) / name for name in (*names, "transforms", "summary.json")])


def _work(options: argparse.Namespace) -> int:
    _check_options(options)
    return _strain(options) if options.model == "strain" else _correct(options)


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what is for the other kind of model."""
    from nnreg.errors import ConfigurationError

    foreign, whose = (OF_CORRECTION, "--model rigid or deformable") if options.model == "strain" else (OF_STRAIN, "--model strain")
    for name, usual in foreign.items():
        if getattr(options, name) != usual:
            raise ConfigurationError(f"--{name} is for {whose}. Leave it out, or choose that model.")
    if options.cavity is not None and options.labels is None:
        raise ConfigurationError(f"--cavity {options.cavity} needs --labels: a label map of the first frame. Name one, or leave --cavity out.")


def _correct(options: argparse.Namespace) -> int:
    from nnreg.engine.options import EngineOptions
    from nnreg.groups.series import Correction, Settings, correct_series, read_series
    from nnreg.parallel import default_processes

    rigid = Settings(options.reference, options.similarity)
    correction = Correction(options.model, rigid, EngineOptions(preset=options.preset or "fast", alignment="none"), options.interpolation)
    found = correct_series(
        read_series(options.input, repetition=options.repetition),
        options.output,
        correction,
        mask=options.mask,
        stop=options.stop,
        processes=options.processes or default_processes(),
        on_note=_told,
        on_progress=progress_bar("registering", quiet=options.quiet),
    )
    summary = found.summary()
    moved, changed = summary["framewise_displacement_mm"], summary["dvars_percent"]
    print(f"{summary['frames']} frames: {summary['registered']}")
    print(f"framewise displacement {moved['mean']:.3f} mm (mean), {moved['largest']:.3f} mm (largest)")
    print(f"DVARS {changed['before']:.2f} % before, {changed['after']:.2f} % after")
    print(f"written to {Path(options.output).absolute()}")
    return EXIT_FRAMES_FAILED if found.motion.failed or found.likely_failed or found.worse else 0


def _strain(options: argparse.Namespace) -> int:
    from nnreg.engine.options import EngineOptions
    from nnreg.groups.series import Cycle, read_series, track_series
    from nnreg.parallel import default_processes

    engine = EngineOptions(preset=options.preset or "default", alignment="none")
    found = track_series(
        read_series(options.input, repetition=options.repetition),
        options.output,
        Cycle(options.first, not options.open, not options.chain_only, options.cavity, engine),
        labels=options.labels,
        stop=options.stop,
        processes=options.processes or default_processes(),
        on_note=_told,
        on_progress=progress_bar("registering", quiet=options.quiet),
    )
    summary = found.summary()
    print(f"{len(found.numbers)} of {summary['frames']} frames followed from frame {found.numbers[0]}")
    if closure := summary["closure_voxels"]:
        print(f"the cycle closes within {closure['mean']:.3f} voxels (mean), {closure['percentile_95']:.3f} (95 %)")
    if summary["note"]:
        print(summary["note"])
    print(f"written to {Path(options.output).absolute()}")
    return EXIT_FRAMES_FAILED if found.skipped or found.doubtful else 0


def _told(note: str) -> None:
    print(f"nnreg_series: {note}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

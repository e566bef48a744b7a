"""``nnreg_synthesize``: a dataset of deformed ellipsoids whose truth is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nnreg.cli.common import Parser, positive, run, workspace_of
from nnreg.cli.dry_run import Files
from nnreg.progress import progress_bar


def parser() -> Parser:
    """Options of the command."""
    result = Parser(
        "nnreg_synthesize",
        "Write pairs of synthetic images, one deformed by a known flow, as a raw dataset with the exact displacement of both directions.",
        _files,
    )
    result.add_argument("-d", "--dataset", required=True, type=int, metavar="ID", help="id of the new dataset: 900")
    result.add_argument("--name", default="Ellipsoids", help="name of the new dataset (default: %(default)s)")
    result.add_workspace()
    result.add_argument(
        "--shape", nargs="+", type=int, default=[48, 48, 48], metavar="N", help="image size, slowest axis first; two numbers make 2D images (default: 48 48 48)"
    )
    result.add_argument("--spacing", nargs="+", type=float, metavar="MM", help="voxel size in mm, in the order of --shape (default: 1)")
    result.add_argument("--pairs", type=int, default=12, metavar="N", help="training pairs (default: %(default)s)")
    result.add_argument("--test_pairs", type=int, default=4, metavar="N", help="held-out pairs (default: %(default)s)")
    result.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default: %(default)s)")
    result.add_argument("--noise_std", type=float, default=0.03, help="standard deviation of the noise; tissue lies between 0 and 1 (default: %(default)s)")
    result.add_argument("--max_displacement", type=float, metavar="VOXELS", help="longest displacement (default: a tenth of the smallest size)")
    result.add_argument("--structures", type=int, default=4, metavar="N", help="ellipsoids inside the body (default: %(default)s)")
    result.add_argument("--keypoints", type=int, default=0, metavar="N", help="corresponding landmarks per pair (default: none)")
    result.add_argument("-np", "--processes", type=positive, default=1, metavar="N", help="workers (default: %(default)s)")
    result.add_quiet()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run(_work, parser(), arguments)


def _files(options: argparse.Namespace) -> Files:
    """What would be written."""
    from nnreg.dataset.synthetic_writer import dataset_folder

    return Files.of([], [dataset_folder(workspace_of(options), options.dataset, options.name)])


def _work(options: argparse.Namespace) -> int:
    from nnreg.dataset.synthetic_writer import dataset_folder, write_synthetic_dataset

    raw = write_synthetic_dataset(
        dataset_folder(workspace_of(options), options.dataset, options.name),
        pairs=options.pairs,
        test_pairs=options.test_pairs,
        shape=options.shape,
        spacing=options.spacing,
        seed=options.seed,
        keypoints=options.keypoints,
        processes=options.processes,
        on_progress=progress_bar("synthesize", quiet=options.quiet),
        noise_std=options.noise_std,
        max_displacement=options.max_displacement,
        structures=options.structures,
    )
    print(f"{raw.folder}: {len(raw.pairs())} training pairs, {len(raw.test_pairs())} held-out pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``nnreg_init_dataset``: a raw dataset from what one has: a folder of images, a table of pairs, BIDS, Learn2Reg, nnU-Net, DICOM."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.cli.common import Parser, run, workspace_of
from nnreg.cli.dry_run import Files

if TYPE_CHECKING:
    from nnreg.dataset.sources.collected import Collected
    from nnreg.dataset.spec import DatasetSpec

KINDS = ("table", "learn2reg", "bids", "nnunet", "dicom", "folder")


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_init_dataset",
        "Make a raw dataset from what you have: a folder of images, a .csv of pairs (columns fixed,moving), BIDS, a Learn2Reg or decathlon .json,\n"
        "a dataset of nnU-Net, DICOM series. It prints what it decided; images are copied, nothing of the source is changed.",
        _files,
    )
    result.add_argument("source", metavar="SOURCE", help="folder, .csv or .json")
    result.add_argument("-d", "--dataset", required=True, type=int, metavar="ID", help="number of the new dataset")
    result.add_argument("--name", default="Images", help="its name (default: %(default)s)")
    result.add_argument("--kind", choices=KINDS, help="what the source is (default: as it looks)")
    result.add_argument("--labels", metavar="DIR", help="label maps of a folder of images: CASE or CASE_seg")
    result.add_argument("--suffix", nargs="+", default=[], metavar="NAME", help="images of a BIDS dataset; several become channels (default: T1w)")
    result.add_argument("--series", metavar="TEXT", help="which DICOM series: a part of its description, or its UID")
    result.add_argument("--level", type=int, metavar="N", help="of OME-Zarr images, 0 is the finest (default: the finest of at most 134 million voxels)")
    result.add_argument("--task", help="registration or dense_prediction (default: registration)")
    result.add_argument(
        "--pairing",
        choices=("all", "atlas", "pairs", "groups"),
        help="what is registered to what (default: as the source tells, else all); groups: frames or visits of one subject, by the names",
    )
    result.add_argument("--atlas", metavar="CASE", help="the fixed image of every pair")
    result.add_argument("--channel_names", nargs="+", metavar="NAME", help="of the channels, in order: T1, CT (CT chooses another normalisation)")
    result.add_workspace()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _planned(options: argparse.Namespace) -> tuple[Path, Collected, DatasetSpec, list[str]]:
    """Folder, images, dataset.json and decisions."""
    from nnreg.dataset.initialise import planned_spec
    from nnreg.dataset.sources import Wanted, collect
    from nnreg.dataset.synthetic_writer import dataset_folder

    folder = dataset_folder(workspace_of(options), options.dataset, options.name)
    wanted = Wanted(Path(options.labels) if options.labels else None, tuple(options.suffix), options.series, options.level)
    found = collect(Path(options.source), wanted, options.kind)
    given = {"task": options.task, "pairing": options.pairing or ("atlas" if options.atlas else None), "atlas": options.atlas}
    spec, decisions = planned_spec(found, {key: value for key, value in given.items() if value is not None}, options.channel_names)
    return folder, found, spec, [f"{options.source}: read as {found.kind}", *decisions]


def _files(options: argparse.Namespace) -> Files:
    """What would be read and written."""
    folder, found, spec, decisions = _planned(options)
    cases = {name: [str(image) if isinstance(image, Path) else "a DICOM series" for image in case.images] for name, case in found.cases.items()}
    more = {"folder": folder, "kind": found.kind, "dataset.json": spec.to_dict(), "cases": cases}
    reads = [image for case in found.cases.values() for image in case.images if isinstance(image, Path)]
    return Files(tuple(reads) or (Path(options.source),), (folder,), tuple(decisions), more)


def _work(options: argparse.Namespace) -> None:
    from nnreg.dataset.writing import write_dataset

    folder, found, spec, decisions = _planned(options)
    raw = write_dataset(folder, found.cases, spec)
    print("\n".join(decisions))
    print(f"written: {raw.folder}, {len(raw.cases)} training and {len(raw.test_cases)} test cases")
    print(f"next: nnreg_plan_and_preprocess -d {options.dataset:03d}")


if __name__ == "__main__":
    sys.exit(main())

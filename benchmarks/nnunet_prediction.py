"""Does nnReg predict what nnU-Net predicts, from nnU-Net's own checkpoint? A short training of nnU-Net, imported, and CTs predicted by both.

``python benchmarks/nnunet_prediction.py DATA_DIR`` - see README.md. Prints what differs and what it costs, writes JSON, exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from math import prod
from pathlib import Path

import numpy as np
from process_tree import measured
from selfconfig_data import Raw, link
from vs_nnunet import FOLD, PROGRAMS, Array, Dataset, Recipe, Scores, add_common

from nnreg.errors import NnRegError
from nnreg.files import write_json
from nnreg.geometry import resample_image, resample_labels
from nnreg.imageio import read_image, write_image

BAR = 0.999  # share of voxels with the same label
SPACING = (5.0, 4.0, 4.0)  # mm, of the training images; those predicted have others
CROPS = 5  # training images, as many as folds
ORGANS = {"spleen": (1,), "kidneys": (2, 3), "liver": (5,), "stomach": (6,), "colon": (20,), "vertebrae": tuple(range(26, 51)), "muscles": (86, 87)}
PEER = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point; predict_entry_point()"


def organs(labels: Array) -> Array:
    """The labels of TotalSegmentator that are kept, numbered from 1."""
    result = np.zeros_like(labels)
    for number, values in enumerate(ORGANS.values(), 1):
        result[np.isin(labels, values)] = number
    return result


def _crops(data: Path, made: Path) -> Raw:
    """Overlapping parts of the labelled CT, resampled."""
    folder = data / "totalseg_examples"
    image, labels = (read_image(folder / f"example_{kind}.nii.gz") for kind in ("ct_sm", "seg"))
    space = image.space.with_spacing(SPACING)
    values = resample_image(image.array, moving=image.space, fixed=space)
    truth = resample_labels(organs(labels.array), moving=labels.space, fixed=space)
    made.mkdir(parents=True, exist_ok=True)
    raw = Raw("dice", {}, spec={"channel_names": {"0": "CT"}, "labels": {"background": 0} | {name: number for number, name in enumerate(ORGANS, 1)}})
    for number in range(CROPS):
        # along the diagonals: corners and middle, of two thirds of both axes
        starts = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))[number]
        part = (..., *(slice(size * start // 6, size * start // 6 + size * 2 // 3) for size, start in zip(space.shape[1:], starts, strict=True)))
        cut = space.with_spacing(SPACING, values[part].shape[1:])
        raw.images[f"part_{number}"], raw.labels[f"part_{number}"] = made / f"part_{number}.nii.gz", made / f"part_{number}_labels.nii.gz"
        write_image(raw.images[f"part_{number}"], values[part], cut)
        write_image(raw.labels[f"part_{number}"], truth[part], cut)
    return raw


DATASETS: dict[str, Recipe] = {"abdomen": ("3d_fullres", _crops)}


def write_images(data: Path, folder: Path) -> list[str]:
    """What is predicted, a folder each: the labelled CT, the long CT whose end it is, that one in thick slices, and the labelled one framed with zeros."""
    small, whole = (data / "totalseg_examples" / f"example_{kind}.nii.gz" for kind in ("ct_sm", "ct"))
    shutil.rmtree(folder, ignore_errors=True)
    link(folder / "small" / "small_0000.nii.gz", small)
    link(folder / "whole" / "whole_0000.nii.gz", whole)
    long, short = read_image(whole), read_image(small)
    thick = long.array[:, ::3]
    framed = np.zeros_like(short.array)
    inside = (..., slice(2, -3), slice(7, -12), slice(9, -5))
    framed[inside] = short.array[inside]
    for name, array, space in (
        ("thick", thick, long.space.with_spacing((9.0, *long.space.spacing[1:]), thick.shape[1:])),
        ("framed", framed, short.space),
    ):
        (folder / name).mkdir()
        write_image(folder / name / f"{name}_0000.nii.gz", array, space)
    return ["small", "whole", "thick", "framed"]


def predict(dataset: Dataset, name: str, model: Path) -> dict[str, Scores]:
    """One image by the command of each program, in turn: what each costs."""
    spent = {}
    for who in PROGRAMS:
        output = dataset.work / who / "predicted" / name
        shutil.rmtree(output, ignore_errors=True)
        if who == "nnreg":
            command = [sys.executable, "-W", "ignore", "-m", "nnreg.cli.predict", "-m", str(model), "--no_pictures", "-q"]
        else:
            command = [dataset.options.peer_python, "-W", "ignore", "-c", PEER, "-d", dataset.full, "-c", dataset.configuration, "-f", str(FOLD)]
        command += ["-i", str(dataset.work / "predicted" / name), "-o", str(output), "-device", "cpu", "--save_probabilities", "-npp", "0", "-nps", "0"]
        spent[who] = measured(command, dataset.environment(who, "predict"), output.with_name(f"{name}.log"))
    return spent


def compared(dataset: Dataset, name: str) -> Scores:
    """Label maps and probabilities of both programs."""
    own, peer = (dataset.work / who / "predicted" / name / name for who in PROGRAMS)
    labels, theirs = (read_image(path.with_suffix(".nii.gz")).array for path in (own, peer))
    probabilities, expected = (np.load(path.with_suffix(".npz"))["probabilities"].astype(np.float32) for path in (own, peer))
    if labels.shape != theirs.shape or probabilities.shape != expected.shape:
        raise NnRegError(
            f"{name}: label maps {labels.shape} and {theirs.shape}, probabilities {probabilities.shape} and {expected.shape}: one shape was expected."
        )
    difference = np.abs(probabilities - expected)
    place = tuple(int(index) for index in np.unravel_index(difference.argmax(), difference.shape))
    return {
        "same": float((labels == theirs).mean()),
        "different": int((labels != theirs).sum()),
        "voxels": prod(labels.shape),
        "foreground": float((theirs > 0).mean()),
        "least_dice": float(np.nanmin(dataset.dice_of(labels, theirs))),
        "greatest": float(difference.max()),
        "greatest_at": place,
        "mean": float(difference.mean()),
    }


def run(options: argparse.Namespace) -> Scores:
    """Train, import, predict, compare."""
    dataset = Dataset("abdomen", options, DATASETS)
    dataset.prepare()
    dataset.step("nnunetv2", "train")
    trained = next((dataset.work / "nnunetv2" / "results" / "seed0" / dataset.full).glob("*__3d_fullres"))
    print(f"nnU-Net's training: Dice {dataset.dice('nnunetv2', 0):.3f}, mean of organs on {', '.join(dataset.cases())}", flush=True)
    environment = dataset.environment("nnreg", "import")
    results = Path(environment["nnReg_results"])
    shutil.rmtree(results, ignore_errors=True)
    measured([sys.executable, "-W", "ignore", "-m", "nnreg.cli.import_", str(trained)], environment, dataset.work / "nnreg" / "import.log")
    scores: Scores = {}
    truth = organs(read_image(options.data / "totalseg_examples" / "example_seg.nii.gz").array)
    for name in write_images(options.data, dataset.work / "predicted"):
        scores[name] = {"spent": predict(dataset, name, results / dataset.full / trained.name)} | compared(dataset, name)
        if name == "small":
            found = read_image(dataset.work / "nnreg" / "predicted" / name / f"{name}.nii.gz").array
            scores[name]["dice"] = [round(value, 3) for value in dataset.dice_of(truth, found)]
        print_image(name, scores[name])
    return scores


def print_image(name: str, scores: Scores) -> None:
    """A line of what differs, a line of what it costs."""
    own, peer = (scores["spent"][who] for who in PROGRAMS)
    print(
        f"{name:7} {scores['same']:.5%} of {scores['voxels']} voxels the same ({scores['different']} not), {scores['foreground']:.1%} are organs, "
        f"least Dice {scores['least_dice']:.4f}; probabilities differ by {scores['greatest']:.4f} at most, {scores['mean']:.2g} on average\n"
        f"{'':7} {own['seconds']:.1f} s, {own['processor']:.1f} s of the processor, {own['mib']:.0f} MiB; nnU-Net {peer['seconds']:.1f} s, "
        f"{peer['processor']:.1f} s, {peer['mib']:.0f} MiB" + (f"\n{'':7} Dice with the truth {scores['dice']}" if "dice" in scores else ""),
        flush=True,
    )


def main() -> int:
    """All images, then the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--epochs", type=int, default=4, metavar="N", help="of nnU-Net's training (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=100, metavar="N", help="iterations per epoch (default: %(default)s)")
    add_common(parser, "nnunet_prediction")
    parser.set_defaults(short=True)
    options = parser.parse_args()
    try:
        scores = run(options)
    except NnRegError as error:
        print(error)
        return 1
    missed = [name for name, one in scores.items() if one["same"] < BAR]
    print(f"at least {BAR:.1%} of the voxels the same: {'MISSED on ' + ', '.join(missed) if missed else 'met on all images'}")
    write_json(options.output, scores)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

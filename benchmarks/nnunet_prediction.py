"""Does nnReg predict what nnU-Net predicts, from nnU-Net's own checkpoint? A short training of nnU-Net, imported, and CTs predicted by both.

``python benchmarks/nnunet_prediction.py DATA_DIR`` - see README.md. Prints what differs and what it costs, writes JSON, exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from process_tree import measured
from selfconfig_data import Raw, link
from vs_nnunet import FOLD, PROGRAMS, Array, Dataset, Recipe, Scores, add_common

from nnreg.errors import NnRegError
from nnreg.files import write_json
from nnreg.geometry import resample_image, resample_labels
from nnreg.imageio import read_image, write_image

BAR, EXACT = 0.999, 1e-4  # share of voxels with the same label; difference of probabilities where both programs sum in float32
IMAGES = ("small", "whole", "thick", "framed")
WORKER = Path(__file__).with_name("vs_nnunet_worker.py")
SPACING = (5.0, 4.0, 4.0)  # mm, of the training images; those predicted have others
CROPS = 5  # training images, as many as folds
ORGANS = {"spleen": (1,), "kidneys": (2, 3), "liver": (5,), "stomach": (6,), "colon": (20,), "vertebrae": tuple(range(26, 51)), "muscles": (86, 87)}
SINGLE = "nnunetv2_float32"  # nnU-Net with its sums in float32


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


def write_images(data: Path, folder: Path, names: Sequence[str]) -> None:
    """What is predicted, a folder each."""
    small, whole = (data / "totalseg_examples" / f"example_{kind}.nii.gz" for kind in ("ct_sm", "ct"))
    shutil.rmtree(folder, ignore_errors=True)
    image = read_image(small)
    for name in names:
        path = folder / name / f"{name}_0000.nii.gz"
        if name in ("small", "whole"):
            link(path, small if name == "small" else whole)
            continue
        path.parent.mkdir(parents=True)
        array, space = image.array, image.space
        if name == "thick":
            array = array[:, ::3]
            space = space.with_spacing((3 * space.spacing[0], *space.spacing[1:]), array.shape[1:])
        else:
            inside = (..., slice(2, -3), slice(7, -12), slice(9, -5))
            array = np.zeros_like(array)
            array[inside] = image.array[inside]
        write_image(path, array, space)


def predict(dataset: Dataset, name: str, model: Path, programs: Sequence[str]) -> dict[str, Scores]:
    """One image by the command of each program, in turn: what each costs."""
    spent = {}
    for who in programs:
        output = dataset.work / who / "predicted" / name
        shutil.rmtree(output, ignore_errors=True)
        files = ["-i", str(dataset.work / "predicted" / name), "-o", str(output), "-device", "cpu", "--save_probabilities", "-npp", "0", "-nps", "0"]
        if who == "nnreg":
            command = [sys.executable, "-W", "ignore", "-m", "nnreg.cli.predict", "-m", str(model), "--no_pictures", "-q", *files]
        else:
            options = output.with_name(f"{name}.options.json")
            arguments = ["-d", dataset.full, "-c", dataset.configuration, "-f", str(FOLD), *files]
            write_json(options, {"threads": dataset.options.threads, "float32": who == SINGLE, "arguments": arguments})
            command = [dataset.options.peer_python, "-W", "ignore", str(WORKER), "nnunetv2", "predict", str(options)]
        environment = dataset.environment("nnreg" if who == "nnreg" else "nnunetv2", "predict")
        spent[who] = measured(command, environment, output.with_name(f"{name}.log"))
    return spent


def compared(dataset: Dataset, name: str, peer: str) -> Scores:
    """Label maps and probabilities of nnReg and another program."""
    own, other = (dataset.work / who / "predicted" / name / name for who in ("nnreg", peer))
    labels, theirs = (read_image(path.with_suffix(".nii.gz")).array for path in (own, other))
    probabilities, expected = (np.load(path.with_suffix(".npz"))["probabilities"].astype(np.float32) for path in (own, other))
    if labels.shape != theirs.shape or probabilities.shape != expected.shape:
        raise NnRegError(
            f"{name}: nnReg's label map and probabilities have shapes {labels.shape}, {probabilities.shape}, nnU-Net's {theirs.shape}, {expected.shape}."
        )
    difference = np.abs(probabilities - expected)
    return {
        "same": float((labels == theirs).mean()),
        "different": int((labels != theirs).sum()),
        "voxels": labels.size,
        "foreground": float((theirs > 0).mean()),
        "least_dice": float(np.nanmin(dataset.dice_of(labels, theirs))),
        "greatest": float(difference.max()),
        "greatest_at": [int(index) for index in np.unravel_index(difference.argmax(), difference.shape)],
        "mean": float(difference.mean()),
    }


def run(options: argparse.Namespace) -> Scores:
    """Train, import, predict, compare."""
    dataset = Dataset("abdomen", options, DATASETS)
    dataset.prepare()
    dataset.step("nnunetv2", "train")
    print(f"nnU-Net's training: Dice {dataset.dice('nnunetv2', 0):.3f} on {', '.join(dataset.cases())}, mean over organs", flush=True)
    trained = next((dataset.work / "nnunetv2" / "results" / "seed0" / dataset.full).glob("*__3d_fullres"))
    environment = dataset.environment("nnreg", "import")
    results = Path(environment["nnReg_results"])
    shutil.rmtree(results, ignore_errors=True)
    measured([sys.executable, "-W", "ignore", "-m", "nnreg.cli.import_", str(trained)], environment, dataset.work / "nnreg" / "import.log")
    write_images(options.data.absolute(), dataset.work / "predicted", options.images)
    programs = (*PROGRAMS, SINGLE) if options.float32 else PROGRAMS
    scores: Scores = {}
    for name in options.images:
        spent = predict(dataset, name, results / dataset.full / trained.name, programs)
        scores[name] = {peer: {"spent": spent[peer], **compared(dataset, name, peer)} for peer in programs[1:]} | {"nnreg": {"spent": spent["nnreg"]}}
        if name == "small":
            truth = organs(read_image(options.data / "totalseg_examples" / "example_seg.nii.gz").array)
            found = read_image(dataset.work / "nnreg" / "predicted" / name / f"{name}.nii.gz").array
            scores[name]["nnreg"]["dice"] = dict(zip(ORGANS, dataset.dice_of(truth, found), strict=True))
        print_image(name, scores[name])
    return scores


def print_image(name: str, scores: Scores) -> None:
    """What differs and what it costs, a line per program."""
    for who, one in scores.items():
        spent = one["spent"]
        line = f"{name:6}  {who:16}  {spent['seconds']:6.1f} s, {spent['processor']:6.1f} s of the processor, {spent['mib']:5.0f} MiB"
        if who != "nnreg":
            line += (
                f";  nnReg's labels the same in {one['same']:.4%} of {one['voxels']} voxels ({one['foreground']:.1%} are organs), least Dice "
                f"{one['least_dice']:.4f}; probabilities differ by at most {one['greatest']:.2g}, {one['mean']:.1g} on average"
            )
        elif "dice" in one:
            line += ";  Dice " + ", ".join(f"{organ} {value:.2f}" for organ, value in one["dice"].items())
        print(line, flush=True)


def missed(scores: Scores) -> list[str]:
    """Which bars are not met."""
    result = [f"{name}: {one['nnunetv2']['same']:.4%} the same" for name, one in scores.items() if one["nnunetv2"]["same"] < BAR]
    return result + [f"{name}: {one[SINGLE]['greatest']:.2g}" for name, one in scores.items() if SINGLE in one and one[SINGLE]["greatest"] > EXACT]


def main() -> int:
    """All images, then the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument(
        "--images", nargs="+", choices=IMAGES, default=list(IMAGES), metavar="NAME", help=f"what is predicted, of {', '.join(IMAGES)} (default: all)"
    )
    parser.add_argument("--float32", action="store_true", help="predict also with nnU-Net's sums over tiles in float32, and compare with those")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="of nnU-Net's training (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=100, metavar="N", help="iterations per epoch (default: %(default)s)")
    add_common(parser, "nnunet_prediction")
    parser.set_defaults(short=True)
    options = parser.parse_args()
    try:
        scores = run(options)
    except NnRegError as error:
        print(error)
        return 1
    write_json(options.output, scores)
    lines = missed(scores)
    print(
        f"at least {BAR:.1%} of the voxels the same"
        + (f", probabilities within {EXACT:g} in float32" if options.float32 else "")
        + f": {'MISSED' if lines else 'met'}"
    )
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())

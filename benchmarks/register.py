"""nnReg's presets beside other programs on pairs of images: accuracy, smoothness, time and memory in one run.

``python benchmarks/register.py PAIRS_DIR`` - one folder per pair; see README.md. Prints a table, writes JSON, exits 1 where nnReg misses its bar.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import methods
import numpy as np
import SimpleITK as sitk

from nnreg import metrics
from nnreg.dataset.keypoints import read_keypoints
from nnreg.engine import align
from nnreg.engine.prepared_image import foreground, prepare
from nnreg.errors import NnRegError
from nnreg.files import write_json
from nnreg.geometry import AffineMap, FieldMap, Transform, index_points_to_world, resample_image, resample_labels
from nnreg.geometry.itk import read_itk
from nnreg.imageio import ENDINGS, Image, read_image, write_image

PEERS = ("ants_syn", "greedy", "elastix", "convexadam", "fireants")
COMMAND_SHARE, COMMAND_OF_GREEDY = 1.5, 8  # CPU seconds of the command: at most so many times the engine's, and Greedy's by that
COMMAND_MB, COMMAND_WRITTEN_MB = 700, 60  # of one pair of brains
OWN = ("nnreg-fast", "nnreg-default", "nnreg-accurate")
FOLDING_BAR = 0.01  # percent


def parser() -> argparse.ArgumentParser:
    """Options."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="methods: " + ", ".join(methods.METHODS))
    result.add_argument("pairs", type=Path, metavar="PAIRS_DIR")
    result.add_argument("-o", "--output", type=Path, default=Path("benchmark_register.json"), help="where the figures go (default: %(default)s)")
    result.add_argument("--methods", nargs="+", default=[*OWN, *PEERS], metavar="NAME", help="which methods run (default: %(default)s)")
    result.add_argument("--start", choices=("shared", "own"), default="shared", help="one affine start for all (nnReg's), or each method its own")
    result.add_argument("--peer_python", default=sys.executable, help="interpreter of the environment the other programs are installed in")
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--surface", action="store_true", help="also HD95, which takes longer than most registrations")
    result.add_argument("--dice_margin", type=float, default=0.01, help="by how much nnreg_default must exceed the best peer (default: %(default)s)")
    result.add_argument("--sdlogj_margin", type=float, default=0.05, help="by how much its SDlogJ may exceed that peer's (default: %(default)s)")
    result.add_argument("--limit", type=int, metavar="N", help="only the first N pairs")
    return result


def found_file(folder: Path, name: str, endings: tuple[str, ...] = tuple(ENDINGS)) -> Path | None:
    """The file `name` of a pair, whatever its ending."""
    return next((folder / f"{name}{ending}" for ending in endings if (folder / f"{name}{ending}").is_file()), None)


class Pair:
    """The files of one pair and the images all methods are given.

    `start` is ``shared`` (nnReg's linear alignment), ``own`` (each method's) or ``headers`` (aligned as they are).
    """

    def __init__(self, folder: Path, work: Path, start: str) -> None:
        self.name, folder = folder.name, folder.absolute()
        paths = [found_file(folder, side) for side in ("fixed", "moving")]
        if paths[0] is None or paths[1] is None:
            raise NnRegError(f"{folder}: has no {'fixed' if paths[0] is None else 'moving'} image. Name the files fixed.ENDING and moving.ENDING.")
        self.fixed, self.moving = read_image(paths[0]), read_image(paths[1])
        self.labels = [None if path is None else read_image(path) for path in (found_file(folder, f"{side}_labels") for side in ("fixed", "moving"))]
        self.points = [
            None if path is None else read_keypoints(path) for path in (found_file(folder, f"{side}_points", (".csv",)) for side in ("fixed", "moving"))
        ]
        self.truth = found_file(folder, "true_field")
        self.masks = {f"{side}_mask": str(path) for side in ("fixed", "moving") if (path := found_file(folder, f"{side}_mask")) is not None}
        self.start = Transform.identity(self.fixed.ndim)
        self.aligned = start != "own"
        given = self.moving
        if start == "shared":
            found = align(fixed=self.fixed.array, fixed_space=self.fixed.space, moving=self.moving.array, moving_space=self.moving.space)
            self.start = Transform.affine(found.matrix)
        if self.aligned:
            # what lies around a slide is white, around a head dark
            ground = float(np.median(_border(self.moving)))
            warped = resample_image(self.moving.array, moving=self.moving.space, fixed=self.fixed.space, transform=self.start, outside=ground)
            given = Image(warped, self.fixed.space)
        # other programs take one channel
        self.files = {"fixed": str(work / "fixed.nii.gz"), "moving": str(work / "moving.nii.gz")}
        self.whole = {"fixed": str(paths[0]), "moving": str(paths[1])}
        for side, image in (("fixed", self.fixed), ("moving", given)):
            grey = image.array.astype(np.float32).mean(axis=0, keepdims=True)
            write_image(Path(self.files[side]), grey, image.space)
            if self.aligned:
                self.whole[side] = str(work / f"{side}_whole.nii.gz")
                write_image(Path(self.whole[side]), image.array.astype(np.float32), image.space)
        self.peer_masks = self.masks
        if self.aligned and "moving_mask" in self.masks:
            mask = read_image(Path(self.masks["moving_mask"]))
            warped_mask = resample_labels(mask.array, moving=mask.space, fixed=self.fixed.space, transform=self.start)
            self.peer_masks = self.masks | {"moving_mask": str(work / "moving_mask.nii.gz")}
            write_image(Path(self.peer_masks["moving_mask"]), warped_mask, self.fixed.space)
        side = prepare(self.fixed.array, self.fixed.space, None, "fixed")
        self.body = self.labels[0].array[0] > 0 if self.labels[0] is not None else foreground(side) > 0.5

    def job(self, method: str, output: Path, threads: int, settings: dict[str, Any]) -> dict[str, Any]:
        """What a method is asked to do."""
        own = _ours(method)
        extra: dict[str, Any] = (self.masks if not self.aligned else {}) if own else {**self.peer_masks, "settings": settings}
        return {"method": method, **(self.whole if own else self.files), **extra, "output": str(output), "threads": threads, "aligned": self.aligned}

    def score(self, output: Path, surface: bool) -> dict[str, Any]:
        """Figures of what a method left in `output`."""
        path = found_file(output, "field")
        field = None if path is None else read_itk(path).stages[0]
        if not isinstance(field, FieldMap):
            raise NnRegError(f"{output}: holds no displacement field. Look at what the method printed.")
        stages: list[FieldMap | AffineMap] = [field]
        if (output / "matrix.json").is_file():
            stages.append(AffineMap(np.asarray(json.loads((output / "matrix.json").read_text()))))
        transform = Transform((*stages, *self.start.stages), self.fixed.ndim)
        body = self.body
        cost = output / "cost.json"
        result: dict[str, Any] = json.loads(cost.read_text()) if cost.is_file() else {}
        if min(field.space.shape) > 1:
            result["sdlogj"] = metrics.sdlogj(field.displacement, body)
            result["folding_percent"] = metrics.folding_percent(field.displacement, body)
        if self.labels[0] is not None and self.labels[1] is not None:
            result.update(self._overlap(self.labels[0], self.labels[1], transform, surface))
        if self.points[0] is not None and self.points[1] is not None:
            result.update(self._landmarks(transform))
        if self.truth is not None:
            true, own = read_itk(self.truth).sampled_on(self.fixed.space).displacement, transform.sampled_on(self.fixed.space).displacement
            result["error_voxels"] = float(np.sqrt(((own - true) ** 2).sum(axis=0))[body].mean())
            result["error_in_plane"] = float(np.sqrt(((own - true)[-2:] ** 2).sum(axis=0))[body].mean())
        return result

    def _overlap(self, fixed: Image, moving: Image, transform: Transform, surface: bool) -> dict[str, Any]:
        warped = resample_labels(moving.array, moving=moving.space, fixed=self.fixed.space, transform=transform)
        values = sorted({*np.unique(fixed.array).tolist(), *np.unique(moving.array).tolist()} - {0})
        scores = metrics.dice(fixed.array, warped, values, moving=moving.array)
        result: dict[str, Any] = {"dice": float(np.nanmean(list(scores.values()))), "labels": {str(label): score for label, score in scores.items()}}
        if surface:
            distances = metrics.hausdorff95(fixed.array, warped, values, self.fixed.space.spacing, moving=moving.array)
            result["hd95_mm"] = float(np.nanmean([value for value in distances.values() if np.isfinite(value)]))
        return result

    def _landmarks(self, transform: Transform) -> dict[str, float]:
        count = min(len(points) for points in self.points if points is not None)
        fixed, moving = (np.asarray(points)[:count] for points in self.points)
        mapped = transform.map_points(index_points_to_world(fixed, self.fixed.space))
        distances = metrics.point_distances(mapped, index_points_to_world(moving, self.moving.space))
        diagonal = float(np.linalg.norm(self.moving.space.extent))
        return {"tre_median_mm": float(np.median(distances)), "tre_median_relative": float(np.median(distances)) / diagonal}


def _ours(method: str) -> bool:
    """Whether a method is nnReg's engine or its command: it takes the files as they are."""
    return method.startswith(("nnreg", "command"))


def _border(image: Image) -> np.ndarray:
    """The values on the outermost voxels of an image."""
    outer = np.ones(image.space.shape, bool)
    outer[(slice(1, -1),) * image.ndim] = False
    return image.array[:, outer]


def installed(method: str, python: str) -> bool:
    """Whether the program behind a method can be imported."""
    package = next((package for prefix, package in methods.PACKAGES.items() if method.startswith(prefix)), None)
    return package is None or subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False).returncode == 0


def run_method(pair: Pair, method: str, options: argparse.Namespace, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run one method on one pair, in a process of its own that may end as it likes, and score it."""
    python = sys.executable if _ours(method) else str(Path(shutil.which(options.peer_python) or options.peer_python).absolute())
    environment = {**os.environ, **{name: str(options.threads) for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "MKL_NUM_THREADS")}}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        (output / "job.json").write_text(json.dumps(pair.job(method, output, options.threads, settings or {})))
        command = [python, str(Path(methods.__file__).resolve()), str(output / "job.json")]
        # elastix leaves files where it runs
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=output)
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]}
        return pair.score(output, options.surface)


FIGURES = (
    "dice",
    "hd95_mm",
    "tre_median_mm",
    "tre_median_relative",
    "error_voxels",
    "error_in_plane",
    "sdlogj",
    "folding_percent",
    "seconds",
    "cpu_seconds",
    "peak_mb",
    "written_mb",
)


def summarise(scores: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Means over pairs (medians of landmark errors) per method."""
    result = {}
    for method, pairs in scores.items():
        rows = {name: [score[name] for score in pairs.values() if name in score] for name in FIGURES}
        result[method] = {name: float(np.median(row) if name.startswith("tre") else np.nanmean(row)) for name, row in rows.items() if row}
        labels = [score["labels"] for score in pairs.values() if "labels" in score]
        if labels and len(labels[0]) <= 8:
            result[method].update({f"dice_{key}": float(np.nanmean([row[key] for row in labels if key in row])) for key in labels[0]})
    return result


def print_table(summary: dict[str, dict[str, float]]) -> None:
    """One row per method."""
    names = list(dict.fromkeys(name for row in summary.values() for name in row))
    print(" | ".join(["method".ljust(16), *names]))
    for method, row in summary.items():
        print(" | ".join([method.ljust(16), *(f"{row.get(name, float('nan')):.4g}".rjust(len(name)) for name in names)]))


def missed(summary: dict[str, dict[str, float]], options: argparse.Namespace) -> list[str]:
    """The bars nnReg's default preset misses, and fast's."""
    own, peers = summary.get("nnreg-default"), {name: row for name, row in summary.items() if not _ours(name)}
    problems = []
    if own is None:
        return problems
    with_dice = {name: row for name, row in peers.items() if "dice" in row}
    if with_dice and "dice" in own:
        name, best = max(with_dice.items(), key=lambda item: item[1]["dice"])
        if own["dice"] < best["dice"] + options.dice_margin:
            problems.append(f"Dice {own['dice']:.4f}, wanted {best['dice'] + options.dice_margin:.4f} ({name} + {options.dice_margin:g})")
        if own["sdlogj"] > best["sdlogj"] + options.sdlogj_margin:
            problems.append(f"SDlogJ {own['sdlogj']:.3f}, wanted at most {best['sdlogj'] + options.sdlogj_margin:.3f} ({name} + {options.sdlogj_margin:g})")
    for figure in ("tre_median_mm", "error_in_plane"):
        others = {name: row[figure] for name, row in peers.items() if figure in row}
        if others and figure in own and own[figure] > min(others.values()):
            name = min(others, key=lambda name: others[name])
            problems.append(f"{figure} {own[figure]:.3f}, wanted at most {others[name]:.3f} ({name})")
    if own.get("folding_percent", 0) > FOLDING_BAR:
        problems.append(f"folding {own['folding_percent']:.4f} %, wanted at most {FOLDING_BAR} %")
    if "greedy" in summary and "cpu_seconds" in summary["greedy"]:
        for name, share in (("nnreg-default", 4), ("nnreg-fast", 10)):
            if name in summary and summary[name]["cpu_seconds"] > summary["greedy"]["cpu_seconds"] / share:
                problems.append(
                    f"{name} took {summary[name]['cpu_seconds']:.1f} CPU seconds, wanted 1/{share} of greedy's {summary['greedy']['cpu_seconds']:.1f}"
                )
    return problems + _command_missed(summary)


def _command_missed(summary: dict[str, dict[str, float]]) -> list[str]:
    """The bars of the whole command: its CPU seconds beside the engine's and Greedy's, its memory and what it writes."""
    command = summary.get("command-default", {})
    bars = {
        "peak_mb": COMMAND_MB,
        "written_mb": COMMAND_WRITTEN_MB,
        "cpu_seconds": min(
            COMMAND_SHARE * summary.get("nnreg-default", {}).get("cpu_seconds", float("inf")),
            summary.get("greedy", {}).get("cpu_seconds", float("inf")) / COMMAND_OF_GREEDY,
        ),
    }
    return [f"command-default: {name} {command[name]:.1f}, wanted at most {bar:.1f}" for name, bar in bars.items() if command.get(name, 0) > bar]


def main() -> int:
    """Run."""
    options = parser().parse_args()
    chosen = [method for method in options.methods if installed(method, options.peer_python)]
    absent = [method for method in options.methods if method not in chosen]
    if absent:
        print(f"not installed, left out: {', '.join(absent)}")
    scores: dict[str, dict[str, dict[str, Any]]] = {method: {} for method in chosen}
    folders = sorted(folder for folder in options.pairs.iterdir() if folder.is_dir())[: options.limit]
    for folder in folders:
        with tempfile.TemporaryDirectory() as work:
            pair = Pair(folder, Path(work), options.start)
            for method in chosen:
                scores[method][pair.name] = run_method(pair, method, options)
                shown = {name: round(value, 4) for name, value in scores[method][pair.name].items() if isinstance(value, float)}
                print(pair.name, method, scores[method][pair.name].get("failed", shown), flush=True)
    summary = summarise(scores)
    print_table(summary)
    problems = missed(summary, options)
    write_json(options.output, {"start": options.start, "threads": options.threads, "summary": summary, "pairs": scores, "missed": problems})
    for problem in problems:
        print(f"missed: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    try:
        sys.exit(main())
    except NnRegError as error:
        sys.exit(str(error))

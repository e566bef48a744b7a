"""Dense prediction beside nnU-Net: the same plan, split, batch and number of iterations, trained and validated by both.

``python benchmarks/vs_nnunet.py DATA_DIR`` - see README.md. Prints Dice, iterations per second, seconds and memory, writes JSON, exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from math import isnan, nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from process_tree import measured
from vs_nnunet_data import DATASETS, Recipe
from vs_nnunet_pace import STEPS, paced
from vs_nnunet_plans import agreed, small, write_into

from nnreg.errors import NnRegError
from nnreg.files import read_json, write_json
from nnreg.imageio import read_image

PROGRAMS = ("nnreg", "nnunetv2")
TRAINING = ("train", "pace", "lockstep")  # what a worker does for both
LOCKSTEP = {"epochs": 2, "iterations": 10, "seed": 5}  # steps on the same batches
FASTER, SMALLER = 3.0, 2.0  # bars of preprocessing: times faster, of the memory
APART = 1e-4  # of weights, after the same steps: rounding, should the two run other versions of torch
FOLD, SHORT_CASES = 0, 4  # trained; validated at most with --short
Scores = dict[str, Any]
Array = npt.NDArray[Any]


def parser() -> argparse.ArgumentParser:
    """Options."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="datasets: " + ", ".join(DATASETS))
    result.add_argument("data", type=Path, metavar="DATA_DIR")
    result.add_argument("--only", nargs="+", choices=DATASETS, default=list(DATASETS), metavar="NAME", help="which datasets (default: all)")
    result.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each program (default: %(default)s)")
    result.add_argument("--epochs", type=int, metavar="N", help="epochs (default: 40; 4 with --short)")
    result.add_argument("--iterations", type=int, metavar="N", help="iterations per epoch (default: 100; 25 with --short)")
    result.add_argument("--short", action="store_true", help="smaller patch, network and batch in the plans of both, few iterations")
    add_common(result, "vs_nnunet")
    return result


def add_common(parser: argparse.ArgumentParser, name: str) -> None:
    """Where nnU-Net is, with how much both work, and where what they make goes."""
    parser.add_argument("--peer_python", default=sys.executable, help="interpreter of the environment nnunetv2 is installed in (default: this one)")
    parser.add_argument("--peer_path", nargs="+", default=[], metavar="DIR", help="folders that nnunetv2 and what it needs are imported from")
    parser.add_argument("--threads", type=int, default=2, help="of a training or prediction (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="of planning and preprocessing (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load training data (default: 0, the training itself)")
    parser.add_argument(
        "--work", type=Path, default=Path(f"{name}_work"), help="everything that is made; another run goes on from there (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(f"benchmark_{name}.json"), help="where the figures go (default: %(default)s)")


class Dataset:
    """One dataset, its folders and what has been measured."""

    def __init__(self, name: str, options: argparse.Namespace, datasets: Mapping[str, Recipe] = DATASETS) -> None:
        self.name, self.options = name, options
        self.configuration, make = datasets[name]
        self.number = list(datasets).index(name) + 1
        self.full = f"Dataset{self.number:03d}_{name}"
        self.work = (options.work / ("short" if options.short else "full") / name).absolute()
        self.raw = make(options.data.absolute(), self.work / "made")
        self.raw.spec["task"] = "dense_prediction"
        if not self.raw.images:
            raise NnRegError(f"{options.data}: holds no images of {name}.")
        self.raw.write(self.work / "raw" / self.full)
        epochs, iterations = (4, 25) if options.short else (40, 100)
        self.epochs, self.iterations = options.epochs or epochs, options.iterations or iterations

    def folder(self, who: str) -> Path:
        """Where a program's plans and arrays of this dataset are."""
        return self.work / who / "preprocessed" / self.full

    def step(self, who: str, what: str, seed: int = 0) -> Scores:
        """A step of a program, measured once and remembered until its options change."""
        kept = self.work / who / (f"{what}_{seed}" if what == "train" else what)
        given = {"dataset": self.number, "name": self.full, "configuration": self.configuration, "threads": self.options.processes}
        if what == "train":
            given |= self._training(seed) | {"timings": str(kept.with_suffix(".timings.json"))}
            given |= {"epochs": self.epochs, "iterations": self.iterations, "validation_iterations": max(1, self.iterations // 5)}
        options, scores = kept.with_suffix(".options.json"), kept.with_suffix(".json")
        if scores.is_file() and read_json(options) == given:
            return dict(read_json(scores))
        self._forget(who, what, seed)
        scores.unlink(missing_ok=True)
        write_json(options, given)
        write_json(scores, measured(self._command(who, what, options), self.environment(who, what, seed), kept.with_suffix(".log")))
        return dict(read_json(scores))

    def _training(self, seed: int) -> dict[str, Any]:
        """Options of every training."""
        return {"threads": self.options.threads, "fold": FOLD, "seed": seed, "workers": self.options.workers}

    def pace(self) -> Scores:
        """Training steps of both in turns, measured once and remembered."""
        given = {"dataset": self.number, "name": self.full, "configuration": self.configuration} | self._training(0)
        given |= {"epochs": 1, "iterations": STEPS, "validation_iterations": 1}
        kept = self.work / "pace.json"
        if not (kept.is_file() and read_json(kept)["options"] == given):
            folders = [self.work / who for who in PROGRAMS]
            for folder in folders:
                shutil.rmtree(folder / "results" / "pace", ignore_errors=True)
            commands = [self._command(who, "pace", self.work / who / "pace.options.json") for who in PROGRAMS]
            found = paced(folders, given, commands, [self.environment(who, "pace") for who in PROGRAMS])
            write_json(kept, {"options": given, "found": found})
        return dict(read_json(kept)["found"])

    def lockstep(self) -> Scores:
        """How far nnReg ends from nnU-Net after the same batches from the same weights, measured once and remembered."""
        kept = self.work / "lockstep.json"
        given = {"dataset": self.number, "name": self.full, "configuration": self.configuration} | self._training(0) | LOCKSTEP
        if not (kept.is_file() and read_json(kept)["options"] == given):
            files = {name: self.work / f"lockstep.{name}" for name in ("record", "found")}
            write_json(self.work / "lockstep.options.json", given | {name: str(path) for name, path in files.items()})
            for who in reversed(PROGRAMS):
                shutil.rmtree(self.work / who / "results" / "lockstep", ignore_errors=True)
                command = self._command(who, "lockstep", self.work / "lockstep.options.json")
                measured(command, self.environment(who, "lockstep"), self.work / who / "lockstep.log")
            write_json(kept, {"options": given, "found": read_json(files["found"])})
            files["record"].unlink()
        return dict(read_json(kept)["found"])

    def _forget(self, who: str, what: str, seed: int) -> None:
        """Nothing of an earlier try makes a step cheaper, or is taken for its result."""
        made = {
            "plan": [self.work / who, self.work / "network.json"],
            "preprocess": list(self.folder(who).glob(f"*_{self.configuration}")),
            "train": [self.work / who / "results" / f"seed{seed}"],
        }
        for path in made[what]:
            path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)

    def _command(self, who: str, what: str, options: Path) -> list[str]:
        """Planning and preprocessing of nnReg are its commands; the rest goes through the worker."""
        if who == "nnreg" and what not in TRAINING:
            words = {
                "plan": ["plan_and_preprocess", "--task", "dense_prediction", "--no_pp"],
                "preprocess": ["preprocess", "-c", self.configuration],
            }[what]
            return [sys.executable, "-W", "ignore", "-m", f"nnreg.cli.{words[0]}", "-d", str(self.number), "-np", str(self.options.processes), "-q", *words[1:]]
        python = sys.executable if who == "nnreg" else self.options.peer_python
        worker = ["vs_nnunet_lockstep.py", who] if what == "lockstep" else ["vs_nnunet_worker.py", who, what]
        return [python, "-W", "ignore", str(Path(__file__).with_name(worker[0])), *worker[1:], str(options)]

    def environment(self, who: str, what: str, seed: int = 0) -> dict[str, str]:
        """Folders, threads, and no accelerator."""
        results = self.work / who / "results" / (what if what in ("pace", "lockstep") else f"seed{seed}")
        places = {"raw": self.work / "raw", "preprocessed": self.folder(who).parent, "results": results}
        prefix = "nnReg" if who == "nnreg" else "nnUNet"
        paths = [str(Path(__file__).resolve().parents[1])] if who == "nnreg" else list(map(os.path.abspath, self.options.peer_path))
        count = str(self.options.processes if what in ("plan", "preprocess") else self.options.threads)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc"), count)
        own = {
            "CUDA_VISIBLE_DEVICES": "",
            # nnU-Net's planner takes this number for its threads, of which there must be one
            "nnUNet_n_proc_DA": str(self.options.workers) if what in TRAINING else count,
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        }
        return {f"{prefix}_{kind}": str(path) for kind, path in places.items()} | threads | own

    def prepare(self) -> None:
        """Plan with both, see that the plans are equal, shrink both alike, split alike, preprocess with both."""
        for who in PROGRAMS:
            self.step(who, "plan")
        shared = self.work / "network.json"  # written after the plans were made smaller, which happens once
        if not shared.is_file():
            plans = {who: read_json(self.folder(who) / name) for who, name in (("nnreg", "nnRegPlans.json"), ("nnunetv2", "nnUNetPlans.json"))}
            network = agreed(plans["nnreg"], plans["nnunetv2"], self.configuration)
            if self.options.short:
                network = small(network)
                write_into(plans["nnreg"], plans["nnunetv2"], self.configuration, network)
                write_json(self.folder("nnreg") / "nnRegPlans.json", plans["nnreg"])
                write_json(self.folder("nnunetv2") / "nnUNetPlans.json", plans["nnunetv2"])
            write_json(shared, network)
        for who in PROGRAMS:
            self.step(who, "preprocess")
        self._split()

    def _split(self) -> None:
        """The same folds for both, patients with several images undivided as nnReg splits; a short run validates few cases."""
        splits = read_json(self.folder("nnreg") / "splits_final.json")
        for split in splits if self.options.short else ():
            split["val"] = split["val"][:SHORT_CASES]
        for who in PROGRAMS:
            write_json(self.folder(who) / "splits_final.json", splits)

    def cases(self) -> list[str]:
        """What both validate."""
        return list(read_json(self.folder("nnreg") / "splits_final.json")[FOLD]["val"])

    def dice(self, who: str, seed: int) -> float:
        """Of the label maps that a program wrote: mean over labels of the mean over cases; a label that is nowhere in truth and prediction does not count."""
        models = (self.work / who / "results" / f"seed{seed}" / self.full).glob(f"*/fold_{FOLD}/validation*")
        folder = next(path for path in models if path.is_dir())
        table = []
        for case in self.cases():
            truth, ending = read_image(self.raw.labels[case]).array, "".join(self.raw.labels[case].suffixes)
            table.append(self.dice_of(truth, read_image(folder / f"{case}{ending}").array))
        return float(np.nanmean(np.nanmean(np.array(table), axis=0)))

    def dice_of(self, first: Array, second: Array) -> list[float]:
        """Of each label in two label maps; NaN where it is in neither."""
        values = [label for label in self.raw.spec["labels"].values() if label]
        sizes = [((first == value).sum(), (second == value).sum(), ((first == value) & (second == value)).sum()) for value in values]
        return [float(2 * both / (one + other)) if one + other else nan for one, other, both in sizes]

    def trained(self, who: str, seed: int) -> Scores:
        """One training and its validation."""
        scores = self.step(who, "train", seed)
        # the first iteration sets up what all others use
        spent = np.asarray(read_json(self.work / who / f"train_{seed}.timings.json"))[1:].sum(axis=0)
        count = self.epochs * self.iterations - 1
        return scores | {
            "dice": self.dice(who, seed),
            "per_second": count / (spent[0] + spent[2]),
            "per_processor_second": count / (spent[1] + spent[3]),
            "waiting": spent[0] / (spent[0] + spent[2]),
            "computing_per_second": count / spent[2],
        }

    def run(self) -> Scores:
        """All of it, the programs in turn."""
        self.prepare()
        steps = self.lockstep()
        print(
            f"{self.name}: the same {steps['steps']} batches from the same weights: loss {steps['loss_first']:.4f} to {steps['loss_last']:.4f}, at most "
            f"{steps['loss_difference']:.1e} from nnU-Net's; weights moved by {steps['weights_moved']:.3f} and end {steps['weights_difference']:.1e} apart",
            flush=True,
        )
        seeds: list[dict[str, Scores]] = []
        for seed in range(self.options.seeds):
            seeds.append({who: self.trained(who, seed) for who in PROGRAMS})
            print_seed(self.name, seed, seeds[-1])
        prepared = {what: {who: self.step(who, what) for who in PROGRAMS} for what in ("plan", "preprocess")}
        prepared["pace"] = self.pace()
        return {"network": read_json(self.work / "network.json"), "seeds": seeds, "lockstep": steps, **prepared}


def print_seed(name: str, seed: int, scores: dict[str, Scores]) -> None:
    """A line per program."""
    for who in PROGRAMS:
        one = scores[who]
        print(
            f"{name:16} seed {seed}  {who:8}  Dice {one['dice']:.4f}  "
            f"{one['per_second']:7.3f} iterations/s ({one['per_processor_second']:.3f} per processor second, "
            f"{one['waiting']:4.0%} waiting for data, {one['computing_per_second']:.3f} without)  {one['seconds']:6.0f} s in all, {one['mib']:5.0f} MiB",
            flush=True,
        )


def judged(name: str, scores: Scores) -> dict[str, bool | None]:
    """Print the comparison of a dataset; which bars are met, None where one seed does not tell."""
    bars: dict[str, bool | None] = {}
    dice = np.array([[seed[who]["dice"] for seed in scores["seeds"]] for who in PROGRAMS])
    (own, peer), count = dice.mean(axis=1), dice.shape[1]
    scatter = 2 * sqrt(dice.var(axis=1, ddof=1).sum() / count) if count > 1 else nan
    bars["Dice"] = None if isnan(scatter) else bool(own >= peer - scatter)
    width = "" if isnan(scatter) else f"; two standard errors of the difference {scatter:.4f}"
    print(f"{name}: Dice {own:.4f}, nnU-Net {peer:.4f}{width}: {_met(bars['Dice'])}")
    trained = {key: _ratio(scores["seeds"], key) for key in ("per_second", "per_processor_second", "computing_per_second")}
    bars["same steps"] = scores["lockstep"]["weights_difference"] <= APART
    bars["iterations"] = scores["pace"]["per_processor_second"] >= 1
    for what, speed, said in (("trainings", trained, ""), ("steps in turns", scores["pace"], f": {_met(bars['iterations'])}")):
        print(
            f"{name}: {what}: {speed['per_second']:.2f} times nnU-Net's iterations per second, {speed['per_processor_second']:.2f} per processor second, "
            f"{speed['computing_per_second']:.2f} without the waiting for data{said}"
        )
    for what in ("plan", "preprocess"):
        ours, theirs = (scores[what][who] for who in PROGRAMS)
        times = {key: theirs[key] / ours[key] for key in ("seconds", "processor", "mib")}
        said = ""
        if what == "preprocess":
            bars["preprocessing, seconds"], bars["preprocessing, memory"] = times["processor"] >= FASTER, times["mib"] >= SMALLER
            said = f": seconds {_met(bars['preprocessing, seconds'])}, memory {_met(bars['preprocessing, memory'])}"
        print(
            f"{name}: {what} {ours['seconds']:.1f} s, {ours['processor']:.1f} s of the processor, {ours['mib']:.0f} MiB; nnU-Net {theirs['seconds']:.1f} s, "
            f"{theirs['processor']:.1f} s, {theirs['mib']:.0f} MiB; ratios {times['seconds']:.2f}, {times['processor']:.2f}, {times['mib']:.2f}{said}"
        )
    return bars


def _ratio(seeds: Sequence[dict[str, Scores]], key: str) -> float:
    """nnReg's over nnU-Net's, median over seeds."""
    return float(np.median([seed["nnreg"][key] / seed["nnunetv2"][key] for seed in seeds]))


def _met(bar: bool | None) -> str:
    """A bar in words."""
    return "one seed does not tell" if bar is None else "met" if bar else "MISSED"


def main() -> int:
    """Every dataset, then the bars."""
    options = parser().parse_args()
    results, missed = {}, 0
    for name in options.only:
        try:
            results[name] = Dataset(name, options).run()
            results[name]["bars"] = judged(name, results[name])
        except NnRegError as error:
            print(f"{name}: {error}")
            results[name], missed = {"error": str(error)}, missed + 1
            continue
        missed += sum(bar is False for bar in results[name]["bars"].values())
        write_json(options.output, results)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

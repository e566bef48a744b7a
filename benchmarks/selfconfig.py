"""Ten data sets, planned with no flag and registered as the plan says, beside other programs at their best hand-made settings.

``python benchmarks/selfconfig.py DATA_DIR`` - see README.md. Prints the plan's main decisions and figures, writes JSON, exits 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import register
import SimpleITK as sitk
from selfconfig_data import DATASETS, Raw
from selfconfig_peers import SETTINGS

from nnreg.errors import NnRegError
from nnreg.files import read_json, write_json
from nnreg.planning.explain import explain
from nnreg.planning.plans import Plans
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.rules import RULES

FOLDING_BAR = 0.1  # percent
ACCURATE_BAR = 0.8  # share of the datasets
PEER_FIGURES = Path(__file__).parent / "peer_figures"
KEPT = 2  # ways of using a peer that are tried on all pairs
NEAR = 0.25  # of the extent: from this distance of the images' centres on, no expert would trust the headers
DECISIONS = (
    "modality_relation",
    "pre_alignment",
    "recommended",
    "optimisation.similarity",
    "optimisation.use_masks",
    "{finest}.spacing",
    "{finest}.grid",
    "{finest}.normalization[0]",
    "{finest}.training.regularisation",
    "{finest}.architecture.kwargs.integration_steps",
)
Scores = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """Options."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="datasets: " + ", ".join(DATASETS))
    result.add_argument("data", type=Path, metavar="DATA_DIR")
    result.add_argument("--only", nargs="+", choices=DATASETS, default=list(DATASETS), metavar="NAME", help="which datasets (default: all)")
    result.add_argument("-o", "--output", type=Path, default=Path("benchmark_selfconfig.json"), help="where the figures go (default: %(default)s)")
    result.add_argument("--work", type=Path, default=Path("selfconfig_work"), help="raw data, plans and what is finished; another run goes on from there")
    result.add_argument("--pairs", type=int, default=3, metavar="N", help="pairs per dataset that are measured, drawn with a fixed seed (default: %(default)s)")
    result.add_argument("--peers", nargs="+", default=list(SETTINGS), metavar="NAME", help="other programs, or none (default: %(default)s)")
    result.add_argument("--peer_python", default=sys.executable, help="interpreter of the environment the other programs are installed in")
    result.add_argument(
        "--peer_figures", type=Path, default=PEER_FIGURES, metavar="DIR", help="what other programs gave, read and added to; one run per dataset at a time"
    )
    result.add_argument("--threads", type=int, default=2, help="cores (default: %(default)s)")
    return result


class Dataset:
    """One dataset of the benchmark, in a workspace of its own."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        self.number = list(DATASETS).index(name) + 1
        self.work = (options.work / name).absolute()
        self.full = f"Dataset{self.number:03d}_{name}"
        self.raw: Raw = DATASETS[name](options.data.absolute(), self.work / "made")
        self.chosen = self.raw.chosen_pairs(options.pairs)
        self.folder = self.work / "nnReg_raw" / self.full
        self.raw.write(self.folder)
        self._pairs: dict[tuple[str, str], register.Pair] = {}
        for pair in self.chosen:
            self.raw.write_pair(self.work / "pairs" / "__".join(pair), *pair)

    def command(self, *words: str) -> Scores:
        """Run a command of nnReg; what it printed, and its seconds on the clock and of the CPU."""
        threads = str(self.options.threads)
        places = {name: str(self.work / name) for name in ("nnReg_raw", "nnReg_preprocessed", "nnReg_results")}
        # the bar is two cores: an accelerator is not looked at
        limits = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads, "nnReg_n_proc": threads}
        module = "nnreg.cli." + words[0].removeprefix("nnreg_")
        wall, cpu = time.perf_counter(), _cpu_seconds()
        done = subprocess.run([sys.executable, "-m", module, *words[1:]], capture_output=True, text=True, check=False, env=os.environ | places | limits)
        if done.returncode:
            raise NnRegError(f"{self.name}: {' '.join(words)}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return {"command": " ".join(words), "output": done.stdout, "seconds": time.perf_counter() - wall, "cpu_seconds": _cpu_seconds() - cpu}

    def planned(self) -> Scores:
        """``nnreg_plan_and_preprocess`` and nothing else, then the decisions alone once more for their time."""
        kept = self.work / "planned.json"
        if not kept.is_file():
            result = self.command("nnreg_plan_and_preprocess", "-d", str(self.number))
            result["experiment"] = self.command("nnreg_plan_experiment", "-d", str(self.number))
            write_json(kept, result)
        return read_json(kept, NnRegError)

    def predicted(self) -> Scores:
        """The chosen pairs by the engine as it is planned, whatever the plan recommends: a training would take its time."""
        kept, output = self.work / "predicted.json", self.work / "registered"
        wanted = [{"fixed": fixed, "moving": moving} for fixed, moving in self.chosen]
        earlier = read_json(kept, NnRegError) if kept.is_file() else {}
        if earlier.get("pairs") != wanted:
            write_json(self.work / "pairs.json", wanted)
            words = ["nnreg_predict", "-d", str(self.number), "-c", "optimise", "-i", str(self.folder / "imagesTr"), "-o", str(output), "--field"]
            words += ["--guides", "none"]  # the other programs see no labels
            earlier = self.command(*words, "--pairs", str(self.work / "pairs.json"), "-l", str(self.folder / "labelsTr")) | {"pairs": wanted}
            write_json(kept, earlier)
        return earlier

    def pair(self, name: str, start: str) -> register.Pair:
        """A pair as the other programs are given it, made once."""
        if (name, start) not in self._pairs:
            folder = self.work / "prepared" / start / name
            folder.mkdir(parents=True, exist_ok=True)
            self._pairs[name, start] = register.Pair(self.work / "pairs" / name, folder, start)
        return self._pairs[name, start]

    def digest(self, pair: str) -> str:
        """Of everything a pair is made of, so that figures of other images of the same names are not taken for this pair's."""
        result = hashlib.sha256()
        for path in sorted((self.work / "pairs" / pair).iterdir()):
            result.update(path.read_bytes())
        return result.hexdigest()[:16]

    def own_scores(self) -> dict[str, Scores]:
        """Figures of nnReg's maps, by pair."""
        return {name: self.pair(name, "own").score(self.work / "registered" / name, surface=False) for name in map("__".join, self.chosen)}

    def mean(self, scores: dict[str, Scores], figure: str) -> float:
        """Over pairs; the median of landmark errors."""
        values = [score.get(figure, float("nan")) for score in scores.values()]
        return float(np.median(values) if figure.startswith("tre") else np.mean(values))

    def better(self, scores: dict[str, Scores]) -> float:
        """Something that is smaller where accuracy is better; infinite where a pair failed."""
        value = self.mean(scores, self.raw.figure)
        return float("inf") if np.isnan(value) else -value if self.raw.figure == "dice" else value


class Peer:
    """One other program on one dataset, tuned on the very pairs that are measured.

    On the first pair its first setting is tried from every start, then every setting from the best start; the best of these on all pairs.
    """

    def __init__(self, name: str, dataset: Dataset) -> None:
        self.name, self.dataset = name, dataset

    def best(self) -> tuple[str, dict[str, Scores]]:
        """``START SETTING`` that is best over all pairs, and its figures."""
        first, *rest = ["__".join(pair) for pair in self.dataset.chosen]
        settings = [name for name, values in SETTINGS[self.name].items() if self.dataset.raw.masks or not values.get("masks")]
        tried = {way: {first: score} for way, score in self.run(first, [f"{start} {settings[0]}" for start in self.starts(first)]).items()}
        start = self._leading(tried)[0].split()[0]
        tried |= {way: {first: score} for way, score in self.run(first, [f"{start} {setting}" for setting in settings]).items()}
        leading = self._leading(tried)[:KEPT]
        for pair in rest:
            for way, score in self.run(pair, leading).items():
                tried[way][pair] = score
        best = self._leading({way: tried[way] for way in leading})[0]
        return best, tried[best]

    def _leading(self, tried: dict[str, dict[str, Scores]]) -> list[str]:
        return sorted(tried, key=lambda way: self.dataset.better(tried[way]))

    def starts(self, pair: str) -> list[str]:
        """nnReg's alignment, the program's own (ConvexAdam has none), and the headers where they put the images about as near."""
        fixed, moving = (sitk.ReadImage(str(next((self.dataset.work / "pairs" / pair).glob(f"{side}.*")))) for side in ("fixed", "moving"))
        if self.name == "convexadam" and fixed.GetDimension() == 2:
            return []
        middles = [np.asarray(image.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in image.GetSize()])) for image in (fixed, moving)]
        extent = max(np.multiply(fixed.GetSize(), fixed.GetSpacing()))
        own = [] if self.name == "convexadam" else ["own"]
        return ["shared", *own, *(["headers"] if np.linalg.norm(middles[1] - middles[0]) < NEAR * extent else [])]

    def run(self, pair: str, ways: list[str]) -> dict[str, Scores]:
        """Figures by way; what was measured on these very files is read."""
        asked = argparse.Namespace(threads=self.dataset.options.threads, surface=False, peer_python=self.dataset.options.peer_python)
        kept = self.dataset.options.peer_figures / f"{self.dataset.name}.json"
        figures = read_json(kept, NnRegError) if kept.is_file() else {}
        known = figures.setdefault(self.name, {})
        images = self.dataset.digest(pair)
        scores = {}
        for way in dict.fromkeys(ways):
            earlier = known.setdefault(way, {}).get(pair)
            if earlier is None or earlier["images"] != images:
                start, setting = way.split()
                score = register.run_method(self.dataset.pair(pair, start), self.name, asked, SETTINGS[self.name][setting])
                known[way][pair] = {"images": images} | {key: value for key, value in score.items() if key != "labels"}
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_json(kept, figures)
                shown = score.get("failed", f"{score.get(self.dataset.raw.figure, float('nan')):.4f}, {score.get('cpu_seconds', 0):.0f} CPU s")
                print(f"    {self.name} {way} on {pair}: {shown}", file=sys.stderr, flush=True)
            scores[way] = known[way][pair]
        return scores


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(name: str, options: argparse.Namespace) -> Scores:
    """Everything about one dataset, printed as it comes."""
    dataset = Dataset(name, options)
    figure = dataset.raw.figure
    planned = dataset.planned()
    decisions = _decisions(dataset)
    print(f"\n== {name}: {len(dataset.raw.images)} images, {len(dataset.chosen)} of {len(dataset.raw.pairs())} pairs measured, {figure}")
    for decision, value, because in decisions:
        print(f"  {decision:<28} {value:<32} {because}")
    predicted = dataset.predicted()
    scores = dataset.own_scores()
    own = {key: dataset.mean(scores, key) for key in (figure, "sdlogj", "folding_percent")}
    cost = {key: planned[key] + predicted[key] for key in ("seconds", "cpu_seconds")}
    print(
        f"  planned in {planned['seconds']:.0f} s ({planned['cpu_seconds']:.0f} CPU s; the decisions alone {planned['experiment']['cpu_seconds']:.1f} CPU s), "
        f"registered in {predicted['seconds']:.0f} s ({predicted['cpu_seconds']:.0f} CPU s): {predicted['command'].split(' -i ')[0]}"
    )
    _row("nnReg", "no flag", own, figure)
    rows = {}
    for peer in [] if options.peers == ["none"] else [peer for peer in options.peers if register.installed(peer, options.peer_python)]:
        if not Peer(peer, dataset).starts("__".join(dataset.chosen[0])):
            continue
        way, found = Peer(peer, dataset).best()
        rows[peer] = {"way": way, "pairs": found, **{key: dataset.mean(found, key) for key in (figure, "sdlogj", "folding_percent")}}
        _row(peer, way, rows[peer], figure)
    values = [-row[figure] if figure == "dice" else row[figure] for row in rows.values() if not np.isnan(row[figure])]
    equal = dataset.better(scores) <= min(values) if values else None
    print(f"  at least as accurate: {'nothing to compare with' if equal is None else 'yes' if equal else 'no'}", flush=True)
    return {
        "figure": figure,
        "decisions": decisions,
        "planned": planned,
        "predicted": predicted,
        "cost": cost,
        "own": own,
        "pairs": scores,
        "peers": rows,
        "as_accurate": equal,
    }


def _decisions(dataset: Dataset) -> list[tuple[str, str, str]]:
    """(name, value, because) of the ten that matter most to what is registered how."""
    folder = dataset.work / "nnReg_preprocessed" / dataset.full
    plans = Plans.read(folder / "nnRegPlans.json")
    relation = RULES["modality_relation"](Fingerprint.read(folder / "dataset_fingerprint.json"))
    # it leads to others, so plans keep its reason only
    rows = {name: (value, because) for name, value, because in explain(plans)} | {"modality_relation": (str(relation.value), relation.because)}
    wanted = [name.format(finest=list(plans.configurations)[-1]) for name in DECISIONS]
    return [(name.split(".")[-1], *rows[name]) for name in wanted]


def _row(program: str, way: str, values: Scores, figure: str) -> None:
    folding = f"SDlogJ {values['sdlogj']:.3f}, folding {values['folding_percent']:.4f} %"
    print(f"  {program:<11} {figure} {values[figure]:.4f}  {folding}  {way}", flush=True)


def main() -> int:
    """Run."""
    options = parser().parse_args()
    results: dict[str, Scores] = {}
    for name in options.only:
        try:
            results[name] = measured(name, options)
        except NnRegError as error:
            print(f"  failed: {error}", flush=True)
            results[name] = {"failed": str(error), "as_accurate": False}
        write_json(options.output, results)
    finished = [result for result in results.values() if "failed" not in result]
    compared = [result for result in results.values() if result["as_accurate"] is not None]
    good = sum(result["as_accurate"] for result in compared)
    folds = [name for name, result in results.items() if result.get("own", {}).get("folding_percent", 0) > FOLDING_BAR]
    print(f"\n{good} of {len(compared)} at least as accurate as the best peer; folding above {FOLDING_BAR} %: {', '.join(folds) or 'none'}")
    planning, slowest = (
        sum(result["planned"]["seconds"] for result in finished),
        max((result["planned"]["experiment"]["seconds"] for result in finished), default=0),
    )
    print(f"planning took {planning:.0f} s in all, nnreg_plan_experiment at most {slowest:.1f} s")
    failed = len(results) - len(finished)
    # with --peers none nothing is compared, and nothing missed but what failed or folds
    return 1 if folds or failed or (compared and good < ACCURATE_BAR * len(results)) else 0


if __name__ == "__main__":
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    try:
        sys.exit(main())
    except NnRegError as error:
        sys.exit(str(error))

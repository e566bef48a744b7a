"""Datasets of many tiny cases: what a case costs, and whether memory grows, from fingerprint to starting again: ``many_cases.py WORK 100 1000 10000``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from nnreg.geometry import Space
from nnreg.imageio import write_image

SIDE = 16
DATASET = "Dataset001_Tiny"
TASKS = ("registration", "dense_prediction")


DIFFERENT = 64  # images; the others are links to them


def write_dataset(root: Path, count: int, pairing: str) -> Path:
    """Tiny images of a bright spot somewhere, with labels."""
    raw = root / "nnReg_raw" / DATASET
    if (raw / "dataset.json").is_file():
        return raw
    space = Space.plain((SIDE, SIDE))
    rows, columns = np.indices(space.shape)
    for number in range(DIFFERENT, count):
        for kind, name in (("imagesTr", "c{:05d}_0000.nii.gz"), ("labelsTr", "c{:05d}.nii.gz")):
            (raw / kind).mkdir(parents=True, exist_ok=True)
            (raw / kind / name.format(number)).symlink_to(name.format(number % DIFFERENT))
    for number in range(min(count, DIFFERENT)):
        rng = np.random.default_rng(number)
        centre = rng.uniform(6, 10, 2)
        distance = np.hypot(rows - centre[0], columns - centre[1])
        image = np.where(distance < 6, 100 + 50 * np.cos(rows + columns) + rng.normal(0, 5, space.shape), 0)
        write_image(raw / "imagesTr" / f"c{number:05d}_0000.nii.gz", image[None].astype(np.float32), space)
        write_image(raw / "labelsTr" / f"c{number:05d}.nii.gz", (distance < 3)[None].astype(np.uint8), space)
    content = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "spot": 1}, "numTraining": count, "file_ending": ".nii.gz"}
    content |= {"pairing": pairing}
    if pairing == "groups":  # of two: images of a person on one grid, nothing to align
        content["groups"] = {f"c{number:05d}": f"p{number // 2}" for number in range(count)}
    (raw / "dataset.json").write_text(json.dumps(content))
    return raw


def measured(command: list[str], *arguments: object) -> tuple[float, float, float, float]:
    """Run a command; wall and CPU seconds, MB of the process that hands out the cases and of the largest process."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *command, *map(str, arguments)], stdout=subprocess.DEVNULL)
    own, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            try:
                found = Path(f"/proc/{process.pid}/status").read_text().partition("VmHWM:")[2].split()
            except OSError:
                return
            own[0] = max(own[0], float(found[0]) / 1024) if found else own[0]

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    ended.set()
    watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)} failed with {status}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, own[0], usage.ru_maxrss / 1024


def main() -> None:
    """Print a row for each command and number of cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("counts", type=int, nargs="+")
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--pairing", choices=("all", "groups"), default="all", help="all: every case is aligned; groups: none has to be")
    parser.add_argument("-np", dest="processes", type=int, default=1)
    options = parser.parse_args()
    for count in options.counts:
        root = options.work / str(count)
        raw = write_dataset(root, count, options.pairing)
        common = ("-d", 1, "--workspace", root, "-np", options.processes, "--no_pbar")
        steps = {
            "fingerprint": (["nnreg.cli.extract_fingerprint"], *common, "--task", options.task, "--pair_budget", 0, "--clean"),
            # as for a GPU: how fast this machine trains is no matter of the number of cases
            "plan": (["nnreg.cli.plan_experiment"], "-d", 1, "--workspace", root, "--task", options.task, "-device", "cuda"),
            "preprocess": (["nnreg.cli.preprocess"], *common, "--clean"),
            "nothing missing": (["nnreg.cli.preprocess"], *common),
        }
        for name, step in steps.items():
            report(options, count, name, measured(*step), count)
        folders = [path for path in (root / "nnReg_preprocessed" / DATASET).iterdir() if (path / "c00000.json").is_file()]
        arrays = next(path for path in folders if not path.name.endswith("_alignment"))
        finished = {path: path.stat().st_mtime_ns for path in arrays.glob("c*.json")}
        gone = list(finished)[:: max(1, count // 10)]
        for path in gone:
            path.unlink()
        report(options, count, f"{len(gone)} missing", measured(*steps["nothing missing"]), len(gone))
        done = [path for path in finished if path.stat().st_mtime_ns != finished[path]]
        assert sorted(done) == sorted(gone), f"{len(done)} cases were done, {len(gone)} were missing"
        assert len(finished) == count, raw


def report(options: argparse.Namespace, count: int, name: str, found: tuple[float, float, float, float], cases: int) -> None:
    """One row, also as JSON in the folder of the work."""
    wall, cpu, own, largest = found
    times = f"{wall:8.1f} s wall {cpu:8.1f} s CPU {1000 * cpu / cases:8.1f} ms a case"
    print(f"{options.task} {count:6d} {name:16s} {times} {own:7.0f} MB {largest:7.0f} MB", flush=True)
    row = {"task": options.task, "cases": count, "step": name, "wall": wall, "cpu": cpu, "own_mb": own, "largest_mb": largest, "processes": options.processes}
    with (options.work / "many_cases.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

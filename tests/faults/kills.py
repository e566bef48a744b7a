"""Commands killed at random moments and gone on with: ``python -m tests.faults.kills COUNT [SEED [LAST]]`` compares what they end with to an uninterrupted run.

A kill is SIGKILL to the whole group of processes. After it no file under a final name may be half written; after the command was run again every result must be
the same, and nothing temporary be left.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOLATILE = ("seconds", "time", "date", "timings", "host")
"""Words in keys whose values differ from run to run."""
LOGS = (".txt", ".png", ".html", ".log")
PATIENCE = 1800.0  # seconds until a command that hangs is given up


@dataclass
class Stage:
    """A command, and what is said besides to go on with it."""

    name: str
    arguments: list[str]
    go_on: list[str] = field(default_factory=list)


def stages(root: Path, raw: Path) -> list[Stage]:
    """What a user does, in this order; each begins with what those before have left."""
    where, out = ["--workspace", str(root)], root / "out"
    images = raw / "imagesTs"
    first, second = sorted(images.iterdir())[:2]
    predict = ["predict", "-i", str(images), "-o", str(out / "predicted"), "-d", "4", "-c", "2d", "-f", "0", "-device", "cpu", "--no_refinement", "--no_report"]
    length = ["--epochs", "3", "--iterations_per_epoch", "2", "-device", "cpu", "--quiet", "--no_report"]
    return [
        Stage("plan", ["extract_fingerprint", "-d", "4", "-np", "1", "--no_pbar", "--pair_budget", "0", *where]),
        Stage("preprocess", ["plan_and_preprocess", "-d", "4", "-np", "1", "--no_pbar", "--pair_budget", "0", *where]),
        Stage("train", ["train", "4", "2d", "0", *length, *where], ["-c"]),
        Stage("predict", [*predict, *where], ["--continue_prediction"]),
        Stage("evaluate", ["evaluate", str(out / "predicted"), "-d", "4", "-np", "1", *where]),
        Stage("register", ["register", str(first), str(second), "-o", str(out / "pair"), "--preset", "fast"]),
    ]


def start(stage: Stage, *more: str) -> subprocess.Popen[bytes]:
    """The command in a group of processes of its own, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    module, *arguments = stage.arguments
    return subprocess.Popen(
        [sys.executable, "-m", f"nnreg.cli.{module}", *arguments, *more],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finished(stage: Stage, *more: str) -> float:
    """Run a command to its end; its seconds."""
    began = time.monotonic()
    process = start(stage, *more)
    told = process.communicate(timeout=PATIENCE)[1].decode(errors="replace")
    if process.returncode != 0:
        raise RuntimeError(f"{stage.name} {' '.join(more)}: exit code {process.returncode}: {told.strip()[-600:]}")
    return time.monotonic() - began


def killed(stage: Stage, after: float) -> bool:
    """Kill a command after some seconds; whether it was still running."""
    process = start(stage)
    try:
        process.wait(after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    finally:
        if process.stderr is not None:
            process.stderr.close()


def results(root: Path) -> dict[str, str]:
    """Every file that a command has finished, and what it holds but times."""
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix not in LOGS and path.name != "debug.json"):
        relative = path.relative_to(root)
        if not any(part.startswith(".") for part in relative.parts):
            for part, content in _parts(path, root):
                found[f"{relative}{part}"] = hashlib.sha256(content).hexdigest()[:16]
    return found


def _parts(path: Path, root: Path) -> list[tuple[str, bytes]]:
    """What is compared of a file; of a checkpoint each part by itself, so that one that differs is named."""
    if path.suffix == ".json":
        return [("", json.dumps(_without_times(json.loads(path.read_text())), sort_keys=True).replace(str(root), "").encode())]
    if path.suffix == ".pth":
        import torch

        content = _without_times(torch.load(path, weights_only=True))
        return [(f": {name}", repr(_digested(part)).replace(str(root), "").encode()) for name, part in content.items()]
    return [("", path.read_bytes())]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if not any(word in str(key).lower() for word in VOLATILE)}
    return [_without_times(item) for item in value] if isinstance(value, (list, tuple)) else value


def _digested(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _digested(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list):
        return [_digested(item) for item in value]
    return hashlib.sha256(value.detach().cpu().numpy().tobytes()).hexdigest() if hasattr(value, "detach") else value


def left_over(root: Path) -> list[str]:
    """Temporary files and locks."""
    return [str(path.relative_to(root)) for path in root.rglob(".*") if path.name.startswith((".nnreg", ".lock"))]


def trial(count: int, seed: int, folder: Path, last: str = "register") -> list[str]:
    """`count` kills, in turn of each command up to `last`, which is killed first; what went wrong, in words."""
    from tests.tiny import oblique_space, write_dataset

    chance, problems = random.Random(seed), []
    root = folder / "work"  # always the same place: results name their folder
    raw = root / "nnReg_raw" / "Dataset004_Plane"
    subjects = {f"s{k}_{scan}": f"s{k}" for k in range(5) for scan in "ab"}
    grids = {case: oblique_space((22 + int(subject[1]), 27 - int(subject[1])), int(subject[1])) for case, subject in subjects.items()}
    training, testing = ({case: grid for case, grid in grids.items() if (subjects[case] == "s4") == held_out} for held_out in (False, True))
    write_dataset(raw, training, test_spaces=testing, pairing="groups", groups=subjects)
    before, seconds, wanted = {}, {}, {}
    plan = stages(root, raw)
    plan = plan[: [stage.name for stage in plan].index(last) + 1]
    for stage in plan:
        before[stage.name] = folder / f"before_{stage.name}"
        shutil.copytree(root, before[stage.name])
        seconds[stage.name] = finished(stage)
        wanted[stage.name] = results(root)
    for number in range(count):
        stage = plan[-1 - number % len(plan)]
        shutil.rmtree(root)
        shutil.copytree(before[stage.name], root)
        moment = chance.uniform(0.15, 1.0) * seconds[stage.name]
        hit = killed(stage, moment)
        half = _half_written(results, root)
        finished(stage, *stage.go_on)
        found = results(root)
        wrong = sorted(name for name in wanted[stage.name].keys() | found.keys() if wanted[stage.name].get(name) != found.get(name))
        left = left_over(root)
        print(f"{number}: {stage.name} {'killed' if hit else 'had ended'} after {moment:.1f} s; other: {wrong}; left: {left}; unreadable: {half}", flush=True)
        problems += [f"{number} {stage.name}: {what}" for what in (wrong, left, half) if what]
    return problems


def _half_written(read: Any, root: Path) -> str:
    """Why a file that is there cannot be read; empty if all can."""
    try:
        read(root)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(arguments: Sequence[str]) -> int:
    """Print a line for each kill; 1 if something went wrong."""
    count, seed = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 0
    with tempfile.TemporaryDirectory(prefix="nnreg_kills_", dir=os.environ.get("NNREG_FAULTS")) as folder:
        problems = trial(count, seed, Path(folder), *arguments[2:])
    print(f"{count} kills, {len(problems)} problems")
    for problem in problems:
        print(problem)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

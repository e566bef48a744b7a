"""Commands killed at random moments and gone on with, then with a full disk, and two at once: ``python -m tests.faults.kills COUNT [SEED [COMMAND ...]]``.

A kill is SIGKILL to the whole group of processes, after a random share of the processor seconds that the command needs. After it every file under a final name
must be whole; after the command was run again every result must be that of an uninterrupted run, the order of keys too, and nothing temporary be left.
``NNREG_FAULTS`` names a folder that keeps the workspaces where this failed.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.commands import Stage, ended, finished, half_done, killed, load, stages, start, write_images

VOLATILE = ("seconds", "time", "date", "timings", "host")
"""Words in keys whose values differ from run to run."""
LOGS = (".txt", ".png", ".html", ".log")
KEPT = "uninterrupted.json"
PREPARED = "NNREG_KILLS_PREPARED"  # set for the process that kills: the folder of what ran uninterrupted
LATEST = 0.95  # share of the processor seconds of a whole run at which the last kills come
LONGEST_MESSAGE = 600  # bytes
LONGEST_PAUSE = 0.03  # seconds: as long as writing a small file takes


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
    """What is compared of a file, once its reader has found it whole; of a checkpoint each part by itself, so that one that differs is named."""
    from nnreg.geometry.transform_files import read_transform
    from nnreg.imageio import read_image
    from nnreg.preprocessing.registration.storage import read_array

    if path.suffix == ".json":
        return [("", json.dumps(_without_times(json.loads(path.read_text()))).replace(str(root), "").encode())]
    if path.suffix == ".pth":
        from nnreg.training.trainer.checkpoint import load_checkpoint

        content = _without_times(load_checkpoint(path))
        return [("", repr(list(content)).encode()), *((f": {name}", repr(_digested(part)).replace(str(root), "").encode()) for name, part in content.items())]
    readers = {".b2nd": read_array, ".h5": read_transform, ".gz": read_image, ".npz": lambda archive: dict(np.load(archive))}
    if path.suffix in readers:
        readers[path.suffix](path)
    return [("", path.read_bytes())]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if not any(word in str(key).lower() for word in VOLATILE)}
    return [_without_times(item) for item in value] if isinstance(value, (list, tuple)) else value


def _digested(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _digested(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_digested(item) for item in value]
    return hashlib.sha256(value.detach().cpu().numpy().tobytes()).hexdigest() if hasattr(value, "detach") else value


def left_over(root: Path) -> list[str]:
    """Temporary files and locks."""
    return [str(path.relative_to(root)) for path in root.rglob(".*") if path.name.startswith((".nnreg", ".lock"))]


def prepare(folder: Path) -> None:
    """Run every command uninterrupted; what each began with, needed and left is kept in `folder`."""
    load()
    root, raw = _places(folder)
    write_images(root, raw)
    kept = {}
    for stage in stages(root, raw):
        shutil.copytree(root, folder / f"before_{stage.name}")
        needed = finished(stage, folder / "log")
        kept[stage.name] = (needed, results(root))
        print(f"{stage.name}: {needed:.2f} CPU s, {len(kept[stage.name][1])} results", flush=True)
    shutil.copytree(root, folder / "after")
    (folder / KEPT).write_text(json.dumps(kept))


def _places(folder: Path) -> tuple[Path, Path]:
    """Workspace and raw dataset: always the same place, because results name their folder."""
    return folder / "work", folder / "work" / "nnReg_raw" / "Dataset004_Plane"


def trial(count: int, seed: int, folder: Path, names: Sequence[str] = ()) -> list[str]:
    """`count` kills, in turn of each command of `names` (all if empty); what went wrong, in words."""
    load()
    (root, raw), log = _places(folder), folder / "log"
    kept = json.loads((folder / KEPT).read_text())
    turns = [stage for stage in stages(root, raw) if not names or stage.name in names]
    problems: list[str] = []
    tally: collections.Counter[str] = collections.Counter()
    for number in range(count):
        stage, chance = turns[number % len(turns)], random.Random(f"{seed} {number}")
        _begin_again(stage, folder)
        moment = chance.uniform(0, LATEST) * kept[stage.name][0]
        how = "killed" if killed(stage, log, moment, chance.uniform(0, LONGEST_PAUSE)) else "had ended"
        tally[f"{stage.name} {how}"] += 1
        wrong = _gone_on(stage, root, log, kept[stage.name][1])
        print(f"{number}: {stage.name} {how} at {moment:.2f} CPU s{': ' if wrong else ''}{'; '.join(wrong)}", flush=True)
        problems += [f"{number} {stage.name}: {what}" for what in wrong]
        if wrong and "NNREG_FAULTS" in os.environ:
            for name in ("work", "after"):
                shutil.copytree(folder / name, Path(os.environ["NNREG_FAULTS"]) / f"{seed}_{number}_{name}", dirs_exist_ok=True)
    print(dict(sorted(tally.items())))
    return problems


def full_disks(folder: Path, seed: int, each: int) -> list[str]:
    """Every command where files cannot grow beyond some size, and then where they can; what went wrong, in words."""
    (root, raw), log, problems = _places(folder), folder / "log", []
    kept = json.loads((folder / KEPT).read_text())
    for stage in stages(root, raw):
        # what is told goes into a file too
        sizes = sorted({path.stat().st_size for path in _written_by(stage, folder) if path.stat().st_size > LONGEST_MESSAGE})
        for number in range(each):
            _begin_again(stage, folder)
            largest = random.Random(f"{seed} {stage.name} {number}").choice(sizes) - 1
            code, told = ended(start(stage.arguments, log, largest)), log.read_text(errors="replace")
            wrong = [f"exit code {code}: {told[-600:]}"] * (code not in (0, 2, 3) or "Traceback" in told)
            wrong += _gone_on(stage, root, log, kept[stage.name][1])
            print(f"{stage.name} with files of {largest} bytes at most: exit code {code}{': ' if wrong else ''}{'; '.join(wrong)}", flush=True)
            problems += [f"{stage.name}, {largest} bytes: {what}" for what in wrong]
    return problems


def two_at_once(folder: Path) -> list[str]:
    """Every command while it runs already: the second is told of the first, or does the same; what went wrong, in words."""
    (root, raw), log, problems = _places(folder), folder / "log", []
    kept = json.loads((folder / KEPT).read_text())
    for stage in stages(root, raw):
        _begin_again(stage, folder)
        first = start(stage.arguments, folder / "first")
        half_done(first, kept[stage.name][0] / 3)
        codes = ended(start(stage.arguments, log)), ended(first)
        told = log.read_text(errors="replace")
        wrong = [f"exit codes {codes}: {told[-600:]}"] * (codes[1] != 0 or (codes[0] != 0 and "is being" not in told) or "Traceback" in told)
        wrong += _other_than(kept[stage.name][1], root)
        print(f"{stage.name} twice: exit codes {codes}{': ' if wrong else ''}{'; '.join(wrong)}", flush=True)
        problems += [f"{stage.name} twice: {what}" for what in wrong]
    return problems


def _begin_again(stage: Stage, folder: Path) -> None:
    root, _ = _places(folder)
    shutil.rmtree(root)
    shutil.copytree(folder / f"before_{stage.name}", root)


def _written_by(stage: Stage, folder: Path) -> list[Path]:
    """The files that a command adds: those that the next one begins with."""
    root, raw = _places(folder)
    names = [one.name for one in stages(root, raw)]
    begun = folder / f"before_{stage.name}"
    after = (folder / f"before_{name}" for name in names[names.index(stage.name) + 1 :])
    left = next(after, folder / "after")
    return [path for path in left.rglob("*") if path.is_file() and not (begun / path.relative_to(left)).exists()]


def _gone_on(stage: Stage, root: Path, log: Path, wanted: dict[str, str]) -> list[str]:
    """What is wrong after a kill, and after the command was run again."""
    wrong = []
    try:
        results(root)
    except Exception as error:
        wrong.append(f"half written: {type(error).__name__}: {error}")
    try:
        finished(stage, log, *stage.go_on)
    except RuntimeError as error:
        return [*wrong, f"cannot be gone on with: {error}"]
    return wrong + _other_than(wanted, root)


def _other_than(wanted: dict[str, str], root: Path) -> list[str]:
    """What differs from an uninterrupted run, in words."""
    found = results(root)
    absent, added = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    left = left_over(root)
    told = {"other than uninterrupted": other, "absent": absent, "added": added}
    return [f"{what}: {names}" for what, names in told.items() if names] + [f"left behind: {left}"] * bool(left)


def main(arguments: Sequence[str]) -> int:
    """Print a line for each trial; 1 if something went wrong."""
    count, seed = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 0
    if PREPARED in os.environ:
        folder = Path(os.environ[PREPARED])
        problems = trial(count, seed, folder, arguments[2:])
        if not arguments[2:]:
            problems += [*full_disks(folder, seed, 1 + count // 50), *two_at_once(folder)]
        print(f"{count} kills, {len(problems)} problems", *problems, sep="\n")
        return int(bool(problems))
    with tempfile.TemporaryDirectory(prefix="nnreg_kills_", dir=os.environ.get("NNREG_FAULTS")) as temporary:
        prepare(Path(temporary))
        # by another process, in which sets have another order: what depends on it would be no result
        again = [sys.executable, "-m", "tests.faults.kills", str(count), str(seed), *arguments[2:]]
        return subprocess.run(again, env=os.environ | {PREPARED: temporary}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

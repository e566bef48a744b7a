"""Many damaged files, read in a process that may crash or hang: ``python -m tests.fuzz.trial COUNT [SEED] [NAME ...]`` prints what went wrong."""

from __future__ import annotations

import collections
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.corpus import CHECKED, build
from tests.fuzz.mutations import mutated

PATIENCE = 120.0  # seconds for one file: machines of tests are busy
SLOW = {"theirs.h5": 40, "model.zip": 6}  # of so many turns one: a process of its own is started, or much is written


@dataclass(frozen=True)
class Finding:
    """What should not be."""

    name: str
    seed: int
    kind: str
    told: str


class Reader:
    """The process that reads; it is started again when it ends."""

    def __init__(self, corpus: Path) -> None:
        self.corpus = corpus
        self.process: subprocess.Popen[str] | None = None
        self.first: dict[str, Any] = {}

    def __call__(self, name: str, path: Path) -> dict[str, Any]:
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"name": name, "path": str(path)}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _start(self) -> None:
        command = [sys.executable, "-m", "tests.fuzz.worker", str(self.corpus)]
        # every thread would reserve 64 MB of addresses for what it allocates, and ITK's threads would come to the limit by that alone
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        self.first = self._answer(10 * PATIENCE)

    def _answer(self, patience: float = PATIENCE) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], patience)
        line = self.process.stdout.readline() if ready else ""
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        kind = "crash" if ready else "hang"
        self.close()
        return {"kind": kind, "told": f"exit code {self.code}"}

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.code = self.process.wait()
            self.process = None


def trial(count: int, seed: int, folder: Path, names: Sequence[str] = ()) -> tuple[list[Finding], collections.Counter[str]]:
    """Damage `count` files in turn and read each."""
    corpus, job = folder / "corpus", folder / "job"
    corpus.mkdir(parents=True)
    files = [path for path in build(corpus) if not names or path.name in names]
    reader, findings, counts = Reader(corpus), [], collections.Counter()
    for number, path in enumerate(_turns(files, count)):
        shutil.rmtree(job, ignore_errors=True)
        target, bare = _damaged(path, job, np.random.default_rng([seed, number]))
        found = reader(path.name, target)
        kind = found["kind"]
        if not number and any(first["kind"] not in ("read", "refused") for path in files for first in [reader.first[path.name]]):
            raise RuntimeError(f"the corpus itself is not read: {reader.first}")
        if kind == "read" and bare and path.name in CHECKED and found["told"] != reader.first[path.name]["told"]:
            kind = "changed"
        outside = [other for other in folder.iterdir() if other not in (corpus, job)]
        kind = "outside" if outside else kind
        counts[kind] += 1
        if number % 500 == 499:
            print(f"{number + 1}: {dict(counts)}", flush=True)
        if kind not in ("read", "refused"):
            findings.append(Finding(path.name, number, kind, found["told"]))
            print(f"{path.name} {number}: {kind}\n{found['told']}\n", flush=True)
            kept = folder.parent / "findings" / f"{seed}_{number}_{kind}_{path.name}"
            kept.parent.mkdir(exist_ok=True)
            shutil.move(str(target), kept)
    reader.close()
    return findings, counts


def _turns(files: Sequence[Path], count: int) -> Iterator[Path]:
    number = turn = 0
    while number < count:
        for path in files:
            if number < count and turn % SLOW.get(path.name, 1) == 0:
                yield path
                number += 1
        turn += 1


def _damaged(path: Path, job: Path, rng: np.random.Generator) -> tuple[Path, bool]:
    """A copy of a file with what lies beside it, damaged; of a folder one of its files is."""
    job.mkdir()
    target = job / path.name
    if path.is_dir():
        shutil.copytree(path, target)
        victims = sorted(part for part in target.rglob("*") if part.is_file())
        victim = victims[int(rng.integers(len(victims)))]
    else:
        shutil.copyfile(path, target)
        victim = target
        data = path.with_suffix({".mhd": ".zraw", ".nhdr": ".raw"}.get(path.suffix, ".none"))
        if data.is_file():
            shutil.copyfile(data, job / data.name)
    content, bare = mutated(victim.name if path.is_file() else victim.name + ".json" * victim.name.startswith(".z"), victim.read_bytes(), rng)
    victim.write_bytes(content)
    return target, bare and path.is_file()


def main(arguments: Sequence[str]) -> int:
    """Print what was found; 1 if anything was."""
    count, seed = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 0
    with tempfile.TemporaryDirectory(prefix="nnreg_fuzz_", dir=os.environ.get("NNREG_FUZZ")) as folder:
        findings, counts = trial(count, seed, Path(folder) / "trial", arguments[2:])
        kept = Path(folder) / "findings"
        if kept.is_dir() and "NNREG_FUZZ" in os.environ:
            shutil.copytree(kept, Path(os.environ["NNREG_FUZZ"]) / "findings", dirs_exist_ok=True)
    print(dict(counts))
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

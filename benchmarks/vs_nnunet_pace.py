"""Training steps of two programs in turns, so that what else the machine does slows both alike."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnreg.errors import NnRegError
from nnreg.files import read_json, write_json

STEPS = 80
WARM_UP = 3  # first steps, which set up what all others use


def paced(folders: Sequence[Path], options: dict[str, object], commands: Sequence[list[str]], environments: Sequence[dict[str, str]]) -> dict[str, float]:
    """How many times as many steps as the second program the first makes in a second.

    Parameters
    ----------
    folders
        One per program: options, pipe, log and timings.
    options
        Of a training; each program's command ends in the file they are written to.

    Returns
    -------
    dict
        ``per_second`` and ``per_processor_second`` with the waiting for batches, ``computing_per_second`` (of the processor) without: medians over
        neighbouring steps.
    """
    pipes = [folder / "pace.pipe" for folder in folders]
    for folder, pipe in zip(folders, pipes, strict=True):
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        (folder / "pace.timings.json").unlink(missing_ok=True)
    turns = [os.open(pipe, os.O_RDWR) for pipe in pipes]
    running = []
    for folder, own, other, command, environment in zip(folders, pipes, reversed(pipes), commands, environments, strict=True):
        write_json(folder / "pace.options.json", options | {"own": str(own), "other": str(other), "timings": str(folder / "pace.timings.json")})
        with (folder / "pace.log").open("w") as log:
            running.append(subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT))
    os.write(turns[0], b".")
    try:
        _ended(running, folders)
    finally:
        for turn, pipe in zip(turns, pipes, strict=True):
            os.close(turn)
            pipe.unlink()
    # (program, step, waiting or computing, clock or processor)
    spent = np.array([read_json(folder / "pace.timings.json") for folder in folders]).reshape(2, -1, 2, 2)[:, WARM_UP:]
    first, second = spent.sum(axis=2)
    clock, processor = np.median(second / first, axis=0)
    computing = np.median(spent[1, :, 1, 1] / spent[0, :, 1, 1])
    return {"per_second": float(clock), "per_processor_second": float(processor), "computing_per_second": float(computing)}


def _ended(running: list[subprocess.Popen[bytes]], folders: Sequence[Path]) -> None:
    """Wait for both; where one fails, the other would wait for its turn for ever."""
    try:
        while any(process.poll() is None for process in running):
            if any(process.poll() for process in running):
                break
            time.sleep(0.2)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    # the one that failed of itself, not the one that was stopped for it
    for process, folder in sorted(zip(running, folders, strict=True), key=lambda one: one[0].returncode < 0):
        if process.returncode:
            log = folder / "pace.log"
            raise NnRegError(f"{' '.join(map(str, process.args[-3:]))}: {(log.read_text().strip().splitlines() or ['no message'])[-1]} ({log} has all of it)")  # type: ignore[index]


__all__ = ["STEPS", "paced"]

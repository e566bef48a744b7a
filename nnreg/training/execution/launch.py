"""Several processes on this machine for one training: started, watched, and ended together. torch is not imported before a process knows its threads."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from nnreg.errors import NnRegError, TrainingError, WorkerError
from nnreg.parallel import SPAWN

GRACE = 5.0  # seconds for the others to say why they end, and to end when they are told to
FAILED = 2


def launch(work: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Call ``work(*arguments)`` in so many processes, which find each other by torchrun's variables (RANK, WORLD_SIZE ...).

    Parameters
    ----------
    work
        A picklable function.
    processes
        How many. They share the threads that this process may use (``OMP_NUM_THREADS``, else all cores).
    *arguments
        Picklable.

    Raises
    ------
    TrainingError
        If one fails or is killed; the others are ended. Its own message, where it has one.
    WorkerError
        If it fails without a message for users; the traceback is in the later lines.
    """
    shared = _variables(processes)
    running: list[BaseProcess] = []
    ends: list[Connection] = []
    try:
        for rank in range(processes):
            end, other = SPAWN.Pipe()
            process = SPAWN.Process(target=_enter, args=(other, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, work, arguments))
            process.start()
            other.close()
            running.append(process)
            ends.append(end)
        _watch(running)
    finally:
        _end(running)
    if any(process.exitcode for process in running):
        raise _reason(running, [_said(end) for end in ends])


def _variables(processes: int) -> dict[str, str]:
    """What every process finds in its environment."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = str(max(1, (int(given) if given.isdigit() else cores) // processes))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = str(processes)
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return {**there, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def _enter(end: Connection, variables: dict[str, str], work: Callable[..., None], arguments: Sequence[Any]) -> None:
    """The life of a process: what it fails with goes through `end`, and with the one who started it, it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it is asked, and ends it
    os.environ.update(variables)
    threading.Thread(target=_end_with, args=(end,), daemon=True).start()
    try:
        work(*arguments)
    except NnRegError as error:
        end.send(error)
        os._exit(FAILED)  # threads of a broken process group need not be waited for
    except BaseException:
        end.send(traceback.format_exc())
        os._exit(FAILED)


def _end_with(end: Connection) -> None:
    try:
        end.recv()
    except (EOFError, OSError):
        os._exit(FAILED)


def _watch(running: Sequence[BaseProcess]) -> None:
    """Until all have ended well, or one has not; then a moment for the others to say something."""
    alive = list(running)
    while alive:
        wait([process.sentinel for process in alive])
        for process in alive:
            process.join(0)
        alive = [process for process in alive if process.exitcode is None]
        if any(process.exitcode for process in running):
            wait_for(alive, GRACE)
            return


def wait_for(processes: Sequence[BaseProcess], seconds: float) -> None:
    """Until all have ended, `seconds` at most."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))


def _end(running: Sequence[BaseProcess]) -> None:
    for process in running:
        process.terminate()
    wait_for(running, GRACE)
    for process in running:
        process.kill()
        process.join()


def _said(end: Connection) -> NnRegError | str | None:
    try:
        found: NnRegError | str | None = end.recv() if end.poll() else None
    except (EOFError, OSError):
        return None
    return found


def _reason(running: Sequence[BaseProcess], said: Sequence[NnRegError | str | None]) -> NnRegError:
    """Why it ended: a message that is not about others, a crash, a kill; else what is left."""
    from nnreg.training.distributed import LostProcessError

    for message in said:
        if isinstance(message, NnRegError) and not isinstance(message, LostProcessError):
            return message
    for rank, message in enumerate(said):
        if isinstance(message, str):
            return WorkerError(f"process {rank} of {len(said)} (counted from 0): {message.strip().splitlines()[-1]}\n{message}")
    killed = [(rank, process) for rank, process in enumerate(running) if process.exitcode and said[rank] is None and process.exitcode != -signal.SIGTERM]
    for rank, process in killed:
        code = process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return TrainingError(
            f"process {rank} of {len(said)} (counted from 0) {how}, so all were ended. The system kills a process when memory runs out. Go on with -c."
        )
    return next((message for message in said if isinstance(message, NnRegError)), TrainingError("a process was ended from outside. Go on with -c."))

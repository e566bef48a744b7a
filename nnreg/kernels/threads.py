"""Compiled loops on several threads: plain Python threads, because the loops release the interpreter's lock.

numba's own layers cannot be entered from two threads at once, or do not survive a fork; these do.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_lock = threading.Lock()
_worker = threading.local()


def _pool(workers: int) -> ThreadPoolExecutor:
    # by process, because a fork copies the pool's books but not its threads
    key = os.getpid(), workers
    with _lock:
        if key not in _pools:
            _pools[key] = ThreadPoolExecutor(workers, "nnreg-kernel", initializer=_mark_worker)
        return _pools[key]


def _mark_worker() -> None:
    _worker.inside = True


def thread_count() -> int:
    """How many threads a loop may use: torch's number where torch is loaded, else ``OMP_NUM_THREADS``, else the cores this process may run on."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):  # not yet there while torch is being imported
        return int(torch.get_num_threads())
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parts(kernel: Callable[..., None], size: int, *arguments: Any, least: int = 1, multiple: int = 1) -> None:
    """Call ``kernel(start, stop, *arguments)`` on parts of ``range(size)`` of at least `least`, one per thread; they begin at multiples of `multiple`.

    Returns when all are done; the first failure is raised.
    """
    workers = max(1, min(thread_count(), size // max(1, least, multiple)))
    # a loop that is itself one part of another runs alone: waiting for the pool from inside it could wait for ever
    if workers == 1 or getattr(_worker, "inside", False):
        kernel(0, size, *arguments)
        return
    edges = [round(size * part / workers / multiple) * multiple for part in range(workers)] + [size]
    pool = _pool(workers - 1)
    others = [pool.submit(kernel, start, stop, *arguments) for start, stop in itertools.pairwise(edges[1:])]
    kernel(edges[0], edges[1], *arguments)
    for other in others:
        other.result()

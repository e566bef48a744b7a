"""Compiled loops on several threads: plain Python threads, because the loops release the interpreter's lock.

numba's own layers cannot be entered from two threads at once, or do not survive a fork; these do.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

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


def in_parts(kernel: Callable[..., None], size: int, *arguments: Any, least: int = 1) -> None:
    """Call ``kernel(start, stop, *arguments)`` on parts of ``range(size)`` of at least `least`, one per thread torch may use.

    Returns when all are done; the first failure is raised.
    """
    workers = max(1, min(torch.get_num_threads(), size // max(1, least)))
    # a loop that is itself one part of another runs alone: waiting for the pool from inside it could wait for ever
    if workers == 1 or getattr(_worker, "inside", False):
        kernel(0, size, *arguments)
        return
    edges = [round(size * part / workers) for part in range(workers + 1)]
    pool = _pool(workers - 1)
    others = [pool.submit(kernel, start, stop, *arguments) for start, stop in itertools.pairwise(edges[1:])]
    kernel(edges[0], edges[1], *arguments)
    for other in others:
        other.result()

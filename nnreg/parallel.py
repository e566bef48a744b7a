"""The one pool of workers: a failure reaches the user with its case, a killed worker is explained, one process means no process."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from nnreg.errors import NnRegError, WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_processes() -> int:
    """``nnReg_n_proc`` if set, else the cores this process may use, at most 8."""
    named = os.environ.get("nnReg_n_proc")
    if named is not None:
        if not named.isdigit() or int(named) < 1:
            raise NnRegError(f"nnReg_n_proc: expected a positive number of processes, found {named!r}. Set it to 1 or more, or unset it.")
        return int(named)
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def run_all(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    processes: int,
    name: Callable[[Item], str] = str,
) -> Iterator[tuple[Item, Result]]:
    """Yield ``(item, work(item))`` as each finishes; the order is not the order of `items`.

    Parameters
    ----------
    work
        A picklable function of one item.
    items
        The items. They are handed out as workers become free.
    processes
        1 runs in this process, with the same result.
    name
        What an item is called in messages.

    Raises
    ------
    NnRegError
        The worker's own, untouched, if it is one.
    WorkerError
        For any other failure, with the item and the worker's traceback; or if a worker was killed, which is nearly always memory.
    """
    if processes <= 1:
        for item in items:
            yield item, _guarded(work, item, name(item))
        return
    # spawn: forking a process that has used torch's or blosc2's threads can hang
    context = multiprocessing.get_context("spawn")
    waiting = iter(items)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread_each) as pool:
        running: dict[Future[Any], Item] = {}
        try:
            for item in waiting:
                running[pool.submit(_guarded, work, item, name(item))] = item
                if len(running) >= 2 * processes:
                    yield from _finished(running)
            while running:
                yield from _finished(running)
        except BrokenProcessPool as broken:
            cases = ", ".join(name(item) for item in running.values())
            raise WorkerError(
                f"a worker was killed while on one of: {cases}. The system does that when memory runs out: use fewer processes (-np 1) or free memory."
            ) from broken
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finished(running: dict[Future[Any], Item]) -> Iterator[tuple[Item, Any]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        result = future.result()
        yield running.pop(future), result


def _guarded(work: Callable[[Item], Result], item: Item, name: str) -> Result:
    try:
        return work(item)
    except (NnRegError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise WorkerError(f"{name}: {type(error).__name__}: {error}\n{traceback.format_exc()}") from error


def _one_thread_each() -> None:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"

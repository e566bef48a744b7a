"""The one pool of workers: a failure reaches the user with its case, a killed worker is explained, one process means no process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pickle import HIGHEST_PROTOCOL, dumps, loads
from typing import Any, Protocol, TypeVar

from nnreg.errors import NnRegError, WorkerError

NO_MEMORY = ("allocate memory", "bad_alloc", "bad allocation", "out of memory", "Cannot allocate", "Unable to allocate", "returned NULL without setting")

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


_clusters: list[Executor] = []  # of each open block of `on_workers_of`


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
        A picklable function of one item. A worker gets it once, whatever the number of items: it may know all of them.
    items
        The items. They are handed out as workers become free.
    processes
        1 runs in this process, with the same result. Inside :func:`on_workers_of` the workers of the cluster are taken, whatever it says.
    name
        What an item is called in messages.

    Raises
    ------
    NnRegError
        The worker's own, untouched, if it is one.
    WorkerError
        For any other failure, with the item and the worker's traceback; or if a worker was killed, which is nearly always memory.
    """
    if _clusters:
        yield from _handed_out(_clusters[-1], work, items, name)
    elif processes <= 1:
        for item in items:
            yield item, guarded(work, item, name(item))
    else:
        # spawn: forking a process that has used torch's or blosc2's threads can hang
        context = multiprocessing.get_context("spawn")
        packed = dumps(work, HIGHEST_PROTOCOL)
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(packed,)) as pool:
            try:
                yield from _handed_out(LocalWorkers(pool, processes), work, items, name)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


class Executor(Protocol):
    """Workers that take one item each."""

    @property
    def workers(self) -> int:
        """How many there are now."""
        ...

    @property
    def died(self) -> type[Exception]:
        """What a call raises whose worker was killed."""
        ...

    def shared(self, work: Callable[[Item], Result]) -> Any:
        """What stands for `work` in :meth:`submit`, so that it is not sent with every item."""
        ...

    def submit(self, shared: Any, item: Any, name: str) -> Future[Any]:
        """Hand out an item."""
        ...


@dataclass(frozen=True)
class LocalWorkers:
    """Processes of this machine, which were given the work when they began."""

    pool: ProcessPoolExecutor
    workers: int
    died: type[Exception] = BrokenExecutor

    def shared(self, work: Callable[[Item], Result]) -> None:
        """See :class:`Executor`."""

    def submit(self, shared: None, item: Any, name: str) -> Future[Any]:
        """See :class:`Executor`."""
        return self.pool.submit(_on_worker, item, name)


_given: list[bytes | Callable[[Any], Any]] = []  # in a worker: its work, packed until the first item, so that a failure to unpack it is told as one of the item


def _begin(packed: bytes) -> None:
    one_thread_each()
    _given.append(packed)


def _on_worker(item: Any, name: str) -> Any:
    if isinstance(_given[0], bytes):
        _given[0] = loads(_given[0])
    return guarded(_given[0], item, name)  # type: ignore[arg-type]


@contextlib.contextmanager
def on_workers_of(cluster: Executor) -> Iterator[None]:
    """Every :func:`run_all` in the block hands its items to the workers of `cluster`."""
    _clusters.append(cluster)
    try:
        yield
    finally:
        _clusters.remove(cluster)


def _handed_out(workers: Executor, work: Callable[[Item], Result], items: Iterable[Item], name: Callable[[Item], str]) -> Iterator[tuple[Item, Result]]:
    """Two items a worker are under way, so that none waits and a million items need no more memory than a few."""
    running: dict[Future[Any], Item] = {}
    shared = workers.shared(work)
    try:
        for item in items:
            running[workers.submit(shared, item, name(item))] = item
            if len(running) >= 2 * max(1, workers.workers):
                yield from _finished(running)
        while running:
            yield from _finished(running)
    except workers.died as broken:
        cases = ", ".join(name(item) for item in running.values())
        raise WorkerError(
            f"a worker was killed while on one of: {cases}. The system does that when memory runs out: use fewer processes (-np 1) or free memory."
        ) from broken
    finally:
        for future in running:
            future.cancel()


def _finished(running: dict[Future[Any], Item]) -> Iterator[tuple[Item, Any]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        result = future.result()
        yield running.pop(future), result


def guarded(work: Callable[[Item], Result], item: Item, name: str) -> Result:
    """``work(item)``, with what fails told as :func:`run_all` promises."""
    try:
        return work(item)
    except (NnRegError, KeyboardInterrupt):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise WorkerError(f"{name}: memory is not enough. Use fewer processes (-np 1), or free memory.\n{traceback.format_exc()}") from error
        raise WorkerError(f"{name}: {type(error).__name__}: {error}\n{traceback.format_exc()}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says, in the words of Python, of C++ or of torch, that memory was not enough."""
    return isinstance(error, MemoryError) or (isinstance(error, (RuntimeError, SystemError)) and any(word in str(error) for word in NO_MEMORY))


def one_thread_each() -> None:
    """Workers share the cores by being many."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"

"""The one pool of workers: a failure reaches the user with its case, a killed worker is explained, one process means no process."""

from __future__ import annotations

import ast
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from pickle import HIGHEST_PROTOCOL, dumps, loads
from types import ModuleType
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
        packed, begun = dumps(work, HIGHEST_PROTOCOL), SPAWN.Event()
        with ProcessPoolExecutor(processes, mp_context=SPAWN, initializer=_begin, initargs=(packed, begun)) as pool:
            try:
                yield from _handed_out(LocalWorkers(pool, processes), work, items, name)
            except WorkerError as error:
                if isinstance(error.__cause__, BrokenExecutor) and not begun.is_set():
                    raise WorkerError(
                        "the workers ended before they began; what they said is above. They import the script that calls nnReg: "
                        "put all its calls under if __name__ == '__main__':, or use one process (processes=1, -np 1)."
                    ) from error
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


class _WithoutScript(SpawnProcess):
    """A spawned process that does not run the user's script a second time.

    Spawned processes import the script to find what it defines. One without ``if __name__ == "__main__":`` would call nnReg again in each of them.
    """

    _one_at_a_time = threading.Lock()

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # multiprocessing's hook
        main = sys.modules["__main__"]
        if not _runs_again(main):
            return SpawnProcess._Popen(process_obj)
        with _WithoutScript._one_at_a_time:
            spec, file = main.__spec__, main.__file__
            main.__spec__ = main.__file__ = None  # multiprocessing takes what to import from these
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                main.__spec__, main.__file__ = spec, file


def _runs_again(main: ModuleType) -> bool:
    """Whether importing the running script would do its work again: it has no ``if __name__ == "__main__":``, or came from stdin."""
    if getattr(main, "__file__", None) is None:
        return False  # a notebook or a prompt: nothing to import
    try:
        body = ast.parse(Path(main.__file__ or "").read_bytes()).body
    except OSError:
        return True
    except (SyntaxError, ValueError):
        return False  # compiled
    tests = [statement.test for statement in body if isinstance(statement, ast.If)]
    return not any(isinstance(part, ast.Name) and part.id == "__name__" for test in tests for part in ast.walk(test))


class _Spawn(SpawnContext):
    """spawn: forking a process that has used torch's, blosc2's or numba's threads can hang."""

    Process = _WithoutScript


SPAWN = _Spawn()  # of every process that nnReg starts


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


def _begin(packed: bytes, begun: Any) -> None:
    begun.set()
    one_thread_each()
    _given.append(packed)


def _on_worker(item: Any, name: str) -> Any:
    if isinstance(_given[0], bytes):
        _given[0] = guarded(loads, _given[0], name)
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

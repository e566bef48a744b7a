"""Reading ahead and writing behind while the networks run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def ahead(work: Callable[[str], Result], items: Sequence[str], count: int) -> Iterator[tuple[str, Result]]:
    """``(item, work(item))`` in order, up to `count` of them worked on in advance."""
    if count < 1:
        for item in items:
            yield item, work(item)
        return
    with ThreadPoolExecutor(count) as pool:
        futures: list[Future[Result]] = [pool.submit(work, item) for item in items[:count]]
        try:
            for index, item in enumerate(items):
                result = futures.pop(0).result()
                if index + count < len(items):
                    futures.append(pool.submit(work, items[index + count]))
                yield item, result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Behind:
    """Threads that write behind the networks; as many cases as there are threads are held at a time."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count) if count else None
        self._count, self._running = count, list[Future[dict[str, Any]]]()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def give(self, work: Callable[..., dict[str, Any]], *arguments: Any) -> Iterator[dict[str, Any]]:
        """Hand over a case; yields what has finished, after waiting for a free thread."""
        if self._pool is None:
            yield work(*arguments)
            return
        while len(self._running) >= self._count:
            yield self._running.pop(0).result()
        self._running.append(self._pool.submit(work, *arguments))

    def rest(self) -> Iterator[dict[str, Any]]:
        """Yields what is still running."""
        while self._running:
            yield self._running.pop(0).result()

"""Times the stages of a registration and tells how far it has come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from nnreg.progress import Progress


class Clock:
    """The one part of a registration that changes while it runs.

    Attributes
    ----------
    timings : dict of str to float
        Seconds per stage.
    """

    def __init__(self, on_progress: Progress | None) -> None:
        self.on_progress = on_progress
        self.total = self.done = 0
        self.timings: dict[str, float] = {}

    def expect(self, total: int) -> None:
        """From here on `total` stages are counted; before, nothing is told."""
        self.total, self.done = total, 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        start, before = time.perf_counter(), sum(self.timings.values())
        if self.on_progress is not None and self.total:
            self.on_progress(self.done, self.total, name)
        yield
        # less the stages within, so that the sum is the whole time
        spent = time.perf_counter() - start - (sum(self.timings.values()) - before)
        self.timings[name] = self.timings.get(name, 0.0) + spent
        self.done += name != "search"

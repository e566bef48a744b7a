"""How long work tells of its progress: the type of what hears of it, and a bar that does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from nnreg.run_log import tell

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being done)."""

_open_bars: list[Any] = []


def progress_bar(label: str, *, quiet: bool = False, everywhere: bool = False) -> Progress:
    """A tqdm bar that is fed with (done, total, description); it appears with the first call. The log of the command hears of it too.

    Parameters
    ----------
    label
        What is being done.
    quiet
        Show nothing.
    everywhere
        Show it in notebooks and files too; else in terminals alone.
    """
    bar: Any = None
    shown, ended = not quiet and (everywhere or sys.stderr.isatty()), False
    started = time.perf_counter()

    def show(done: int, total: int, what: str) -> None:
        nonlocal bar, ended
        if shown and bar is None:
            from tqdm.auto import tqdm

            bar = tqdm(desc=label, leave=True)
            _open_bars.append(bar)
        if bar is not None:
            bar.total, bar.n = total, done
            bar.set_postfix_str(what, refresh=False)
            bar.refresh()
        tell("progress", stage=label, done=done, total=total, what=what)
        if done >= total and not ended:
            ended = True
            if bar is not None:
                bar.close()
            tell("stage", stage=label, seconds=round(time.perf_counter() - started, 3))

    return show


def part_of(progress: Progress | None, start: float, end: float) -> Progress | None:
    """Progress of a part of some work as progress of the whole.

    Parameters
    ----------
    progress
        What hears of the whole; None: nobody.
    start, end
        Where the part begins and ends, 0 to 1.
    """
    if progress is None:
        return None
    return lambda done, total, what: progress(round(1000 * (start + (end - start) * done / max(1, total))), 1000, what)


class Further:
    """Progress of work of which the greater part counts its own steps, and which goes on after it.

    Parameters
    ----------
    progress
        What hears of the whole; None: nobody.
    steps
        How many steps follow the counted part.
    """

    def __init__(self, progress: Progress | None, steps: int) -> None:
        self._progress, self._left, self._total = progress, steps, steps

    def __call__(self, done: int, total: int, what: str) -> None:
        """A step of the counted part begins."""
        self._total = total + self._left
        self._tell(min(done, total), what)

    def then(self, what: str) -> None:
        """The next of the further steps begins."""
        self._tell(self._total - self._left, what)
        self._left -= 1

    def end(self) -> None:
        """All is done."""
        self._tell(self._total, "done")

    def _tell(self, done: int, what: str) -> None:
        if self._progress is not None:
            self._progress(done, self._total, what)


def end_bars() -> None:
    """End the line of every bar that is still shown, so that a message gets its own."""
    while _open_bars:
        _open_bars.pop().close()

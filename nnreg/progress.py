"""How long work tells of its progress: the type of what hears of it, and a bar that does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being done)."""

_open_bars: list[Any] = []


def progress_bar(label: str, *, quiet: bool = False, everywhere: bool = False) -> Progress:
    """A tqdm bar that is fed with (done, total, description); it appears with the first call.

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

    def show(done: int, total: int, what: str) -> None:
        nonlocal bar
        if bar is None:
            from tqdm.auto import tqdm

            bar = tqdm(desc=label, disable=quiet or not (everywhere or sys.stderr.isatty()), leave=True)
            _open_bars.append(bar)
        bar.total = total
        bar.n = done
        bar.set_postfix_str(what, refresh=False)
        bar.refresh()
        if done >= total:
            bar.close()

    return show


def end_bars() -> None:
    """End the line of every bar that is still shown, so that a message gets its own."""
    while _open_bars:
        _open_bars.pop().close()

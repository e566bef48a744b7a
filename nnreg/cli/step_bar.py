"""The one line that shows how far a training is."""

from __future__ import annotations

import sys

from nnreg.run_log import tell


class StepBar:
    """One line that is rewritten: the step within the epoch. Log lines go above it."""

    def __init__(self, quiet: bool) -> None:
        from tqdm import tqdm

        self.bar = tqdm(disable=quiet or not sys.stderr.isatty(), leave=False, bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}")

    def step(self, done: int, total: int, what: str) -> None:
        """Show progress."""
        self.bar.total, self.bar.n = total, done
        self.bar.set_description_str(what, refresh=False)
        self.bar.refresh()

    def write(self, line: str) -> None:
        """Print a log line."""
        self.bar.clear()
        tell("line", text=line)
        print(line, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()

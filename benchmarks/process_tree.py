"""What a command costs with all the processes it starts: seconds, processor seconds and peak memory (Linux)."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from nnreg.errors import NnRegError

INTERVAL = 0.05  # seconds


class Memory(threading.Thread):
    """Largest proportional set size (MiB) of a process and its descendants together, looked at 20 times a second, or less often where looking takes long."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.ended = process, 0.0, threading.Event()

    def run(self) -> None:
        """Look until told that the process ended."""
        pause = INTERVAL
        while not self.ended.wait(pause):
            begun = time.thread_time()
            self.peak = max(self.peak, sum(map(_megabytes, _family(self.process))))
            # what looks must not take from what it looks at
            pause = max(INTERVAL, 50 * (time.thread_time() - begun))


def _family(process: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = [int(child) for path in Path(f"/proc/{process}/task").glob("*/children") for child in path.read_text().split()]
    except OSError:  # it ended
        return [process]
    return [process, *(member for child in children for member in _family(child))]


def _megabytes(process: int) -> float:
    """Proportional set size: a page that several processes share counts once in all."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measured(command: Sequence[str], environment: dict[str, str], log: Path) -> dict[str, float]:
    """Run a command, its output in `log`: seconds on the clock and of the processor, peak memory of all its processes."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        running = subprocess.Popen(command, env=os.environ | environment, stdout=stream, stderr=subprocess.STDOUT)
        memory = Memory(running.pid)
        memory.start()
        code = running.wait()
    memory.ended.set()
    memory.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise NnRegError(f"{' '.join(command[-3:])}: {(log.read_text().strip().splitlines() or ['no message'])[-1]} ({log} has all of it)")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - begun, "processor": processor, "mib": memory.peak}

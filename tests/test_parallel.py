"""The pool of workers: what is sent to them, and how often."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nnreg.errors import WorkerError
from nnreg.parallel import run_all

packed: list[int] = []


class Work:
    """Knows all items; counts how often it is packed."""

    def __init__(self, known: int) -> None:
        self.known = list(range(known))

    def __getstate__(self) -> dict[str, Any]:
        packed.append(1)
        return self.__dict__

    def __call__(self, item: int) -> int:
        return self.known[item] ** 2


def test_work_is_sent_to_a_worker_once_and_errors_name_the_item() -> None:
    """A work that knows all cases would else cost the square of their number."""
    packed.clear()
    assert dict(run_all(Work(20), range(20), processes=2)) == {item: item**2 for item in range(20)}
    assert len(packed) == 1
    with pytest.raises(WorkerError, match="case 3: IndexError"):
        list(run_all(Work(3), range(4), processes=2, name=lambda item: f"case {item}"))


CALLS = """
from math import factorial

from nnreg.parallel import run_all

"""
GUARD = 'if __name__ == "__main__":\n    '
CALL = "print(sum(value for _, value in run_all({work}, range(5), processes=2)))\n"
OWN = "def twice(number):\n    return 2 * number\n\n"


def run_script(text: str, folder: Path, *, from_stdin: bool = False) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(text)
    return subprocess.run([sys.executable, "-" if from_stdin else str(script)], input=text if from_stdin else None, capture_output=True, text=True)


@pytest.mark.parametrize("from_stdin", [False, True])
def test_a_script_without_a_guard_is_not_run_again_by_workers(from_stdin: bool, tmp_path: Path) -> None:
    done = run_script(CALLS + CALL.format(work="factorial"), tmp_path, from_stdin=from_stdin)
    assert done.stdout.split() == ["34"], done.stderr


def test_workers_find_what_a_guarded_script_defines(tmp_path: Path) -> None:
    done = run_script(CALLS + OWN + GUARD + CALL.format(work="twice"), tmp_path)
    assert done.stdout.split() == ["20"], done.stderr


def test_calls_beside_the_guard_are_told_as_what_they_are(tmp_path: Path) -> None:
    """Until now: that memory ran out."""
    done = run_script(CALLS + CALL.format(work="factorial") + GUARD + "pass\n", tmp_path)
    assert done.returncode == 1
    assert "under if __name__ == '__main__':" in done.stderr

"""What a killed write leaves behind goes with the next write into the folder; what a living one makes stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnreg import temporaries
from nnreg.files import write_text

KILLED = """
import os, signal
from pathlib import Path
from nnreg.files import atomic_path
with atomic_path(Path({!r})) as part:
    part.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _nothing_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporaries, "_swept", set())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED.format(str(tmp_path / "a.txt"))], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".nnreg-")
    assert left.suffix == ".txt"
    write_text(tmp_path / "b.txt", "")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_what_others_are_writing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 4e9)  # a clock that was set wrong makes nothing old
    own = temporaries.temporary_beside(tmp_path / "a.txt", ".txt")
    elsewhere = own.with_name(".nnreg-00000000-999999999-deadbeef.txt")
    for path in (own, elsewhere, tmp_path / ".hidden", tmp_path / ".nnreg-notes"):
        path.touch()
    temporaries._swept.clear()
    temporaries.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    os.utime(elsewhere, (0, 0))
    temporaries._swept.clear()
    temporaries.sweep(tmp_path)
    assert not elsewhere.exists()
    assert own.exists()

"""One process at a time on a folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnreg.errors import TrainingError
from nnreg.lock import LOCK_FILE, held

HOLDER = """
import sys, time
from pathlib import Path
from nnreg.lock import held
with held(Path(sys.argv[1]), 'trained'):
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_who_holds_it(tmp_path, holder):
    with pytest.raises(TrainingError) as told, held(tmp_path, "trained", TrainingError):
        pass
    message = str(told.value)
    assert message.startswith(f"{tmp_path}: is being trained by process {holder.pid} on {socket.gethostname()} since 20")


def test_a_dead_holder_does_not_keep_it(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_FILE).is_file()
    with held(tmp_path, "trained"):
        pass
    assert not list(tmp_path.iterdir())


def test_it_is_let_go_of_after_an_error_and_by_nesting_is_refused(tmp_path):
    with pytest.raises(ValueError, match="inside"), held(tmp_path, "trained"):
        raise ValueError("inside")
    with held(tmp_path, "trained"), pytest.raises(TrainingError, match=f"process {os.getpid()} "), held(tmp_path, "trained", TrainingError):
        pass
    started = time.monotonic()
    with held(tmp_path, "trained"):
        assert time.monotonic() - started < 5

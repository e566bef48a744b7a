"""The pool of workers: what is sent to them, and how often."""

from __future__ import annotations

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

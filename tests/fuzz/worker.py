"""A process that reads damaged files under a limit of memory: ``python -m tests.fuzz.worker FOLDER``; jobs come as lines of JSON, answers go as such."""

from __future__ import annotations

import json
import resource
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from nnreg.errors import NnRegError
from tests.fuzz.corpus import READERS, digest

ROOM = 220 * 2**20  # bytes that a small file may take while it is read


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    answers = sys.stdout
    sys.stdout = sys.stderr
    first = {}
    for path in sorted(path for path in folder.iterdir() if path.name in READERS):
        first[path.name] = outcome(path.name, path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(outcome(job["name"], Path(job["path"]))), file=answers, flush=True)


def outcome(name: str, path: Path) -> dict[str, Any]:
    """``read`` with a digest, ``refused``, ``memory`` where a limit was needed to refuse it, or ``raw`` with the traceback."""
    try:
        return {"kind": "read", "told": digest(READERS[name](path))}
    except NnRegError as error:
        text = str(error)
        return {"kind": "memory" if "not fit into memory" in text or "allocate" in text else "refused", "told": text[:400]}
    except MemoryError:
        return {"kind": "memory", "told": _short()}
    except BaseException:
        return {"kind": "raw", "told": _short()}


def _short() -> str:
    return "\n".join(traceback.format_exc().strip().splitlines()[-7:])


if __name__ == "__main__":
    main(Path(sys.argv[1]))

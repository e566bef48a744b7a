"""``nnreg_reproduce``: run what made a results folder once more, and compare."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.cli.common import Parser, run

if TYPE_CHECKING:
    from nnreg.workspace import Workspace

EXIT_DIFFERS = 1
GROUPS = ("fuse", "build_template", "register_group", "longitudinal", "series")
SUMMARY = "summary.json"  # of a command of groups; elsewhere nnreg_evaluate's
RECORDS = {"measures.json": ("register",), "prediction.json": ("predict",), "debug.json": ("train",), SUMMARY: GROUPS}


def parser() -> Parser:
    """The command's options."""
    result = Parser(
        "nnreg_reproduce",
        "Run the command that made a results folder once more, into a temporary folder, and compare every file. Exit code 1 if one differs.\n"
        "Times, commands, pictures and what nnreg_evaluate wrote are not compared; of checkpoints the weights of the network.",
    )
    result.add_argument("folder", metavar="FOLDER", help="output folder of nnreg_register, nnreg_predict or a command of groups, or fold_0 of a training")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run(_work, parser(), arguments)


def _work(options: argparse.Namespace) -> int:
    from nnreg.api.reproduction import compared, other_versions

    folder = Path(options.folder)
    record, words = _record(folder)
    for line in other_versions(record):
        print(f"note: {line}")
    with tempfile.TemporaryDirectory() as temporary:
        again = _run_again(folder, words, record, Path(temporary))
        same, different = compared(folder, again, without=() if words[0] in GROUPS else (SUMMARY,))
    for line in different:
        print(line)
    print(f"{len(same)} files are the same, {len(different)} differ" if different else f"reproduced: all {len(same)} files that can be compared are the same")
    return EXIT_DIFFERS if different else 0


def _record(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What the folder says of the run that made it, and the words of its command, without ``nnreg_``."""
    from nnreg.errors import ConfigurationError
    from nnreg.files import read_json

    for name, commands in RECORDS.items():
        if (folder / name).is_file():
            record = read_json(folder / name)
            words = shlex.split(str(record.get("command", "")))
            words = words[1:] if words[:1] == ["nnreg"] else [words[0].removeprefix("nnreg_"), *words[1:]] if words else words
            if not words or words[0] not in commands:
                found = shlex.join(words) or "none"
                raise ConfigurationError(
                    f"{folder / name}: expected {' or '.join(f'nnreg_{each}' for each in commands)}, found {found}. Only such results can be repeated."
                )
            return record, words
    raise ConfigurationError(
        f"{folder}: has none of {', '.join(RECORDS)}. Name an output folder of nnreg_register, nnreg_predict or a command of groups, or a fold of a training."
    )


def _run_again(folder: Path, words: list[str], record: dict[str, Any], temporary: Path) -> Path:
    """Run the command so that it writes below `temporary`; returns where."""
    from nnreg.api.reproduction import check_inputs
    from nnreg.errors import ConfigurationError

    check_inputs(record)
    at = Path(str(record.get("folder", ".")))
    if words[0] == "train":
        workspace, again = _beside(words, at, folder, temporary)
        more = ["--workspace", str(workspace)]
    else:
        again = temporary / "again"
        more = ["-o", str(again)]
    threads = str(record.get("made_with", {}).get("threads", ""))
    environment = os.environ | ({"OMP_NUM_THREADS": threads} if threads else {})
    made = subprocess.run([sys.executable, "-m", "nnreg", *words, *more], cwd=at if at.is_dir() else None, env=environment, capture_output=True, text=True)
    if not again.is_dir():
        said = (made.stderr.strip() or "nothing").splitlines()[-1]
        raise ConfigurationError(f"{folder}: its command, run once more, wrote nothing (exit code {made.returncode}): {said}")
    return again


def _beside(words: list[str], at: Path, folder: Path, temporary: Path) -> tuple[Path, Path]:
    """A workspace with the same data and no results, and where the fold will lie in it."""
    from nnreg.cli.train import parser as training
    from nnreg.errors import ConfigurationError

    workspace = _workspace(training().parse_args(words[1:]).workspace, at)
    if not folder.absolute().is_relative_to(workspace.results):
        raise ConfigurationError(f"{folder}: is not in {workspace.results}, where its command wrote. Set the same nnReg_results, or name the fold there.")
    for name, source in (("nnReg_raw", workspace.raw), ("nnReg_preprocessed", workspace.preprocessed)):
        if source.is_dir():
            (temporary / name).symlink_to(source, target_is_directory=True)
    return temporary, temporary / "nnReg_results" / folder.absolute().relative_to(workspace.results)


def _workspace(named: str | None, at: Path) -> Workspace:
    from nnreg.workspace import Workspace

    found = Workspace.resolve(None if named is None else at / named)
    return found if named is not None or "nnReg_results" in os.environ else Workspace.resolve(at / "nnReg_workspace")


if __name__ == "__main__":
    sys.exit(main())

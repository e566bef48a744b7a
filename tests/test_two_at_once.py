"""Two commands on one dataset or one output folder: the second is told of the first, and nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nnreg.errors import NnRegError
from nnreg.inference.dense_prediction.predict import DenseOptions, predict_cases
from nnreg.inference.registration.predict import predict_pairs
from nnreg.inference.registration.register import PairFiles, register_files
from nnreg.lock import held
from nnreg.preprocessing.datasets import plan_and_preprocess
from nnreg.workspace import Workspace
from tests.tiny import oblique_space, write_dataset


def _plan(folder: Path) -> None:
    plan_and_preprocess(Workspace.resolve(folder.parents[1]), 4)


def _register(folder: Path) -> None:
    register_files(PairFiles(["a.nii.gz"], ["b.nii.gz"]), folder)


def _pairs(folder: Path) -> None:
    predict_pairs(None, None, [], folder, origin=None)  # type: ignore[arg-type]


def _cases(folder: Path) -> None:
    predict_cases(None, None, folder, model="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(("work", "told"), [(_plan, "planned or preprocessed"), (_register, "written to"), (_pairs, "written to"), (_cases, "written to")])
def test_the_second_is_told_of_the_first(tmp_path: Path, work: Callable[[Path], None], told: str) -> None:
    write_dataset(tmp_path / "nnReg_raw" / "Dataset004_Plane", {"a": oblique_space((8, 9), 0)})
    folder = tmp_path / "nnReg_preprocessed" / "Dataset004_Plane"
    folder.mkdir(parents=True)
    with held(folder, "used"), pytest.raises(NnRegError, match=rf"is being {told} by process {os.getpid()} on "):
        work(folder)
    assert list(folder.iterdir()) == []


def test_parts_of_a_prediction_share_a_folder(tmp_path: Path) -> None:
    with held(tmp_path, "used", name=".lock_0"):
        with pytest.raises(NnRegError, match="written to"):
            predict_cases(None, None, tmp_path, model="x", options=DenseOptions(part=0, parts=2))  # type: ignore[arg-type]
        with pytest.raises(AttributeError):  # it holds its part, and goes on without a predictor
            predict_cases(None, None, tmp_path, model="x", options=DenseOptions(part=1, parts=2))  # type: ignore[arg-type]

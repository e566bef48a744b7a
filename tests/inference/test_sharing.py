"""A model leaves as one file and works elsewhere as it did here; a file that was tampered with does not."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnreg.cli import export_model, install_model
from nnreg.geometry.itk import read_itk
from nnreg.inference.prediction import predict
from tests.tiny import Tiny


@pytest.fixture(scope="module")
def shared(plane: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared") / "plane.zip"
    assert export_model.main(["-m", str(plane.model()), "-o", str(path), "--licence", "CC-BY-4.0", "-f", "0"]) == 0
    return path


def test_an_installed_model_predicts_what_the_original_does(shared, plane, tmp_path, capsys):
    assert install_model.main([str(shared), "--workspace", str(tmp_path)]) == 0
    assert "Licence of the weights: CC-BY-4.0" in capsys.readouterr().out
    installed = next((tmp_path / "nnReg_results").glob("*/*"))
    assert installed.name == plane.model().name
    found = []
    for name, model in (("here", plane.model()), ("there", installed)):
        content = predict(model, plane.raw / "imagesTr", tmp_path / name, folds=["0"], device="cpu", options=_quick())
        found.append(read_itk(tmp_path / name / content["pairs"][0]["name"] / "transform.h5"))
    points = np.random.default_rng(0).uniform(0, 30, (50, 2))
    assert np.array_equal(found[0].map_points(points), found[1].map_points(points))


def _quick():
    from nnreg.inference.registration.predict import PredictOptions

    return PredictOptions(method="network", pictures=False)


def test_the_same_model_is_the_same_file_and_holds_no_pickle(shared, plane, tmp_path):
    again = tmp_path / "again.zip"
    assert export_model.main(["-m", str(plane.model()), "-o", str(again), "--licence", "CC-BY-4.0", "-f", "0"]) == 0
    assert again.read_bytes() == shared.read_bytes()
    with zipfile.ZipFile(again) as archive:
        assert {Path(name).suffix for name in archive.namelist()} <= {".json", ".md", ".safetensors", ".png", ".txt"}


def changed(path: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    change(content)
    with zipfile.ZipFile(target, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return target


def _manifest(**entries):
    def change(content: dict[str, bytes]) -> None:
        content["manifest.json"] = json.dumps(json.loads(content["manifest.json"]) | entries).encode()

    return change


def _outside(content: dict[str, bytes]) -> None:
    manifest = json.loads(content["manifest.json"])
    manifest["files"]["../../evil.json"] = {"sha256": "0", "bytes": 1}
    content |= {"manifest.json": json.dumps(manifest).encode(), "../../evil.json": b"x"}


def _flipped(content: dict[str, bytes]) -> None:
    weights = bytearray(content["fold_0/weights.safetensors"])
    weights[-1] ^= 1
    content["fold_0/weights.safetensors"] = bytes(weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_flipped, "the checksum of fold_0/weights.safetensors is wrong"),
        (_outside, "the name '../../evil.json' is not plain"),
        (_manifest(dataset="../Dataset001_X"), "a folder is '../Dataset001_X', expected a plain name"),
        (_manifest(model=".."), "a folder is '..', expected a plain name"),
        (_manifest(version=99), "expected format nnreg-model, version 1"),
        (_manifest(folds=["7"]), "fold_7 has no weights.safetensors"),
        (lambda content: content.update({"extra.txt": b"x"}), "'extra.txt' is in the file or in its manifest.json alone"),
        (lambda content: content.pop("manifest.json"), "holds no manifest.json"),
    ],
)
def test_a_file_that_was_changed_is_refused_and_leaves_nothing(shared, tmp_path, capsys, change, words):
    path = changed(shared, tmp_path / "changed.zip", change)
    assert install_model.main([str(path), "--workspace", str(tmp_path / "work")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file != path]


def test_what_is_there_is_not_replaced_and_what_is_no_model_is_told(shared, plane, tmp_path, capsys):
    assert install_model.main([str(shared), "--workspace", str(tmp_path)]) == 0
    assert install_model.main([str(shared), "--workspace", str(tmp_path)]) == 2
    assert "exists. Remove or rename it" in capsys.readouterr().err
    (tmp_path / "cut.zip").write_bytes(shared.read_bytes()[:-2000])
    for name, words in (("cut.zip", "is no model file, or is damaged"), ("none.zip", "does not exist")):
        assert install_model.main([str(tmp_path / name), "--workspace", str(tmp_path / "other")]) == 2
        assert words in capsys.readouterr().err
    shutil.rmtree(tmp_path / "nnReg_results")
    assert export_model.main(["-m", str(plane.model()), "-o", str(tmp_path / "model.tar")]) == 2
    assert "expected a name that ends in .zip" in capsys.readouterr().err

"""The reader that napari finds by its manifest, called without napari."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import yaml

import nnreg.api
from nnreg.api.napari import get_reader, vectors
from nnreg.dataset.keypoints import write_keypoints
from nnreg.files import write_json
from nnreg.geometry import AffineMap, Space, Transform
from tests.report.folders import predictions

MANIFEST = Path(nnreg.api.__file__).with_name("napari.yaml")


def test_the_manifest_names_what_is_there():
    content = yaml.safe_load(MANIFEST.read_text())
    module, _, name = content["contributions"]["commands"][0]["python_name"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert content["contributions"]["readers"][0]["command"] == content["contributions"]["commands"][0]["id"]
    declared = Path(__file__).parents[2].joinpath("setup.py").read_text()
    assert '"napari.manifest": ["nnreg = nnreg.api:napari.yaml"]' in declared
    assert all(entry.value == "nnreg.api:napari.yaml" for entry in entry_points(group="napari.manifest") if entry.name == "nnreg")


def test_the_manifest_is_one_of_npe2():
    npe2 = pytest.importorskip("npe2", reason="npe2 is not installed (pip install -e .[napari])")
    assert npe2.PluginManifest.from_file(MANIFEST).contributions.readers[0].accepts_directories


def test_napari_opens_a_pair_by_the_manifest(tmp_path):
    """napari's own model of a viewer, which needs no window."""
    components = pytest.importorskip("napari.components", reason="napari is not installed (pip install -e .[napari])")
    importlib.import_module("npe2").PluginManager.instance().discover()  # as napari does when it starts
    viewer = components.ViewerModel()
    viewer.open(str(predictions(tmp_path, ndim=2) / "a__b"), plugin="nnreg")
    assert [(layer.name, type(layer).__name__) for layer in viewer.layers] == [
        ("fixed", "Image"),
        ("warped", "Image"),
        ("warped labels", "Labels"),
        ("field", "Vectors"),
    ]
    assert len({tuple(layer.scale) for layer in viewer.layers}) == 1


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_pair_becomes_layers_on_one_grid(tmp_path, ndim):
    out = predictions(tmp_path, ndim=ndim)
    pair = out / "a__b"
    layers = get_reader(str(pair))(str(pair))
    assert [(meta["name"], kind) for _, meta, kind in layers] == [
        ("fixed", "image"),
        ("warped", "image"),
        ("warped labels", "labels"),
        ("field", "vectors"),
    ]
    fixed, warped = layers[0][0], layers[1][0]
    assert fixed.shape == warped.shape
    assert all(tuple(meta["scale"]) == tuple(layers[0][1]["scale"]) for _, meta, _ in layers)
    assert layers[3][0].shape[1:] == (2, ndim)
    whole = get_reader([str(out / "prediction.json")])(str(out))
    assert len(whole) == 12
    assert whole[0][1]["name"].endswith(": fixed")


def test_landmarks_of_a_pair_by_itself_are_points(tmp_path):
    pair = predictions(tmp_path, ndim=2) / "a__b"
    write_keypoints(tmp_path / "points.csv", np.array([[3.0, 7.0]]))
    record = {
        "schema_version": 1,
        "fixed": [str(tmp_path / "imagesTs" / "a_0000.nii.gz")],
        "moving": ["b.nii.gz"],
        "fixed_points": str(tmp_path / "points.csv"),
    }
    write_json(pair / "measures.json", record)
    points = [layer for layer in get_reader(str(pair))(str(pair)) if layer[2] == "points"]
    assert points[0][0].tolist() == [[7.0, 3.0]]  # napari counts rows first


def test_vectors_show_where_points_go_and_stay_few():
    shift = np.eye(4)
    shift[:3, 3] = (2.0, 0.0, 3.0)  # x, y, z mm
    found = vectors(Transform((AffineMap(shift),), 3), Space.plain((30, 40, 50), (1.5, 1.0, 2.0)), most=1000)
    assert 300 < len(found) <= 1300
    np.testing.assert_allclose(found[:, 1], np.broadcast_to([2.0, 0.0, 1.0], (len(found), 3)), atol=1e-5)


def test_what_is_no_result_is_left_to_other_readers(tmp_path):
    (tmp_path / "image.tif").write_bytes(b"")
    assert get_reader(str(tmp_path / "image.tif")) is None
    assert get_reader([str(tmp_path)]) is None

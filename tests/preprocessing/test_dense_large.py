"""A case that is read by parts has the fingerprint, arrays and locations of one that is read whole."""

import json

import numpy as np
import pytest

from nnreg.dataset import RawDataset
from nnreg.errors import NnRegError
from nnreg.geometry import Space
from nnreg.imageio import write_image
from nnreg.imageio import lazy
from nnreg.planning.dense import measure_large as measuring
from nnreg.planning.dense.plans import DensePlans
from nnreg.preprocessing import fingerprint_dataset, plan_dataset, preprocess_dataset
from nnreg.preprocessing.dense.large import Drawn
from nnreg.preprocessing.dense.storage import DenseDataset
from nnreg.preprocessing.dense.streamed import StreamedCase
from nnreg.workspace import Workspace

pytest.importorskip("zarr")
pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "Dataset021_Scrolls"


@pytest.fixture(params=["CT", "MR"])
def scrolls(tmp_path, request, monkeypatch):
    """Two images with a border of zeros, no zero inside, of different spacing, so that one is resampled."""
    monkeypatch.setattr(lazy, "BLOCK_VOXELS", 4000)
    folder = tmp_path / "nnReg_raw" / NAME
    for index, (shape, spacing) in enumerate([((21, 30, 34), (1.0, 1.0, 1.0)), ((18, 26, 35), (1.2, 1.1, 1.0))]):
        rng = np.random.default_rng(index)
        image = np.zeros((1, *shape), dtype=np.int16)
        image[:, 2:-1, 3:-2, 1:-4] = rng.integers(20, 60, (shape[0] - 3, shape[1] - 5, shape[2] - 5))
        labels = np.zeros_like(image, dtype=np.uint8)
        labels[:, 4:9, 10:20, 10:20] = 1
        labels[:, 9:12, 5:20, 10:20] = 2
        space = Space.plain(shape, spacing)
        write_image(folder / "imagesTr" / f"s{index}_0000.zarr", image, space)
        write_image(folder / "labelsTr" / f"s{index}.zarr", labels, space)
    spec = {"channel_names": {"0": request.param}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 2, "file_ending": ".zarr"}
    (folder / "dataset.json").write_text(json.dumps(spec))
    return Workspace.resolve(tmp_path)


def prepared(workspace, clean=True):
    found = fingerprint_dataset(workspace, 21, task="dense_prediction", processes=1, clean=clean)
    plan_dataset(workspace, 21, task="dense_prediction", overwrite_target_spacing=(1.0, 1.0, 1.0))
    folders = preprocess_dataset(workspace, 21, processes=1, clean=clean)
    arrays = {}
    for name, folder in folders.items():
        data = DenseDataset(folder)
        for case in data.cases:
            opened = data.open(case)
            arrays[name, case] = (np.asarray(opened.image[:]), np.asarray(opened.labels[:]), data.locations(case), data.properties(case))
    return found, arrays


def test_by_parts_is_as_whole(scrolls, monkeypatch):
    whole_print, whole = prepared(scrolls)
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    parts_print, parts = prepared(scrolls)
    assert parts_print.images == whole_print.images
    for field in ("mean", "std", "minimum", "maximum", "median"):
        assert getattr(parts_print.intensities[0], field) == pytest.approx(getattr(whole_print.intensities[0], field), abs=1e-3)
    assert parts.keys() == whole.keys()
    assert any(name == "2d" for name, _ in parts)
    for key, (image, labels, locations, properties) in parts.items():
        np.testing.assert_allclose(image, whole[key][0], atol=2e-4)
        np.testing.assert_array_equal(labels, whole[key][1])
        assert properties == whole[key][3]
        assert locations.keys() == whole[key][2].keys()
        for label, voxels in locations.items():
            # fewer than are drawn: all of them
            assert {*map(tuple, voxels.tolist())} == {*map(tuple, whole[key][2][label].tolist())}

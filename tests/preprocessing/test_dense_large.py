"""A case that is read by parts has the fingerprint, arrays and locations of one that is read whole."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from nnreg.dataset import RawDataset, verify_dataset
from nnreg.errors import NnRegError
from nnreg.geometry import Space
from nnreg.imageio import lazy, read_image, write_image
from nnreg.planning.orientation import code
from nnreg.preprocessing import fingerprint_dataset, plan_dataset, preprocess_dataset
from nnreg.preprocessing.dense_prediction.large import Drawn
from nnreg.preprocessing.dense_prediction.reoriented import turned_image
from nnreg.preprocessing.dense_prediction.storage import DenseDataset
from nnreg.preprocessing.dense_prediction.streamed_normalization import Moments
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


def prepared(workspace, clean=True, spacing=(1.0, 1.0, 1.0)):
    found = fingerprint_dataset(workspace, 21, task="dense_prediction", processes=1, clean=clean)
    plan_dataset(workspace, 21, task="dense_prediction", overwrite_target_spacing=spacing)
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


def test_a_large_dataset_is_verified_chunk_by_chunk(scrolls, monkeypatch):
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    raw = RawDataset.open(scrolls.raw / NAME)
    assert not verify_dataset(raw).problems
    labels = raw.folder / "labelsTr" / "s1.zarr"
    wrong = np.zeros((1, 18, 26, 35), np.uint8)
    wrong[0, 3, 3, 3] = 7
    write_image(labels, wrong, Space.plain((18, 26, 35), (1.2, 1.1, 1.0)))
    said = "\n".join(verify_dataset(raw).problems)
    assert f"{labels}: holds the values 7" in said
    with pytest.raises(NnRegError, match=r"s1.zarr: holds the value 7, labels"):
        prepared(scrolls)
    folder = next((scrolls.preprocessed / NAME).glob("*3d_fullres"))
    # what was finished stays, nothing is half written
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".made")) == ["s0.b2nd", "s0.json", "s0_locations.npz", "s0_seg.b2nd"]
    chunk = next(path for path in (raw.folder / "imagesTr" / "s0_0000.zarr" / "0").rglob("*") if path.is_file() and not path.name.startswith("."))
    chunk.write_bytes(b"")
    assert f"{raw.folder / 'imagesTr' / 's0_0000.zarr'}, chunk 0.0.0: cannot be read" in "\n".join(verify_dataset(raw).problems)
    with pytest.raises(NnRegError, match=r"chunk 0\.0\.0"):
        fingerprint_dataset(scrolls, 21, task="dense_prediction", processes=1, clean=True)


def test_labels_on_another_grid_and_values_that_are_not_finite_are_refused(scrolls, monkeypatch):
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    folder = scrolls.raw / NAME
    image = np.ones((1, 18, 26, 35), np.float32)
    write_image(folder / "imagesTr" / "s1_0000.zarr", image, Space.plain((18, 26, 35)))
    with pytest.raises(NnRegError, match=r"labelsTr/s1.zarr: lies elsewhere"):
        fingerprint_dataset(scrolls, 21, task="dense_prediction", processes=1, clean=True)
    image[0, 5, 6, 7] = np.nan
    write_image(folder / "imagesTr" / "s1_0000.zarr", image, Space.plain((18, 26, 35), (1.2, 1.1, 1.0)))
    with pytest.raises(NnRegError, match=r"s1_0000.zarr: has 1 NaN"):
        fingerprint_dataset(scrolls, 21, task="dense_prediction", processes=1, clean=True)


def test_the_sample_of_voxels_is_uniform_and_without_repetition():
    """Each of 4 x 1000 voxels is drawn with the same probability, whatever part it comes in."""
    counts = np.zeros(4000)
    for seed in range(400):
        drawn = Drawn(most=100)
        for part in range(4):
            drawn.add(np.arange(1000), ((part * 10, part * 10 + 10), (0, 10), (0, 10)), np.random.default_rng([seed, part]))
        voxels = drawn.voxels((40, 10, 10))
        assert len({*map(tuple, voxels.tolist())}) == len(voxels) == 100
        counts[np.ravel_multi_index(tuple(voxels.T), (40, 10, 10))] += 1
    # parts: 10000 each with a standard deviation below 90; voxels: binomial around 10
    assert np.abs(counts.reshape(4, -1).sum(axis=1) - 10_000).max() < 500
    assert counts.var() == pytest.approx(10 * (1 - 100 / 4000), rel=0.15)


def test_moments_of_parts_are_those_of_the_whole():
    values = np.random.default_rng(0).normal(1e4, 3, 5000).astype(np.float32)
    found = Moments()
    for part in np.split(values, [0, 1, 70, 4000]):
        found.add(part)
    found.add(np.zeros(900, np.float32))
    whole = np.concatenate([values, np.zeros(900)]).astype(np.float64)
    assert (found.count, found.low, found.high) == (5900, 0, values.max())
    assert (found.mean, found.std) == pytest.approx((whole.mean(), whole.std()), rel=1e-6)


def as_parts_of_whole(scrolls, monkeypatch, **more):
    """Arrays, labels, masks and values of every case are those of reading it whole."""
    whole_print, whole = prepared(scrolls, **more)
    masks, maps = ({key: stored(scrolls, key, kind) for key in whole} for kind in ("mask", "maps"))
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    parts_print, parts = prepared(scrolls, **more)
    assert parts_print.maps.keys() == whole_print.maps.keys()
    for name, channels in parts_print.maps.items():
        for found, expected in zip(channels, whole_print.maps[name], strict=True):
            assert dataclasses.astuple(found)[:5] == pytest.approx(dataclasses.astuple(expected)[:5], rel=1e-9)
            assert found.dtype == expected.dtype
    for key, (image, labels, locations, _) in parts.items():
        np.testing.assert_allclose(image, whole[key][0], atol=2e-4)
        np.testing.assert_array_equal(labels, whole[key][1])
        np.testing.assert_array_equal(stored(scrolls, key, "mask"), masks[key])
        values = stored(scrolls, key, "maps")
        assert (values is None) == (maps[key] is None)
        if values is not None:
            np.testing.assert_allclose(values, maps[key], atol=1e-5)
        assert locations.keys() == whole[key][2].keys()
        for label, voxels in locations.items():
            found, expected = ({*map(tuple, some.tolist())} for some in (voxels, whole[key][2][label]))
            # of the many that are annotated some are drawn, not the same ones
            assert found == expected or min(len(voxels), len(whole[key][2][label])) >= 10_000
    return parts, masks, maps


def stored(scrolls, key, kind):
    name, case = key
    found = getattr(DenseDataset(scrolls.preprocessed / NAME / f"nnRegPlans_{name}"), kind)(case)
    return None if found is None else np.asarray(found[:])


@pytest.mark.parametrize("scrolls", ["MR"], indirect=True)
def test_masks_are_read_by_parts(scrolls, monkeypatch):
    folder = scrolls.raw / NAME
    labels = RawDataset.open(folder).read_case("s0").labels
    masked = np.zeros(labels.array.shape, np.uint8)
    masked[:, :, :, 12:] = 5
    write_image(folder / "masksTr" / "s0.zarr", masked, labels.space)
    assert not verify_dataset(RawDataset.open(folder)).problems
    parts, masks, _ = as_parts_of_whole(scrolls, monkeypatch)
    assert not verify_dataset(RawDataset.open(folder)).problems
    for (name, case), (_, _, locations, _) in parts.items():
        if case == "s0":
            assert 0 < masks[name, case].mean() < 1
            assert all(masks[name, case][0][tuple(voxels.T)].all() for voxels in locations.values())
            assert any(isinstance(label, tuple) for label in locations)
    write_image(folder / "masksTr" / "s0.zarr", masked[:, 1:], Space.plain(masked[0, 1:].shape))
    with pytest.raises(NnRegError, match=r"masksTr/s0\.zarr: has shape"):
        prepared(scrolls)


@pytest.mark.parametrize("scrolls", ["CT"], indirect=True)
def test_several_targets_are_read_by_parts(scrolls, monkeypatch):
    folder = scrolls.raw / NAME
    for case in ("s0", "s1"):
        labels = RawDataset.open(folder).read_case(case).labels
        (folder / "labelsTr" / f"{case}.zarr").rename(folder / "labelsTr" / f"{case}_layers.zarr")
        write_image(folder / "labelsTr" / f"{case}_ink.zarr", 3 * (labels.array == 2).astype(np.uint8), labels.space)
        if case == "s1":
            write_image(folder / "masksTr" / "s1_ink.zarr", (labels.array < 1).astype(np.uint8), labels.space)
    content = json.loads((folder / "dataset.json").read_text())
    content["targets"] = {"layers": {}, "ink": {"labels": {"background": 0, "ink": 3}}}
    (folder / "dataset.json").write_text(json.dumps(content))
    parts, masks, _ = as_parts_of_whole(scrolls, monkeypatch)
    for (name, case), (_, labels, locations, _) in parts.items():
        assert len(labels) == 2
        assert {1, 2, 3} <= locations.keys()
        assert len(locations[3]) == (0 if case == "s1" else len(locations[2]))
        assert (masks[name, case] is None) == (case == "s0")
    wrong = np.zeros((1, 21, 30, 34), np.uint8)
    wrong[0, 3, 3, 3] = 1
    write_image(folder / "labelsTr" / "s0_ink.zarr", wrong, Space.plain((21, 30, 34)))
    assert "s0_ink.zarr: holds the values 1" in "\n".join(verify_dataset(RawDataset.open(folder)).problems)


DEPTH = {"depth": {"kind": "regression", "out_channels": 2}}


def with_values(scrolls, targets):
    """Two channels that the image does not determine, one of them unknown in a corner of the second case; beside labels, the first case has a mask."""
    folder = scrolls.raw / NAME
    content = json.loads((folder / "dataset.json").read_text()) | {"targets": targets}
    (folder / "dataset.json").write_text(json.dumps(content | ({} if len(targets) > 1 else {"labels": {}})))
    for index in range(2):
        image, labels = RawDataset.open(folder).read_image(f"s{index}"), folder / "labelsTr" / f"s{index}.zarr"
        values = np.random.default_rng(index).normal([[[[900]]], [[[-2]]]], [[[[3]]], [[[0.1]]]], (2, *image.space.shape)).astype(np.float32)
        values[0, image.array[0] == 0] = 17
        if index == 1:
            values[1, :8, :11, :13] = np.nan
        if len(targets) > 1:
            labels.rename(labels.with_name(f"s{index}_layers.zarr"))
        write_image(labels.with_name(f"s{index}_depth.zarr"), values, image.space)
    if len(targets) > 1:
        masked = np.ones((1, 21, 30, 34), np.uint8)
        masked[:, :, 15:] = 0
        write_image(folder / "masksTr" / "s0_depth.zarr", masked, Space.plain(masked.shape[1:]))
    else:
        shutil.rmtree(folder / "labelsTr" / "s0.zarr")
        shutil.rmtree(folder / "labelsTr" / "s1.zarr")
    return RawDataset.open(folder)


@pytest.mark.parametrize("scrolls", ["MR"], indirect=True)
@pytest.mark.parametrize(
    ("targets", "spacing"), [(DEPTH, (1.0, 1.0, 1.0)), ({"layers": {}, **DEPTH}, (4.0, 1.1, 0.9)), ({**DEPTH, "layers": {}}, (0.9, 1.3, 1.1))]
)
def test_values_are_read_by_parts(scrolls, monkeypatch, targets, spacing):
    """Alone and beside labels; cubic where all is known, linear where it is not, within the range of the volume or of each slice."""
    raw = with_values(scrolls, targets)
    assert not verify_dataset(raw).problems
    parts, masks, maps = as_parts_of_whole(scrolls, monkeypatch, spacing=spacing)
    assert not verify_dataset(raw).problems
    for (name, case), (_, labels, locations, _) in parts.items():
        assert len(labels) == len(targets)
        assert np.isnan(maps[name, case][1]).any() == (case == "s1")
        assert (masks[name, case] is not None) == (case == "s0" and len(targets) > 1)
        # patches are drawn from what is known where not everything is
        assert ((-1, 1) in locations) == (case == "s1" or len(targets) > 1)


@pytest.mark.parametrize("scrolls", ["CT"], indirect=True)
def test_bad_values_are_told_by_parts(scrolls, monkeypatch):
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    raw = with_values(scrolls, DEPTH)
    space = Space.plain((21, 30, 34))
    for values, message in (
        (np.full((2, *space.shape), np.nan), "nothing but NaN"),
        (np.full((2, *space.shape), np.inf), "holds infinite values"),
        (np.ones((3, *space.shape)), "has 3 channels, the target 2"),
    ):
        write_image(raw.folder / "labelsTr" / "s0_depth.zarr", values.astype(np.float32), space)
        with pytest.raises(NnRegError, match=rf"s0_depth\.zarr: .*{message}"):
            fingerprint_dataset(scrolls, 21, task="dense_prediction", processes=1, clean=True)
        assert message in "\n".join(verify_dataset(raw).problems)


@pytest.mark.parametrize("scrolls", ["MR"], indirect=True)
def test_plans_of_turned_images_turn_them_whole_and_by_parts(scrolls, monkeypatch):
    """Arrays are those of the same images and labels stored as the plans want them."""
    folder = scrolls.raw / NAME
    raw = RawDataset.open(folder)
    images = {path: read_image(path) for path in sorted(folder.glob("*/*.zarr"))}
    fingerprint_dataset(scrolls, 21, task="dense_prediction", processes=1)
    plans = plan_dataset(scrolls, 21, task="dense_prediction", overwrite_target_spacing=(1.1, 1.0, 0.9)).replace(orientation="PIR")
    plans.write(scrolls.preprocessed / NAME / "nnRegPlans.json")
    found = {}
    for name, bound, stored_so in (("parts", "100", False), ("whole", "1000000", False), ("stored so", "1000000", True)):
        monkeypatch.setenv("nnReg_whole_voxels", bound)
        for path, image in images.items():
            seen = turned_image(image, "PIR") if stored_so else image
            write_image(path, seen.array, seen.space)
        fingerprint_dataset(scrolls, 21, task="dense_prediction", processes=1, clean=True)
        folders = preprocess_dataset(scrolls, 21, configurations=["3d_fullres"], processes=1, clean=True)
        data = DenseDataset(folders["3d_fullres"])
        found[name] = {case: (data.open(case), data.properties(case)) for case in raw.cases}
        found[name] = {case: (np.asarray(opened.image[:]), np.asarray(opened.labels[:]), properties) for case, (opened, properties) in found[name].items()}
    for case, (image, labels, properties) in found["stored so"].items():
        assert code(properties.native) == "PIR"
        for other in ("whole", "parts"):
            np.testing.assert_allclose(found[other][case][0], image, atol=2e-4)
            np.testing.assert_array_equal(found[other][case][1], labels)
            assert found[other][case][2].native.same_as(properties.native)

"""A dataset as nnU-Net has it, through fingerprint and plans, by library and commands."""

import json
import subprocess
import sys

import numpy as np
import pytest

from nnreg.cli import extract_fingerprint, plan_and_preprocess, plan_experiment, preprocess
from nnreg.dataset import RawDataset, verify_dataset
from nnreg.dataset.labels import LabelManager
from nnreg.errors import NnRegError
from nnreg.geometry import Space
from nnreg.imageio import Image, read_image, write_image
from nnreg.planning.dense_prediction.foreground import QUANTILES, nonzero_box
from nnreg.planning.dense_prediction.measure import measure_case
from nnreg.planning.dense_prediction.plans import DensePlans
from nnreg.planning.plans import Plans
from nnreg.preprocessing import fingerprint_dataset, plan_dataset, preprocess_dataset
from nnreg.preprocessing.dense_prediction.restore import restore_labels
from nnreg.preprocessing.dense_prediction.storage import DenseDataset
from nnreg.workspace import Workspace

NAME = "Dataset003_Blocks"


@pytest.fixture
def blocks(tmp_path):
    """Three CT-like volumes of different size, each with a border of zeros and one labelled block; dataset.json has no `task`."""
    folder = tmp_path / "nnReg_raw" / NAME
    for index, shape in enumerate([(12, 40, 44), (13, 42, 40), (14, 44, 48)]):
        rng = np.random.default_rng(index)
        image = np.zeros((1, *shape), dtype=np.int16)
        image[:, 1:-1, 3:-2, 2:-1] = rng.integers(20, 60, (shape[0] - 2, shape[1] - 5, shape[2] - 3))
        labels = np.zeros_like(image, dtype=np.uint8)
        labels[:, 4:8, 10:20, 10:20] = 1 + index % 2
        space = Space.plain(shape, (3.0, 1.0, 1.0))
        write_image(folder / "imagesTr" / f"b{index}_0000.nii.gz", image, space)
        write_image(folder / "labelsTr" / f"b{index}.nii.gz", labels, space)
    spec = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 3, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(spec))
    return Workspace.resolve(tmp_path)


def test_commands_plan_an_unchanged_dataset(blocks, tmp_path, capsys):
    where = ["-d", "3", "--workspace", str(tmp_path), "--task", "dense_prediction"]
    assert extract_fingerprint.main([*where, "-np", "1", "-q"]) == 0
    assert plan_experiment.main(where) == 0
    assert plan_experiment.main([*where, "-pl", "nnUNetPlannerResEncM", "-gpu_memory_target", "10", "-overwrite_plans_name", "Mine"]) == 0
    said = capsys.readouterr().out
    assert "3 images with labels" in said
    assert "3d_fullres *" in said
    folder = blocks.preprocessed / NAME
    plans = Plans.read(folder / "nnRegPlans.json")
    assert isinstance(plans, DensePlans)
    assert (plans.planner, Plans.read(folder / "Mine.json").planner) == ("ExperimentPlanner", "nnUNetPlannerResEncM")
    assert json.loads((folder / "dataset.json").read_text())["task"] == "dense_prediction"
    assert (folder / "splits_final.json").is_file()
    assert plan_and_preprocess.main([*where, "--no_pp", "-q"]) == 0


def test_fingerprint_is_of_the_cropped_foreground(blocks):
    found = fingerprint_dataset(blocks, 3, task="dense_prediction", processes=1)
    assert [image.shape_after_crop for image in found.images.values()] == [(10, 35, 41), (11, 37, 37), (12, 39, 45)]
    assert found.heads == 3
    values = found.intensities[0]
    assert 20 <= values.minimum <= values.percentile_00_5 < values.median < values.percentile_99_5 <= values.maximum < 60
    assert found == fingerprint_dataset(blocks, 3, task="dense_prediction", processes=1)


def test_statistics_are_those_of_the_voxels():
    """A single case: every statistic equals numpy's on the labelled voxels, percentiles to the spacing of the quantiles."""
    rng = np.random.default_rng(0)
    shape = (9, 21, 17)
    image, labels = rng.normal(50, 9, (2, *shape)), rng.integers(0, 3, (1, *shape))
    space = Space.plain(shape)
    _, foreground = measure_case(Image(image, space), Image(labels, space))
    for channel, found in zip(image, foreground, strict=True):
        values = channel[labels[0] > 0]
        assert found.mean == pytest.approx(values.mean())
        assert found.square == pytest.approx(np.mean(values**2))
        assert len(found.quantiles) == QUANTILES
        assert np.percentile(found.quantiles, (0, 0.5, 50, 99.5, 100)) == pytest.approx(np.percentile(values, (0, 0.5, 50, 99.5, 100)), abs=0.05)


@pytest.mark.parametrize("shape", [(7, 9), (5, 8, 11)])
def test_the_box_is_the_smallest_that_loses_nothing(shape):
    rng = np.random.default_rng(len(shape))
    array = np.zeros((2, *shape))
    for _ in range(3):
        array[(int(rng.integers(2)), *(int(rng.integers(1, size)) for size in shape))] = -1.0
    box = tuple(slice(low, high) for low, high in nonzero_box(array))
    inside = array[(slice(None), *box)]
    assert np.count_nonzero(inside) == np.count_nonzero(array)
    for axis in range(1, inside.ndim):
        assert np.take(inside, 0, axis).any()
        assert np.take(inside, -1, axis).any()
    assert nonzero_box(np.zeros((1, *shape))) == tuple((0, size) for size in shape)


def test_what_is_missing_is_said_in_one_line(blocks):
    with pytest.raises(NnRegError, match=r"nnreg_extract_fingerprint -d 003 --task dense_prediction"):
        plan_dataset(blocks, 3, task="dense_prediction")
    with pytest.raises(NnRegError, match="--task dense_prediction"):
        plan_dataset(blocks, 3, planner="nnUNetPlannerResEncL")
    with pytest.raises(NnRegError, match="dense_prediction"):
        plan_dataset(blocks, 3, task="dense")
    (blocks.raw / NAME / "labelsTr" / "b1.nii.gz").unlink()
    with pytest.raises(NnRegError, match="'b1' has no label file"):
        fingerprint_dataset(blocks, 3, task="dense_prediction", processes=1)


def test_labels_on_another_grid_and_empty_labels_are_refused(blocks):
    path = blocks.raw / NAME / "labelsTr" / "b0.nii.gz"
    write_image(path, np.ones((1, 4, 5, 6), np.uint8), Space.plain((4, 5, 6)))
    with pytest.raises(NnRegError, match="has shape"):
        fingerprint_dataset(blocks, 3, task="dense_prediction", processes=1)
    for index, shape in enumerate([(12, 40, 44), (13, 42, 40), (14, 44, 48)]):
        write_image(blocks.raw / NAME / "labelsTr" / f"b{index}.nii.gz", np.zeros((1, *shape), np.uint8), Space.plain(shape, (3.0, 1.0, 1.0)))
    with pytest.raises(NnRegError, match="no voxel"):
        fingerprint_dataset(blocks, 3, task="dense_prediction", processes=1)


def test_changed_files_are_measured_again(blocks):
    before = fingerprint_dataset(blocks, 3, task="dense_prediction", processes=1)
    shape = (12, 40, 44)
    image = np.random.default_rng(5).integers(1, 900, (1, *shape)).astype(np.int16)
    write_image(blocks.raw / NAME / "imagesTr" / "b0_0000.nii.gz", image, Space.plain(shape, (3.0, 1.0, 1.0)))
    with pytest.raises(NnRegError, match="have changed"):
        plan_dataset(blocks, 3, task="dense_prediction")
    after = fingerprint_dataset(blocks, 3, task="dense_prediction", processes=1)
    assert after.images["b0"].shape_after_crop == shape != before.images["b0"].shape_after_crop


def _prepared(workspace, **options):
    fingerprint_dataset(workspace, 3, task="dense_prediction", processes=1)
    plans = plan_dataset(workspace, 3, task="dense_prediction", **options)
    return plans, preprocess_dataset(workspace, 3, processes=1)


def test_arrays_are_what_the_files_hold(blocks):
    """Every case: shapes, the mark of what is outside, locations; and labels go back to the file voxel by voxel where nothing is resampled."""
    plans, folders = _prepared(blocks, overwrite_target_spacing=(3.0, 1.0, 1.0))
    assert set(folders) == {"2d", "3d_fullres"}
    labels = LabelManager((0, 1, 2))
    for name, folder in folders.items():
        data = DenseDataset(folder)
        assert data.cases == ["b0", "b1", "b2"]
        for index, case in enumerate(data.cases):
            image, segmentation = data.open(case)
            properties, locations = data.properties(case), data.locations(case)
            assert image.shape[1:] == segmentation.shape[1:] == properties.shape_after_crop
            assert np.array_equal(image[:, 2:5, 3:9, 1:4], image[:][:, 2:5, 3:9, 1:4])
            assert (image.dtype, segmentation.dtype) == (np.float32, np.int16)
            value = 1 + index % 2
            assert [len(locations[label]) for label in (1, 2)] == [400 * (value == 1), 400 * (value == 2)]
            assert (segmentation[:][0][tuple(locations[value].T)] == value).all()
            one_hot = np.stack([np.maximum(segmentation[:][0], 0) == label for label in labels.values]).astype(np.float32)
            found = restore_labels(one_hot, properties, plans, plans.configuration(name), labels)
            written = read_image(blocks.raw / NAME / "labelsTr" / f"{case}.nii.gz")
            assert np.array_equal(found, written.array[0])
            assert properties.native.same_as(written.space)


def test_finished_cases_are_kept_until_something_changes(blocks):
    plans, folders = _prepared(blocks)
    folder = folders["3d_fullres"]

    def times():
        return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    before = times()
    (folder / "b1.json").unlink()
    preprocess_dataset(blocks, 3, processes=1)
    assert {name for name, time in times().items() if time != before[name]} == {f"b1{suffix}" for suffix in (".json", ".b2nd", "_seg.b2nd", "_locations.npz")}
    # other labels: other locations
    path = blocks.raw / NAME / "dataset.json"
    spec = json.loads(path.read_text())
    path.write_text(json.dumps(spec | {"labels": {"background": 0, "a": 1, "c": 2, "both": [1, 2]}, "regions_class_order": [1, 2, 3]}))
    fingerprint_dataset(blocks, 3, task="dense_prediction", processes=1)
    plan_dataset(blocks, 3, task="dense_prediction")
    before = times()
    preprocess_dataset(blocks, 3, processes=1, configurations=["3d_fullres"])
    assert all(time != before[name] for name, time in times().items())
    assert list(DenseDataset(folder).locations("b0")) == [1, 2, (1, 2)]
    # other spacing: other arrays
    plan_dataset(blocks, 3, task="dense_prediction", overwrite_target_spacing=(3.0, 1.5, 1.5))
    preprocess_dataset(blocks, 3, processes=1, configurations=["3d_fullres"])
    assert DenseDataset(folder).open("b0").image.shape == (1, 10, 23, 27)
    assert plans.transpose_forward == (0, 1, 2)


def test_the_command_preprocesses_and_says_where(blocks, tmp_path, capsys):
    where = ["-d", "3", "--workspace", str(tmp_path), "-np", "1", "--no_pbar"]
    assert plan_and_preprocess.main([*where, "--task", "dense_prediction", "-c", "3d_fullres", "3d_lowres"]) == 0
    assert preprocess.main(where) == 0
    said = capsys.readouterr().out
    assert said.count("3d_fullres: 3 cases") == 2
    assert said.count("2d: 3 cases") == 1


def test_values_that_nothing_names_stop_with_their_file(blocks):
    path = blocks.raw / NAME / "labelsTr" / "b2.nii.gz"
    labels = read_image(path)
    write_image(path, np.where(labels.array == 1, 7, labels.array), labels.space)
    with pytest.raises(NnRegError, match=r"b2\.nii\.gz: holds the value 7, labels in dataset\.json names 0, 1, 2"):
        _prepared(blocks)
    assert DenseDataset(blocks.preprocessed / NAME / "nnRegPlans_2d").cases == ["b0", "b1"]


def test_pictures_and_labels_without_names(tmp_path):
    """2D, colour, ``labels`` empty: values are read from the files; an alpha channel is refused."""
    workspace, folder = Workspace.resolve(tmp_path), tmp_path / "nnReg_raw" / "Dataset005_Pictures"
    for index in range(2):
        rng = np.random.default_rng(index)
        space = Space.plain((20 + index, 33))
        write_image(folder / "imagesTr" / f"p{index}_0000.png", rng.integers(1, 255, (3, *space.shape)).astype(np.uint8), space)
        write_image(folder / "labelsTr" / f"p{index}.png", (255 * rng.integers(0, 2, (1, *space.shape))).astype(np.uint8), space)
    channels = {str(index): "rgb_to_0_1" for index in range(3)}
    spec = {"channel_names": channels, "labels": {}, "numTraining": 2, "file_ending": ".png", "task": "dense_prediction"}
    (folder / "dataset.json").write_text(json.dumps(spec))
    fingerprint_dataset(workspace, 5, processes=1)
    plan_dataset(workspace, 5)
    data = DenseDataset(preprocess_dataset(workspace, 5, processes=1)["2d"])
    opened = data.open("p1")
    assert opened.image.shape == (3, 1, 21, 33)
    raw = read_image(folder / "imagesTr" / "p1_0000.png")
    assert np.allclose(opened.image[:][:, 0] * 255, raw.array, atol=1e-4)
    assert list(data.locations("p1")) == [255]
    written = json.loads((workspace.preprocessed / "Dataset005_Pictures" / "dataset.json").read_text())
    assert written["labels"] == {"background": 0, "255": 255}
    with_alpha = np.concatenate([raw.array, raw.array[:1]])
    write_image(folder / "imagesTr" / "p1_0000.png", with_alpha, raw.space)
    with pytest.raises(NnRegError, match=r"p1_0000\.png: case 'p1' has 4 channels, but needs 3"):
        fingerprint_dataset(workspace, 5, processes=1)


def test_workers_need_no_torch():
    """A worker that imports torch takes seconds and hundreds of MB more."""
    code = "import sys, nnreg.preprocessing.dense_prediction.run, nnreg.kernels.resize_cpu; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_plans_of_another_task_are_not_overwritten(blocks):
    fingerprint_dataset(blocks, 3, task="dense_prediction", processes=1)
    plan_dataset(blocks, 3, task="dense_prediction")
    fingerprint_dataset(blocks, 3, task="registration", processes=1, pair_budget=0)
    with pytest.raises(NnRegError, match=r"nnRegPlans\.json: holds plans of the task dense_prediction"):
        plan_dataset(blocks, 3, task="registration")
    plan_dataset(blocks, 3, task="registration", plans_name="Pairs")
    with pytest.raises(NnRegError, match="holds plans of the task registration"):
        plan_dataset(blocks, 3, task="dense_prediction", plans_name="Pairs")


def test_every_target_has_labels_of_its_own(blocks):
    """``CASE_TARGET`` files become the channels of one array, in the order of dataset.json; locations are of any of them."""
    folder = blocks.raw / NAME
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"targets": {"ink": {}, "damage": {}}, "task": "dense_prediction"}))
    for index in range(3):
        first = folder / "labelsTr" / f"b{index}.nii.gz"
        labels = read_image(first)
        first.rename(folder / "labelsTr" / f"b{index}_ink.nii.gz")
        damage = np.zeros_like(labels.array)
        damage[:, 5:7, 20:25, 30:36] = 2
        path = folder / "labelsTr" / f"b{index}_damage.nii.gz"
        write_image(path, damage * 4, labels.space)
        assert len(verify_dataset(RawDataset.open(folder)).problems) == 1
        write_image(path, damage, labels.space)
    assert verify_dataset(RawDataset.open(folder)).problems == ()
    plans, folders = _prepared(blocks, overwrite_target_spacing=(3.0, 1.0, 1.0))
    data = DenseDataset(folders["3d_fullres"])
    found, properties = data.open("b1").labels[:], data.properties("b1")
    assert found.shape == (2, *properties.shape_after_crop)
    box = tuple(slice(low, high) for low, high in properties.box)
    for target, values in zip(("ink", "damage"), found, strict=True):
        assert np.array_equal(np.maximum(values, 0), read_image(folder / "labelsTr" / f"b1_{target}.nii.gz").array[0][box])
    assert len(data.locations("b1")[2]) == 400 + 60
    assert plans.recommended == "3d_fullres"
    (folder / "labelsTr" / "b2_damage.nii.gz").unlink()
    with pytest.raises(NnRegError, match=r"case 'b2' has no label file of the target 'damage' \(targets in dataset\.json\)\. Add b2_damage\.nii\.gz"):
        fingerprint_dataset(blocks, 3, processes=1)

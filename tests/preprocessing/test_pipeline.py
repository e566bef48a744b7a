"""From a raw dataset on disk to plans and arrays, through library and commands."""

import functools
import json
import os
import shutil

import numpy as np
import pytest

from nnreg.cli import extract_fingerprint, plan_and_preprocess, plan_experiment, preprocess
from nnreg.dataset import RawDataset
from nnreg.errors import NnRegError, PlansError
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image
from nnreg.planning.plans import Plans
from nnreg.preprocessing import plan_dataset, preprocess_dataset
from nnreg.preprocessing.registration import pipeline as library
from nnreg.preprocessing.registration.preprocessor import Preprocessor
from nnreg.preprocessing.registration.storage import PreprocessedDataset

NAME = "Dataset007_Tiny"
# pairs have their own tests
fingerprint_dataset = functools.partial(library.fingerprint_dataset, pair_budget=0)
run_all_steps = functools.partial(library.plan_and_preprocess, pair_budget=0)


def _write(write_dataset, phantom, shapes):
    images, labels = {}, {}
    for index, shape in enumerate(shapes):
        image = phantom(shape, seed=index)
        images[f"s{index}"] = (image, Space.plain(shape, (1.0, 1.1)))
        labels[f"s{index}"] = (image > 420).astype(np.int16)
    return write_dataset(images, labels=labels)


@pytest.fixture
def dataset(write_dataset, phantom):
    """Three 2D subjects with labels, on one grid: nothing is to be aligned, so planning and preprocessing are quick."""
    return _write(write_dataset, phantom, [(40, 44)] * 3)


@pytest.fixture
def unaligned(write_dataset, phantom):
    """Subjects of different size."""
    return _write(write_dataset, phantom, [(40, 44), (44, 40)])


def _contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".json"}


def test_everything_training_needs_is_there(workspace, unaligned):
    plans = run_all_steps(workspace, 7, processes=1, verify=True)
    folder = workspace.preprocessed / NAME
    assert Plans.read(folder / "nnRegPlans.json") == plans
    for name in ("dataset_fingerprint.json", "dataset.json", "splits_final.json", "reference/image.nii.gz", "reference/frame.json"):
        assert (folder / name).is_file(), name
    configuration = plans.configuration(plans.to_train)
    data = PreprocessedDataset(folder / configuration.data_identifier)
    assert data.cases == ["s0", "s1"]
    assert len({data.properties(case).working for case in data.cases}) == 1  # one frame for all
    for case in data.cases:
        loaded = data.load(case)
        assert loaded.image.shape == loaded.labels.shape == (1, *configuration.grid)
        assert loaded.labels.any()
        assert loaded.properties.alignment["because"]
        assert json.loads((folder / "nnRegPlans_alignment" / f"{case}.json").read_text())["frame"] == plans.reference_case
    # new images go the same way as training images
    raw, preprocessor = RawDataset.open(unaligned), Preprocessor.from_folder(plans, "2d", folder)
    for case in raw.cases:
        fresh, stored = preprocessor.run(case, raw.read_image(case), raw.read_labels(case)), data.load(case)
        np.testing.assert_allclose(fresh.image, stored.image, atol=1e-6)
        np.testing.assert_array_equal(fresh.labels, stored.labels)
        np.testing.assert_allclose(fresh.properties.to_native, stored.properties.to_native)


def test_finished_work_is_not_done_again_and_changed_work_is(workspace, dataset, phantom):
    plans = run_all_steps(workspace, 7, processes=1)
    folder = workspace.preprocessed / NAME / "nnRegPlans_2d"
    times = {path: path.stat().st_mtime_ns for path in folder.glob("s*")}
    run_all_steps(workspace, 7, processes=1)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("s*")} == times
    before = _contents(folder)
    (folder / "s1.json").unlink()
    run_all_steps(workspace, 7, processes=1)
    assert _contents(folder) == before
    # another spacing makes every array stale
    changed = run_all_steps(workspace, 7, processes=1, overwrite_target_spacing=(2.0, 2.0))
    assert changed.configuration("2d").grid != plans.configuration("2d").grid
    assert PreprocessedDataset(folder).load("s0").image.shape[1:] == changed.configuration("2d").grid


@pytest.mark.parametrize("kind", ["imagesTr/s1_0000", "labelsTr/s1"])
def test_a_file_that_was_changed_at_the_same_size_and_time_is_preprocessed_again(workspace, dataset, kind):
    for path in dataset.rglob("*.nii.gz"):  # files that are not compressed keep their size whatever they hold
        found = read_image(path)
        write_image(path.with_suffix(""), found.array, found.space)
        path.unlink()
    spec = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(spec | {"file_ending": ".nii"}))
    run_all_steps(workspace, 7, processes=1)
    folder = workspace.preprocessed / NAME / "nnRegPlans_2d"
    stored = PreprocessedDataset(folder).load("s1")
    path = dataset / f"{kind}.nii"
    found, before = read_image(path), path.stat()
    write_image(path, np.ascontiguousarray(found.array[:, ::-1]), found.space)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(PlansError, match="have changed"):
        preprocess_dataset(workspace, 7)
    run_all_steps(workspace, 7, processes=1)
    again = PreprocessedDataset(folder).load("s1")
    assert np.array_equal(again.labels, stored.labels) == ("images" in kind)
    assert np.array_equal(again.image, stored.image) == ("labels" in kind)


def test_a_changed_file_is_measured_and_preprocessed_again(workspace, dataset, write_dataset, phantom):
    run_all_steps(workspace, 7, processes=1)
    folder = workspace.preprocessed / NAME / "nnRegPlans_2d"
    before = PreprocessedDataset(folder).load("s1").image
    write_image(dataset / "imagesTr" / "s1_0000.nii.gz", phantom((40, 44), seed=9), Space.plain((40, 44), (1.0, 1.1)))
    with pytest.raises(PlansError, match="have changed"):
        preprocess_dataset(workspace, 7)
    run_all_steps(workspace, 7, processes=1)
    assert np.abs(PreprocessedDataset(folder).load("s1").image - before).max() > 0.05


def test_workers_change_nothing(workspace, dataset):
    run_all_steps(workspace, 7, processes=1)
    folder = workspace.preprocessed / NAME / "nnRegPlans_2d"
    alone, images = _contents(folder), PreprocessedDataset(folder).load("s2").image
    shutil.rmtree(workspace.preprocessed)
    run_all_steps(workspace, 7, processes=2)
    assert _contents(folder) == alone
    np.testing.assert_array_equal(PreprocessedDataset(folder).load("s2").image, images)


def test_groups_keep_to_themselves(workspace, write_dataset, phantom):
    shapes = {"a0": (40, 44), "a1": (40, 44), "b0": (36, 40), "b1": (36, 40)}
    images = {case: (phantom(shape, seed=index), Space.plain(shape)) for index, (case, shape) in enumerate(shapes.items())}
    points = {case: np.full((3, 2), 12.0 + index) for index, case in enumerate(shapes)}
    write_dataset(images, keypoints=points, pairing="pairs", pairs=[{"fixed": "a0", "moving": "a1"}, {"fixed": "b0", "moving": "b1"}])
    plans = run_all_steps(workspace, 7, processes=1)
    assert plans.reference_case is None
    assert not (workspace.preprocessed / NAME / "reference").exists()
    data = PreprocessedDataset(workspace.preprocessed / NAME / "nnRegPlans_2d")
    frames = {case: data.properties(case).alignment["frame"] for case in data.cases}
    assert frames == {"a0": "a0", "a1": "a0", "b0": "b0", "b1": "b0"}
    for first, second in (("a0", "a1"), ("b0", "b1")):
        assert data.properties(first).working == data.properties(second).working
    # on one grid nothing moves: points differ by exactly what the files say
    np.testing.assert_allclose(data.properties("a1").keypoints - data.properties("a0").keypoints, 1.0)


def test_commands_say_what_was_decided_and_where_it_lies(workspace, dataset, capsys):
    where = ["--workspace", str(workspace.raw.parent)]
    assert extract_fingerprint.main(["-d", "7", "-np", "1", "--no_pbar", *where]) == 0
    assert "3 images of 3 subjects" in capsys.readouterr().out
    assert plan_experiment.main(["-d", "007", *where]) == 0
    said = capsys.readouterr().out
    assert "recommended" in said
    assert "next: nnreg_predict -d 007 -c optimise" in said  # three subjects are too few to train on
    assert preprocess.main(["-d", NAME, "-np", "1", "--no_pbar", *where]) == 0
    assert "3 cases" in capsys.readouterr().out
    assert plan_and_preprocess.main(["-d", "7", "--no_pp", "--explain", "-np", "1", "--no_pbar", *where]) == 0
    assert str(workspace.preprocessed / NAME / "nnRegPlans.json") in capsys.readouterr().out


def _refused(command, arguments, capsys, *words):
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert "Traceback" not in error


def test_bad_input_is_one_line_and_exit_code_2(workspace, dataset, capsys):
    where = ["--workspace", str(workspace.raw.parent)]
    quiet = ["-np", "1", "--no_pbar", *where]
    _refused(plan_experiment, ["-d", "7", *where], capsys, "dataset_fingerprint.json", "nnreg_extract_fingerprint -d 007")
    _refused(extract_fingerprint, ["-d", "8", *quiet], capsys, "dataset 8")
    fingerprint_dataset(workspace, 7, processes=1)
    _refused(preprocess, ["-d", "7", *quiet], capsys, "nnRegPlans.json", "nnreg_plan_experiment -d 007")
    plan_dataset(workspace, 7)
    _refused(preprocess, ["-d", "7", "-c", "3d_fullres", *quiet], capsys, "3d_fullres", "2d")
    path = workspace.preprocessed / NAME / "nnRegPlans.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"dataset_name": "Dataset001_Other"}))
    _refused(preprocess, ["-d", "7", *quiet], capsys, str(path), "Dataset001_Other", NAME)
    path.write_text(json.dumps(content | {"pre_alignmnt": "none"}))
    _refused(preprocess, ["-d", "7", *quiet], capsys, "pre_alignmnt", "did you mean 'pre_alignment'")


def test_nan_and_truncated_files_are_refused_by_name(workspace, write_dataset, phantom, capsys):
    broken = phantom((40, 44), seed=1)
    broken[0, 3, 3] = np.nan
    folder = write_dataset({"good": (phantom((40, 44)), Space.plain((40, 44))), "broken": (broken, Space.plain((40, 44)))})
    arguments = ["-d", "7", "-np", "1", "--no_pbar", "--workspace", str(workspace.raw.parent)]
    _refused(plan_and_preprocess, arguments, capsys, "broken_0000.nii.gz", "NaN")
    path = folder / "imagesTr" / "broken_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    _refused(plan_and_preprocess, arguments, capsys, "broken_0000.nii.gz")
    assert not list((workspace.preprocessed / NAME).glob("*.json"))


def test_a_failed_case_leaves_the_finished_ones(workspace, dataset, monkeypatch):
    from nnreg.preprocessing.registration import run

    original = run.align_case
    monkeypatch.setattr(run, "align_case", lambda case, *rest, **more: _fail() if case == "s2" else original(case, *rest, **more))
    with pytest.raises(NnRegError, match="s2"):
        run_all_steps(workspace, 7, processes=1)
    folder = workspace.preprocessed / NAME / "nnRegPlans_2d"
    assert PreprocessedDataset(folder).cases == ["s0", "s1"]
    monkeypatch.undo()
    run_all_steps(workspace, 7, processes=1)
    assert PreprocessedDataset(folder).cases == ["s0", "s1", "s2"]


def _fail():
    raise RuntimeError("out of luck")

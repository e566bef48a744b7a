"""True fields of a dataset: on the working grid they join the images, whatever alignment and augmentation do; a training learns from them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nnreg.cli import train as train_command
from nnreg.dataset import Pair, RawDataset, write_synthetic_dataset
from nnreg.errors import ConfigurationError, DatasetError
from nnreg.files import read_json
from nnreg.geometry import FieldMap, Space, Transform, warp
from nnreg.geometry.itk import write_itk
from nnreg.planning.plans import Configuration, LossTerm, Plans
from nnreg.preprocessing import plan_and_preprocess
from nnreg.preprocessing.registration.storage import PreprocessedDataset, Properties
from nnreg.preprocessing.registration.true_fields import on_working_grid, place_true_fields
from nnreg.tasks.registration.samples import PairSamples
from nnreg.workspace import Workspace

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "Dataset900_Ellipsoids"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.resolve(tmp_path)


@pytest.fixture
def raw(workspace: Workspace) -> RawDataset:
    made = write_synthetic_dataset(
        workspace.raw / NAME, pairs=4, test_pairs=1, shape=(40, 36), spacing=(1.5, 1.0), noise_std=0.0, max_displacement=4.0, control_spacing=16.0
    )
    plan_and_preprocess(workspace, 900, processes=1, pair_budget=0)
    return made


@pytest.fixture
def arrays(workspace: Workspace, raw: RawDataset) -> Path:
    return workspace.preprocessed / raw.name / "nnRegPlans_2d"


def configuration(arrays: Path, *terms: str, bidirectional: bool = False) -> Configuration:
    planned = Plans.read(arrays.parent / "nnRegPlans.json").configuration("2d")
    training = dataclasses.replace(planned.training, supervision=tuple(LossTerm(name) for name in terms), bidirectional=bidirectional)
    return dataclasses.replace(planned, training=training)


def apart(sample: dict[str, torch.Tensor], field: str, moving: str, fixed: str) -> float:
    """Mean difference of images that a known field joins, relative to that of the images as they lie, inside the grid."""
    known = sample[field].isfinite().all(dim=0)
    known[:3], known[-3:], known[:, :3], known[:, -3:] = False, False, False, False
    joined = warp(sample[moving][None], sample[field].nan_to_num()[None])[0, 0]
    before = (sample[moving][0] - sample[fixed][0]).abs()[known].mean()
    return float((joined - sample[fixed][0]).abs()[known].mean() / before)


@pytest.mark.parametrize("augment", [False, True])
def test_a_true_field_joins_the_images_of_a_sample(raw, arrays, augment):
    wanted = configuration(arrays, "dvf", bidirectional=True)
    samples = PairSamples(arrays, raw.pairs(), wanted, 4, "train", augment)
    for index in range(4):
        sample = samples[index]
        assert apart(sample, "field", "moving", "fixed") < 0.35
        assert apart(sample, "inverse_field", "fixed", "moving") < 0.35


def test_the_field_lies_where_the_aligned_images_lie():
    """A shift by (2, 3) mm between native worlds, seen through two alignments."""
    space = Space.plain((20, 24), (1.0, 2.0))
    truth = FieldMap(np.broadcast_to(np.array([3.0, 1.0], np.float32)[:, None, None], (2, 20, 24)).copy(), space)  # 3 rows of 1 mm, 1 column of 2 mm
    turned = np.array([[0.0, -1.0, 30.0], [1.0, 0.0, 5.0], [0.0, 0.0, 1.0]])
    shifted = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, -2.0], [0.0, 0.0, 1.0]])
    working = Space.plain((12, 10))
    plain = Properties("a", space, working, np.eye(3))
    np.testing.assert_allclose(on_working_grid(truth, plain, plain)[:, :6, :8], np.broadcast_to([[[3.0]], [[2.0]]], (2, 6, 8)), atol=1e-5)
    # the aligned moving image lies 1 mm to the left and 2 mm further than the native one, so the way there is that much shorter and longer
    moved = on_working_grid(truth, plain, dataclasses.replace(plain, to_native=shifted))
    np.testing.assert_allclose(moved[:, 5, 5], [3.0 + 2.0, 2.0 - 1.0], atol=1e-5)
    both = on_working_grid(truth, dataclasses.replace(plain, to_native=turned), dataclasses.replace(plain, to_native=turned))
    # x' = -y + 30, y' = x + 5: the shift (2, 3) in x and y is one of (3, -2) before the turn
    np.testing.assert_allclose(both[:, 5, 5], [-2.0, 3.0], atol=1e-5)
    far = on_working_grid(truth, dataclasses.replace(plain, working=Space.plain((40, 10))), plain)
    assert np.isfinite(far[:, :20]).all()
    assert np.isnan(far[:, 21:]).all()


def test_what_is_there_stays_until_its_file_changes(raw, arrays):
    times = {path.name: path.stat().st_mtime_ns for path in arrays.glob("*_field.b2nd")}
    assert len(times) == 8  # four pairs, both directions
    assert place_true_fields(raw, arrays) == 8
    assert {path.name: path.stat().st_mtime_ns for path in arrays.glob("*_field.b2nd")} == times
    assert sorted(PreprocessedDataset(arrays).cases) == sorted(raw.cases)
    first, second, *_ = (path for path in sorted((raw.folder / "fieldsTr").iterdir()))
    still = raw.read_image(raw.cases[0]).space
    write_itk(first, Transform((FieldMap(np.zeros((2, *still.shape), np.float32), still),), 2), still)
    os.utime(first, ns=(1, 1))
    second.unlink()
    assert place_true_fields(raw, arrays) == 7
    found = {path.name for path in arrays.glob("*_field.b2nd")}
    assert found == set(times) - {second.name.replace(".nii.gz", "_field.b2nd")}
    changed = {name for name in found if (arrays / name).stat().st_mtime_ns != times[name]}
    assert changed == {first.name.replace(".nii.gz", "_field.b2nd")}


def test_a_training_learns_from_some_pairs_and_says_what_it_misses(workspace, raw, arrays, capsys):
    for path in sorted((raw.folder / "fieldsTr").iterdir())[2:]:
        path.unlink()
    place_true_fields(raw, arrays)
    known = next(iter(raw.pairs()))
    assert raw.true_field(known) is not None
    samples = PairSamples(arrays, raw.pairs(), configuration(arrays, "dvf"), 40, "train", False)
    shares = {float(samples[index]["field"].isfinite().float().mean()) for index in range(40)}
    assert min(shares) == 0.0
    assert max(shares) > 0.9
    options = ["900", "2d", "all", "-tr", "true_field", "--epochs", "1", "--iterations_per_epoch", "2", "-device", "cpu", "-q"]
    assert train_command.main([*options, "--set", "validation_iterations=8", "--workspace", str(workspace.raw.parent)]) == 0
    assert "train_dvf = " in capsys.readouterr().out
    history = read_json(next(workspace.results.glob("*/*/fold_all/debug.json")))
    assert history["configuration"]["training"]["supervision"][-1]["name"] == "dvf"
    for path in arrays.glob("*_field.b2nd"):
        path.unlink()
    with pytest.raises(ConfigurationError, match="add fieldsTr and preprocess again"):
        PairSamples(arrays, raw.pairs(), configuration(arrays, "dvf"), 4, "train", False)


def test_a_validation_has_the_error_of_what_is_known(raw, arrays):
    samples = PairSamples(arrays, [known := next(iter(raw.pairs())), Pair(known.fixed, known.fixed)], configuration(arrays), 2, "val", False)
    found = ["field" in samples[index] for index in range(2)]
    assert sorted(found) == [False, True]


def test_another_file_is_no_true_field(raw):
    pair = next(iter(raw.pairs()))
    path = raw.field_path(pair)
    assert path is not None
    path.write_bytes(raw.image_paths(pair.fixed)[0].read_bytes())
    with pytest.raises(DatasetError, match=f"{pair.name}.*2 components"):
        raw.true_field(pair)

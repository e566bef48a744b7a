"""Folders of images become label maps on their own grids."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_models import HIGH, LOW, NAME, REGIONS, SPEC, by_brightness, configuration, plans, predictor, regions_by_brightness, saved, truth_of, write_images

from nnreg import files
from nnreg.cli import ensemble
from nnreg.dataset.labels import LabelManager
from nnreg.errors import NnRegError
from nnreg.geometry import Space
from nnreg.imageio import itk_writing, read_image, write_image
from nnreg.inference.dense_prediction.ensemble import labels_of
from nnreg.inference.dense_prediction.predict import DenseOptions, predict_cases
from nnreg.inference.dense_prediction.predictor import TileOptions
from nnreg.inference.dense_prediction.probabilities import Probabilities, write_probabilities
from nnreg.inference.dense_prediction.sources import NewCases
from nnreg.inference.prediction import predict
from nnreg.planning.dense_prediction.foreground import nonzero_box
from nnreg.planning.orientation import reoriented
from nnreg.planning.plans import Normalization, Plans

SPACING = (3.0, 1.5, 1.0)
SHAPES = {"a": (9, 14, 11), "b": (5, 21, 16)}


@pytest.fixture
def images(tmp_path, rotated_space):
    """Two oblique images of the planned spacing."""
    spaces = {case: dataclasses.replace(rotated_space(shape, seed), spacing=SPACING) for seed, (case, shape) in enumerate(SHAPES.items())}
    return spaces, write_images(tmp_path / "images", spaces)


def predicted(folder, known, name, network, output, spec=SPEC, previous=None, tiles=None, **options):
    source = NewCases(folder / "images", known, name, spec, previous)
    more = {} if tiles is None else {"tiles": tiles}
    made = predict_cases(predictor(known, name, network, spec, **more), source, folder / output, model="known", options=DenseOptions(pictures=False, **options))
    return made, {entry["name"]: read_image(folder / output / f"{entry['name']}.nii.gz") for entry in made["cases"]}


@pytest.mark.parametrize(("network", "spec"), [(by_brightness, SPEC), (regions_by_brightness, REGIONS)], ids=["labels", "regions"])
@pytest.mark.parametrize(("name", "transpose"), [("3d_fullres", (0, 1, 2)), ("3d_fullres", (2, 0, 1)), ("2d", (0, 1, 2)), ("2d", (1, 0, 2))])
def test_a_network_that_looks_at_single_voxels_is_right_on_the_native_grid(tmp_path, images, network, spec, name, transpose):
    """Whatever is cropped, transposed, cut into tiles and put together again."""
    spaces, arrays = images
    spacing = tuple(SPACING[axis] for axis in transpose)
    known = plans(transpose, **{"3d_fullres": configuration(spacing, (4, 8, 16)), "2d": configuration(spacing[1:], (8, 6))})
    content, found = predicted(tmp_path, known, name, network, "out", spec)
    assert [entry["name"] for entry in content["cases"]] == ["a", "b"]
    for case, image in arrays.items():
        np.testing.assert_array_equal(found[case].array[0], truth_of(image))
        assert found[case].space.same_as(spaces[case])


def test_images_of_another_spacing_come_back_to_their_own_grid(tmp_path):
    """Bands of brightness across an axis: a label's border moves by less than a voxel of the coarser grid."""
    space = Space.plain((16, 20, 24), (2.0, 2.0, 2.0))
    image = np.broadcast_to(np.linspace(1, 30, 24, dtype=np.float32), space.shape)
    write_image(tmp_path / "images" / "a_0000.nii.gz", image[None], space)
    known = plans(**{"3d_lowres": configuration((3.0, 2.5, 3.5), (8, 8, 8))})
    _, found = predicted(tmp_path, known, "3d_lowres", by_brightness, "out")
    near = (np.abs(image - LOW) < 2.5) | (np.abs(image - HIGH) < 2.5)
    assert found["a"].array[0].shape == space.shape
    np.testing.assert_array_equal(found["a"].array[0][~near], truth_of(image)[~near])


def test_pictures_of_two_axes(tmp_path):
    space = Space.plain((19, 26))
    arrays = write_images(tmp_path / "images", {"p": space})
    known = plans(**{"2d": configuration((1.0, 1.0), (8, 10))})
    _, found = predicted(tmp_path, known, "2d", by_brightness, "out")
    np.testing.assert_array_equal(found["p"].array[0], truth_of(arrays["p"]))


@pytest.mark.parametrize("colours", [1, 3])
def test_pictures_as_files_of_bytes(tmp_path, colours):
    """Grey or in colour (one file, three channels); the label map is a PNG too."""
    space = Space.plain((21, 18))
    image = np.random.default_rng(0).choice([2, 14, 27], (colours, *space.shape)).astype(np.uint8)
    write_image(tmp_path / "images" / "p_0000.png", image, space)
    spec = dataclasses.replace(SPEC, channel_names={str(index): "noNorm" for index in range(colours)}, file_ending=".png")
    planned = configuration((1.0, 1.0), (8, 10), normalization=(Normalization("none"),) * colours)
    known = dataclasses.replace(plans(**{"2d": planned}), channel_names=("noNorm",) * colours)
    source = NewCases(tmp_path / "images", known, "2d", spec)
    predict_cases(predictor(known, "2d", by_brightness, spec), source, tmp_path / "out", model="known", options=DenseOptions(pictures=True))
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "p.png").array[0], truth_of(image[0]))


def test_reading_ahead_and_writing_behind_changes_nothing(tmp_path, images):
    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8))})
    one, slow = predicted(tmp_path, known, "3d_fullres", by_brightness, "slow")
    two, fast = predicted(tmp_path, known, "3d_fullres", by_brightness, "fast", readers=2, writers=2)
    assert [entry["name"] for entry in one["cases"]] == [entry["name"] for entry in two["cases"]]
    for case in slow:
        np.testing.assert_array_equal(slow[case].array, fast[case].array)


def test_parts_share_the_cases_among_them(tmp_path, images):
    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8))})
    parts = [predicted(tmp_path, known, "3d_fullres", by_brightness, "out", part=part, parts=2)[0] for part in (0, 1)]
    assert [[entry["name"] for entry in content["cases"]] for content in parts] == [["a"], ["b"]]
    with pytest.raises(NnRegError, match="-part_id"):
        DenseOptions(part=2, parts=2)


def test_finished_cases_are_kept(tmp_path, images):
    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8))})
    predicted(tmp_path, known, "3d_fullres", by_brightness, "out")
    (tmp_path / "out" / "b.nii.gz").unlink()
    before = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    content, found = predicted(tmp_path, known, "3d_fullres", by_brightness, "out", continue_prediction=True)
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == before
    assert len(content["cases"]) == len(found) == 2
    predicted(tmp_path, known, "3d_fullres", by_brightness, "out", continue_prediction=True, save_probabilities=True)
    assert (tmp_path / "out" / "a.npz").is_file()
    changed = read_image(tmp_path / "images" / "a_0000.nii.gz")
    write_image(tmp_path / "images" / "a_0000.nii.gz", changed.array[:, ::-1], changed.space)
    predicted(tmp_path, known, "3d_fullres", by_brightness, "out", continue_prediction=True)
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.nii.gz").array, found["a"].array[:, ::-1])
    record = tmp_path / "out" / "prediction.json"
    record.write_text(record.read_text().replace('"known"', '"another"'))
    with pytest.raises(NnRegError, match="predicted by model another"):
        predicted(tmp_path, known, "3d_fullres", by_brightness, "out", continue_prediction=True)


def test_mirrored_tiles_are_those_that_training_mirrored(tmp_path, images):
    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8))})
    assert predictor(known, "3d_fullres", by_brightness).window.mirror_axes == (0, 1, 2)
    assert predictor(known, "3d_fullres", by_brightness, tiles=TileOptions(mirror=False)).window.mirror_axes == ()


@pytest.mark.parametrize(("network", "spec"), [(by_brightness, SPEC), (regions_by_brightness, REGIONS)], ids=["labels", "regions"])
def test_probabilities_say_what_the_label_map_says(tmp_path, images, network, spec):
    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8))})
    _, found = predicted(tmp_path, known, "3d_fullres", network, "out", spec, save_probabilities=True)
    labels = LabelManager.of(spec)
    for case, image in found.items():
        probabilities = np.load(tmp_path / "out" / f"{case}.npz")["probabilities"]
        assert probabilities.shape == (labels.heads, *image.space.shape)
        np.testing.assert_array_equal(labels.to_labels(probabilities), image.array[0])
        if not labels.has_regions:
            np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
        np.testing.assert_array_equal(np.stack(list(Probabilities(tmp_path / "out" / f"{case}.npz").classes())), probabilities)


@pytest.mark.parametrize("spec", [SPEC, REGIONS], ids=["labels", "regions"])
def test_labels_class_by_class_are_those_of_all_classes_at_once(spec):
    labels = LabelManager.of(spec)
    # steps of a tenth: ties are frequent
    probabilities = np.random.default_rng(0).integers(0, 11, (labels.heads, 7, 8, 9)).astype(np.float32) / 10
    np.testing.assert_array_equal(labels_of(iter(probabilities), labels), labels.to_labels(probabilities))


def test_an_ensemble_is_the_mean_of_its_members(tmp_path, images):
    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8)), "2d": configuration(SPACING[1:], (8, 8))})
    predicted(tmp_path, known, "3d_fullres", by_brightness, "one", save_probabilities=True)
    predicted(tmp_path, known, "2d", lambda tiles: by_brightness(40 - tiles) / 3, "two", save_probabilities=True)
    command = ["-i", *(str(tmp_path / name) for name in ("one", "two")), "-o", str(tmp_path / "both"), "-np", "1", "--save_npz", "-q"]
    assert ensemble.main(command) == 0
    labels = LabelManager.of(SPEC)
    for case in SHAPES:
        one, two, both = (np.load(tmp_path / name / f"{case}.npz")["probabilities"] for name in ("one", "two", "both"))
        np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)
        np.testing.assert_array_equal(read_image(tmp_path / "both" / f"{case}.nii.gz").array[0], labels.to_labels(both))
    assert json.loads((tmp_path / "both" / "prediction.json").read_text())["task"] == "dense_prediction"


def test_members_that_do_not_fit_together_are_refused(tmp_path, images, capsys):
    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8))})
    predicted(tmp_path, known, "3d_fullres", by_brightness, "one", save_probabilities=True)
    predicted(tmp_path, known, "3d_fullres", by_brightness, "two")

    def tried(*names):
        code = ensemble.main(["-i", *(str(tmp_path / name) for name in names), "-o", str(tmp_path / "both"), "-np", "1", "-q"])
        return code, capsys.readouterr().err

    assert tried("one")[0] == 2
    code, said = tried("one", "two")
    assert (code, "--save_probabilities" in said) == (2, True)
    write_probabilities(tmp_path / "two" / "a.npz", iter(np.ones((2, 3, 3, 3), np.float32)), (2, 3, 3, 3))
    assert "has shape (2, 3, 3, 3)" in tried("one", "two")[1]
    (tmp_path / "two" / "b.nii.gz").unlink()
    assert "case 'b'" in tried("one", "two")[1]


def cascade():
    return plans(
        **{
            "3d_lowres": configuration(SPACING, (4, 8, 8), next_stage="3d_cascade_fullres"),
            "3d_cascade_fullres": configuration(SPACING, (4, 8, 8), previous_stage="3d_lowres"),
        }
    )


def test_the_second_stage_sees_what_the_first_predicted(tmp_path, images):
    """A second stage that repeats its further channels, one per label, repeats the first."""
    seen = []

    def repeat(tiles):
        seen.append(tiles.shape[1])
        return torch.cat([0.5 + 0 * tiles[:, :1], tiles[:, 1:]], dim=1)

    _, first = predicted(tmp_path, cascade(), "3d_lowres", by_brightness, "first")
    _, second = predicted(tmp_path, cascade(), "3d_cascade_fullres", repeat, "second", previous=tmp_path / "first")
    assert set(seen) == {3}
    for case in SHAPES:
        np.testing.assert_array_equal(second[case].array, first[case].array)


class Told:
    """A network of two targets."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def with_auxiliary(self, tiles):
        return [self.first(tiles)], {"bright": [self.second(tiles)]}


def test_a_second_stage_sees_every_target_of_the_first(tmp_path, images):
    """Channels of the second stage: the image, both labels of the one target, the label of the other; it repeats the last two the other way round."""
    spec = dataclasses.replace(SPEC, targets={"levels": {}, "bright": {"labels": {"background": 0, "high": 7}}})
    first = Told(by_brightness, lambda tiles: torch.cat([HIGH - tiles[:, :1], tiles[:, :1] - HIGH], dim=1))

    def half(tiles, *channels):
        assert tiles.shape[1] == 4
        return torch.cat([0.5 + 0 * tiles[:, :1], tiles[:, channels]], dim=1)

    second = Told(lambda tiles: half(tiles, 1, 3), lambda tiles: half(tiles, 2))
    for name, network, previous in (("3d_lowres", first, None), ("3d_cascade_fullres", second, tmp_path / "3d_lowres")):
        source = NewCases(tmp_path / "images", cascade(), name, spec, previous)
        predict_cases(predictor(cascade(), name, network, spec), source, tmp_path / name, model="known", options=DenseOptions(pictures=False))
    for case in SHAPES:
        one, other = (
            {target: read_image(tmp_path / name / f"{case}_{target}.nii.gz").array for target in ("levels", "bright")} for name in cascade().configurations
        )
        np.testing.assert_array_equal(one["bright"] == 7, one["levels"] == 4)
        for target in one:
            np.testing.assert_array_equal(other[target], one[target])
    (tmp_path / "3d_lowres" / "b_bright.nii.gz").unlink()
    with pytest.raises(NnRegError, match="no label map of case 'b_bright'"):
        NewCases(tmp_path / "images", cascade(), "3d_cascade_fullres", spec, tmp_path / "3d_lowres")


def test_a_second_stage_without_the_first_is_refused(tmp_path, images):
    with pytest.raises(NnRegError, match="-prev_stage_predictions"):
        predicted(tmp_path, cascade(), "3d_cascade_fullres", by_brightness, "second")
    (tmp_path / "first").mkdir()
    with pytest.raises(NnRegError, match="no label map of case 'a'"):
        predicted(tmp_path, cascade(), "3d_cascade_fullres", by_brightness, "second", previous=tmp_path / "first")


def test_a_cascade_runs_its_own_first_stage(tmp_path, images):
    first, second = (saved(tmp_path / "results", cascade(), name) for name in ("3d_lowres", "3d_cascade_fullres"))
    quiet = {"device": "cpu", "options": DenseOptions(pictures=False)}
    predict(second, tmp_path / "images", tmp_path / "alone", **quiet)
    predict(first, tmp_path / "images", tmp_path / "first", **quiet)
    predict(second, tmp_path / "images", tmp_path / "given", previous=tmp_path / "first", **quiet)
    for case in SHAPES:
        one, other = (read_image(tmp_path / name / f"{case}.nii.gz").array for name in ("alone/3d_lowres", "first"))
        np.testing.assert_array_equal(one, other)
        one, other = (read_image(tmp_path / name / f"{case}.nii.gz").array for name in ("alone", "given"))
        np.testing.assert_array_equal(one, other)
    shutil.rmtree(first)
    with pytest.raises(NnRegError, match="needs predictions of 3d_lowres"):
        predict(second, tmp_path / "images", tmp_path / "alone", **quiet)


def test_a_network_of_other_labels_is_refused(tmp_path, images):
    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8))})
    with pytest.raises(NnRegError, match="2 logits per voxel"):
        predicted(tmp_path, known, "3d_fullres", regions_by_brightness, "out", SPEC)


def test_overview_shows_image_prediction_truth_and_difference(tmp_path, images):
    import matplotlib.image

    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8))})
    (tmp_path / "images").rename(tmp_path / "imagesTs")
    write_image(tmp_path / "labelsTs" / "a.nii.gz", truth_of(images[1]["a"])[None].astype(np.uint8), images[0]["a"])
    source = NewCases(tmp_path / "imagesTs", known, "3d_fullres", SPEC)
    predict_cases(predictor(known, "3d_fullres", by_brightness), source, tmp_path / "out", model="known")
    with_truth, without = (matplotlib.image.imread(tmp_path / "out" / "overview" / f"{case}.png") for case in ("a", "b"))
    assert with_truth.shape[1] == pytest.approx(2 * without.shape[1], rel=0.02)  # four columns and two
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["dataset"] == NAME


def full_disk_at(monkeypatch, name):
    """The disk is full as soon as a file of that name was written, half of it; returns how to make room."""
    real = itk_writing.sitk.WriteImage

    def half(image, path, **options):
        real(image, path, **options)
        if path.endswith(name):
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[: len(content) // 2])  # without a word, as ITK does it

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "temporary_beside", lambda path, ending: path.with_name(f".temporary.{path.name}"))  # one that tells which file it becomes
    monkeypatch.setattr(itk_writing.sitk, "WriteImage", half)
    monkeypatch.setattr(files, "_flush", lambda path: full(path) if path.name.endswith(name) else None)
    return monkeypatch.undo


@pytest.mark.parametrize("name", ["b.nii.gz", "b.npz", "b.png"])
def test_on_a_full_disk_nothing_half_written_stays_and_the_rest_goes_on_later(tmp_path, images, monkeypatch, name):
    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8))})
    source = NewCases(tmp_path / "images", known, "3d_fullres", SPEC)
    output, told = tmp_path / "out", DenseOptions(save_probabilities=True, continue_prediction=True, pictures=name.endswith(".png"))

    def predict_all():
        predict_cases(predictor(known, "3d_fullres", by_brightness), source, output, model="known", options=told)

    make_room = full_disk_at(monkeypatch, name)
    with pytest.raises(NnRegError, match=rf"{name}: cannot be written.*Make room there and run it again") as failure:
        predict_all()
    assert "\n" not in str(failure.value)
    make_room()
    assert not [path for path in output.rglob("*") if path.name.startswith(".") or path.name in (name, "b.nii.gz")]
    assert [case["name"] for case in json.loads((output / "prediction.json").read_text())["cases"]] == ["a"]
    before = (output / "a.nii.gz").stat().st_mtime_ns
    predict_all()
    assert (output / "a.nii.gz").stat().st_mtime_ns == before
    for case, image in images[1].items():
        np.testing.assert_array_equal(read_image(output / f"{case}.nii.gz").array[0], truth_of(image))


@pytest.mark.parametrize("stored", ["LPI", "ASL", "RAS"])
def test_a_model_of_turned_images_turns_them_and_its_predictions_back(tmp_path, rotated_space, stored):
    """The network gives every voxel the label of its neighbour to the left of the patient, however the file runs."""
    space = reoriented(dataclasses.replace(rotated_space((9, 12, 14), 3), spacing=(1.0, 1.0, 1.0)), stored)
    image = write_images(tmp_path / "images", {"a": space})["a"]
    seen = []

    def neighbour(tiles):
        seen.append(tiles.shape)
        return by_brightness(torch.nn.functional.pad(tiles, (1, 0))[..., :-1])

    known = plans(**{"3d_fullres": configuration((1.0, 1.0, 1.0), (16, 16, 16))}).replace(orientation="RAS")
    _, found = predicted(tmp_path, known, "3d_fullres", neighbour, "out", tiles=TileOptions(mirror=False))
    assert found["a"].space.same_as(space)
    axis = 2 - next(index for index, letter in enumerate(stored) if letter in "LR")
    step = -1 if "L" in stored else 1  # one towards the left, in the file
    left = np.roll(image, step, axis)
    edge = tuple(slice(None) if other != axis else (-1 if step < 0 else 0) for other in range(3))
    left[edge] = 0
    inside = tuple(slice(low, high) for low, high in nonzero_box(image[None]))  # elsewhere nothing is predicted
    np.testing.assert_array_equal(found["a"].array[0][inside], truth_of(left)[inside])
    assert Plans.from_dict(known.to_dict()).orientation == "RAS"

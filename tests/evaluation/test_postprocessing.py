"""What is done to label maps afterwards, and when it is left alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from nnreg.cli import apply_postprocessing, determine_postprocessing
from nnreg.errors import NnRegError
from nnreg.evaluation.dense_prediction.postprocessing import Step, keep_largest_component, read_steps, write_steps
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image


@pytest.mark.parametrize("shape", [(23, 17), (9, 14, 11)])
@pytest.mark.parametrize("chosen", [(1,), (1, 2), ((1, 3), 2)])
def test_only_the_largest_component_is_left(shape, chosen):
    labels = (np.random.default_rng(0).random(shape) > 0.75) * np.random.default_rng(1).integers(1, 4, shape)
    values = [value for label in chosen for value in (label if isinstance(label, tuple) else (label,))]
    result = keep_largest_component(labels, chosen)
    inside, left = np.isin(labels, values), np.isin(result, values)
    components, _ = ndimage.label(inside, np.ones((3,) * len(shape)))
    sizes = np.bincount(components.ravel())[1:]
    np.testing.assert_array_equal(left, np.isin(components, 1 + np.flatnonzero(sizes == sizes.max())))
    np.testing.assert_array_equal(result[left], labels[left])
    np.testing.assert_array_equal(result[~inside], labels[~inside])
    np.testing.assert_array_equal(keep_largest_component(result, chosen), result)


def test_a_map_without_the_label_stays_as_it_is():
    labels = np.array([[0, 2, 0], [0, 0, 2]])
    np.testing.assert_array_equal(keep_largest_component(labels, (1,)), labels)


def write(folder, case, labels):
    write_image(folder / f"{case}.nii.gz", labels[None].astype(np.uint8), Space.plain(labels.shape))


def prepared(folder, wrong):
    """Label 1 is one body, label 2 lies far from it; `wrong` is what the prediction has besides."""
    truth = np.zeros((6, 20, 12), int)
    truth[1:5, 2:8, 2:8], truth[2:4, 14:18, 3:6] = 1, 2
    predicted = truth.copy()
    for label, place in wrong:
        predicted[place] = label
    write(folder / "truth", "a", truth)
    write(folder / "found", "a", predicted)
    (folder / "found" / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "MR"}, "labels": {"background": 0, "x": 1, "y": 2}, "numTraining": 1, "file_ending": ".nii.gz"})
    )
    return truth


def determined(folder):
    assert determine_postprocessing.main(["-i", str(folder / "found"), "-ref", str(folder / "truth"), "-np", "1"]) == 0
    return read_steps(folder / "found" / "postprocessing.json")


def test_a_stray_component_is_removed_and_what_would_harm_is_not(tmp_path):
    truth = prepared(tmp_path, [(1, np.s_[0, 19, 9:12])])
    steps = determined(tmp_path)
    # the whole foreground is two bodies: keeping one of them would lose label 2
    assert steps == (Step("keep_largest_component", (1,)),)
    command = ["-i", str(tmp_path / "found"), "-o", str(tmp_path / "better"), "-pp_json", str(tmp_path / "found" / "postprocessing.json"), "-np", "1", "-q"]
    assert apply_postprocessing.main(command) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "better" / "a.nii.gz").array[0], truth)
    assert (tmp_path / "better" / "dataset.json").is_file()


def test_nothing_is_done_where_nothing_helps(tmp_path):
    prepared(tmp_path, [])
    assert determined(tmp_path) == ()


def test_a_step_that_helps_one_label_and_harms_another_is_left_out(tmp_path):
    """A stray piece of label 1 at the side of label 2: without it label 1 is better, but the largest foreground body has lost label 2."""
    prepared(tmp_path, [(1, np.s_[2:4, 18:19, 3:6]), (1, np.s_[0, 0, :])])
    assert Step("keep_largest_component", (1, 2)) not in determined(tmp_path)


def test_steps_survive_their_file(tmp_path):
    steps = (Step("keep_largest_component", (1, (2, 3))), Step("keep_largest_component", ((2, 3),)))
    write_steps(tmp_path / "postprocessing.json", steps, ["because"])
    assert read_steps(tmp_path / "postprocessing.json") == steps


@pytest.mark.parametrize(
    ("content", "said"), [({"schema_version": 1, "steps": [{"name": "smooth", "labels": [1]}]}, "smooth"), ({"steps": []}, "schema_version")]
)
def test_files_that_ask_for_something_else_are_refused(tmp_path, content, said):
    (tmp_path / "postprocessing.json").write_text(json.dumps(content))
    with pytest.raises(NnRegError, match=said):
        read_steps(tmp_path / "postprocessing.json")


def test_label_maps_are_not_written_over(tmp_path, capsys):
    prepared(tmp_path, [])
    write_steps(tmp_path / "postprocessing.json", ())
    assert apply_postprocessing.main(["-i", str(tmp_path / "found"), "-o", str(tmp_path / "found"), "-pp_json", str(tmp_path / "postprocessing.json")]) == 2
    assert "another output folder" in capsys.readouterr().err

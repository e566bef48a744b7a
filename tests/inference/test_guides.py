"""Label maps that guide the engine in a prediction, and measure nothing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from tiny import Tiny

from nnreg import predict
from nnreg.dataset.pairs import Pair
from nnreg.engine.guidance import CODE_LENGTH, _codes, _soft
from nnreg.engine.prepared_image import PreparedImage
from nnreg.geometry import Space
from nnreg.geometry.transform_files import read_transforms
from nnreg.imageio import read_image, write_image
from nnreg.inference.registration.predict import PredictOptions

ENGINE = ("-c", "optimise")


@pytest.fixture
def guides(plane: Tiny, tmp_path):
    """Labels of the test images; those of the moving one two voxels further along the first axis than its organs are."""
    folder = tmp_path / "guides"
    folder.mkdir()
    for case in ("s4_a", "s4_b"):
        shutil.copy(plane.label(case), folder)
    label = read_image(plane.label("s4_b"))
    write_image(folder / plane.label("s4_b").name, np.roll(label.array, 2, axis=1), label.space)
    return folder


def test_guides_pull_the_map_and_are_recorded(plane: Tiny, guides, tmp_path):
    pair = ["--fixed", "s4_a", "--moving", "s4_b"]
    found = {}
    for name, more in (("alone", []), ("guided", ["--guides", guides])):
        content = plane.predict(tmp_path / name, *ENGINE, *pair, *more, refine=True)
        assert content.get("guides_folder") == (str(guides.absolute()) if more else None)
        space = read_image(plane.image("s4_a")).space
        transform = read_transforms([tmp_path / name / "s4_a__s4_b" / "transform.h5"], fixed=space, moving=read_image(plane.image("s4_b")).space)
        found[name] = transform.sampled_on(space).displacement
    organs = read_image(plane.label("s4_a")).array[0] > 0
    pulled = (found["guided"] - found["alone"])[0][organs].mean()
    assert pulled > 0.3  # voxels, along the first axis


def test_an_image_without_guide_or_a_use_for_it_is_refused_in_one_line(plane: Tiny, guides, tmp_path, capsys):
    next(guides.glob("s4_b.*")).unlink()
    pair = ["--fixed", "s4_a", "--moving", "s4_b", "--guides"]
    for more, named in (
        ([*ENGINE, *pair, guides], "s4_b.nii.gz"),
        ([*ENGINE, *pair, tmp_path / "none"], "no such folder"),
        (["--method", "network", *pair, guides], "--method refined"),
    ):
        assert plane.try_predict(tmp_path / "out", *more, refine=True) == 2
        said = capsys.readouterr().err
        assert named in said
        assert said.strip().count("\n") == 0


def test_python_takes_guides_too(plane: Tiny, guides, tmp_path):
    options = {"folds": ["0"], "device": "cpu", "pairs": [Pair("s4_a", "s4_b")], "guides": guides}
    content = predict(plane.model(), plane.raw / "imagesTs", tmp_path / "out", options=PredictOptions(method="refined", pictures=False), **options)
    assert content["guides_folder"] == str(guides.absolute())


def test_a_guide_that_changed_makes_a_finished_pair_anew(plane: Tiny, guides, tmp_path):
    options = [*ENGINE, "--fixed", "s4_a", "--moving", "s4_b", "--guides", guides, "--continue_prediction"]
    first = plane.predict(tmp_path / "out", *options, refine=True)["pairs"][0]
    again = plane.predict(tmp_path / "out", *options, refine=True)["pairs"][0]
    assert again == first
    shutil.copy(plane.label("s4_b"), guides)
    assert plane.predict(tmp_path / "out", *options, refine=True)["pairs"][0]["digests"] != first["digests"]


def test_few_labels_have_a_map_each_and_many_share_maps():
    assert np.array_equal(_codes([3, 7]), [[0, 0], [1, 0], [0, 1]])
    values = list(range(5, 145))
    rows = _codes(values)
    assert rows.shape == (141, CODE_LENGTH)
    distances = ((rows[1:, None] - rows[None, 1:]) ** 2).sum(axis=-1)[~np.eye(140, dtype=bool)]
    assert distances.mean() == pytest.approx(2, abs=0.05)
    assert (distances < 0.5).mean() < 0.01
    # a label has its code whatever others there are
    assert np.array_equal(_codes(values[20:])[1], rows[21])


def test_maps_are_means_of_codes_and_other_values_are_background():
    labels = np.asarray([[3, 3, 7, 9], [3, 3, -1, 0]])[None]
    side = PreparedImage(np.zeros((1, 1, 2), np.float32), None, Space.plain((1, 2)))
    assert np.array_equal(_soft(labels, [3, 7], side)[:, 0], [[1, 0], [0, 0.25]])

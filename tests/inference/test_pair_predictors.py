"""Maps from the engine, alone and after another mapper, and the command that uses them."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from scipy import ndimage

from nnreg.cli import predict
from nnreg.dataset.pairs import Pair
from nnreg.engine import register
from nnreg.errors import ConfigurationError, RegistrationError
from nnreg.geometry import Space, Transform
from nnreg.geometry.itk import read_itk
from nnreg.imageio import Image, write_image
from nnreg.inference.predictor import PairTransforms
from nnreg.inference.registration import pair_predictors
from nnreg.inference.registration.models import PlannedEngine
from nnreg.inference.registration.pair_predictors import EnginePredictor, Refined
from nnreg.planning.registration.engine_settings import Optimisation

SPACE = Space.plain((44, 52), (1.5, 1.2))
PAIR = Pair("fixed", "moving")
SHIFT = (3.0, -2.0)  # voxels
SETTINGS = Optimisation(preset="fast", similarity="lncc", alignment="rigid")


def _picture(shift=(0.0, 0.0)) -> np.ndarray:
    """A textured disc; `shift` moves what it shows (voxels)."""
    texture = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=SPACE.shape), 2.5)
    y, x = np.indices(SPACE.shape)
    disc = ((y - 22) / 15) ** 2 + ((x - 26) / 18) ** 2 < 1
    whole = np.where(disc, 300 + 120 * texture / np.abs(texture).max(), 0)
    return ndimage.shift(whole, shift, order=1).astype(np.float32)[None]


class Source:
    """Two images in memory."""

    def __init__(self, fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray | None = None) -> None:
        self.images = {"fixed": Image(fixed, SPACE), "moving": Image(moving, SPACE)}
        self.masks = {} if mask is None else {case: Image(mask, SPACE) for case in self.images}
        self.asked: list[str] = []

    def image(self, case):
        return self.images[case]

    def labels(self, case):
        self.asked.append("labels")
        return Image((self.images[case].array > 300).astype(np.uint8), SPACE)

    def guide(self, case):
        return None

    def mask(self, case):
        self.asked.append("mask")
        return self.masks.get(case)

    def keypoints_voxel(self, case):
        self.asked.append("keypoints")
        return np.array([[20.0, 20.0], [30.0, 25.0]])


class Fixed:
    """A mapper that always says the same."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def transforms(self, pair, source):
        return PairTransforms(self.transform, Transform.identity(2), {"first": True})


def _error(transform: Transform) -> float:
    """Mean distance in mm to the true map inside the disc."""
    y, x = np.indices(SPACE.shape)
    inside = ((y - 22) / 12) ** 2 + ((x - 26) / 14) ** 2 < 1
    points = SPACE.to_world(np.argwhere(inside))
    goal = points + np.asarray(SHIFT)[::-1] * np.asarray(SPACE.spacing)[::-1]
    return float(np.linalg.norm(transform.map_points(points) - goal, axis=1).mean())


def test_the_engine_finds_a_shift():
    found = EnginePredictor(SETTINGS).transforms(PAIR, Source(_picture(), _picture(SHIFT)))
    assert _error(found.transform) < 0.15 * _error(Transform.identity(2))
    assert found.notes["succeeded"] is True


def test_refinement_goes_on_from_where_the_first_ended():
    near = np.eye(3)
    near[:2, 2] = 0.7 * np.asarray(SHIFT)[::-1] * np.asarray(SPACE.spacing)[::-1]
    start = Transform.affine(near)
    found = Refined(Fixed(start), SETTINGS, "fast").transforms(PAIR, Source(_picture(), _picture(SHIFT)))
    assert found.notes["refined"] is True
    assert found.notes["first"] is True
    assert _error(found.transform) < 0.5 * _error(start)


def test_what_refinement_does_not_improve_stays():
    """Two images that are one: nothing can be better than what is there."""
    start = Transform.identity(2)
    found = Refined(Fixed(start), SETTINGS, "fast").transforms(PAIR, Source(_picture(), _picture()))
    points = SPACE.to_world([[20.0, 20.0], [10.0, 40.0]])
    np.testing.assert_allclose(found.transform.map_points(points), points, atol=0.05)


def test_the_engine_alone_and_refining_takes_the_device_that_is_named(monkeypatch):
    asked = []

    def registered(**named):
        asked.append(named["device"])
        return register(**named | {"device": "torch"})

    monkeypatch.setattr(pair_predictors, "register", registered)
    source = Source(_picture(), _picture(SHIFT))
    for mapper in (EnginePredictor(SETTINGS, "cuda:1"), Refined(Fixed(Transform.identity(2)), SETTINGS, "fast", "cuda")):
        assert _error(mapper.transforms(PAIR, source).transform) < 0.5 * _error(Transform.identity(2))
    assert asked == ["cuda:1", "cuda"]


def test_plans_on_a_device_that_is_not_there_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="-device cuda"):
        PlannedEngine(None, None, "cuda")


@pytest.mark.parametrize("used", ["mask", "labels", "keypoints"])
def test_only_what_the_plans_name_guides(used):
    source = Source(_picture(), _picture(SHIFT), np.ones((1, *SPACE.shape), np.uint8))
    switches = {f"use_{name}": name == used for name in ("masks", "labels", "keypoints")} | ({"use_masks": True} if used == "mask" else {})
    EnginePredictor(Optimisation(preset="fast", similarity="lncc", alignment="none", **switches)).transforms(PAIR, source)
    assert set(source.asked) == {used}


def test_a_pair_that_cannot_be_registered_is_named():
    with pytest.raises(RegistrationError, match=r"pair fixed__moving: .*constant"):
        EnginePredictor(SETTINGS).transforms(PAIR, Source(_picture(), np.ones((1, *SPACE.shape), np.float32)))


def test_the_command_optimises_without_a_model(plane, tmp_path, capsys):
    """No results folder is needed; what it writes is what a network's prediction leaves, and evaluation reads it."""
    from nnreg.cli import evaluate

    arguments = ["-d", plane.id, "-c", "optimise", "-i", str(plane.raw / "imagesTs"), "-o", str(tmp_path), "--no_pictures", "-q", *plane.where]
    assert predict.main(arguments) == 0
    content = json.loads((tmp_path / "prediction.json").read_text())
    assert content["model"] == "optimise__nnRegPlans"
    for pair in content["pairs"]:
        files = {path.name for path in (tmp_path / pair["name"]).iterdir()}
        assert {"transform.h5", "alignment.h5", "warped.nii.gz", "warped_labels.nii.gz"} == files
        assert read_itk(tmp_path / pair["name"] / "transform.h5").ndim == 2
        assert isinstance(pair["succeeded"], bool)
    assert evaluate.main([str(tmp_path), "-d", plane.id, "-np", "1", "--no_surface", "-q", *plane.where]) == 0
    assert "Dice" in capsys.readouterr().out


@pytest.mark.slow  # two processes that import everything
@pytest.mark.parametrize("method", ["engine", "network"])
def test_several_processes_write_the_same(plane, tmp_path, method, one_thread):
    contents = [plane.predict(tmp_path / str(n), "-f", "0", "--method", method, "-np", str(n), refine=True) for n in (1, 2)]
    names = [[pair["name"] for pair in content["pairs"]] for content in contents]
    assert names[0] == names[1]
    for name in names[0]:
        for path in (tmp_path / "1" / name).iterdir():
            assert (tmp_path / "2" / name / path.name).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize(("method", "note"), [("network", None), ("refined", "refined"), ("engine", "succeeded")])
def test_a_prediction_goes_the_way_it_is_told(plane, tmp_path, method, note, capsys):
    content = plane.predict(tmp_path, "-f", "0", "--method", method, refine=True)
    assert content["method"] == method
    assert f"predicting by {method}: asked for by --method" in capsys.readouterr().out
    for pair in content["pairs"]:
        assert {"refined", "succeeded"} & pair.keys() == ({note} if note else set())


def test_another_process_is_sent_no_arrays(plane, tmp_path):
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.inference.registration.cases import FolderCases

    cases = FolderCases(plane.raw / "imagesTs", None, DatasetSpec.read(plane.preprocessed / "dataset.json"), None)
    case = cases.cases[0]
    array = cases.image(case).array
    sent = pickle.dumps(cases)
    assert array.tobytes()[:64] not in sent
    assert np.array_equal(pickle.loads(sent).image(case).array, array)


def test_masks_beside_the_images_are_found(plane, tmp_path):
    from nnreg.dataset.spec import DatasetSpec
    from nnreg.inference.registration.cases import FolderCases

    images = tmp_path / "imagesTs"
    write_image(images / "a_0000.nii.gz", _picture(), SPACE)
    write_image(tmp_path / "masksTs" / "a.nii.gz", np.ones((1, *SPACE.shape), np.uint8), SPACE)
    (tmp_path / "keypointsTs").mkdir()
    (tmp_path / "keypointsTs" / "a.csv").write_text("1,2\n3,4\n")
    cases = FolderCases(images, None, DatasetSpec.read(plane.preprocessed / "dataset.json"), None)
    assert cases.mask("a").array.min() == 1
    assert cases.keypoints_voxel("a").tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert cases.labels("a") is None

"""Where images come from, how folds are joined, and what a pair leaves on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny import Tiny, tree

from nnreg.dataset.pairs import Pair
from nnreg.dataset.raw import Case
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import PredictionError, TransformError
from nnreg.geometry import FieldMap, Space, Transform
from nnreg.geometry.itk import read_itk
from nnreg.geometry.transform_files import write_learn2reg
from nnreg.imageio import Image, read_image, write_image
from nnreg.inference.predictor import ModelFolder, PairTransforms, Predictor
from nnreg.inference.registration.cases import FolderCases, folder_beside, refuse_own_folder
from nnreg.inference.registration.export import write_pair
from nnreg.inference.registration.predict import read_pairs
from nnreg.planning.plans import Plans
from nnreg.preprocessing.registration.preprocessor import Preprocessor
from nnreg.preprocessing.registration.storage import PreprocessedDataset

SPACE = Space((7, 9), (1.5, 0.8), (3.0, -4.0), (0.8, -0.6, 0.6, 0.8))


# -- cases of a folder ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(plane: Tiny) -> ModelFolder:
    return ModelFolder.open(plane.model())


@pytest.fixture
def open_folder(model: ModelFolder):
    """``open_folder(folder)``: its cases, as the model would read them."""
    return lambda folder, **more: FolderCases(folder, more.pop("labels", None), model.spec, Preprocessor.from_folder(model.plans, "2d", model.path), **more)


def image(folder, name: str) -> None:
    write_image(folder / name, np.random.default_rng(0).random((1, *SPACE.shape), dtype=np.float32), SPACE)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], ("holds no images", "CASE_0000.nii.gz")),
        (["scan.nii.gz"], ("scan.nii.gz", "CASE_0000.nii.gz", "Rename")),
        (["a_0.nii.gz"], ("a_0.nii.gz", "four digits")),
        (["_0000.nii.gz"], ("_0000.nii.gz", "Rename")),
        (["a_0000.nii.gz", "a_0001.nii.gz"], ("'a'", "trained with 1")),
        (["a_0001.nii.gz"], ("'a'", "trained with 1")),
    ],
)
def test_a_folder_that_cannot_be_read_is_told(tmp_path, open_folder, names, words):
    for name in names:
        image(tmp_path, name)
    with pytest.raises(PredictionError) as refused:
        open_folder(tmp_path)
    assert all(word in str(refused.value) for word in (str(tmp_path), *words)), refused.value


def test_a_folder_that_is_not_there_is_told(tmp_path, open_folder):
    with pytest.raises(PredictionError, match="no such folder"):
        open_folder(tmp_path / "nowhere")


def test_other_files_are_left_alone_and_names_may_hold_anything(tmp_path, open_folder):
    for name in ("a_1_0000.nii.gz", "b.c_0000.nii.gz", ".hidden_0000.nii.gz"):
        image(tmp_path, name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    cases = open_folder(tmp_path)
    assert cases.cases == ["a_1", "b.c"]
    assert cases.image("a_1").space.same_as(SPACE, tolerance=1e-2)
    with pytest.raises(PredictionError, match="no case 'a_2'"):
        cases.image("a_2")


def test_labels_are_found_by_case(tmp_path, open_folder):
    images, labels = tmp_path / "imagesTs", tmp_path / "labelsTs"
    for name in ("a_0000.nii.gz", "b_0000.nii.gz"):
        image(images, name)
    write_image(labels / "a.nii.gz", np.full((1, *SPACE.shape), 7, np.uint8), SPACE)
    cases = open_folder(images, labels=labels)
    assert np.unique(cases.labels("a").array).tolist() == [7]
    assert cases.labels("b") is None
    assert open_folder(images).labels("a") is None
    assert folder_beside(images, "labels") == labels
    assert folder_beside(labels, "labels") is None


def test_new_images_are_preprocessed_as_the_training_images_were(plane, model):
    cases = FolderCases(plane.raw / "imagesTr", None, model.spec, Preprocessor.from_folder(model.plans, "2d", model.path))
    stored = PreprocessedDataset(plane.arrays)
    for case, frame in (("s0_a", "s0_a"), ("s0_b", "s0_a")):
        fresh, kept = cases.preprocessed(case, frame=frame), stored.load(case)
        np.testing.assert_allclose(fresh.image, kept.image, atol=1e-5)
        np.testing.assert_allclose(fresh.properties.to_native, kept.properties.to_native, atol=1e-9)


@pytest.mark.parametrize("content", [[{"fixed": "a"}], [["a"]], ["a"], {"a": "b"}, [["a", "b", "c"]]])
def test_pairs_that_are_none_are_told(tmp_path, content):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PredictionError, match=r"pairs\.json"):
        read_pairs(path)


def test_pairs_are_read_in_both_spellings(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([["a", "b"], {"fixed": "c", "moving": "d"}]))
    assert read_pairs(path) == [Pair("a", "b"), Pair("c", "d")]


# -- networks ---------------------------------------------------------------------------------------------------------


class Constant(torch.nn.Module):
    def __init__(self, *shift: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, *, fixed: torch.Tensor, moving: torch.Tensor) -> list[torch.Tensor]:
        return [self.shift.reshape(1, -1, 1, 1).expand(1, -1, *fixed.shape[2:]).clone()]


def test_the_field_of_several_networks_is_their_mean(plane):
    plans = Plans.read(plane.preprocessed / "nnRegPlans.json")
    stored = PreprocessedDataset(plane.arrays)
    fixed, moving = stored.load("s0_a"), stored.load("s0_b")

    def field(*networks: torch.nn.Module) -> np.ndarray:
        """On the working grid; around it the field fades out."""
        predictor = Predictor(plans=plans, configuration=plans.configuration("2d"), networks=networks, device=torch.device("cpu"))
        return Transform(predictor.stages(fixed=fixed, moving=moving), 2).sampled_on(fixed.properties.working).displacement

    one, other = Constant(2.0, -1.0), Constant(0.0, 4.0)
    np.testing.assert_allclose(field(one, other), (field(one) + field(other)) / 2, atol=1e-4)
    np.testing.assert_allclose(field(one, other)[:, 5, 7], [1.0, 1.5], atol=1e-4)


def test_a_prediction_is_into_the_working_world_the_field_and_out_again(plane):
    """By points: native fixed world, working grid, displacement, native moving world."""
    plans = Plans.read(plane.preprocessed / "nnRegPlans.json")
    stored = PreprocessedDataset(plane.arrays)
    fixed, moving = stored.load("s1_a"), stored.load("s1_b")
    predictor = Predictor(plans=plans, configuration=plans.configuration("2d"), networks=[Constant(1.0, 0.5)], device=torch.device("cpu"))
    found = predictor.transforms(fixed=fixed, moving=moving)
    working = fixed.properties.working
    indices = np.array([[3.0, 4.0], [10.0, 6.5], [7.25, 11.0]])
    native = Transform.affine(fixed.properties.to_native).map_points(working.to_world(indices))
    expected = Transform.affine(moving.properties.to_native).map_points(working.to_world(indices + np.array([1.0, 0.5])))
    np.testing.assert_allclose(found.transform.map_points(native), expected, atol=1e-5)
    unmoved = Transform.affine(moving.properties.to_native).map_points(working.to_world(indices))
    np.testing.assert_allclose(found.alignment.map_points(native), unmoved, atol=1e-9)


def test_a_folder_that_is_no_model_is_told(plane, tmp_path):
    for path in (tmp_path, tmp_path / "a__b__c", plane.fold(0)):
        with pytest.raises(PredictionError, match="no trained model"):
            ModelFolder.open(path)


def test_only_finished_folds_are_taken_by_default(plane, tmp_path):
    twin = plane.copy(tmp_path)
    assert ModelFolder.open(twin.model()).folds() == ["0", "1"]
    (twin.fold(1) / "checkpoint_final.pth").unlink()
    assert ModelFolder.open(twin.model()).folds() == ["0"]
    (twin.fold(0) / "checkpoint_final.pth").unlink()
    with pytest.raises(PredictionError, match="no fold is trained"):
        ModelFolder.open(twin.model()).predictor(folds=[], checkpoint="checkpoint_final.pth", device=torch.device("cpu"))


# -- what a pair leaves -----------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> dict[str, object]:
    rng = np.random.default_rng(0)
    field = FieldMap(rng.normal(size=(2, *SPACE.shape)).astype(np.float32), SPACE)
    moving_space = Space((8, 6), (1.2, 1.1), (2.0, -3.0), SPACE.direction)
    moving = Image(rng.integers(0, 900, (1, 8, 6)).astype(np.int16), moving_space)
    return {
        "transforms": PairTransforms(Transform((field,), 2), Transform.identity(2)),
        "fixed": Image(rng.random((1, *SPACE.shape), dtype=np.float32), SPACE),
        "moving": Case(moving, Image((moving.array > 400).astype(np.uint8) * 200, moving_space)),
        "ending": ".nii.gz",
    }


def test_a_pair_is_written_whole(pair, tmp_path):
    folder = tmp_path / "out" / "a__b"
    write_pair(folder, **pair)
    assert {path.name for path in folder.iterdir()} == {"transform.h5", "alignment.h5", "warped.nii.gz", "warped_labels.nii.gz"}
    points = SPACE.to_world([[2.0, 3.0], [5.5, 1.0]])
    found = read_itk(folder / "transform.h5").map_points(points)
    np.testing.assert_allclose(found, pair["transforms"].transform.map_points(points), atol=min(SPACE.spacing) / 1000)  # as rounded
    labels = read_image(folder / "warped_labels.nii.gz")
    assert set(np.unique(labels.array)) == {0, 200}
    assert [path.name for path in folder.parent.iterdir()] == ["a__b"]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_pair_that_fails_leaves_what_was_there(pair, tmp_path, earlier):
    folder = tmp_path / "a__b"
    if earlier:
        write_pair(folder, **pair)
    before = tree(tmp_path)

    def broken(*arguments: object) -> None:
        raise OSError("the picture fails, last of all")

    with pytest.raises(OSError, match="last of all"):
        write_pair(folder, **pair, picture=broken)
    assert tree(tmp_path) == before


def test_a_pair_that_is_written_again_takes_the_place_of_the_old_one(pair, tmp_path):
    folder = tmp_path / "a__b"
    write_pair(folder, **pair)
    write_pair(folder, **(pair | {"moving": Case(pair["moving"].image)}))
    assert not (folder / "warped_labels.nii.gz").exists()
    assert (folder / "warped.nii.gz").exists()


def test_learn2reg_is_three_dimensional(pair, tmp_path):
    with pytest.raises(TransformError, match="three-dimensional"):
        write_learn2reg(tmp_path / "disp.nii.gz", pair["transforms"].transform, fixed=pair["fixed"].space, moving=pair["moving"].image.space)
    assert not list(tmp_path.iterdir())


def test_the_dataset_json_of_a_model_is_the_one_it_was_trained_with(plane, model):
    assert model.spec == DatasetSpec.read(plane.preprocessed / "dataset.json")
    assert model.configuration_name == "2d"


def test_images_of_another_number_of_axes_are_refused(tmp_path, model):
    write_image(tmp_path / "a_0000.nii.gz", np.ones((1, 4, 5, 6), np.float32), Space.plain((4, 5, 6)))
    cases = FolderCases(tmp_path, None, model.spec, None, ndim=2)
    with pytest.raises(PredictionError, match=r"a_0000\.nii\.gz: is 3D, the model or the plans are for 2D images"):
        cases.image("a")


def test_two_files_of_one_channel_are_refused(tmp_path, open_folder):
    for name in ("a_0000.nii.gz", "a_0000.mha"):
        image(tmp_path, name)
    with pytest.raises(PredictionError, match=r"is there as a_0000\.mha too|is there as a_0000\.nii\.gz too"):
        open_folder(tmp_path)


def test_results_are_not_put_among_the_images(tmp_path):
    with pytest.raises(PredictionError, match="is read as the folder of the images"):
        refuse_own_folder(tmp_path / "." / "x" / "..", None, tmp_path)
    refuse_own_folder(tmp_path / "out", tmp_path, None)

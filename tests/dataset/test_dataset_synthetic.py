"""Synthetic pairs: the truth is the truth, in both directions, on disk as in memory; the same seed gives the same pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.integrate import solve_ivp
from scipy.ndimage import map_coordinates

from nnreg.cli.synthesize import main
from nnreg.dataset import GENERATORS, Pair, RawDataset, SyntheticEllipsoids, make_splits, pairs_within, verify_dataset, write_synthetic_dataset
from nnreg.dataset.phantom import RandomPhantom, RandomVelocity
from nnreg.dataset.synthetic import flow_and_inverse
from nnreg.errors import ConfigurationError, DatasetError
from nnreg.geometry import compose, identity_grid, jacobian_determinant, warp
from nnreg.geometry.itk import read_itk

SHAPES = [(33, 40), (24, 19, 28)]


@pytest.fixture(params=SHAPES, ids=str)
def pairs(request):
    """A generator of deformed pairs without noise."""
    return SyntheticEllipsoids(request.param, deform=True, noise_std=0.0)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# -- the generator of undeformed pairs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_basic_sample_is_one_image_twice(shape):
    sample = GENERATORS["synthetic_ellipsoids"](shape, num_samples=7)[6]
    assert sample.keys() == {"moving", "fixed"}
    assert sample["fixed"].shape == (1, *shape)
    assert sample["fixed"].dtype == torch.float32
    assert torch.equal(sample["moving"], sample["fixed"])
    assert sample["moving"].data_ptr() != sample["fixed"].data_ptr()


def test_centre_and_radius_of_the_body_are_those_of_the_source():
    shape = (65, 33, 49)
    half = (np.array(shape) - 1) / 2
    drawn = [RandomPhantom().sample(np.random.default_rng(i), shape) for i in range(200)]
    centres = np.array([phantom.centres[0] for phantom in drawn]) / half - 1
    radii = np.array([phantom.radii[0] for phantom in drawn]) / half
    assert np.abs(centres).max() <= 0.25
    assert np.abs(centres).max() > 0.2
    assert radii.min() >= 0.35
    assert radii.max() <= 0.55
    assert np.ptp(radii) > 0.15


def test_every_window_has_something_to_see():
    image = SyntheticEllipsoids((48, 48), noise_std=0.0)[0]["fixed"][0]
    windows = image.unfold(0, 9, 1).unfold(1, 9, 1).reshape(-1, 81)
    assert windows.var(dim=1).min() > 1e-5


def test_texture_is_stronger_at_boundaries():
    phantom = RandomPhantom(structures=0).sample(np.random.default_rng(1), (96, 96))
    textureless = RandomPhantom(structures=0).sample(np.random.default_rng(1), (96, 96))
    object.__setattr__(textureless, "wave_vectors", np.zeros_like(phantom.wave_vectors))
    object.__setattr__(textureless, "phases", np.full_like(phantom.phases, np.pi / 2))  # cos = 0: no texture
    grid = identity_grid((96, 96))[0].numpy()
    (image, labels), (plain, _) = phantom.render(grid), textureless.render(grid)
    texture = np.abs(image - plain)[0]
    edge = np.abs(np.gradient(labels[0].astype(float))).sum(axis=0) > 0
    assert texture[edge].mean() > 1.5 * texture[~edge].mean()


def test_smooth_makes_ramps_of_steps():
    def steepest(smooth):
        image = SyntheticEllipsoids((64, 64), noise_std=0.0, smooth=smooth, structures=0)[2]["fixed"][0]
        return max(image.diff(dim=0).abs().max(), image.diff(dim=1).abs().max())

    assert steepest(True) < 0.8 * steepest(False)


def test_noise_has_the_strength_asked_for():
    noisy, clean = (SyntheticEllipsoids((64, 64), noise_std=std)[0]["fixed"] for std in (0.1, 0.0))
    assert (noisy - clean).std() == pytest.approx(0.1, rel=0.05)


def test_noise_of_a_deformed_pair_is_drawn_for_each_image():
    noisy, clean = (SyntheticEllipsoids((64, 64), noise_std=std, deform=True)[0] for std in (0.1, 0.0))
    noise = [(noisy[role] - clean[role]).flatten() for role in ("fixed", "moving")]
    assert abs(float(torch.corrcoef(torch.stack(noise))[0, 1])) < 0.1


# -- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deform", [False, True])
def test_a_sample_depends_on_seed_split_and_index_only(deform):
    def make(**changes):
        return SyntheticEllipsoids((20, 24), **{"seed": 5, "split": "train", "deform": deform} | changes)

    forwards, backwards = make(), make()
    first = [forwards[i] for i in range(4)]
    assert all(equal(backwards[i], first[i]) for i in reversed(range(4)))
    others = [first[1], make(seed=6)[0], make(split="val")[0], make(split="test")[0]]
    assert not any(equal(first[0], other) for other in others)


def test_the_dataset_ends():
    data = SyntheticEllipsoids((16, 16), num_samples=3)
    assert len(list(data)) == len(data) == 3
    with pytest.raises(IndexError):
        data[3]


# -- the truth of deformed pairs --------------------------------------------------------------------------------------


def test_shapes_and_types(pairs):
    sample = pairs[0]
    shape = pairs.shape
    assert {key: tuple(value.shape) for key, value in sample.items()} == {
        "fixed": (1, *shape),
        "moving": (1, *shape),
        "field": (len(shape), *shape),
        "inverse_field": (len(shape), *shape),
        "fixed_labels": (1, *shape),
        "moving_labels": (1, *shape),
    }
    assert sample["fixed_labels"].dtype == torch.int16
    assert GENERATORS["deepreg_synthetic"](shape, noise_std=0.0)[0].keys() == sample.keys()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_fields_undo_each_other(pairs, index):
    sample = pairs[index]
    forward, backward = sample["field"][None], sample["inverse_field"][None]
    assert compose(forward, backward).abs().max() < 5e-3  # voxels
    assert float(forward.norm(dim=1).max()) > 0.5
    assert jacobian_determinant(forward).min() > 0.1


@pytest.mark.parametrize("shape", [(64, 80), (48, 40, 44)], ids=str)
@pytest.mark.parametrize(("moving", "fixed", "field"), [("moving", "fixed", "field"), ("fixed", "moving", "inverse_field")])
def test_the_field_explains_the_pair_and_no_other_does(shape, moving, fixed, field):
    """Sampled by scipy's quintic spline, the moving image at x + u(x) is the fixed image; 5 % more or less displacement is worse."""
    sample = SyntheticEllipsoids(shape, deform=True, noise_std=0.0)[1]
    image, expected, displacement = (sample[key].numpy().astype(float) for key in (moving, fixed, field))

    def left(scale):
        return np.abs(map_coordinates(image[0], np.indices(shape) + scale * displacement, order=5, mode="nearest") - expected[0]).mean()

    assert left(1.0) < 0.06 * left(0.0)
    assert left(1.0) < min(left(0.95), left(1.05))
    warped_labels = warp(sample[f"{moving}_labels"][None], sample[field][None], mode="nearest")[0]
    assert (warped_labels != sample[f"{fixed}_labels"]).sum() < 0.6 * (sample[f"{moving}_labels"] != sample[f"{fixed}_labels"]).sum()


@pytest.mark.parametrize("shape", [(64, 80), (40, 36, 44)])
def test_the_flow_is_that_of_the_velocity(shape):
    rng = np.random.default_rng(3)
    velocity = RandomVelocity().sample(rng, shape).field(shape)
    forward, _ = flow_and_inverse(torch.from_numpy(velocity)[None])
    index = np.stack([rng.integers(4, size - 4, 40) for size in shape])

    def speed(_, position):
        return np.concatenate([map_coordinates(part, position.reshape(index.shape), order=3, mode="nearest") for part in velocity.astype(float)])

    end = solve_ivp(speed, (0, 1), index.astype(float).ravel(), rtol=1e-5, atol=1e-5).y[:, -1].reshape(index.shape)
    ours = index + forward[0].numpy()[(slice(None), *index)]
    assert np.linalg.norm(ours - end, axis=0).mean() < 0.05
    assert np.linalg.norm(ours - end, axis=0).max() < 0.2


@pytest.mark.parametrize("largest", [0.0, 1.5, 6.0])
def test_no_point_travels_further_than_asked(pairs, largest):
    sample = SyntheticEllipsoids(pairs.shape, deform=True, max_displacement=largest)[0]
    reached = float(sample["field"].norm(dim=0).max())
    assert reached <= largest + 1e-4
    assert largest == 0 or reached > 0.25 * largest


def test_nothing_moves_across_the_border(pairs):
    field = pairs[0]["field"]
    for axis in range(1, field.ndim):
        for end in (0, -1):
            assert field.select(axis, end).abs().max() < 1e-6


def test_labels_lie_inside_the_body(pairs):
    labels = pairs[0]["fixed_labels"]
    values, counts = labels.unique(return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 4, 5]
    assert counts[1] == counts[1:].max()
    for axis in range(1, labels.ndim):
        assert labels.select(axis, 0).max() == labels.select(axis, -1).max() == 0


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (((16,),), {}, "2 or 3 sizes"),
        (((16, 4),), {}, "at least 8"),
        (((16, 16),), {"split": "vall"}, "did you mean 'val'"),
        (((16, 16),), {"noise_std": -1.0}, "must not be negative"),
    ],
)
def test_senseless_options_are_refused(arguments, options, said):
    with pytest.raises(DatasetError) as error:
        SyntheticEllipsoids(*arguments, **options)
    assert said in str(error.value)
    with pytest.raises(ConfigurationError):
        GENERATORS["synthetic_elipsoids"]


# -- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[((20, 24), (0.8, 0.5)), ((16, 18, 20), (2.0, 1.0, 0.5))], ids=["2d", "3d"])
def written(request, tmp_path_factory) -> RawDataset:
    """A written dataset of anisotropic images."""
    shape, spacing = request.param
    folder = tmp_path_factory.mktemp("raw") / "Dataset900_Ellipsoids"
    return write_synthetic_dataset(folder, pairs=3, test_pairs=2, shape=shape, spacing=spacing, seed=4, keypoints=6, noise_std=0.0)


def test_a_written_dataset_is_sound_and_split_by_pair(written):
    report = verify_dataset(written)
    assert (report.problems, report.notes) == ((), ())
    assert [pair.name for pair in written.pairs()] == [f"ellipsoids_{i:03d}_fixed__ellipsoids_{i:03d}_moving" for i in range(3)]
    assert [pair.fixed for pair in written.test_pairs()] == ["ellipsoids_003_fixed", "ellipsoids_004_fixed"]
    assert written.label_values == (1, 2, 3, 4, 5)
    splits = make_splits({case: written.subject(case) for case in written.cases})
    assert [len(pairs_within(written.pairs(), split["val"])) for split in splits] == [1, 1, 1]


def test_the_files_hold_what_the_generator_makes(written):
    shape = written.read_image("ellipsoids_000_fixed").space.shape
    for split, pairs in (("train", written.pairs()), ("test", written.test_pairs())):
        data = SyntheticEllipsoids(shape, seed=4, split=split, deform=True, noise_std=0.0)
        for index, pair in enumerate(pairs):
            for role, case in (("fixed", pair.fixed), ("moving", pair.moving)):
                assert np.array_equal(written.read_image(case).array, data[index][role].numpy())
                assert np.array_equal(written.read_labels(case).array, data[index][f"{role}_labels"].numpy())


def test_simpleitk_can_apply_the_written_truth(written):
    """The field on disk, used by ITK alone in mm, takes the moving image onto the fixed one, both ways."""
    for pair in (*written.pairs(), *(pair.swapped for pair in written.test_pairs())):
        fixed, moving = (sitk.ReadImage(str(written.image_paths(case)[0])) for case in (pair.fixed, pair.moving))
        field = sitk.ReadImage(str(written.field_path(pair)), sitk.sitkVectorFloat64)
        warped = sitk.Resample(moving, fixed, sitk.DisplacementFieldTransform(field), sitk.sitkLinear, 0.0)
        before, after = (np.abs(sitk.GetArrayFromImage(fixed) - sitk.GetArrayFromImage(image)).mean() for image in (moving, warped))
        assert after < 0.35 * before


def test_the_written_truth_reads_back_in_voxels(written):
    pair = written.pairs()[0]
    space = written.read_image(pair.fixed).space
    field = read_itk(written.field_path(pair)).sampled_on(space).displacement
    expected = SyntheticEllipsoids(space.shape, seed=4, deform=True, noise_std=0.0)[0]["field"].numpy()
    np.testing.assert_allclose(field, expected, atol=1e-5)
    assert written.field_path(Pair(pair.fixed, written.pairs()[1].moving)) is None


def test_keypoints_correspond_under_the_truth(written):
    pair = written.pairs()[1]
    fixed, moving = (written.read_keypoints(case)[:, ::-1] for case in (pair.fixed, pair.moving))
    space = written.read_image(pair.fixed).space
    moved = space.to_index(read_itk(written.field_path(pair)).map_points(space.to_world(fixed)))
    assert fixed.shape == (6, space.ndim)
    np.testing.assert_allclose(moved, moving, atol=1e-4)


def test_two_processes_write_the_same_files(tmp_path):
    folders = [tmp_path / "Dataset001_A", tmp_path / "Dataset002_B"]
    for folder, processes in zip(folders, (1, 2), strict=True):
        write_synthetic_dataset(folder, pairs=2, test_pairs=1, shape=(16, 18), processes=processes)
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*.nii.gz")) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        images = [sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name))) for folder in folders]
        assert np.array_equal(*images)


def command(tmp_path, *options):
    return main(["--workspace", str(tmp_path), "-q", "--pairs", "2", "--test_pairs", "1", "--shape", "16", "18", *options])


def test_the_command_writes_a_dataset(tmp_path, capsys):
    assert command(tmp_path, "-d", "900", "--name", "Two", "--keypoints", "3", "--spacing", "2", "1", "--structures", "2") == 0
    raw = RawDataset.open(tmp_path / "nnReg_raw" / "Dataset900_Two")
    assert "2 training pairs, 1 held-out pairs" in capsys.readouterr().out
    assert raw.read_image("ellipsoids_002_moving").space.spacing == (2.0, 1.0)
    assert set(raw.spec.labels) == {"background", "body", "structure_1", "structure_2"}
    assert json.loads((raw.folder / "dataset.json").read_text())["numTraining"] == 4
    assert sorted(path.name for path in raw.folder.parent.iterdir()) == ["Dataset900_Two"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-d", "900", "--name", "Two"), "exists already"),
        (("-d", "900", "--name", "Other"), "belongs to Dataset900_Two"),
        (("-d", "901", "--name", "a b"), "letters, digits"),
        (("-d", "1234"), "from 0 to 999"),
        (("-d", "901", "--shape", "16"), "2 or 3 sizes"),
        (("-d", "901", "--spacing", "1"), "needs 2 spacings"),
        (("-d", "901", "--spacing", "0", "1"), "must be finite and positive"),
        (("-d", "901", "--pairs", "0"), "one pair or more"),
        (("-d", "901", "--noise_std", "-1"), "must not be negative"),
    ],
)
def test_the_command_refuses_in_one_line_and_leaves_nothing(tmp_path, capsys, options, said):
    command(tmp_path, "-d", "900", "--name", "Two")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert command(tmp_path, *options) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_workspace_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "nnReg_raw").write_text("a file in the way")
    assert command(tmp_path, "-d", "900") == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "nnReg_raw") in err
    assert len(err.splitlines()) == 1


def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise DatasetError("the disk is full")

    monkeypatch.setattr("nnreg.dataset.synthetic_writer._spec", fail)
    with pytest.raises(DatasetError):
        write_synthetic_dataset(tmp_path / "Dataset900_A", pairs=1, test_pairs=0, shape=(16, 16))
    assert list(tmp_path.iterdir()) == []


def test_a_flow_without_an_inverse_is_refused_and_a_strong_one_has_its_exact_one():
    strong = SyntheticEllipsoids((32, 32, 32), num_samples=1, deform=True, max_displacement=8.0, seed=1)[0]
    left = compose(strong["field"][None], strong["inverse_field"][None])
    assert left.norm(dim=1).max() < 0.1
    with pytest.raises(DatasetError, match=r"has no inverse: .* voxels are left. Lower max_displacement"):
        SyntheticEllipsoids((32, 32, 32), num_samples=1, deform=True, max_displacement=16.0, seed=1)[0]

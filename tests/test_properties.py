"""Laws of geometry, transforms, files and plans on examples that hypothesis seeks; ``NNREG_EXAMPLES=5000`` seeks longer."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis", reason="needs pip install 'nnreg[dev]'")

from hypothesis import HealthCheck, assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from nnreg.errors import NnRegError  # noqa: E402
from nnreg.geometry import FieldMap, Space, Transform, resample_image, resample_labels  # noqa: E402
from nnreg.geometry.transform_files import read_transform, write_transform  # noqa: E402
from nnreg.imageio import read_image, write_image  # noqa: E402
from nnreg.planning.plans import Plans  # noqa: E402

EXAMPLES = int(os.environ.get("NNREG_EXAMPLES", "20"))
settings.register_profile("nnreg", max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES <= 20, suppress_health_check=list(HealthCheck))
settings.load_profile("nnreg")

FIELD_ENDINGS = (".nii", ".nii.gz", ".mha", ".nrrd", ".h5", ".tfm")
IMAGE_ENDINGS = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".tif", ".npz", ".npy")
DTYPES = ("uint8", "int16", "uint16", "int32", "float32", "float64")
PLANS = sorted((Path(__file__).parents[1] / "nnreg_results_template").glob("*/*/plans.json"))
ODD = (None, True, -1, 0, 1, 2.5, 10**400, float("nan"), "", "x", "../x", [], [1], {}, {"a": 1})


def angles(count: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.sampled_from([0.0, 90.0, -90.0, 180.0]) | st.floats(-180, 180, width=32), min_size=count, max_size=count)


def rotation(turns: list[float], n: int) -> np.ndarray:
    """Of one angle in a plane, of three in space; degrees."""
    result = np.eye(n)
    for (i, j), turn in zip([(0, 1), (0, 2), (1, 2)], np.radians(turns)):
        step = np.eye(n)
        step[[i, i, j, j], [i, j, i, j]] = np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)
        result = result @ step
    return result


@st.composite
def spaces(draw: Any, ndim: int | None = None) -> Space:
    """Any grid: awkward sizes and spacings, turned, mirrored, far from the origin."""
    n = ndim or draw(st.sampled_from([2, 3]))
    shape = draw(st.lists(st.integers(2, 6), min_size=n, max_size=n))
    spacing = draw(st.lists(st.floats(0.05, 20), min_size=n, max_size=n))
    origin = draw(st.lists(st.floats(-500, 500), min_size=n, max_size=n))
    direction = rotation(draw(angles(1 if n == 2 else 3)), n)
    direction[:, 0] *= draw(st.sampled_from([1, -1]))
    return Space(tuple(shape), tuple(spacing), tuple(origin), tuple(direction.ravel().tolist()))


@st.composite
def matrices(draw: Any, n: int) -> np.ndarray:
    """Affine maps that can be turned back: rotations with other scales along other axes."""
    count = 1 if n == 2 else 3
    scales = draw(st.lists(st.floats(0.5, 2), min_size=n, max_size=n))
    result = np.eye(n + 1)
    result[:n, :n] = rotation(draw(angles(count)), n) @ np.diag(scales) @ rotation(draw(angles(count)), n)
    result[:n, n] = draw(st.lists(st.floats(-100, 100), min_size=n, max_size=n))
    return result


def noise(space: Space, seed: int, *, channels: int, dtype: str = "float32", scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(channels, *space.shape))).astype(dtype)


def points_in(space: Space, seed: int) -> np.ndarray:
    """World positions within the grid."""
    return space.to_world(np.random.default_rng(seed).uniform(0, np.asarray(space.shape) - 1, (7, space.ndim)))


def voxels(space: Space) -> np.ndarray:
    """World positions of all voxels, (N, ndim)."""
    return space.to_world(np.moveaxis(np.indices(space.shape), 0, -1).reshape(-1, space.ndim))


def reach(*spaces: Space) -> float:
    """A length (mm) that errors of rounding are held against."""
    return max(float(np.abs(space.corners()).max()) for space in spaces) + 100


def is_space(found: Space, wanted: Space) -> None:
    """Every corner within a hundredth of a voxel, which headers in single precision can tell."""
    assert found.shape == wanted.shape
    assert np.abs(found.corners() - wanted.corners()).max() < 0.01 * min(wanted.spacing) + 1e-6 * reach(wanted)


@given(spaces())
def test_a_space_is_what_its_matrix_and_its_dictionary_say(space: Space) -> None:
    indices = np.random.default_rng(0).uniform(-3, 9, (7, space.ndim))
    np.testing.assert_allclose(space.to_index(space.to_world(indices)), indices, atol=1e-9 * reach(space) / min(space.spacing))
    np.testing.assert_allclose(Space.from_matrix(space.shape, space.matrix).matrix, space.matrix, atol=1e-9 * reach(space))
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space


@given(st.data(), st.sampled_from([2, 3]))
def test_affine_maps_are_a_group(data: Any, n: int) -> None:
    first, second, third = (Transform.affine(data.draw(matrices(n))) for _ in range(3))
    points = np.random.default_rng(0).uniform(-100, 100, (7, n))
    np.testing.assert_allclose(first.then(second).map_points(points), second.map_points(first.map_points(points)), atol=1e-7)
    np.testing.assert_allclose(first.then(second).then(third).map_points(points), first.then(second.then(third)).map_points(points), atol=1e-7)
    np.testing.assert_allclose(first.then(first.inverse()).map_points(points), points, atol=1e-7)
    assert len(first.then(second).simplified().stages) == 1
    np.testing.assert_allclose(first.then(second).simplified().map_points(points), second.map_points(first.map_points(points)), atol=1e-7)


@given(st.data(), st.sampled_from([2, 3]), st.integers(0, 99))
def test_an_image_of_positions_is_moved_as_its_points_are(data: Any, n: int, seed: int) -> None:
    """The voxel at x of the warped image shows what lies at T(x): of an image that holds positions, T(x) itself."""
    fixed, grid = data.draw(spaces(n)), data.draw(spaces(n))
    field = FieldMap(noise(grid, seed, channels=n, scale=0.7), grid)
    transform = Transform((*Transform.affine(data.draw(matrices(n))).stages, field), n)
    wanted = transform.map_points(voxels(fixed)).T
    low, high = wanted.min(axis=1) - 1, wanted.max(axis=1) + 1
    moving = Space((9,) * n, tuple(((high - low) / 8)[::-1].tolist()), tuple(low.tolist()), tuple(np.eye(n).ravel().tolist()))
    places = np.moveaxis(moving.to_world(np.moveaxis(np.indices(moving.shape), 0, -1)), -1, 0).astype(np.float32)
    found = resample_image(places, moving=moving, fixed=fixed, transform=transform, outside=np.nan)
    assert np.abs(found.reshape(n, -1) - wanted).max() < 1e-5 * (reach(fixed, grid) + np.abs(wanted).max())


@given(spaces(), st.integers(0, 99))
def test_on_its_own_grid_nothing_changes(space: Space, seed: int) -> None:
    image = noise(space, seed, channels=2)
    np.testing.assert_allclose(resample_image(image, moving=space, fixed=space), image, atol=1e-3)
    labels = (image[:1] > 0).astype(np.int16)
    np.testing.assert_array_equal(resample_labels(labels, moving=space, fixed=space), labels)


@given(st.data(), st.sampled_from(FIELD_ENDINGS), st.integers(0, 99))
def test_a_transform_comes_back_from_its_file(data: Any, ending: str, seed: int) -> None:
    space = data.draw(spaces())
    n = space.ndim
    written = Transform((FieldMap(noise(space, seed, channels=n), space),), n)
    chained = ending in (".h5", ".tfm")
    if chained:
        written = written.then(Transform.affine(data.draw(matrices(n))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t{ending}"
        write_transform(path, written, fixed=space)
        found = read_transform(path)
    points = points_in(space, seed)
    away = np.abs(found.map_points(points) - written.map_points(points)).max()
    # a grid that is told in single precision is off by some of it, and a field of noise changes by voxels of the long side within one of the short
    assert away < 0.02 * min(space.spacing) + 1e-6 * reach(space) * 4 * max(space.spacing) / min(space.spacing)


@given(st.data(), st.integers(0, 99))
def test_learn2reg_holds_voxels_of_two_grids(data: Any, seed: int) -> None:
    fixed, moving = data.draw(spaces(3)), data.draw(spaces(3))
    written = Transform((FieldMap(noise(fixed, seed, channels=3), fixed),), 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "disp.nii.gz"
        write_transform(path, written, form="learn2reg", fixed=fixed, moving=moving)
        found = read_transform(path, fixed=fixed, moving=moving)
    away = np.abs(found.map_points(voxels(fixed)) - written.map_points(voxels(fixed))).max()
    assert away < 1e-5 * reach(fixed, moving) * max(1.0, max(moving.spacing) / min(moving.spacing))


@given(st.data(), st.sampled_from(IMAGE_ENDINGS), st.sampled_from(DTYPES), st.integers(1, 2), st.integers(0, 99))
def test_an_image_comes_back_from_its_file(data: Any, ending: str, dtype: str, channels: int, seed: int) -> None:
    space = data.draw(spaces())
    assume(not (ending == ".npy" and space.ndim == 2 and channels > 1))  # refused: channels are not told from slices
    array = noise(space, seed, channels=channels, dtype=dtype, scale=50)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        write_image(path, array, space)
        found = read_image(path)
    np.testing.assert_array_equal(found.array, array)
    assert found.array.dtype == array.dtype
    is_space(found.space, space)


@st.composite
def spoilt(draw: Any, value: Any) -> Any:
    """The same document with another value somewhere, of its own type or of none."""
    result = json.loads(json.dumps(value))
    here = result
    while True:
        key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        if isinstance(here[key], (dict, list)) and here[key] and draw(st.integers(0, 3)):
            here = here[key]
            continue
        here[key] = draw(st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=5))
        return result


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.parent.name)
@given(data=st.data())
def test_plans_are_refused_or_come_back(path: Path, data: Any) -> None:
    content = data.draw(spoilt(json.loads(path.read_text())))
    try:
        plans = Plans.from_dict(content)
    except NnRegError:
        return
    again = json.loads(json.dumps(plans.to_dict()))
    assert Plans.from_dict(again) == plans
    assert Plans.from_dict(again).to_dict() == plans.to_dict()

"""The engine in torch, as it runs on a GPU, here on the processor: the fields of the compiled kernels, and nothing read back within five iterations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import nnreg
from nnreg.cli.register import main
from nnreg.engine import refine, similarity_terms
from nnreg.engine.device import engine_device, engine_part
from nnreg.engine.grids import Level
from nnreg.engine.names import AUTO
from nnreg.engine.prepared_image import PreparedImage
from nnreg.engine.refine import CHECK, Settings
from nnreg.engine.similarities import SIMILARITIES, EngineSimilarity, find_similarity
from nnreg.engine.similarity_terms import Landmarks
from nnreg.errors import ConfigurationError, RegistrationError
from nnreg.geometry import Space
from nnreg.imageio import Image, write_image
from nnreg.kernels import backend
from tests.engine.pairs import known_pair
from tests.training.test_waits import META, Waits

OURS = ("lncc", "lncc+mse", "mind", "mse", "nmi", "nmi+gradient")
SETTINGS = Settings(iterations=4, step=1.2, update_smoothing=1.7, field_smoothing=0.5)


def apart(first: nnreg.engine.Registration, second: nnreg.engine.Registration) -> float:
    """Mean distance of two fields, voxels."""
    return float(np.sqrt(((first.field.displacement - second.field.displacement) ** 2).sum(axis=0)).mean())


@pytest.mark.parametrize(("similarity", "ndim"), [*((name, 2) for name in OURS), ("lncc", 3), ("mind", 3)])
def test_fields_are_those_of_the_compiled_kernels(similarity, ndim):
    fixed, moving, *_ = known_pair(ndim, seed=4)
    compiled, found = (nnreg.register(fixed=fixed, moving=moving, similarity=similarity, device=device) for device in ("cpu", "torch"))
    assert apart(compiled, found) < 1e-3
    assert np.abs(compiled.field.displacement).max() > 0.5
    assert found.similarity_after == pytest.approx(compiled.similarity_after, abs=2e-5)
    assert "device" in [decision.name for decision in found.decisions]


def test_masks_landmarks_labels_and_channels():
    fixed, moving, fixed_labels, moving_labels, truth = known_pair(2, seed=5)
    corner = np.zeros(fixed.array.shape, np.uint8)
    corner[:, 8:-6, 10:] = 1
    points = np.array([[15.0, 12.0], [22.0, 25.0], [30.0, 18.0]])
    carried = moving.space.to_index(truth.map_points(fixed.space.to_world(points[:, ::-1])))[:, ::-1]
    two = [Image(np.concatenate([image.array, image.array**0.5]), image.space) for image in (fixed, moving)]
    named = {"fixed_mask": Image(corner, fixed.space), "fixed_points": points, "moving_points": carried, "preset": "accurate"}
    labels = {"fixed_labels": fixed_labels, "moving_labels": moving_labels, "similarity": "lncc+mse"}
    for options in (named, labels):
        compiled, found = (nnreg.register(fixed=two[0], moving=two[1], device=device, **options) for device in ("cpu", "torch"))
        assert apart(compiled, found) < 1e-3


def level_of(device: str, masked: bool = False, shape: tuple[int, ...] = (8, 9, 10)) -> Level:
    """Two unlike images on one grid."""
    generator = np.random.default_rng(0)
    mask = (generator.random(shape) > 0.2).astype(np.float32) if masked else None
    sides = [PreparedImage(generator.random((1, *shape), dtype=np.float32), mask, Space.plain(shape)) for _ in range(2)]
    return Level(*sides, np.eye(3, 4, dtype=np.float32), 1.0).on(torch.device(device))


def test_what_has_ended_stays():
    fixed, moving, *_ = known_pair(2)
    sides = [PreparedImage(image.array[:, :40, :44] / 300, None, Space.plain((40, 44))) for image in (fixed, moving)]
    level = Level(*sides, np.eye(3, 4, dtype=np.float32), 1.0)
    lasted = []
    for step in (0.6, 0.8, 1.0, 1.2):
        settings = dataclasses.replace(SETTINGS, iterations=100, step=step)
        one, other = (refine.refine(place, place.empty_field(), find_similarity("mse").groups(place, 2.0), settings) for place in (level, level.on("cpu")))
        assert other.history == pytest.approx(one.history, abs=1e-5)
        assert np.abs(one.field - other.field.numpy()).max() < 1e-3
        lasted.append(len(one.history) - 1)
    assert any(count < 100 and count % CHECK for count in lasted)  # ended between two looks


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """How many numbers were read at a time, where reading is allowed. All are 1: a device without values has none."""
    found: list[int] = []

    def read(*values):
        found.append(len(values))
        return [1.0] * len(values)

    for module in (refine, similarity_terms):
        monkeypatch.setattr(module, "read", read)
    return found


@pytest.mark.parametrize(("similarity", "guided"), [("lncc+mse", True), ("nmi", False), ("mind", False)])
def test_five_iterations_wait_for_nothing(similarity, guided, reads):
    level = level_of("meta", masked=guided)
    places = tuple(torch.zeros(5, dtype=torch.int64, device=META) for _ in range(3))
    landmarks = Landmarks(places, torch.zeros(3, 5, device=META), 1.0) if guided else None
    counts = []
    for iterations in (1, 1, CHECK - 1, 3 * CHECK - 1):  # constants are sent in the first run
        reads.clear()
        groups = find_similarity(similarity).groups(level, 2.0)
        with Waits() as waits:
            refine.refine(level, level.empty_field(), groups, dataclasses.replace(SETTINGS, iterations=iterations), landmarks)
        counts.append(len(reads))
    assert not waits.found
    assert counts[1] == counts[2]
    assert counts[3] == counts[1] + 2 * 2  # what both images show, and whether it has ended, at each of two looks


@pytest.mark.parametrize("similarity", OURS)
def test_terms_under_a_mask_wait_for_nothing(similarity, reads):
    level = level_of("meta")
    valid = torch.ones(level.grid, device=META)
    for _ in range(2):
        with Waits() as waits:
            for group in find_similarity(similarity).groups(level, 2.0):
                group.term.restrict(valid)
                value = group.term(torch.empty_like(group.moving), torch.empty_like(group.moving))
    assert not waits.found
    assert value.device == META


def test_reading_is_one_transfer():
    assert backend.read(1, torch.tensor(2.5), True, torch.tensor(True)) == [1.0, 2.5, 1.0, 1.0]


def test_a_device_that_is_not_there_is_told_before_anything_is_computed(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    fixed, moving, *_ = known_pair(2)
    for name, image in (("fixed.mha", fixed), ("moving.mha", moving)):
        write_image(tmp_path / name, image.array, image.space)
    for device, words in (("cuda", "torch sees 0 CUDA devices"), ("gpu", "runs on cpu, cuda or cuda:1"), ("mps", "runs on cpu, cuda or cuda:1")):
        assert main([str(tmp_path / "fixed.mha"), str(tmp_path / "moving.mha"), "-o", str(tmp_path / "out"), "-device", device]) == 2
        lines = capfd.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert f"-device {device}" in lines[0].replace("'", "")
        assert words in lines[0]
        assert not (tmp_path / "out").exists()


def test_a_similarity_that_takes_arrays_only_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(SIMILARITIES, "_entries", {**SIMILARITIES._entries, "own": EngineSimilarity("own", lambda level, radius: [])})
    fixed, moving, *_ = known_pair(2)
    with pytest.raises(ConfigurationError, match="'own' takes numpy arrays only"):
        nnreg.register(fixed=fixed, moving=moving, similarity="own", device="torch")


def test_a_pair_that_does_not_fit_is_told_in_a_line(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 GiB")

    monkeypatch.setattr("nnreg.engine.deformable.refine", full)
    fixed, moving, *_ = known_pair(2)
    with pytest.raises(RegistrationError, match="does not fit into its memory"):
        nnreg.register(fixed=fixed, moving=moving, similarity="mse", device="torch")


def test_names_of_devices():
    assert engine_device("cpu") is None
    assert engine_device("torch") == torch.device("cpu")
    # a network may be on any GPU, the engine is only on one that was asked for by name
    assert [engine_part(name) for name in ("auto", "cpu", "mps", "cuda", "cuda:1")] == ["cpu", "cpu", "cpu", "cuda", "cuda:1"]
    assert all(find_similarity(name).on_device for name in OURS if name != AUTO)

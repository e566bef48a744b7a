"""Levels of many voxels: images are compared at full resolution, the field has fewer."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from nnreg.engine import deformable, presets, register, result
from nnreg.engine.constraints import Constraints
from nnreg.engine.grids import as_map, blocks_of, continued, matrix_between, pyramid
from nnreg.engine.prepared_image import PreparedImage
from nnreg.geometry import Space, Transform
from nnreg.imageio import Image
from nnreg.inference.registration.register import PairFiles, Wanted, write_registration
from nnreg.metrics import regularity
from tests.engine.pairs import error_voxels, known_pair


@pytest.fixture
def large(monkeypatch):
    """Every level but the coarsest counts as large, and small planes have two levels."""
    monkeypatch.setitem(presets.COARSEST, 2, 12)
    monkeypatch.setattr(deformable, "FIELD_VOXELS", 0)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("options", [{"preset": "fast"}, {"preset": "accurate"}, {"preset": "fast", "symmetric": True}], ids=lambda options: str(options))
def test_maps_are_as_near_as_on_full_grids(large, monkeypatch, ndim, options):
    fixed, moving, *_, truth = known_pair(ndim, seed=2)
    found = register(fixed=fixed, moving=moving, similarity="lncc", **options)
    assert np.prod(found.field.space.shape) < np.prod(fixed.space.shape) / 2
    monkeypatch.setattr(deformable, "FIELD_VOXELS", 10**9)
    whole = register(fixed=fixed, moving=moving, similarity="lncc", **options)
    assert whole.field.space.same_as(fixed.space)
    told, planned = (re.search(r"\((.*)\)", one.decisions[1].value).group(1).split(", ") for one in (found, whole))
    assert [int(run) - int(plan) for run, plan in zip(told, planned, strict=True)] == [0] + [deformable.MORE] * (len(told) - 1)
    assert error_voxels(found.transform, truth, fixed) < 1.1 * error_voxels(whole.transform, truth, fixed) + 0.05
    assert float(found.field_on_fixed().determinants().min()) > 0


def test_torch_finds_the_same(large):
    fixed, moving, *_ = known_pair(2, seed=4)
    one, other = (register(fixed=fixed, moving=moving, similarity="lncc", device=device) for device in ("cpu", "torch"))
    assert one.field.space.shape == other.field.space.shape != fixed.space.shape
    assert np.abs(one.field.displacement - other.field.displacement).mean() < 1e-3


def test_what_is_written_covers_the_whole_fixed_image(large, tmp_path):
    fixed, moving, *_ = known_pair(2, seed=2)
    wide = Image(np.pad(fixed.array, [(0, 0), (31, 30), (17, 20)]), Space.from_matrix((101, 83), fixed.space.matrix @ [[1, 0, -31], [0, 1, -17], [0, 0, 1]]))
    found = register(fixed=wide, moving=moving, preset="fast", similarity="lncc")
    first, last = (found.field.space.to_index(wide.space.to_world([corner]))[0] for corner in ((0, 0), (100, 82)))
    assert (first >= -0.51).all()
    assert (last <= np.asarray(found.field.space.shape) - 0.49).all()
    write_registration(tmp_path, found, files=PairFiles(["fixed"], ["moving"]), wanted=Wanted(picture=False))
    content = json.loads((tmp_path / "measures.json").read_text())
    assert content["folding_count"] == 0
    assert 0 < content["sdlogj"] < 1


def test_determinants_in_parts_are_those_of_the_whole(large, monkeypatch):
    fixed, moving, *_ = known_pair(3, seed=2)
    found = register(fixed=fixed, moving=moving, preset="fast", similarity="lncc")
    monkeypatch.setattr(result, "PART_VOXELS", 3000)
    measured = found.measures
    assert [measured[name] for name in ("sdlogj", "folding_count", "folding_percent")] == pytest.approx(
        regularity(found.field_on_fixed().displacement), abs=1e-6
    )


def test_regions_that_keep_their_volume_are_kept_on_the_full_grid(large):
    fixed, moving, *_ = known_pair(2, seed=2)
    region = np.zeros(fixed.array.shape, np.uint8)
    region[:, 18:22, 20:25] = 1
    found = register(fixed=fixed, moving=moving, preset="fast", similarity="lncc", constraints=Constraints(preserve=Image(region, fixed.space)))
    assert found.field.space.same_as(fixed.space)


def test_grids_that_are_no_blocks_of_each_other_are_told():
    fine, coarse = Space.plain((9, 12)), Space((4, 6), (2.0, 2.0), (0.5, 0.5), (1.0, 0.0, 0.0, 1.0))
    blocks = blocks_of(fine, coarse)
    assert blocks is not None
    assert (blocks.factors, blocks.starts) == ((1, 2, 2), (0, 0, 0))
    shifted = Space((4, 6), (2.0, 2.0), (0.8, 0.5), (1.0, 0.0, 0.0, 1.0))
    larger = Space((5, 6), (2.0, 2.0), (0.5, 0.5), (1.0, 0.0, 0.0, 1.0))
    assert [blocks_of(fine, space) for space in (fine, shifted, larger)] == [None] * 3


def test_a_continued_field_is_the_same_inside_and_constant_beyond():
    whole = Space.plain((11, 14))
    space = Space.from_matrix((3, 4), whole.matrix @ [[2, 0, 2.5], [0, 2, 3.5], [0, 0, 1]])
    field = np.random.default_rng(0).normal(size=(2, 1, 3, 4)).astype(np.float32)
    wide = as_map(*continued(field, space, whole))
    found, before = (Transform((one,), 2).sampled_on(whole).displacement for one in (wide, as_map(field, space)))
    assert np.allclose(found[:, 2:8, 3:11], before[:, 2:8, 3:11], atol=1e-5)
    assert np.allclose(found[:, 0, 3:11], found[:, 2, 3:11], atol=1e-5)


def test_levels_on_the_way_have_coarser_fields_where_they_are_refined_in_one_direction(monkeypatch):
    monkeypatch.setitem(presets.COARSEST, 3, 4)
    monkeypatch.setattr(deformable, "PASSING_VOXELS", 0)
    grids = []
    refine = deformable.refine
    monkeypatch.setattr(deformable, "refine", lambda level, field, *rest: grids.append((level.grid, field.shape[1:])) or refine(level, field, *rest))
    fixed, moving, *_ = known_pair(3, seed=2)
    register(fixed=fixed, moving=moving, similarity="lncc", preset="fast")
    shapes = dict(grids)
    first, *passing, last = sorted(shapes, key=np.prod)
    assert passing
    assert shapes[first] == first
    assert shapes[last] == last
    assert all(np.prod(shapes[grid]) < np.prod(grid) / 3 for grid in passing)
    grids.clear()
    register(fixed=fixed, moving=moving, similarity="lncc", preset="fast", symmetric=True)
    assert all(grid == field for grid, field in grids)


def test_a_level_of_longer_voxels_sees_the_same_places():
    world = np.array([[1.1, 0.1, 0, 3], [0, 0.9, 0, -2], [0, 0.1, 1, 1], [0, 0, 0, 1]])
    fixed, moving = (
        PreparedImage(np.random.default_rng(seed).random((1, *shape), np.float32), None, Space(shape, spacing, (1.0, 2.0, 3.0), (1, 0, 0, 0, 1, 0, 0, 0, 1)))
        for seed, shape, spacing in ((0, (7, 22, 21), (4.0, 1.0, 1.0)), (1, (16, 17, 20), (1.0, 1.0, 1.0)))
    )
    level = pyramid(fixed, moving, world, (1,))[0]
    half = level.halved()
    assert half.fixed.space.shape == (7, 11, 10)  # slices are as thick as they are
    assert half.spacing == 2 * level.spacing
    assert np.allclose(half.matrix, matrix_between(half.fixed.space, half.moving.space, world), atol=1e-4)
    assert blocks_of(level.fixed.space, half.fixed.space).factors == (1, 2, 2)

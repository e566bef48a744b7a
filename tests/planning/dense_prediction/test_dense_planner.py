"""Laws of the rules, and the plans file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from nnreg.errors import ConfigurationError, PlansError
from nnreg.planning.dense_prediction.fingerprint import DenseFingerprint
from nnreg.planning.dense_prediction.planner import plan_dense
from nnreg.planning.dense_prediction.plans import DensePlans
from nnreg.planning.plans import Plans
from nnreg.planning.registration.rules import RULES


@pytest.fixture
def cascaded(dense):
    return plan_dense(dense([(300, 512, 512)] * 3, [(1.0, 0.8, 0.8)] * 3, cases=50))


def test_the_coarsest_axis_comes_first_and_patches_fit_the_network(dense):
    plans = plan_dense(dense([(200, 180, 30)] * 2, [(0.9, 0.8, 4.0)] * 2, cases=30))
    assert plans.transpose_forward == (2, 0, 1)
    assert [plans.transpose_forward[axis] for axis in plans.transpose_backward] == [0, 1, 2]
    assert plans.configuration("2d").spacing == (0.9, 0.8)
    for configuration in plans.configurations.values():
        assert configuration.grid == configuration.patch_size
        strides = np.prod(configuration.architecture.strides, axis=0)
        assert not np.any(np.asarray(configuration.patch_size) % strides)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_plans_do_not_depend_on_the_axis_of_the_slices(dense, order):
    """Axes of one another's role: the transposed dataset gets the transposed plan, as far as the other two axes are equal."""
    shape, spacing = np.asarray((24, 200, 200)), np.asarray((5.0, 0.7, 0.7))
    found = plan_dense(dense([shape[list(order)].tolist()] * 2, [spacing[list(order)].tolist()] * 2, cases=30))
    plain = plan_dense(dense([shape.tolist()] * 2, [spacing.tolist()] * 2, cases=30))
    assert list(found.configurations) == list(plain.configurations)
    for name, configuration in found.configurations.items():
        assert dataclasses.replace(configuration, because={}) == dataclasses.replace(plain.configurations[name], because={})


def test_single_slices_have_no_3d(dense):
    plans = plan_dense(dense([(1, 100, 80)] * 2, [(999.0, 1.0, 1.0)] * 2))
    assert list(plans.configurations) == ["2d"]
    assert plans.recommended == "2d"


def test_a_cascade_is_the_full_resolution_after_a_coarser_one(cascaded):
    full, low, cascade = (cascaded.configuration(name) for name in ("3d_fullres", "3d_lowres", "3d_cascade_fullres"))
    assert (low.next_stage, cascade.previous_stage) == ("3d_cascade_fullres", "3d_lowres")
    assert (cascade.patch_size, cascade.spacing, cascade.data_identifier) == (full.patch_size, full.spacing, full.data_identifier)
    assert (full.batch_dice, low.batch_dice) == (True, False)
    assert np.prod(low.patch_size) >= 0.25 * np.prod(low.median_image_size_in_voxels) * 0.99


def test_more_memory_never_shrinks_the_patch(dense):
    fingerprint = dense([(190, 200, 210)] * 2, [(1.0, 1.1, 0.9)] * 2, cases=200)
    voxels = [np.prod(plan_dense(fingerprint, gpu_memory_target=gb).configuration("3d_fullres").patch_size) for gb in (4, 8, 16, 32)]
    assert voxels == sorted(voxels)
    assert voxels[0] < voxels[-1]


def test_the_patch_asked_for_is_taken_in_the_order_of_the_images(dense):
    fingerprint = dense([(200, 180, 30)] * 2, [(0.9, 0.8, 4.0)] * 2, cases=30)
    plans = plan_dense(fingerprint, patch_size=(70, 64, 16))
    assert plans.transpose_forward == (2, 0, 1)
    found = plans.configuration("3d_fullres")
    divisor = np.prod(found.architecture.strides, axis=0)
    for size, asked, unit in zip(found.patch_size, (16, 70, 64), divisor, strict=True):
        assert size % unit == 0
        assert asked <= size < asked + unit
    assert plans.configuration("2d").patch_size == plan_dense(fingerprint).configuration("2d").patch_size
    assert plans.recommended == "3d_fullres"
    flat = plan_dense(fingerprint, patch_size=(32, 48))
    assert (flat.recommended, flat.configuration("2d").patch_size) == ("2d", (32, 48))
    for wrong in ((32,), (0, 32), (1, 2, 3, 4)):
        with pytest.raises(PlansError, match="patch_size"):
            plan_dense(fingerprint, patch_size=wrong)
    with pytest.raises(PlansError, match="the images are slices"):
        plan_dense(dense([(1, 100, 80)] * 2, [(999.0, 1.0, 1.0)] * 2), patch_size=(8, 32, 32))


def test_the_spacing_asked_for_is_taken(dense):
    fingerprint = dense([(60, 70, 80)] * 2, [(1.0, 1.0, 1.0)] * 2)
    plans = plan_dense(fingerprint, overwrite_target_spacing=(1.0, 1.0, 2.0))
    assert plans.configuration("3d_fullres").spacing == (2.0, 1.0, 1.0)
    assert "-overwrite_target_spacing" in plans.because["spacing"]
    flat = plan_dense(dense([(1, 90, 90)], [(999.0, 1.0, 1.0)]), overwrite_target_spacing=(2.0, 3.0))
    assert flat.configuration("2d").spacing == (2.0, 3.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overwrite_target_spacing": (1.0, 2.0)}, "z y x"),
        ({"overwrite_target_spacing": (1.0, 2.0, -1.0)}, "positive"),
        ({"gpu_memory_target": 0.0}, "positive"),
        ({"gpu_memory_target": 1e-9}, "Allow more"),
    ],
)
def test_nonsense_is_refused(dense, options, words):
    with pytest.raises(PlansError, match=words):
        plan_dense(dense([(30, 31, 32)], [(1.0, 1.0, 1.0)]), **options)


def test_an_unknown_planner_names_the_nearest(dense):
    with pytest.raises(ConfigurationError, match="nnUNetPlannerResEncL"):
        plan_dense(dense([(30, 31, 32)], [(1.0, 1.0, 1.0)]), planner="nnUNetPlanerResEncL")


@pytest.mark.parametrize(
    ("name", "scheme"), [("CT", "ct"), ("ct", "ct"), ("CTA", "zscore"), ("noNorm", "none"), ("rescale_to_0_1", "rescale_to_0_1"), ("T1", "zscore")]
)
@pytest.mark.parametrize("relative", [0.74, 0.75])
def test_the_name_chooses_the_normalisation_and_crops_the_mask(dense, name, scheme, relative):
    plans = plan_dense(dense([(30, 31, 32)], [(1.0, 1.0, 1.0)], channels=(name,), relative=relative))
    configuration = plans.configuration("3d_fullres")
    assert configuration.normalization[0].scheme == scheme
    assert configuration.use_mask_for_norm == (scheme == "zscore" and relative < 0.75,)


def test_presets_share_arrays_where_they_are_alike(cascaded, dense):
    other = plan_dense(dense([(300, 512, 512)] * 3, [(1.0, 0.8, 0.8)] * 3, cases=50), planner="resenc_m")
    assert other.configuration("3d_fullres").data_identifier == cascaded.configuration("3d_fullres").data_identifier
    assert other.configuration("3d_lowres").data_identifier != cascaded.configuration("3d_lowres").data_identifier
    renamed = plan_dense(dense([(30, 31, 32)], [(1.0, 1.0, 1.0)]), plans_name="Mine")
    assert renamed.configuration("3d_fullres").data_identifier == "Mine_3d_fullres"


def test_plans_round_trip_through_the_common_reader(cascaded, tmp_path):
    path = tmp_path / "plans.json"
    cascaded.write(path)
    found = Plans.read(path)
    assert isinstance(found, DensePlans)
    assert found == cascaded
    content = json.loads(path.read_text())
    assert not {"pre_alignment", "reference_case"} & set(content)
    assert "grid" not in content["configurations"]["2d"]


def _edited(plans, path, edit):
    content = json.loads(json.dumps(plans.to_dict()))
    edit(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c["configurations"]["2d"].update(batch_dicee=True), "batch_dice"),
        (lambda c: c["configurations"]["3d_fullres"].update(patch_size=[100, 128, 128]), "multiple of"),
        (lambda c: c["configurations"]["3d_cascade_fullres"].update(previous_stage="3d_lowers"), "3d_lowres"),
        (lambda c: c.update(transpose_forward=[0, 0, 1]), "transpose_forward"),
        (lambda c: c.update(task="dense_predicton"), "dense_prediction"),
        (lambda c: c.update(pre_alignment="rigid"), "pre_alignment"),
        (lambda c: c["configurations"]["2d"]["resampling"].update(data_order=7), "resampling.data_order"),
        (lambda c: c["configurations"]["2d"]["training"].update(batch_size=0), "training.batch_size"),
    ],
)
def test_edits_that_contradict_are_refused_by_key(cascaded, tmp_path, edit, words):
    with pytest.raises(PlansError, match=words):
        Plans.read(_edited(cascaded, tmp_path / "plans.json", edit))


def test_registration_plans_are_no_dense_plans(cascaded, tmp_path):
    path = _edited(cascaded, tmp_path / "plans.json", lambda content: content.update(task="registration"))
    with pytest.raises(PlansError, match="registration"):
        DensePlans.read(path)


def test_every_value_says_why(cascaded):
    for configuration in cascaded.configurations.values():
        because = configuration.because
        assert {"spacing", "patch_size", "training.batch_size", "batch_dice", "normalization[0]", "architecture.strides", "resampling"} <= set(because)
        assert all(because.values())


def test_the_fingerprint_round_trips(dense, tmp_path):
    fingerprint = dense([(30, 31, 32), (1, 5, 6)], [(1.0, 1.0, 1.5)] * 2, channels=("CT", "MR"))
    fingerprint.write(tmp_path / "f.json")
    assert DenseFingerprint.read(tmp_path / "f.json") == fingerprint
    (tmp_path / "f.json").write_text("{}")
    with pytest.raises(PlansError, match="schema_version"):
        DenseFingerprint.read(tmp_path / "f.json")


def test_the_documentation_names_every_rule():
    page = (Path(__file__).parents[3] / "documentation" / "planning.md").read_text(encoding="utf-8")
    dense_rules = [name for name in RULES if name.startswith("dense_")]
    assert len(dense_rules) >= 14
    assert [name for name in dense_rules if f"| `{name}` |" not in page] == []

"""Every rule at its thresholds, and the laws they share."""

import itertools

import numpy as np
import pytest

from nnreg.errors import PlansError
from nnreg.planning.orientation import code, reoriented
from nnreg.planning.registration.reference_space import Placement, box_of, frame_box, frames_of, needed_extent, working_space
from nnreg.planning.registration.rules import RULES, Decision, alignment, grid, intensity, network, relation, spacing, training


def test_every_rule_is_registered_once_and_documented():
    assert len(RULES) >= 20
    for name, function in RULES.items():
        assert function.__doc__, name
        assert name.isidentifier(), name


class TestSpacing:
    def test_median_of_all(self, fingerprint, image):
        images = {f"c{i}": image(spacing=(1.0, step, 2.0)) for i, step in enumerate((1.0, 1.2, 3.0))}
        assert spacing.target_spacing(fingerprint(images)).value == (1.0, 1.2, 2.0)

    def test_coarse_axis_with_few_voxels_takes_the_tenth_percentile(self, fingerprint, image):
        steps = (5.0, 6.0, 8.0, 8.0, 10.0)
        images = {f"c{i}": image((12, 200, 200), (step, 1.0, 1.0), low=(0, 0, 0), high=(12, 200, 200)) for i, step in enumerate(steps)}
        assert spacing.target_spacing(fingerprint(images)).value == pytest.approx((np.percentile(steps, 10), 1.0, 1.0))

    def test_not_if_it_has_many_voxels(self, fingerprint, image):
        images = {f"c{i}": image((100, 200, 200), (step, 1.0, 1.0)) for i, step in enumerate((5.0, 8.0, 10.0))}
        assert spacing.target_spacing(fingerprint(images)).value == (8.0, 1.0, 1.0)

    def test_never_finer_than_the_other_axes(self, fingerprint, image):
        steps = (0.5,) * 3 + (4.0,) * 7
        images = {f"c{i}": image((12, 200, 200), (step, 1.0, 1.0), low=(0, 0, 0), high=(12, 200, 200)) for i, step in enumerate(steps)}
        assert spacing.target_spacing(fingerprint(images)).value == pytest.approx((1.0 + 1e-5, 1.0, 1.0), abs=1e-9)

    def test_axes_are_compared_in_one_orientation(self, fingerprint, image, rotated_space):
        from nnreg.geometry import Space
        from nnreg.planning.orientation import reoriented

        axial = Space.plain((20, 100, 90), (5.0, 1.0, 1.2))
        images = {"a": image(space=axial, shape=axial.shape), "b": image(space=axial, shape=axial.shape)}
        sagittal = reoriented(axial, "PSR")
        images["c"] = image(space=sagittal, shape=sagittal.shape)
        found = fingerprint(images)
        assert found.orientation == "LPS"
        np.testing.assert_allclose(found.spacings(), [(5.0, 1.0, 1.2)] * 3)
        np.testing.assert_allclose(found.shapes(), [(20, 100, 90)] * 3)

    @pytest.mark.parametrize(("shape", "needed"), [((128, 128, 128), False), ((136, 128, 128), True)])
    def test_lowres_above_its_threshold(self, shape, needed):
        found = spacing.lowres_spacing((1.0, 1.0, 1.0), shape).value
        assert (found is not None) == needed
        if found is not None:
            assert np.prod(np.asarray(shape) / found) <= spacing.LOWRES_VOXELS

    def test_lowres_coarsens_the_finer_axes_first(self):
        found = spacing.lowres_spacing((5.0, 1.0, 1.0), (40, 360, 360)).value
        assert found[0] == 5.0
        assert found[1] == found[2] > 1.0
        assert 5.0 / found[1] > 1.9

    def test_lowres_takes_the_finest_spacing_that_is_small_enough(self):
        shape, start = (160, 192, 224), (1.0, 1.0, 1.0)
        found = spacing.lowres_spacing(start, shape).value
        finer = tuple(value / spacing.LOWRES_STEP for value in found)
        assert np.prod(np.asarray(shape) / finer) > spacing.LOWRES_VOXELS


class TestAlignment:
    def test_affine_between_subjects(self, fingerprint, image):
        images = {f"c{i}": image((60, 70 + 5 * i, 60)) for i in range(3)}
        assert alignment.pre_alignment(fingerprint(images)).value == "affine"
        assert alignment.alignment_target(fingerprint(images)).value == "dataset"

    def test_none_where_somebody_has_aligned_them(self, fingerprint, image):
        shape = (100, 100, 100)
        together = {f"c{i}": image(shape, low=(20, 20, 20 + i), high=(80, 80, 80 + i)) for i in range(2)}
        apart = {f"c{i}": image(shape, low=(20, 20, 20 + 8 * i), high=(80, 80, 80 + 8 * i)) for i in range(2)}
        unequal = {f"c{i}": image(shape, low=(20, 20, 20 + 4 * i), high=(80, 80, 80 - 4 * i)) for i in range(2)}
        assert alignment.pre_alignment(fingerprint(together)).value == "none"
        assert alignment.pre_alignment(fingerprint(apart)).value == "affine"
        assert alignment.pre_alignment(fingerprint(unequal)).value == "affine"

    def test_within_a_subject_rigid_unless_on_one_grid(self, fingerprint, image):
        pairs = (("a", "b"), ("c", "d"))
        same = {"a": image((9, 9, 9)), "b": image((9, 9, 9)), "c": image((8, 9, 9)), "d": image((8, 9, 9))}
        assert alignment.pre_alignment(fingerprint(same, pairing="pairs", pairs=pairs)).value == "none"
        other = same | {"d": image((7, 9, 9))}
        found = fingerprint(other, pairing="groups", pairs=pairs)
        assert alignment.pre_alignment(found).value == "rigid"
        assert alignment.alignment_target(found).value == "group"
        assert alignment.reference_case(found).value is None

    def test_reference_is_the_atlas_or_the_middle(self, fingerprint, image):
        images = {f"c{size}": image((size, size, size), low=(0, 0, 0), high=(size, size, size)) for size in (60, 77, 95)}
        assert alignment.reference_case(fingerprint(images)).value == "c77"
        assert alignment.reference_case(fingerprint(images, pairing="atlas", atlas="c95")).value == "c95"
        with pytest.raises(PlansError, match="nowhere"):
            alignment.reference_case(fingerprint(images, pairing="atlas", atlas="nowhere"))

    def test_alignment_works_on_about_64_voxels_never_finer_than_the_target(self, fingerprint, image):
        found = fingerprint({"a": image((128, 200, 160), low=(0, 0, 0), high=(128, 192, 160))})
        assert alignment.alignment_spacing(found, (1.0, 1.0, 1.0)).value == (3.0, 3.0, 3.0)
        assert alignment.alignment_spacing(found, (10.0, 1.0, 1.0)).value == (10.0, 3.0, 3.0)


class TestFrames:
    def test_margin_ends_where_the_body_is_cut_off(self, image):
        cut = image((100, 100, 100), low=(0, 10, 10), high=(100, 90, 90), foreground_faces=((0.5, 0.0), (0.0, 0.0), (0.0, 0.0)))
        box = box_of(cut, beyond=True)
        np.testing.assert_allclose(box.low, (0, 6, 6))
        np.testing.assert_allclose(box.high, (105, 94, 94))
        inside = box_of(cut, beyond=False)
        np.testing.assert_allclose(inside.high, (100, 94, 94))

    def test_an_unaligned_dataset_shows_every_foreground(self, fingerprint, image):
        shape = (100, 100, 100)
        found = fingerprint({"a": image(shape, low=(30,) * 3, high=(60,) * 3), "b": image(shape, low=(10, 30, 30), high=(60, 60, 80))})
        frame = frames_of(found, "a")[0]
        box, extent = frame_box(found, frame, "none"), needed_extent(found, frame, "none")
        for case in found.images.values():
            assert (np.asarray(case.foreground_low) >= box.low).all()
            assert (np.asarray(case.foreground_high) <= box.high).all()
        np.testing.assert_allclose(extent, box.high - box.low)

    def test_an_unaligned_group_is_shown_whole_around_its_owner(self, fingerprint, image):
        shape = (100, 100, 100)
        images = {"a": image(shape, low=(40,) * 3, high=(60,) * 3), "b": image(shape, low=(20, 40, 40), high=(60, 60, 60))}
        found = fingerprint(images, pairing="pairs", pairs=(("a", "b"),))
        frame = frames_of(found, None)[0]
        centre, extent = frame_box(found, frame, "none").centre, needed_extent(found, frame, "none")
        for case in images.values():
            assert (np.asarray(case.foreground_low) >= centre + 0.5 - extent / 2).all()
            assert (np.asarray(case.foreground_high) <= centre + 0.5 + extent / 2).all()

    def test_field_of_view_of_groups_is_the_largest(self, fingerprint, image):
        images = {"a": image((50, 50, 50)), "b": image((60, 40, 50)), "c": image((20, 90, 20)), "d": image((20, 20, 20))}
        found = fingerprint(images, pairing="pairs", pairs=(("a", "b"), ("c", "d")))
        extents = [box_of(one, beyond=False) for one in images.values()]
        expected = np.max([box.high - box.low for box in extents], axis=0)
        np.testing.assert_allclose(grid.field_of_view(found, "rigid", None).value, expected)

    def test_working_grid_meets_the_native_voxels_where_spacings_are_equal(self, rotated_space):
        native = rotated_space((20, 24, 18), seed=1)
        working = working_space(native, native.centre + 0.3, code(native), native.spacing, (15, 20, 12))
        indices = native.to_index(working.to_world(np.argwhere(np.ones((3, 3, 3)))))
        np.testing.assert_allclose(indices, np.round(indices), atol=1e-6)
        assert np.linalg.norm(working.centre - native.centre - 0.3) < np.linalg.norm(native.spacing)

    @pytest.mark.parametrize("stored", ["LPS", "RAI"])
    def test_a_grid_that_ends_with_its_image_shows_what_the_image_has_of_it(self, rotated_space, stored):
        native = reoriented(rotated_space((20, 48, 40), seed=1), stored)
        turned = reoriented(native, "LPS")
        middle = turned.to_world((10.2, 20.2, 17.2))  # no half voxels, which round either way
        whole = Placement("LPS").space(native, middle, turned.spacing, (32, 24, 16))
        cut = Placement("LPS", within_image=True).space(native, middle, turned.spacing, (32, 24, 16))
        assert cut.shape == (20, 24, 16)
        low, high = (turned.to_index(cut.to_world(end)) for end in ((0, 0, 0), np.asarray(cut.shape) - 1))
        np.testing.assert_allclose(low, (0, *turned.to_index(whole.to_world((0, 0, 0)))[1:]), atol=1e-6)
        assert (np.round(high) < turned.shape).all()

    def test_an_offset_moves_the_grid_along_its_own_axes(self, rotated_space):
        native = rotated_space((40, 48, 40), seed=1)
        wanted, spacing_ = code(native), native.spacing
        still = Placement(wanted).space(native, native.centre, spacing_, (8, 16, 12))
        moved = Placement(wanted, tuple(np.multiply((2, -4, 3), spacing_))).space(native, native.centre, spacing_, (8, 16, 12))
        np.testing.assert_allclose(still.to_index(np.asarray(moved.origin)), (2, -4, 3), atol=1e-6)


class TestRegionOfInterest:
    """Ten patients, two images each; what is labelled lies in one corner."""

    @staticmethod
    def _pairs():
        return tuple((f"a{index:02d}", f"b{index:02d}") for index in range(10))

    def _found(self, fingerprint, image, measurement, *, high=(60, 40, 40), change=0.8, pairing="pairs", **changes):
        images = {}
        for index, names in enumerate(self._pairs()):
            for case in names:
                box = {"labelled_low": (20, 10 + index % 2, 20), "labelled_high": high}
                images[case] = image((100, 100, 100), low=(0, 0, 0), high=(100, 100, 100), **({"labels": True} | box | changes))
        pairs = self._pairs() if pairing == "pairs" else ()
        return fingerprint(images, pairing=pairing, pairs=pairs, measured=[measurement(labelled_change=change)] * 3)

    def test_it_holds_every_label_and_what_moves_around_it(self, fingerprint, image, measurement):
        found = grid.region_of_interest(self._found(fingerprint, image, measurement), (100.0,) * 3, "none")
        reach = measurement().displacement_mm.p99
        low = 50 + np.asarray(found.value.offset) - np.asarray(found.value.extent) / 2
        np.testing.assert_allclose(low, np.asarray((20, 10, 20)) - reach)
        np.testing.assert_allclose(low + found.value.extent, np.asarray((60, 40, 40)) + reach)

    @pytest.mark.parametrize(
        "given",
        [{"pairing": "all"}, {"labels": False}, {"labelled_low": None}, {"change": None}, {"change": grid.MOSTLY_THERE * 0.99}, {"high": (95, 95, 90)}],
    )
    def test_everything_is_shown_where_more_may_matter_or_little_is_saved(self, fingerprint, image, measurement, given):
        assert grid.region_of_interest(self._found(fingerprint, image, measurement, **given), (100.0,) * 3, "none").value is None

    def test_images_that_alignment_moves_are_shown_whole(self, fingerprint, image, measurement):
        found = self._found(fingerprint, image, measurement)
        assert grid.region_of_interest(found, (100.0,) * 3, "rigid").value is None
        assert not grid.grid_within_image(found, "rigid").value
        assert grid.grid_within_image(found, "none").value


class TestGrid:
    @pytest.mark.parametrize(("size", "expected"), [(5, 5), (10, 10), (11, 12), (17, 18), (36, 36), (97, 104), (149, 152), (160, 160)])
    def test_rounding_adds_at_most_a_tenth(self, size, expected):
        found = grid.working_grid((float(size),) * 3, (1.0,) * 3).value
        assert found == (expected,) * 3
        assert size <= expected <= 1.1 * size

    def test_a_single_slice_is_refused(self):
        with pytest.raises(PlansError, match="2D"):
            grid.working_grid((1.0, 50.0, 50.0), (1.0, 1.0, 1.0))


class TestNormalization:
    def test_ct_by_name_or_by_values(self, fingerprint, statistics):
        hounsfield = statistics(percentile_00_5=-1500.0, percentile_99_5=800.0, hounsfield=True)
        for names in (("CT",), ("venous-phase CTA",), ("something",)):
            found = intensity.normalization(fingerprint(channel_names=names, intensities=(hounsfield,)), 0).value
            assert found.scheme == "window"
            assert found.kwargs == {"low": -1024.0, "high": 800.0}

    def test_a_name_that_only_contains_the_letters_is_no_ct(self, fingerprint):
        assert intensity.normalization(fingerprint(channel_names=("octa",)), 0).value.scheme == "percentiles"

    def test_a_channel_that_is_ct_in_one_modality_and_mr_in_another_is_by_percentiles(self, fingerprint):
        assert intensity.normalization(fingerprint(channel_names=("CT/MR",)), 0).value.scheme == "percentiles"
        assert intensity.normalization(fingerprint(channel_names=("CT/CBCT",)), 0).value.scheme == "window"

    def test_any_other_is_by_its_own_percentiles(self, fingerprint):
        assert intensity.normalization(fingerprint(channel_names=("T1",)), 0).value.kwargs == {"low": 0.5, "high": 99.5}

    def test_none_on_request(self, fingerprint):
        assert intensity.normalization(fingerprint(channel_names=("noNorm",)), 0).value.scheme == "none"

    def test_bright_background_is_inverted(self, fingerprint, image, statistics):
        bright = statistics(background=240.0, median=150.0, maximum=255.0)
        section = image((80, 90), channel=bright, channels=3)
        found = fingerprint({"a": section}, channel_names=("R", "G", "B"), intensities=(bright,) * 3)
        assert intensity.normalization(found, 1).value.kwargs["invert"] is True

    def test_a_crop_is_never_inverted(self, fingerprint, image, statistics):
        tissue = statistics(background=700.0, median=500.0)
        crop = image((30, 40, 30), channel=tissue, foreground_found=False)
        assert "invert" not in intensity.normalization(fingerprint({"a": crop}), 0).value.kwargs


class TestNetwork:
    @pytest.mark.parametrize(("shape", "expected"), [((64, 64, 64), 1), ((64, 64, 65), 2), ((256, 256), 1), ((257, 256), 2)])
    def test_field_resolution(self, shape, expected):
        assert network.field_resolution(shape).value == expected

    def test_features_double_up_to_a_cap_from_the_finest_level_built(self):
        assert network.features(5, 0, 16).value == (16, 32, 64, 64, 64)
        assert network.features(5, 1, 16).value == (8, 16, 32, 64, 64)
        assert network.features(3, 0, 8).value == (8, 16, 32)


class TestTraining:
    def test_window_has_one_physical_width(self, fingerprint):
        term = training.similarity(relation.ONE, (1.0, 1.0, 1.0), (96, 96, 96)).value[0]
        assert term.kwargs["window"] == [9, 9, 9]
        assert training.similarity(relation.ONE, (5.0, 1.0, 1.0), (20, 96, 96)).value[0].kwargs["window"] == [3, 9, 9]

    @pytest.mark.parametrize(("spacing", "voxels"), [(0.02, 9), (1.0, 9), (1.3, 7), (1.75, 5), (2.5, 5), (6.0, 5)])
    def test_window_is_about_nine_mm(self, fingerprint, spacing, voxels):
        (term,) = training.similarity(relation.ONE, (spacing,) * 3, (96, 96, 96)).value
        assert term.kwargs["window"] == [voxels] * 3

    @pytest.mark.parametrize("shape", [(6, 6), (9, 50), (200, 200)])
    def test_window_is_odd_and_no_longer_than_half_the_grid_or_three(self, fingerprint, shape):
        for width, size in zip(training.similarity(relation.ONE, (1.0, 1.0), shape).value[0].kwargs["window"], shape, strict=True):
            assert width % 2 == 1
            assert width <= max(3, size / 2 + 1)

    @pytest.mark.parametrize("fields", [1, 2, 5])
    def test_deep_supervision_sums_to_one_and_keeps_the_coarsest(self, fields):
        weights = training.deep_supervision_weights(fields).value
        assert sum(weights) == pytest.approx(1)
        assert min(weights) > 0
        assert all(fine == pytest.approx(2 * coarse) for fine, coarse in itertools.pairwise(weights))

    def test_batch_size_is_bounded_by_memory_and_grid(self):
        assert training.batch_size((200, 200), 0.5, 8.0).value == 2
        assert training.batch_size((200, 200), 5.0, 8.0).value == 1
        assert training.batch_size((200, 200), 20.0, 8.0).value == 1
        assert training.batch_size((96, 96, 96), 0.5, 8.0).value == 1

    def test_mirror_axis_is_left_right_wherever_it_lies(self, fingerprint, image):
        from nnreg.geometry import Space
        from nnreg.planning.orientation import reoriented

        for wanted in ("LPS", "PSR", "SAL"):
            space = reoriented(Space.plain((20, 30, 25)), wanted)
            found = fingerprint({"a": image(space=space, shape=space.shape)})
            axes = training.augmentation(found, "affine").value["spatial"]["mirror_axes"]
            assert [tuple(reversed(wanted))[axis] in "LR" for axis in axes] == [True]


def test_a_decision_carries_its_reason(fingerprint):
    found = alignment.pre_alignment(fingerprint())
    assert isinstance(found, Decision)
    assert len(found.because) > 10


def test_the_page_holds_the_rules_as_the_code_says_them():
    from pathlib import Path

    from nnreg.planning.explain import MARKS, rules_table

    page = (Path(__file__).resolve().parents[2] / "documentation" / "planning.md").read_text(encoding="utf-8")
    assert page.split(MARKS[0])[1].split(MARKS[1])[0].strip() == rules_table(), "run: make docs"

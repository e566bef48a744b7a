"""Rules that look at measured pairs, at their thresholds."""

import dataclasses
from itertools import permutations

import numpy as np
import pytest

from nnreg.planning.plans import OPTIMISE, Plans
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.pair_fingerprint import Percentiles, Stages, Trial
from nnreg.planning.registration.planner import plan
from nnreg.planning.registration.rules import alignment, network, relation, training
from nnreg.planning.registration.rules import engine as optimisation

BELOW, ABOVE = 1 - 1e-6, 1 + 1e-6
UNSURE = 0.6  # a local correlation that is one contrast, but not surely


def _alike(lncc, ncc=0.9):
    return {"similarity": {name: Stages(0.1, value, value) for name, value in (("lncc", lncc), ("ncc", ncc), ("nmi", 0.2), ("mind", 0.9))}}


class TestRelation:
    @pytest.mark.parametrize(
        ("lncc", "ncc", "expected"),
        [
            (relation.SAME_CONTRAST, 0.0, relation.ONE),
            (relation.SAME_CONTRAST * BELOW, relation.SAME_SCALE, relation.SCALE),
            (relation.SAME_CONTRAST * BELOW, relation.HARD_INSIDE, relation.ONE),
            (relation.SAME_CONTRAST * BELOW, relation.HARD_INSIDE * BELOW, relation.DIFFERENT),
            (relation.HARD_PILOT * BELOW, relation.SAME_SCALE * BELOW, relation.DIFFERENT),
            (-0.9, -0.9, relation.DIFFERENT),
        ],
    )
    def test_thresholds(self, fingerprint, measurement, lncc, ncc, expected):
        assert relation.modality_relation(fingerprint(measured=[measurement(**_alike(lncc, ncc))])).value == expected

    @pytest.mark.parametrize(("moving", "expected"), [("s1_FLAIR", relation.DIFFERENT), ("s1_T1post", relation.ONE), ("s1_b", relation.ONE)])
    def test_cases_named_after_two_contrasts_are_of_two(self, fingerprint, measurement, moving, expected):
        found = relation.modality_relation(fingerprint(measured=[measurement(fixed="s1_T1w", moving=moving, **_alike(0.9, 0.9))]))
        assert found.value == expected
        assert ("named after two" in found.because) == (expected == relation.DIFFERENT)

    @pytest.mark.parametrize(("after", "expected"), [(relation.AFTER_PILOT, relation.ONE), (relation.AFTER_PILOT * BELOW, relation.DIFFERENT)])
    def test_a_pilot_must_bring_more_than_alignment(self, fingerprint, measurement, after, expected):
        similarity = _alike(0.0, 0.0)["similarity"] | {"lncc": Stages(0.0, relation.SAME_CONTRAST * BELOW, after)}
        assert relation.modality_relation(fingerprint(measured=[measurement(similarity=similarity)])).value == expected

    @pytest.mark.parametrize(
        ("different", "expected"), [(0, relation.ONE), (1, relation.ONE), (2, relation.MIXED), (9, relation.MIXED), (10, relation.DIFFERENT)]
    )
    def test_a_fifth_of_the_pairs_makes_it_mixed(self, fingerprint, measurement, different, expected):
        pairs = [measurement(**_alike(0.0 if index < different else 0.9, 0.0)) for index in range(10)]
        assert relation.modality_relation(fingerprint(measured=pairs)).value == expected

    def test_one_odd_pair_of_few_is_odd(self, fingerprint, measurement):
        pairs = [measurement(**_alike(0.9)), measurement(**_alike(0.9)), measurement(**_alike(0.0, 0.0))]
        assert relation.modality_relation(fingerprint(measured=pairs)).value == relation.ONE

    @pytest.mark.parametrize(("under_lncc", "expected"), [(0.31, relation.ONE), (0.26, relation.MIXED)])
    def test_an_image_of_another_section_is_no_other_contrast(self, fingerprint, measurement, under_lncc, expected):
        trials = tuple(Trial(name, dice, None) for name, dice in (("lncc", under_lncc), ("mse", 0.3), ("nmi+gradient", 0.26)))
        odd = [measurement(fixed="odd", moving=f"case{index}", dice=Stages(0.2, 0.25, 0.26), **_alike(0.2, 0.45)) for index in range(3)]
        odd[0] = dataclasses.replace(odd[0], trials=trials)
        assert relation.modality_relation(fingerprint(measured=[*odd, *[measurement()] * 9])).value == expected

    def test_a_pair_that_alignment_led_astray_does_not_count(self, fingerprint, measurement):
        astray = measurement(dice=Stages(0.65, 0.0, 0.0), alignment_kind="affine", alignment_mm=14.0, **_alike(0.0, 0.0))
        good = measurement(dice=Stages(0.65, 0.9, 0.95), alignment_kind="rigid", alignment_mm=14.0)
        found = fingerprint(measured=[good, astray, astray])
        assert relation.modality_relation(found).value == relation.ONE
        assert relation.modality_relation(fingerprint(measured=[astray])).value == relation.DIFFERENT

    def test_without_pairs_the_names_say(self, fingerprint):
        assert relation.modality_relation(fingerprint()).value == relation.ONE
        assert relation.modality_relation(fingerprint(channel_names=("CT/MR",))).value == relation.DIFFERENT

    def test_the_line_between_contrasts_is_the_engine_s(self):
        from nnreg.engine.similarity import SAME_CONTRAST

        assert relation.SAME_CONTRAST == SAME_CONTRAST


class TestSimilarity:
    @pytest.mark.parametrize(
        ("value", "loss", "engine"),
        [(relation.ONE, "lncc", "lncc"), (relation.SCALE, "mse", "mse"), (relation.DIFFERENT, "mind", "nmi+gradient"), (relation.MIXED, "mind", "auto")],
    )
    def test_each_relation_has_its_own(self, fingerprint, value, loss, engine):
        assert [term.name for term in training.similarity(value, (1.0, 1.0, 1.0), (64, 64, 64)).value] == [loss]
        assert optimisation.engine_similarity(fingerprint(), value).value == engine

    @pytest.mark.parametrize(
        ("squares", "pairs", "expected"),
        [
            (0.1 * (1 + relation.BETTER) * BELOW, relation.FEWEST_TRIED, "lncc+mse"),
            (0.1 * (1 + relation.BETTER) * ABOVE, relation.FEWEST_TRIED, "lncc"),
            (0.05, relation.FEWEST_TRIED - 1, "lncc"),
        ],
    )
    def test_intensities_are_compared_where_that_does_as_well(self, fingerprint, measurement, squares, pairs, expected):
        trials = (Trial("lncc", 0.9, None), Trial("mse", 1 - squares, None), Trial("nmi+gradient", 0.5, None))
        found = fingerprint(measured=[measurement(trials=trials) for _ in range(pairs)])
        assert optimisation.engine_similarity(found, relation.ONE).value == expected
        assert optimisation.engine_similarity(found, relation.DIFFERENT).value == "nmi+gradient"

    @pytest.mark.parametrize(("shape", "channels", "expected"), [((64, 60), 3, "nmi"), ((64, 60), 2, "nmi+gradient"), ((20, 64, 60), 3, "nmi+gradient")])
    def test_pictures_in_colours_get_mutual_information_alone(self, fingerprint, image, shape, channels, expected):
        found = fingerprint({name: image(shape) for name in "ab"})
        found = dataclasses.replace(found, channel_names=tuple("rgb"[:channels]))
        assert optimisation.engine_similarity(found, relation.DIFFERENT).value == expected

    def test_what_is_planned_is_registered_or_refused_by_name(self):
        from nnreg.errors import ConfigurationError
        from nnreg.losses import LOSSES

        for value in (relation.ONE, relation.SCALE, relation.DIFFERENT):
            (term,) = training.similarity(value, (1.0, 1.0), (64, 64)).value
            if term.name not in LOSSES:
                with pytest.raises(ConfigurationError, match=term.name):
                    LOSSES[term.name]

    def test_weak_similarities_get_weak_regularisation(self):
        weights = {value: training.regularisation(value).value[0].weight for value in (relation.ONE, relation.DIFFERENT, relation.SCALE)}
        assert weights[relation.ONE] > weights[relation.DIFFERENT] > weights[relation.SCALE] > 0
        assert training.regularisation(relation.MIXED).value == training.regularisation(relation.DIFFERENT).value

    def test_the_engine_has_what_rules_name(self):
        from nnreg.engine.names import AUTO
        from nnreg.engine.similarities import SIMILARITIES, find_similarity, similarity_names
        from nnreg.planning.registration import tuning

        tried = {name for names in tuning.SIMILARITIES.values() for name in names} - {AUTO}
        assert {*relation.SUITS.values(), *tried} == set(similarity_names())
        assert all(find_similarity(name) is SIMILARITIES[name] for name in tried)


class TestPreAlignment:
    def test_none_up_to_two_percent_of_the_body(self, fingerprint, measurement):
        extent = float(np.median(fingerprint().foreground_extents(), axis=0).max())
        limit = alignment.IN_PLACE * extent
        assert alignment.pre_alignment(fingerprint(measured=[measurement(alignment_mm=limit * BELOW)])).value == "none"
        assert alignment.pre_alignment(fingerprint(measured=[measurement(alignment_mm=limit * ABOVE)])).value == "affine"

    def test_one_pair_out_of_place_is_enough(self, fingerprint, measurement):
        pairs = [measurement(alignment_mm=0.0), measurement(alignment_mm=30.0, alignment_kind="rigid")]
        assert alignment.pre_alignment(fingerprint(measured=pairs)).value == "affine"  # the freest that any kept

    def test_never_none_where_headers_differ(self, fingerprint, image, measurement):
        images = {"a": image((60, 60, 60)), "b": image((64, 60, 60))}
        found = fingerprint(images, measured=[measurement(alignment_mm=0.0, alignment_kind="none")])
        assert alignment.pre_alignment(found).value == "affine"

    def test_rigid_within_a_subject(self, fingerprint, image, measurement):
        images = {"a": image((60, 60, 60)), "b": image((64, 60, 60))}
        found = fingerprint(images, pairing="pairs", pairs=(("a", "b"),), measured=[measurement(alignment_kind="rigid", alignment_mm=35.0)])
        assert alignment.pre_alignment(found).value == "rigid"

    @pytest.mark.parametrize(("gain", "expected"), [(-0.1, "none"), (0.5 * alignment.BETTER_DICE, "none"), (2 * alignment.BETTER_DICE, "affine")])
    def test_on_one_grid_it_must_raise_the_dice(self, fingerprint, image, measurement, gain, expected):
        pair = measurement(dice=Stages(0.6, 0.6 + gain, 0.7))
        assert alignment.pre_alignment(fingerprint(measured=[pair])).value == expected
        apart = {"a": image((60, 60, 60)), "b": image((64, 60, 60))}
        assert alignment.pre_alignment(fingerprint(apart, measured=[pair])).value == "affine"

    @pytest.mark.parametrize(("aligned", "expected"), [(0.6 - 1e-6, "none"), (0.6 + 1e-6, "affine")])
    def test_within_a_subject_deformed_tissue_is_left_to_the_network(self, fingerprint, image, measurement, aligned, expected):
        images = {name: image(subject="a") for name in "ab"}
        given = {"pairing": "pairs", "pairs": (("a", "b"),)}
        extent = fingerprint(images, **given).foreground_extents().max()
        pair = measurement(dice=Stages(0.3, aligned, 0.9), alignment_mm=0.99 * alignment.DEFORMED * extent)
        assert alignment.pre_alignment(fingerprint(images, measured=[pair], **given)).value == expected
        far = measurement(dice=Stages(0.3, aligned, 0.9), alignment_mm=1.01 * alignment.DEFORMED * extent)
        assert alignment.pre_alignment(fingerprint(images, measured=[far], **given)).value == "affine"
        assert alignment.pre_alignment(fingerprint(measured=[pair])).value == "affine"

    @pytest.mark.parametrize("lower", ["ncc", "lncc"])
    def test_without_labels_it_must_raise_both_correlations(self, fingerprint, measurement, lower):
        worse = {"similarity": measurement().similarity | {lower: Stages(0.8, 0.79, 0.9)}}
        assert alignment.pre_alignment(fingerprint(measured=[measurement(**worse)])).value == "none"


class TestTriedSimilarities:
    """Labels of a few pairs, registered under every similarity, outweigh what similarities say: only if clearly, and mostly."""

    def _decide(self, fingerprint, measurement, dice, *, seen=0.9, pairs=4, points=False):
        def trial(similarity, value):
            return Trial(similarity, None if points else value, 1 - value if points else None)

        rows = [tuple(trial(name, values[index % len(values)]) for name, values in dice.items()) for index in range(pairs)]
        return relation.modality_relation(fingerprint(measured=[measurement(trials=row, **_alike(seen)) for row in rows])).value

    @pytest.mark.parametrize("points", [False, True])
    def test_what_did_best_is_what_suits(self, fingerprint, measurement, points):
        for best, expected in (("lncc", relation.ONE), ("mse", relation.SCALE), ("nmi+gradient", relation.DIFFERENT)):
            dice = {name: [0.8 if name == best else 0.7] for name in relation.SUITS.values()}
            assert self._decide(fingerprint, measurement, dice, seen=UNSURE, points=points) == expected
            assert self._decide(fingerprint, measurement, dice, seen=0.0, points=points) == expected

    @pytest.mark.parametrize(("more", "expected"), [(BELOW, relation.ONE), (ABOVE, relation.SCALE)])
    def test_a_little_better_is_chance(self, fingerprint, measurement, more, expected):
        gain = more * relation.BETTER * 0.3
        assert self._decide(fingerprint, measurement, {"lncc": [0.7], "mse": [0.7 + gain], "nmi+gradient": [0.5]}) == expected

    def test_few_pairs_or_pairs_that_disagree_decide_nothing(self, fingerprint, measurement):
        clear = {"lncc": [0.7], "mse": [0.8], "nmi+gradient": [0.5]}
        assert self._decide(fingerprint, measurement, clear, pairs=relation.FEWEST_TRIED - 1) == relation.ONE
        assert self._decide(fingerprint, measurement, clear, pairs=relation.FEWEST_TRIED) == relation.SCALE
        apart = {"lncc": [0.7], "mse": [0.9, 0.69], "nmi+gradient": [0.5]}  # half of the pairs end farther apart
        assert self._decide(fingerprint, measurement, apart) == relation.ONE

    def test_one_pair_that_says_otherwise_keeps_images_that_look_alike_one_contrast(self, fingerprint, measurement):
        one_of_five = [0.9, 0.9, 0.9, 0.9, 0.69]
        assert self._decide(fingerprint, measurement, {"lncc": [0.7], "mse": [0.5], "nmi+gradient": one_of_five}, seen=UNSURE, pairs=5) == relation.ONE
        assert self._decide(fingerprint, measurement, {"lncc": [0.7], "mse": [0.5], "nmi+gradient": [0.9]}, seen=UNSURE, pairs=5) == relation.DIFFERENT
        assert self._decide(fingerprint, measurement, {"lncc": [0.7], "mse": one_of_five, "nmi+gradient": [0.5]}, pairs=5) == relation.SCALE

    @pytest.mark.parametrize(("seen", "expected"), [(relation.CERTAIN * BELOW, relation.DIFFERENT), (relation.CERTAIN * ABOVE, relation.ONE)])
    def test_what_certainly_looks_alike_is_one_contrast_whatever_suits_it(self, fingerprint, measurement, seen, expected):
        assert self._decide(fingerprint, measurement, {"lncc": [0.7], "mse": [0.5], "nmi+gradient": [0.9]}, seen=seen) == expected

    def test_trials_of_other_similarities_decide_nothing(self, fingerprint, measurement):
        assert self._decide(fingerprint, measurement, {"lncc": [0.7], "mse": [0.9], "other": [0.9]}) == relation.ONE

    def test_pairs_without_truth_decide_nothing(self, fingerprint, measurement):
        assert relation.modality_relation(fingerprint(measured=[measurement(trials=()) for _ in range(6)])).value == relation.ONE


class TestPreset:
    @pytest.mark.parametrize(("pairing", "related"), [("all", relation.ONE), ("all", relation.MIXED), ("atlas", relation.ONE)])
    def test_more_is_spent_between_subjects_where_windows_are_compared(self, fingerprint, pairing, related):
        assert optimisation.preset(fingerprint(pairing=pairing), related).value == "accurate"

    @pytest.mark.parametrize(("pairing", "related"), [("pairs", relation.ONE), ("groups", relation.ONE), ("all", relation.DIFFERENT), ("all", relation.SCALE)])
    def test_else_the_usual_settings(self, fingerprint, pairing, related):
        assert optimisation.preset(fingerprint(pairing=pairing), related).value == "default"


class TestTrainOrOptimise:
    def _decide(self, fingerprint, image, measured=(), *, subjects=40, related=relation.ONE, accelerator=True, **more):
        images = {f"c{index:02d}": image(subject=f"s{index}") for index in range(subjects)}
        found = fingerprint(images, measured=measured, **more)
        return optimisation.train_or_optimise(found, related, 1.0, "3d_fullres", accelerator).value

    @pytest.mark.parametrize(
        ("subjects", "related", "expected"),
        [
            (9, relation.ONE, OPTIMISE),
            (10, relation.ONE, "3d_fullres"),
            (29, relation.DIFFERENT, OPTIMISE),
            (29, relation.MIXED, OPTIMISE),
            (30, relation.DIFFERENT, "3d_fullres"),
        ],
    )
    def test_few_subjects_optimise(self, fingerprint, image, subjects, related, expected):
        assert self._decide(fingerprint, image, subjects=subjects, related=related) == expected

    @pytest.mark.parametrize(("count", "expected"), [(14, OPTIMISE), (15, "3d_fullres")])
    def test_few_given_pairs_optimise(self, fingerprint, image, count, expected):
        pairs = tuple((f"c{2 * index:02d}", f"c{2 * index + 1:02d}") for index in range(count))
        assert self._decide(fingerprint, image, pairing="pairs", pairs=pairs) == expected

    @pytest.mark.parametrize(("sections", "expected"), [(5, OPTIMISE), (9, OPTIMISE), (10, "3d_fullres")])
    def test_a_few_images_in_every_order_are_few(self, fingerprint, image, sections, expected):
        images = {f"c{index}": image(subject="block") for index in range(sections)}
        found = fingerprint(images, pairing="pairs", pairs=tuple(permutations(images, 2)))
        assert optimisation.train_or_optimise(found, relation.ONE, 1.0, "3d_fullres", True).value == expected

    def test_a_solved_dataset_is_optimised(self, fingerprint, image, measurement):
        for field, solved, open_ in (
            ("dice", optimisation.SOLVED_DICE, optimisation.SOLVED_DICE * BELOW),
            ("keypoint_mm", optimisation.SOLVED_VOXELS, optimisation.SOLVED_VOXELS * ABOVE),
        ):
            assert self._decide(fingerprint, image, [measurement(**{field: Stages(None, None, solved)})]) == OPTIMISE
            assert self._decide(fingerprint, image, [measurement(**{field: Stages(None, None, open_)})]) == "3d_fullres"

    def test_no_gpu_optimises_and_an_unknown_one_decides_nothing(self, fingerprint, image):
        assert self._decide(fingerprint, image, accelerator=False) == OPTIMISE
        assert self._decide(fingerprint, image, accelerator=None) == "3d_fullres"

    @pytest.mark.parametrize(("labels", "seconds", "expected"), [(True, 1800.0, "3d_fullres"), (True, None, OPTIMISE), (False, 1800.0, OPTIMISE)])
    def test_without_a_gpu_what_teaches_in_an_hour_is_trained(self, fingerprint, image, labels, seconds, expected):
        found = fingerprint({f"c{index:02d}": image(subject=f"s{index}", labels=labels) for index in range(40)})
        decided = optimisation.train_or_optimise(found, relation.ONE, 1.0, "3d_fullres", False, seconds)
        assert decided.value == expected
        assert ("30m00s" in decided.because) == (expected != OPTIMISE)

    def test_what_does_not_move_teaches_nothing(self, fingerprint, image, measurement):
        for p99, expected in ((0.9 * optimisation.LEAST_MOTION, OPTIMISE), (1.1 * optimisation.LEAST_MOTION, "3d_fullres")):
            assert self._decide(fingerprint, image, [measurement(displacement_mm=Percentiles(0.1, 0.2, p99))]) == expected


class TestTraining:
    def test_reach_covers_what_was_measured(self):
        spacing, grid = (1.0, 1.0, 1.0), (64, 64, 64)
        reach = network.CAPTURE * 2**2
        assert network.correlation_radius(spacing, grid, 3, None).value == 1
        assert network.correlation_radius(spacing, grid, 3, reach).value == 1
        assert network.correlation_radius(spacing, grid, 3, reach * ABOVE).value == 2

    def test_the_pair_that_moves_most_sets_the_reach(self, fingerprint, measurement):
        found = fingerprint(measured=[measurement(displacement_mm=Percentiles(1, 2, p99)) for p99 in (3.0, 20.0, 4.0)])
        assert relation.expected_displacement(found) == 20.0
        assert relation.expected_displacement(fingerprint()) is None

    @pytest.mark.parametrize(("cases", "labelled", "supervised"), [(10, 10, True), (9, 9, False), (30, 29, False), (30, 0, False)])
    def test_labels_supervise_only_if_there_are_enough_and_all_have_them(self, fingerprint, image, cases, labelled, supervised):
        images = {f"c{index:02d}": image(labels=index < labelled) for index in range(cases)}
        assert bool(training.supervision(fingerprint(images)).value) == supervised

    @pytest.mark.parametrize(
        ("counts", "supervised"), [([50] * 20, True), ([50] * 19, False), ([50] * 19 + [None], False), ([50] * 19 + [49], False), ([0] * 20, False)]
    )
    def test_keypoints_supervise_only_if_there_are_enough_and_all_correspond(self, fingerprint, image, counts, supervised):
        images = {f"c{index:02d}": image(keypoints=count) for index, count in enumerate(counts)}
        decision = training.supervision(fingerprint(images))
        assert [term.name for term in decision.value] == ["keypoints"] * supervised
        assert ("keypoints" in decision.because) == any(counts)

    def test_keypoints_need_to_correspond_within_a_pair_only(self, fingerprint, image):
        images = {f"{role}{index:02d}": image(keypoints=30 + index) for index in range(10) for role in "ab"}
        pairs = tuple((f"a{index:02d}", f"b{index:02d}") for index in range(10))
        assert [term.name for term in training.supervision(fingerprint(images, pairing="pairs", pairs=pairs)).value] == ["keypoints"]
        assert not training.supervision(fingerprint(images)).value

    def test_label_maps_take_memory_and_keypoints_take_none(self, fingerprint, image):
        for given, drawn in (({"labels": True}, training.LABELS_PER_STEP), ({"keypoints": 9}, 0)):
            found = training.supervision(fingerprint({f"c{index:02d}": image(**{"labels": False, **given}) for index in range(20)}))
            assert found.value
            assert training.drawn_labels(found.value) == drawn

    @pytest.mark.parametrize(("pairing", "folding", "symmetric"), [("all", 0.1, True), ("atlas", 0.2, True), ("all", 0.09, False), ("pairs", 5.0, False)])
    def test_a_decoder_that_cannot_fold_where_pilots_fold_between_subjects(self, fingerprint, measurement, pairing, folding, symmetric):
        found = fingerprint(pairing=pairing, measured=[measurement(folding_percent=folding)] * 3)
        assert network.inverse_consistent(found).value == symmetric
        assert not network.inverse_consistent(fingerprint(pairing=pairing)).value

    def test_each_pair_is_seen_often_enough_and_training_ends(self, fingerprint, image):
        for cases in (2, 5, 9, 40):
            found = fingerprint({f"c{index:02d}": image() for index in range(cases)})
            epochs, iterations, _ = training.length(found).value
            assert training.FEWEST_STEPS <= epochs * iterations <= training.MOST_STEPS
            assert epochs * iterations <= max(training.FEWEST_STEPS, training.VISITS * found.pair_count)

    def test_only_symmetric_bodies_are_mirrored(self, fingerprint, measurement):
        def axes(symmetry):
            found = fingerprint(measured=[measurement(left_right_symmetry=symmetry)])
            return training.augmentation(found, "affine").value["spatial"]["mirror_axes"]

        assert axes(training.SYMMETRIC) == [2]
        assert axes(training.SYMMETRIC * BELOW) == []
        assert axes(None) == [2]

    def test_aligned_images_get_a_smaller_pose(self, fingerprint, measurement):
        found = fingerprint(measured=[measurement()])
        small, usual = (training.augmentation(found, kind).value["relative_affine"] for kind in ("none", "affine"))
        assert all(small[key] < usual[key] for key in usual)


class TestGuides:
    """Ten subjects with labels of one contrast, which the pilot brings onto each other."""

    @pytest.fixture
    def decided(self, fingerprint, image, measurement):
        def decide(subjects=10, dice=optimisation.CARRIED_DICE, relation=relation.ONE, pairing="all", labelled=10, shape=(100, 120, 90)):
            images = {f"c{index:02d}": image(shape, subject=f"s{index % subjects}", labels=index < labelled) for index in range(12)}
            pairs = [measurement(dice=None if dice is None else Stages(0.1, 0.2, dice))] * 3
            return optimisation.guides(fingerprint(images, pairing=pairing, measured=pairs), relation)

        return decide

    def test_ten_guide(self, decided):
        assert decided().value == optimisation.GUIDING
        assert "10 subjects with labels" in decided().because
        assert decided(pairing="atlas").value == optimisation.GUIDING

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"labelled": 9}, "9 subjects"),
            ({"subjects": 9}, "9 subjects"),
            ({"dice": optimisation.CARRIED_DICE - 0.001}, "lesions"),
            ({"dice": None}, "no measured pair has labels"),
            ({"relation": relation.DIFFERENT}, relation.DIFFERENT),
            ({"pairing": "groups"}, "groups"),
            ({"shape": (200, 300, 200)}, "12 million voxels"),
        ],
    )
    def test_none_guides_where_that_was_not_measured_to_help(self, decided, changes, told):
        found = decided(**changes)
        assert found.value == 0
        assert told in found.because


def test_a_fingerprint_with_pairs_survives_its_file(tmp_path, fingerprint, measurement):
    found = fingerprint(measured=[measurement(), measurement(dice=Stages(0.1, None, 0.7), sdlogj=None)])
    found.write(tmp_path / "fingerprint.json")
    assert Fingerprint.read(tmp_path / "fingerprint.json") == found


def test_plans_say_how_to_optimise_and_why(tmp_path, fingerprint, measurement):
    plans = plan(fingerprint(measured=[measurement(**_alike(0.1, 0.1))]))
    assert plans.recommended == OPTIMISE
    assert plans.to_train in plans.configurations
    assert plans.optimisation.similarity == "nmi+gradient"
    for key in ("preset", "similarity", "alignment", "use_masks", "use_labels", "use_keypoints", "guides", "refinement"):
        assert plans.optimisation.because[key]
    plans.write(tmp_path / "plans.json")
    assert Plans.read(tmp_path / "plans.json") == plans


def test_every_reason_is_explained_with_its_value(fingerprint, measurement):
    from nnreg.planning.explain import explain

    plans = plan(fingerprint(measured=[measurement()]))
    rows = {name: (value, because) for name, value, because in explain(plans)}
    assert len(rows) == len(plans.because) + len(plans.optimisation.because) + sum(len(c.because) for c in plans.configurations.values())
    assert rows["3d_fullres.grid"][0] == " x ".join(map(str, plans.configurations["3d_fullres"].grid))
    assert rows["recommended"] == (plans.recommended, plans.because["recommended"])

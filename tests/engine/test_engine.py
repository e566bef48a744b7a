"""The engine recovers maps that are known, tells what it decided, and says so where it fails."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import nnreg
from nnreg.dataset.raw import Case
from nnreg.engine import PRESETS, Constraints, Registration, register
from nnreg.engine import choose_similarity as choosing
from nnreg.engine.choose_similarity import choose_similarity
from nnreg.engine.grids import Level, pyramid
from nnreg.engine.names import in_colours
from nnreg.engine.prepared_image import PreparedImage, prepare
from nnreg.engine.search import search
from nnreg.engine.similarities import find_similarity, similarity_names
from nnreg.engine.similarities.lncc_mse import SQUARES_WEIGHT
from nnreg.engine.similarities.nmi_gradient import EDGES_WEIGHT
from nnreg.errors import ConfigurationError, RegistrationError
from nnreg.evaluation.registration.pair import evaluate_pair
from nnreg.geometry import AffineMap, FieldMap, Space, Transform, index_points_to_world, resample_image
from nnreg.imageio import Image, write_image
from nnreg.metrics import regularity
from tests.engine.pairs import error_voxels, grids, known_pair, textured


@pytest.fixture(scope="module", params=[2, 3])
def pair(request):
    return known_pair(request.param)


@pytest.fixture(scope="module")
def registered(pair) -> Registration:
    return register(fixed=pair[0], moving=pair[1])


def before(pair) -> float:
    fixed, _, _, _, truth = pair
    return error_voxels(Transform((truth.stages[1],), truth.ndim), truth, fixed)


def test_recovers_a_known_map_between_grids_that_share_nothing(pair, registered):
    assert registered.succeeded
    assert error_voxels(registered.transform, pair[4], pair[0]) < 0.6 * before(pair)


def test_the_map_is_one_to_one_and_its_inverse_undoes_it(pair, registered):
    assert float(registered.field.determinants().min()) > 0
    points = pair[0].space.to_world(np.argwhere(pair[0].array[0] > 60))
    left = registered.inverse.map_points(registered.transform.map_points(points)) - points
    voxels = np.linalg.norm(left @ pair[0].space.inverse_matrix[: pair[0].ndim, : pair[0].ndim].T, axis=1)
    assert np.percentile(voxels, 95) < 0.1


def test_results_explain_themselves(registered):
    assert {decision.name for decision in registered.decisions} == {"alignment", "levels", "similarity", "global search"}
    assert all(decision.because for decision in registered.decisions)
    assert all(seconds >= 0 for seconds in registered.timings.values())
    assert registered.warped.array.shape == registered.fixed.array.shape
    assert registered.similarity_header < registered.similarity_before < registered.similarity_after
    assert registered.rose


def test_same_input_same_result(pair, registered):
    again = register(fixed=pair[0], moving=pair[1])
    assert np.array_equal(again.field.displacement, registered.field.displacement)


@pytest.mark.parametrize("similarity", similarity_names())
def test_every_similarity_registers_one_contrast(similarity):
    pair = known_pair(2, seed=3)
    found = register(fixed=pair[0], moving=pair[1], similarity=similarity, preset="fast")
    assert error_voxels(found.transform, pair[4], pair[0]) < before(pair)


def test_another_contrast_is_seen_and_registered():
    fixed, moving, _, _, truth = known_pair(2, seed=5)
    values = fixed.array
    other = Image(np.where(values > 20, 340 - values, values), fixed.space)  # bright is dark, air stays air
    found = register(fixed=other, moving=moving)
    assert next(decision.value for decision in found.decisions if decision.name == "similarity") != "lncc"
    assert error_voxels(found.transform, truth, fixed) < error_voxels(found.start, truth, fixed)


def test_a_smoother_field_bends_less_and_a_window_changes_what_is_seen():
    pair = known_pair(2, seed=7)
    found = {value: register(fixed=pair[0], moving=pair[1], preset="fast", similarity="lncc", smoothness=value) for value in (0.7, 1.0, 1.5)}
    bends = [result.measures["sdlogj"] for result in found.values()]
    assert bends == sorted(bends, reverse=True)
    wide = register(fixed=pair[0], moving=pair[1], preset="fast", similarity="lncc", radius=4)
    assert not np.array_equal(wide.field.displacement, found[1.0].field.displacement)
    assert error_voxels(wide.transform, pair[4], pair[0]) < before(pair)


@pytest.mark.parametrize(("option", "message"), [({"radius": 0.5}, "radius 0.5"), ({"smoothness": 9.0}, "smoothness 9")])
def test_what_is_out_of_range_is_refused(pair, option, message):
    with pytest.raises(ConfigurationError, match=message):
        register(fixed=pair[0], moving=pair[1], **option)


def test_presets_cost_and_reach_more_in_turn():
    pair = known_pair(2, seed=7)
    assert list(PRESETS) == ["fast", "default", "accurate"]
    similarities = [register(fixed=pair[0], moving=pair[1], preset=preset).measures["ncc"]["after"] for preset in PRESETS]
    fast, default, accurate = similarities
    assert fast < default
    assert accurate > default - 1e-3  # both within rounding of a perfect match


@pytest.mark.parametrize("preset", ["default", "accurate"])
@pytest.mark.parametrize("similarity", ["lncc", "lncc+mse", "mind", "nmi", "nmi+gradient"])
def test_what_moves_far_is_followed_without_folds(similarity, preset):
    pair = known_pair(2, largest=9.0, seed=4)
    found = register(fixed=pair[0], moving=pair[1], preset=preset, similarity=similarity)
    assert error_voxels(found.transform, pair[4], pair[0]) < before(pair) / 3
    assert bool((found.field.determinants() > 0).all())


@pytest.mark.parametrize("preset", ["fast", "default", "accurate"])
@pytest.mark.parametrize("similarity", ["lncc", "lncc+mse"])
def test_an_image_stays_where_it_is_under_itself(similarity, preset):
    """Its windows of low contrast would be more alike with more contrast, were both images under one floor."""
    space = Space.plain((44, 52))
    y, x = np.indices(space.shape)
    texture = gaussian_filter(np.random.default_rng(3).normal(size=space.shape), 2.5)
    image = Image(np.where(((y - 22) / 15) ** 2 + ((x - 26) / 18) ** 2 < 1, 300 + 120 * texture / np.abs(texture).max(), 0)[None].astype(np.float32), space)
    result = nnreg.register(fixed=image, moving=image, similarity=similarity, preset=preset, initial=Transform.identity(2))
    assert np.abs(result.transform.sampled_on(space).displacement).max() < 0.05


def shifted(image: Image, mm: float) -> Image:
    return Image(image.array, Space(image.space.shape, image.space.spacing, tuple(value + mm for value in image.space.origin), image.space.direction))


def test_similarities_of_the_stages_are_those_of_the_maps_alone():
    """Of headers, start and end, by one measure: each is the header's when the image is placed so."""
    fixed, moving, *_ = known_pair(2)
    options = {"similarity": "lncc", "preset": "fast"}
    found = register(fixed=fixed, moving=shifted(moving, 9.0), **options)
    told = found.measures["similarity"]
    assert told["header"] < told["aligned"] - 0.1 < told["after"] - 0.1
    assert found.measures["ncc"]["header"] < found.measures["ncc"]["aligned"] < found.measures["ncc"]["after"]
    moved = Transform.affine(np.linalg.inv(found.start.stages[0].matrix))
    placed = Image(moving.array, Space.from_matrix(moving.space.shape, moved.stages[0].matrix @ shifted(moving, 9.0).space.matrix))
    there = register(fixed=fixed, moving=placed, initial=Transform.identity(2), **options).measures["similarity"]
    assert there["header"] == there["aligned"] == pytest.approx(told["aligned"], abs=1e-4)
    apart = register(fixed=fixed, moving=shifted(moving, 500.0), **options).measures
    assert np.isnan([apart["similarity"]["header"], apart["ncc"]["header"]]).all()
    assert apart["similarity"]["aligned"] == pytest.approx(told["aligned"], abs=0.01)


def test_a_pair_that_agrees_already_is_a_success_and_one_that_landmarks_pull_apart_is_none():
    fixed = known_pair(2)[0]
    found = register(fixed=fixed, moving=fixed, preset="fast")
    assert (found.rose, found.fell, found.succeeded) == (False, False, True)
    again = register(fixed=fixed, moving=fixed, preset="fast", initial=found.transform)
    assert (again.fell, again.succeeded) == (False, True)
    points = np.asarray([[15.0, 15.0], [30.0, 15.0], [22.0, 25.0]])
    apart = register(fixed=fixed, moving=fixed, preset="fast", fixed_points=points, moving_points=points + 4)
    assert (apart.rose, apart.fell, apart.succeeded) == (False, True, False)


@pytest.mark.parametrize("mirrored", [False, True])
def test_folds_of_a_given_start_count_and_those_of_the_linear_part_do_not(mirrored):
    fixed, moving, _, _, truth = known_pair(2)
    field = truth.stages[0].displacement.copy()
    field[0, 18:22, 20:24] += np.linspace(6, -6, 4, dtype=np.float32)[:, None]
    stages = (FieldMap(field, fixed.space), truth.stages[1])
    if mirrored:  # the moving image lies the other way round, and a last stage takes it there
        mirror = np.diag([-1.0, 1.0, 1.0])
        moving = Image(moving.array, Space.from_matrix(moving.space.shape, mirror @ moving.space.matrix))
        stages = (*stages, AffineMap(mirror))
    found = register(fixed=fixed, moving=moving, preset="fast", initial=Transform(stages, 2))
    sampled = found.transform.sampled_on(fixed.space).displacement
    measures = found.measures
    deviation, folded, percent = regularity(sampled)
    assert 0 < measures["folding_count"] < 50
    assert measures["folding_count"] == (fixed.array[0].size - folded if mirrored else folded)
    if not mirrored:
        assert measures["folding_percent"] == pytest.approx(percent)
        assert measures["sdlogj"] == pytest.approx(deviation, rel=1e-4)


def test_figures_are_measured_inside_the_fixed_mask_as_by_evaluation():
    fixed, moving, *_ = known_pair(2)
    mask = Image((fixed.array > 100).astype(np.uint8), fixed.space)
    plain, inside = (register(fixed=fixed, moving=moving, preset="fast", fixed_mask=one) for one in (None, mask))
    assert plain.measures["measured_over"] == "all voxels"
    assert inside.measures["measured_over"] == "inside the fixed mask"
    cases = Case(fixed, mask=mask), Case(moving)
    wanted = evaluate_pair(fixed=cases[0], moving=cases[1], transform=inside.transform, aligned=inside.start)["metrics"]
    assert {name: inside.measures["ncc"][name] for name in ("header", "aligned", "after")} == pytest.approx(
        {name: wanted[f"ncc_{name}"] for name in ("header", "aligned", "after")}, rel=1e-4
    )
    assert inside.measures["sdlogj"] == pytest.approx(wanted["sdlogj"], rel=1e-3)


def test_progress_ends_where_it_said_it_would():
    pair = known_pair(2)
    for preset in PRESETS:
        told: list[tuple[int, int]] = []
        register(fixed=pair[0], moving=pair[1], preset=preset, similarity="lncc", on_progress=lambda done, total, _, told=told: told.append((done, total)))
        assert len({total for _, total in told}) == 1
        assert told[-1][0] == told[-1][1] - 1  # the last stage begins when all others are done


@pytest.mark.parametrize("similarity", similarity_names())
def test_labels_pull_as_hard_whatever_the_similarity(similarity):
    fixed, moving, *_ = known_pair(2)
    sides = [prepare(image.array, image.space, None, "fixed") for image in (fixed, moving)]
    (level,) = pyramid(sides[0], sides[1], np.eye(3), (1,))
    first, *others = (group.weight for group in find_similarity(similarity).groups(level, 2.0))
    assert first == 1  # what the weights of labels and of all others are relative to
    assert others == {"lncc+mse": [SQUARES_WEIGHT], "nmi+gradient": [EDGES_WEIGHT]}.get(similarity, [])


def test_every_round_sees_masks_landmarks_and_the_given_start():
    fixed, moving, fixed_labels, moving_labels, truth = known_pair(2, largest=4.0, seed=2)
    index = np.argwhere(fixed.array[0] > 100)[::97][:, ::-1].astype(float)
    target = moving.space.to_index(truth.map_points(index_points_to_world(index, fixed.space)) + np.array([3.0, 0.0]))[:, ::-1]
    field = truth.stages[0]
    rough = Transform((FieldMap(0.5 * field.displacement, field.space), truth.stages[1]), 2)
    mask = Image(np.ones(fixed.array.shape, np.uint8), fixed.space)
    options = {"fixed_points": index, "moving_points": target, "fixed_mask": mask, "fixed_labels": fixed_labels, "moving_labels": moving_labels}
    plain, guided = (register(fixed=fixed, moving=moving, initial=rough, preset="accurate", guided=guided, **options) for guided in (False, True))
    assert guided.measures["tre_mm"]["after"]["mean"] < 0.5 * plain.measures["tre_mm"]["after"]["mean"]
    assert guided.start.stages == rough.stages


def test_landmarks_and_labels_pull():
    fixed, moving, fixed_labels, moving_labels, truth = known_pair(2, largest=4.0, seed=2)
    rng = np.random.default_rng(0)
    points = np.argwhere(fixed.array[0] > 100)[rng.choice(np.count_nonzero(fixed.array[0] > 100), 12, replace=False)][:, ::-1].astype(float)
    # landmarks say that everything lies 3 mm further along x than the images do
    target = truth.map_points(index_points_to_world(points, fixed.space)) + np.array([3.0, 0.0])
    moving_points = moving.space.to_index(target)[:, ::-1]
    plain = register(fixed=fixed, moving=moving, fixed_points=points, moving_points=moving_points, guided=False)
    guided = register(fixed=fixed, moving=moving, fixed_points=points, moving_points=moving_points)
    assert guided.measures["tre_mm"]["after"]["mean"] < 0.5 * plain.measures["tre_mm"]["after"]["mean"]
    noise = Image(rng.normal(size=fixed.array.shape).astype(np.float32) * 5 + (fixed_labels.array > 0) * 100, fixed.space)
    options = {"moving": moving, "fixed_labels": fixed_labels, "moving_labels": moving_labels, "similarity": "lncc"}
    dice = [register(fixed=noise, guided=use, **options).measures["dice"]["after"]["mean"] for use in (False, True)]
    assert dice[1] > dice[0]


def test_masks_hide_what_they_should():
    fixed, moving, _, _, truth = known_pair(2, seed=9)
    array = fixed.array.copy()
    array[:, :8] = np.random.default_rng(0).random(array[:, :8].shape) * 900  # something the moving image lacks
    mask = np.ones(array.shape, np.uint8)
    mask[:, :8] = 0
    found = register(fixed=Image(array, fixed.space), moving=moving, fixed_mask=Image(mask, fixed.space))
    seen = Image(fixed.array * mask, fixed.space)
    assert error_voxels(found.transform, truth, seen) < 0.6 * error_voxels(Transform((truth.stages[1],), 2), truth, seen)


def test_a_mask_marks_what_is_not_0():
    fixed, moving, *_ = known_pair(2)
    inside = fixed.array > 100
    found = [
        register(fixed=fixed, moving=moving, preset="fast", fixed_mask=Image(np.where(inside, value, 0).astype(np.int8), fixed.space)).field.displacement
        for value in (1, -1)  # 255 read as int8
    ]
    assert np.array_equal(*found)
    broken = np.where(inside, 1, np.nan)
    with pytest.raises(RegistrationError, match=r"fixed mask holds \d+ NaN"):
        register(fixed=fixed, moving=moving, fixed_mask=Image(broken, fixed.space))
    with pytest.raises(RegistrationError, match=r"preserve mask holds \d+ NaN"):
        register(fixed=fixed, moving=moving, constraints=Constraints(preserve=Image(broken, fixed.space)))


@pytest.mark.filterwarnings("error")
def test_images_that_show_next_to_nothing_are_refused_by_name():
    space, _ = grids(2)
    good = Image(textured(space.shape), space)
    share = good.array / good.array.max()
    for values in (share * np.float32(1e-40), (share.astype(np.float64) * 6e38 - 3e38).astype(np.float32)):
        with pytest.raises(RegistrationError, match="which single precision cannot bring to"):
            register(fixed=good, moving=Image(values, space))
    dot = np.zeros((1, 36, 44), np.float32)
    dot[0, 20, 22] = 1
    with pytest.raises(RegistrationError, match="single voxel each"):
        register(fixed=Image(dot, Space.plain((36, 44))), moving=Image(np.roll(dot, 3, axis=1), Space.plain((36, 44))))
    line = Image(textured((36, 36))[:, :, 18:19], Space.plain((36, 1)))
    with pytest.raises(RegistrationError, match="fixed image has 36x1 voxels"):
        register(fixed=line, moving=line)


def test_what_masks_hide_does_not_lead_the_search():
    rng = np.random.default_rng(0)
    fixed = textured((32, 40, 36), 1)
    moving = np.roll(fixed, 3, axis=3)
    hidden = np.zeros(fixed.shape, bool)
    hidden[:, :, :16] = True
    # behind the masks everything has moved the other way
    other = np.where(hidden, np.roll(fixed, -3, axis=3), moving) + rng.normal(size=fixed.shape).astype(np.float32)
    space = Space.plain(fixed.shape[1:])
    for mask in (None, ~hidden[0]):
        sides = [PreparedImage(array / array.max(), None if mask is None else mask.astype(np.float32), space) for array in (fixed, other)]
        found = search(pyramid(*sides, np.eye(4), (1,))[0], 6.0)
        moved = float(found[2, 12:20, 6:12, 12:24].mean())
        assert moved < -1 if mask is None else moved > 0


@pytest.mark.parametrize("kind", ["affine", "field"])
def test_a_given_start_is_used_and_kept(kind):
    fixed, moving, _, _, truth = known_pair(2)
    initial = Transform((truth.stages[1],), 2) if kind == "affine" else truth
    found = register(fixed=fixed, moving=moving, initial=initial, preset="fast")
    assert next(decision.value for decision in found.decisions if decision.name == "alignment") == "given"
    assert found.start.stages[-1].matrix == pytest.approx(truth.stages[1].matrix)
    assert error_voxels(found.transform, truth, fixed) < (0.3 if kind == "field" else 0.5 * error_voxels(initial, truth, fixed))


def test_instance_optimisation_improves_a_rough_field():
    fixed, moving, _, _, truth = known_pair(3, largest=5.0)
    field = truth.stages[0]
    rough = Transform((FieldMap(0.5 * field.displacement, field.space), truth.stages[1]), 3)
    found = register(fixed=fixed, moving=moving, initial=rough)
    assert error_voxels(found.transform, truth, fixed) < 0.75 * error_voxels(rough, truth, fixed)


def test_affine_only_has_no_field():
    fixed, moving, *_ = known_pair(2)
    found = register(fixed=fixed, moving=moving, affine_only=True)
    assert found.field is None
    assert all(isinstance(stage, AffineMap) for stage in found.transform.stages)


def test_the_public_face_takes_files(tmp_path):
    from nnreg.imageio import write_image

    fixed, moving, *_ = known_pair(2)
    paths = {"fixed": tmp_path / "fixed.nii.gz", "moving": tmp_path / "moving.mha"}
    for name, image in (("fixed", fixed), ("moving", moving)):
        write_image(paths[name], image.array, image.space)
    assert nnreg.register(**paths, preset="fast").succeeded


def test_bad_pairs_are_refused_by_name():
    space, _ = grids(2)
    good = Image(textured(space.shape), space)
    flat = Image(np.full(good.array.shape, 3.0), space)
    broken = Image(np.where(good.array == good.array.max(), np.nan, good.array), space)
    with pytest.raises(RegistrationError, match="fixed image is constant"):
        register(fixed=flat, moving=good)
    with pytest.raises(RegistrationError, match="moving image holds 1 NaN"):
        register(fixed=good, moving=broken)
    with pytest.raises(RegistrationError, match="2D or both 3D"):
        register(fixed=good, moving=Image(textured((9, 9, 9)), Space.plain((9, 9, 9))))
    with pytest.raises(RegistrationError, match="channels"):
        register(fixed=good, moving=Image(np.repeat(good.array, 2, axis=0), space))
    with pytest.raises(RegistrationError, match="fixed mask is empty"):
        register(fixed=good, moving=good, fixed_mask=Image(np.zeros(good.array.shape), space))
    beside = [np.zeros(good.array.shape, np.uint8) for _ in range(2)]
    beside[0][:, :, :9], beside[1][:, :, -9:] = 1, 1
    masks = [Image(mask, space) for mask in beside]
    with pytest.raises(RegistrationError, match="no common view"):
        register(fixed=good, moving=good, fixed_mask=masks[0], moving_mask=masks[1], alignment="none")
    air = np.random.default_rng(0).random(good.array.shape).astype(np.float32)
    spots = [np.where(mask > 0, good.array, 0) for mask in beside]
    with pytest.raises(RegistrationError, match="foregrounds of the two images do not meet"):
        register(fixed=Image(spots[0] + air, space), moving=Image(spots[1] + air, space), alignment="none")
    with pytest.raises(RegistrationError, match="moving mask is empty, or marks nothing but padding"):
        register(fixed=good, moving=Image(spots[0], space), moving_mask=masks[1])
    middle = np.zeros(good.array.shape, np.uint8)
    middle[:, 15:25, 18:28] = 1
    with pytest.raises(RegistrationError, match=r"moving image is constant \(50\) inside its mask"):
        register(fixed=good, moving=Image(np.where(middle > 0, 50, good.array), space), moving_mask=Image(middle, space))
    with pytest.raises(RegistrationError, match="only the fixed image has landmarks"):
        register(fixed=good, moving=good, fixed_points=[[1, 2]])
    with pytest.raises(RegistrationError, match="do not correspond"):
        register(fixed=good, moving=good, fixed_points=[[1, 2]], moving_points=[[1, 2], [3, 4]])
    with pytest.raises(ConfigurationError, match="fast"):
        register(fixed=good, moving=good, preset="fasst")
    with pytest.raises(ConfigurationError, match="lncc"):
        register(fixed=good, moving=good, similarity="lnc")


def test_a_start_that_is_a_field_tears_nothing_apart_at_the_border():
    fixed, moving, _, _, truth = known_pair(3)
    shift = np.zeros((3, *fixed.space.shape), np.float32)
    shift[1] = 3  # voxels, up to the border: beyond it the start is the identity
    start = Transform((FieldMap(shift, fixed.space), *truth.stages[1:]), 3)
    found = register(fixed=fixed, moving=moving, preset="fast", similarity="lncc", initial=start)
    assert found.transform.sampled_on(fixed.space).determinants().min() > 0
    assert found.measures["folding_count"] == 0


def doubtful_levels(reversed_contrast: bool) -> list[Level]:
    """A fine texture that is deformed by more than its own size, so that local correlation leaves its contrast open until it is deformed back."""
    rng = np.random.default_rng(3)
    shape = (32, 36, 32)
    texture = gaussian_filter(rng.standard_normal(shape), 1.6)
    body = sum((axis / 0.8) ** 2 for axis in np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")) < 1
    fixed = (np.where(body, 100 + 25 * texture / texture.std(), 0.0)).astype(np.float32)[None]
    field = np.stack([gaussian_filter(rng.standard_normal(shape), 4) for _ in shape])
    space = Space.plain(shape)
    warp = Transform((FieldMap((11.5 * field / np.abs(field).max()).astype(np.float32), space),), 3)
    moving = resample_image(fixed, moving=space, fixed=space, transform=warp)
    moving = np.where(moving > 20, 200 - moving, 0) if reversed_contrast else moving
    sides = [prepare(array, space, None, role) for array, role in ((fixed, "fixed"), (moving, "moving"))]
    return pyramid(*sides, np.eye(4), (2, 1))


@pytest.mark.parametrize(("reversed_contrast", "expected"), [(False, "lncc"), (True, "nmi+gradient")])
def test_a_contrast_in_doubt_is_decided_after_a_trial(reversed_contrast, expected):
    chosen = choose_similarity(doubtful_levels(reversed_contrast), "auto")
    assert chosen.value == expected
    assert ("once deformed by it" in chosen.because) != reversed_contrast  # one that is reversed is never in doubt


def test_a_contrast_in_doubt_that_a_trial_does_not_mend_is_two(monkeypatch):
    levels = doubtful_levels(False)
    monkeypatch.setattr(choosing, "descended", lambda levels, _: levels[-1].empty_field())
    chosen = choose_similarity(levels, "auto")
    assert chosen.value == "nmi+gradient"
    assert "once deformed by it" in chosen.because


def test_files_named_after_two_contrasts_are_of_two(tmp_path):
    body = np.zeros((20, 22, 24), np.float32)
    body[4:16, 4:18, 4:20] = gaussian_filter(np.random.default_rng(0).standard_normal((12, 14, 16)), 1) + 3
    for name in ("sub-01_T1w.nii.gz", "sub-01_FLAIR.nii.gz", "sub-01_T1post.nii.gz"):
        write_image(tmp_path / name, body[None], Space.plain(body.shape))
    alike, apart = (register(fixed=tmp_path / "sub-01_T1w.nii.gz", moving=tmp_path / f"sub-01_{other}.nii.gz", preset="fast") for other in ("T1post", "FLAIR"))
    assert (alike.similarity, apart.similarity) == ("lncc", "nmi+gradient")
    assert any("T1 and FLAIR" in decision.because for decision in apart.decisions)


def test_edges_join_mutual_information_but_in_pictures_in_colours():
    found = [(ndim, channels) for ndim in (2, 3) for channels in (1, 2, 3) if in_colours(ndim, channels)]
    assert found == [(2, 3)]

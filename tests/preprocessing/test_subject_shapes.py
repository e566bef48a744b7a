"""Shapes of other subjects: the fields that preprocessing makes, and what a training draws from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from tiny import Tiny

from nnreg.dataset.pairs import Pair
from nnreg.errors import ConfigurationError, PlansError
from nnreg.geometry import warp
from nnreg.planning.plans import Configuration, LossTerm, Plans
from nnreg.preprocessing.registration.storage import PreprocessedDataset
from nnreg.preprocessing.registration.subject_shapes import SUFFIX, name_of, place_subject_shapes, read_shape, shapes_of
from nnreg.tasks.registration.samples import PairSamples
from nnreg.tasks.registration.subject_shapes import SubjectShapes
from nnreg.training.augmentation.registration import RandomShape

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def own(flat: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A copy of the flat data set, its bodies ellipses of three shapes, with the fields between them."""
    copy = flat.copy(tmp_path_factory.mktemp("shapes"))
    data = PreprocessedDataset(copy.arrays)
    for case, axes in zip(data.cases, ((6.0, 10.0), (10.0, 6.5), (8.0, 8.0)), strict=True):
        body = ellipse(data.load(case).image.shape[1:], axes)
        image = gaussian_filter(body.astype(np.float32), 1.0)[None]
        dataclasses.replace(data.load(case), image=image, labels=body.astype(np.int16)[None]).save(copy.arrays)
    place_subject_shapes(copy.arrays, settings(copy))
    return copy


def ellipse(shape: tuple[int, ...], axes: tuple[float, float]) -> np.ndarray:
    """Inside of an ellipse in the middle."""
    away = [(np.arange(size) - (size - 1) / 2) / axis for size, axis in zip(shape, axes, strict=True)]
    return away[0][:, None] ** 2 + away[1][None] ** 2 <= 1


def settings(tiny: Tiny):
    return Plans.read(tiny.preprocessed / "nnRegPlans.json").optimisation


def planned(tiny: Tiny, *terms: str, **draw: float) -> Configuration:
    """The plan without any other augmentation."""
    found = Plans.read(tiny.preprocessed / "nnRegPlans.json").configuration("2d")
    training = dataclasses.replace(
        found.training, batch_size=1, augmentation={"subject_shapes": draw}, supervision=tuple(LossTerm(name) for name in terms or ("soft_dice",))
    )
    return dataclasses.replace(found, training=training)


def drawn(tiny: Tiny, configuration: Configuration, pair: Pair, count: int = 4) -> list[dict[str, torch.Tensor]]:
    cases = PreprocessedDataset(tiny.arrays).cases
    pairs = [pair, *(Pair(case, other) for case in cases for other in cases if case != other and (case, other) != (pair.fixed, pair.moving))]
    samples = PairSamples(tiny.arrays, pairs, configuration, count, "train", True)
    return [samples[index] for index in range(count)]


def test_every_case_takes_the_shape_of_the_others(own):
    data = PreprocessedDataset(own.arrays)
    assert all(shapes_of(own.arrays, data.cases)[case] for case in data.cases)
    case, other = data.cases[:2]
    field = read_shape(own.arrays, case, other)
    assert field.shape == (2, *((size + 1) // 2 for size in data.load(case).image.shape[1:]))
    assert np.abs(field).max() > 0.2


def test_the_whole_way_makes_the_image_more_like_the_other(own):
    """Share 1 along the field of (case, other) brings the image of the case nearer to the image of the other."""
    data = PreprocessedDataset(own.arrays)
    pairs = [Pair(one, two) for one in data.cases for two in data.cases if one != two]
    shapes = SubjectShapes(RandomShape(probability=1, low=1, high=1), data, pairs, ())
    case, other = data.cases[:2]
    shapes.others = {case: [other]}
    images = [torch.from_numpy(data.load(name).image)[None] for name in (case, other)]
    changed = warp(images[0], shapes.drawn(case, images[0].shape[2:], np.random.default_rng(0)))
    assert (changed - images[1]).abs().mean() < 0.5 * (images[0] - images[1]).abs().mean()


def test_nothing_changes_at_probability_zero_and_labels_follow_the_image(own):
    cases = PreprocessedDataset(own.arrays).cases
    pair = Pair(cases[0], cases[1])
    still, bent = (drawn(own, planned(own, probability=value), pair) for value in (0.0, 1.0))
    for before, after in zip(still, bent, strict=True):
        assert not torch.equal(before["fixed"], after["fixed"])
        assert after["fixed_labels"].dtype == before["fixed_labels"].dtype
        assert set(after["fixed_labels"].unique().tolist()) <= set(before["fixed_labels"].unique().tolist()) | {0}
        # the labelled body stays the bright part of its image
        inside = after["fixed"][0][after["fixed_labels"][0] > 0].mean()
        assert inside > after["fixed"][0][after["fixed_labels"][0] == 0].mean()
    assert torch.equal(still[0]["fixed"], torch.from_numpy(PreprocessedDataset(own.arrays).load(next(iter(_fixed_of(own, still[0])))).image))


def _fixed_of(tiny: Tiny, sample: dict[str, torch.Tensor]) -> set[str]:
    data = PreprocessedDataset(tiny.arrays)
    return {case for case in data.cases if torch.equal(sample["fixed"], torch.from_numpy(data.load(case).image))}


def test_a_sample_depends_on_its_index_alone(own):
    pair = Pair(*PreprocessedDataset(own.arrays).cases[:2])
    one, two = (drawn(own, planned(own), pair) for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(one, two, strict=True) for name in a)


def test_only_training_cases_lend_their_shape(own):
    cases = PreprocessedDataset(own.arrays).cases
    others = shapes_of(own.arrays, cases[:2])
    assert set(others) == set(cases[:2])
    assert all(set(found) <= set(cases[:2]) for found in others.values())


def test_what_is_there_and_still_true_is_not_made_again(own, tmp_path):
    copy = own.copy(tmp_path / "again")
    cases = PreprocessedDataset(copy.arrays).cases
    path = copy.arrays / f"{name_of(*cases[:2])}{SUFFIX}"
    made = path.stat().st_mtime_ns
    place_subject_shapes(copy.arrays, settings(copy))
    assert path.stat().st_mtime_ns == made
    changed = PreprocessedDataset(copy.arrays).load(cases[0])
    dataclasses.replace(changed, image=changed.image * 0.9).save(copy.arrays)
    place_subject_shapes(copy.arrays, settings(copy))
    assert path.stat().st_mtime_ns > made


@pytest.mark.parametrize(
    ("terms", "remove", "message"),
    [(("soft_dice", "keypoints"), False, "keypoints needs what"), (("soft_dice",), True, "there are none. Preprocessing makes")],
)
def test_what_does_not_fit_is_refused(own, tmp_path, terms, remove, message):
    copy = own.copy(tmp_path / "refused")
    if remove:
        for path in Path(copy.arrays).glob(f"*{SUFFIX}"):
            path.unlink()
    with pytest.raises(ConfigurationError, match=message):
        drawn(copy, planned(copy, *terms), Pair(*PreprocessedDataset(copy.arrays).cases[:2]))


def test_cases_of_several_grids_are_refused(plane, tmp_path):
    copy = plane.copy(tmp_path / "grids")
    with pytest.raises(PlansError, match="needs all cases on one grid"):
        place_subject_shapes(copy.arrays, settings(copy))

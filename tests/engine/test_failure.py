"""The probability that a registration failed: low where the truth is known to be found, high where there is nothing to find."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from nnreg.engine import register
from nnreg.engine.evidence import gather
from nnreg.engine.failure import INDICATORS, Evidence, judge
from nnreg.engine.prepared_image import prepare
from nnreg.geometry import Space, Transform
from nnreg.imageio import Image
from tests.engine.pairs import known_pair, textured

NAMES = [field.name for field in fields(Evidence)]
MIDDLE = Evidence(**{name: float(np.exp(one.middle)) if one.logarithm else one.middle for name, one in INDICATORS.items()})


@pytest.fixture(scope="module")
def sound():
    fixed, moving, *_ = known_pair(3)
    return register(fixed=fixed, moving=moving, preset="fast")


def noise(space: Space, seed: int) -> Image:
    return Image(np.random.default_rng(seed).normal(100, 20, (1, *space.shape)).astype(np.float32), space)


def test_a_pair_that_registers_is_believed(sound):
    assert sound.failure_probability < 0.1
    assert sound.succeeded
    assert sound.failure.content()["reasons"] == []


@pytest.mark.parametrize("preset", ["fast", "default"])
def test_noise_is_not_believed_although_its_similarity_rises(preset):
    fixed, moving, *_ = known_pair(3)
    found = register(fixed=fixed, moving=noise(moving.space, 0), preset=preset, similarity="lncc")
    assert found.rose
    assert found.failure_probability > 0.5
    assert not found.succeeded
    assert found.failure.reasons


def test_a_start_that_nothing_finds_back_from_is_not_believed():
    fixed, moving, *_, truth = known_pair(3)
    quarter = np.eye(4)
    quarter[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    quarter[:3, 3] = fixed.space.centre - quarter[:3, :3] @ fixed.space.centre
    found = register(fixed=fixed, moving=moving, initial=Transform.affine(truth.stages[1].matrix @ quarter), preset="fast")
    assert found.failure_probability > 0.5
    assert found.failure.evidence.backward_alignment > 0.5


def test_images_of_two_axes_and_linear_maps_are_judged():
    fixed, moving, *_ = known_pair(2)
    assert register(fixed=fixed, moving=moving, preset="fast").failure_probability < 0.5
    linear = register(fixed=fixed, moving=moving, affine_only=True)
    assert np.isnan(linear.failure.evidence.round_trip)
    assert linear.failure_probability < 0.5
    assert json.loads(json.dumps(linear.measures["failure"]))["round_trip"] is None


def test_the_evidence_of_a_map_that_is_known():
    space = Space.plain((30, 34, 38), (2.0, 2.0, 2.0))
    side = prepare(textured(space.shape), space, None, "fixed")
    same = gather(side, side, Transform.identity(3), "lncc")
    assert same.backward_alignment < 0.02
    assert [same.stretch, same.turn, same.edges] == pytest.approx([0, 0, 1], abs=1e-4)
    half, double = np.eye(4), np.eye(4)
    half[:2, :2] *= -1
    half[:3, 3] = space.centre - half[:3, :3] @ space.centre
    double[:3, :3] *= 2
    double[:3, 3] = -space.centre
    assert gather(side, side, Transform.affine(half), "lncc").turn == pytest.approx(2)
    assert gather(side, side, Transform.affine(double), "lncc").stretch == pytest.approx(np.log(2), abs=1e-3)
    assert gather(side, side, Transform.affine(half), "lncc").similarity_gain < same.similarity_gain - 0.5


@pytest.mark.parametrize("name", NAMES)
def test_worse_evidence_never_lowers_the_probability(name):
    one = INDICATORS[name]
    values = [one.middle + step * one.width for step in (-1, 0, 1)]
    found = [judge(replace(MIDDLE, **{name: float(np.exp(value)) if one.logarithm else value})).probability for value in values]
    assert found == sorted(found)
    assert (found[0] < found[2]) == (one.weight > 0)
    assert judge(replace(MIDDLE, **{name: float("nan")})).probability == pytest.approx(found[1], abs=1e-3)


def test_what_could_not_be_found_counts_as_bad_and_is_no_number_in_json():
    lost = judge(replace(MIDDLE, backward_alignment=float("inf")))
    assert lost.probability >= judge(MIDDLE).probability
    assert lost.content()["backward_alignment"] is None
    assert set(lost.content()) == {"probability", "reasons", *asdict(MIDDLE)}

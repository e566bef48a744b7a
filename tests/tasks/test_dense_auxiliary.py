"""Targets derived from labels: definitions, symmetries, empty and full patches, coarser levels, decoders of their own."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from nnreg.architecture import build_dense_network
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import ConfigurationError, DatasetError
from nnreg.tasks.dense_prediction import derived
from nnreg.tasks.dense_prediction.auxiliary import KINDS, AuxiliaryLosses, AuxiliaryTarget, DerivedMaps, at_level, auxiliary_targets
from nnreg.tasks.dense_prediction.derived import UNKNOWN

pytestmark = pytest.mark.usefixtures("one_thread")
Mask = npt.NDArray[np.bool_]


def blob(shape: tuple[int, ...], seed: int = 0) -> Mask:
    """An ellipsoid that is no mirror image of itself on this grid."""
    rng = np.random.default_rng(seed)
    centre = [size * rng.uniform(0.35, 0.65) for size in shape]
    radius = [size * rng.uniform(0.2, 0.35) for size in shape]
    return np.asarray(sum(((grid - at) / wide) ** 2 for grid, at, wide in zip(np.indices(shape), centre, radius, strict=True)) < 1)


SHAPES = [(17, 14), (11, 15, 13)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_distances_of_a_half_space_are_those_of_its_plane(axis: int) -> None:
    spacing = (3.0, 1.0, 1.5)
    mask = np.moveaxis(np.arange(12)[:, None, None] < 5, 0, axis) & np.ones((12,) * 3, bool)
    centres = (np.arange(12) - 4.5) * spacing[axis]
    found = np.moveaxis(derived.signed_distance(mask, spacing), axis, 0)[:, 3, 4]
    # half of the smallest step lies between a surface and a centre: along that axis the plane is met exactly
    half = 0.5 * (spacing[axis] - min(spacing))
    np.testing.assert_allclose(found, centres + np.sign(centres) * half, atol=1e-5)
    normals = np.moveaxis(derived.surface_normals(mask, spacing), axis + 1, 1)
    expected = np.eye(3)[axis]
    np.testing.assert_allclose(normals[:, :, 5, 5].T, np.broadcast_to(expected, (12, 3)), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inside_of_one_is_outside_of_the_other(shape: tuple[int, ...]) -> None:
    mask, spacing = blob(shape), (1.0, 2.0, 1.5)[: len(shape)]
    np.testing.assert_allclose(derived.signed_distance(~mask, spacing), -derived.signed_distance(mask, spacing))
    inside, outside = (derived.distance_transform(mask, spacing, side) for side in ("inside", "outside"))
    np.testing.assert_allclose(outside - inside, derived.distance_transform(mask, spacing))


def of(kind: str, mask: Mask, spacing: tuple[float, ...]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = getattr(derived, kind)(mask, spacing)
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_mirrored_and_turned_labels_give_mirrored_and_turned_targets(kind: str, shape: tuple[int, ...]) -> None:
    """Components follow their axes. Directions are compared without their sign, as tensors."""
    mask, spacing, ndim = blob(shape), (1.0, 1.3, 2.0)[: len(shape)], len(shape)
    plain = of(kind, mask, spacing)
    pairs = list(zip(*np.triu_indices(ndim), strict=True))
    for axis in range(ndim):
        signs = [-1.0 if component == axis else 1.0 for component in range(ndim)]
        factors = {"surface_normals": signs, "inplane_direction": signs, "structure_tensor": [signs[row] * signs[column] for row, column in pairs]}
        expected = np.flip(plain, axis + 1).copy()
        known = expected != UNKNOWN
        expected = np.where(known, expected * np.reshape(factors.get(kind, [1.0]), (-1, *(1,) * ndim)), UNKNOWN)
        agree(kind, of(kind, np.flip(mask, axis), spacing), expected)
    order = (1, 0, *range(2, ndim))
    components = {"surface_normals": order, "inplane_direction": order}.get(kind, range(len(plain)))
    if kind == "structure_tensor":
        components = [pairs.index((min(order[row], order[column]), max(order[row], order[column]))) for row, column in pairs]
    turned = of(kind, mask.transpose(order), tuple(spacing[axis] for axis in order))
    agree(kind, turned, plain.transpose(0, *(axis + 1 for axis in order))[list(components)])


def agree(kind: str, found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    known = (found != UNKNOWN).all(axis=0)
    np.testing.assert_array_equal(known, (expected != UNKNOWN).all(axis=0))
    if kind == "inplane_direction":
        np.testing.assert_allclose(np.abs((found * expected).sum(axis=0))[known], 1.0, atol=1e-3)
    else:
        np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_rod_runs_along_itself_and_a_sheet_has_no_one_direction(axis: int) -> None:
    others = [other for other in range(3) if other != axis]
    grid = np.indices((15, 15, 15)) - 7
    rod = np.asarray(grid[others[0]] ** 2 + grid[others[1]] ** 2 < 9)
    direction = derived.inplane_direction(rod, (1.0,) * 3)[:, 7, 7, 7]
    np.testing.assert_allclose(np.abs(direction), np.eye(3)[axis], atol=1e-3)
    sheet = np.asarray(np.abs(grid[axis]) < 3)
    assert (derived.inplane_direction(sheet, (1.0,) * 3)[:, 7, 7, 7] == UNKNOWN).all()
    tensor = derived.structure_tensor(sheet, (1.0,) * 3)[:, 7, 7, 7]
    pairs = list(zip(*np.triu_indices(3), strict=True))
    assert tensor[pairs.index((axis, axis))] > 0.05
    assert all(abs(tensor[place]) < 1e-5 for place, pair in enumerate(pairs) if pair != (axis, axis))


@pytest.mark.parametrize("shape", [*SHAPES, (1, 9, 8)], ids=str)
@pytest.mark.parametrize(("kind", "full"), list(itertools.product(KINDS, [False, True])))
def test_empty_and_full_patches_teach_nothing_wrong(kind: str, full: bool, shape: tuple[int, ...]) -> None:
    target = AuxiliaryTarget(kind)
    labels = torch.full((1, *shape), int(full), dtype=torch.int16)
    truth = target.derive(labels, (1,), (1.0,) * len(shape))[None]
    assert truth.shape[1] == target.channels(len(shape))
    losses = AuxiliaryLosses({"t": target}, (1.0,) * len(shape))
    prediction = torch.randn_like(truth).requires_grad_()
    loss, _ = losses({"t": [prediction]}, {"derived_t": truth}, [1.0], {"": [torch.randn(1, 2, *shape)]})
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert float(loss.detach()) == 0
    assert not gradient.any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_itself_has_next_to_no_loss_and_noise_has(kind: str, shape: tuple[int, ...]) -> None:
    target = AuxiliaryTarget(kind, loss_weight=1.0)
    labels = torch.from_numpy(blob(shape).astype(np.int16))[None]
    truth = target.derive(labels, (1,), (1.0,) * len(shape))[None]
    losses = AuxiliaryLosses({"t": target}, (1.0,) * len(shape))
    logits = {"": [torch.zeros(1, 2, *shape)]}
    right, _ = losses({"t": [truth]}, {"derived_t": truth}, [1.0], logits)
    wrong, terms = losses({"t": [torch.randn_like(truth)]}, {"derived_t": truth}, [1.0], logits)
    assert float(right) < 0.02
    assert float(wrong) > 5 * float(right)
    assert float(terms["t_loss"]) == pytest.approx(float(wrong))


def test_what_is_not_annotated_is_unknown_and_stays_so_on_coarser_levels() -> None:
    labels = torch.from_numpy(blob((12, 16)).astype(np.int16))[None]
    labels[:, :, 9:] = 3  # ignored
    truth = AuxiliaryTarget("distance_transform").derive(labels, (1,), (1.0, 1.0))[None]
    assert (truth[..., 9:] == UNKNOWN).all()
    assert (truth[..., :9] != UNKNOWN).all()
    coarse, known = at_level(truth, (6, 8), unit=False)
    assert not known[..., 5:].any()
    assert known[..., :4].all()
    assert coarse[known].abs().max() < 20  # the sentinel is in no mean
    torch.testing.assert_close(coarse[..., :4], torch.nn.functional.avg_pool2d(truth[..., :8], 2))
    opposite = torch.tensor([1.0, -1.0]).repeat(4).reshape(1, 1, 1, 8).expand(1, 2, 4, 8)
    assert at_level(opposite, (2, 4), unit=True)[0].abs().max() == 0


def test_a_loss_may_begin_late() -> None:
    entries = [{"name": "cosine"}, {"name": "normal_smoothness", "weight": 0.5, "start_epoch": 2}]
    target = auxiliary_targets(spec({"n": {"type": "surface_normals", "losses": entries}}))["n"]
    truth = target.derive(torch.from_numpy(blob((12, 14)).astype(np.int16))[None], (1,), (1.0, 1.0))[None]
    losses, prediction = AuxiliaryLosses({"n": target}, (1.0, 1.0)), torch.randn_like(truth)
    found = []
    for epoch in (0, 1, 2):
        losses.set_epoch(epoch)
        found.append(
            float(losses({"n": [prediction]}, {"derived_n": truth}, [1.0], {"": [torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1).expand(1, 2, 12, 14)]})[0])
        )
    assert found[0] == found[1] < found[2]


def spec(auxiliary: dict[str, Any]) -> DatasetSpec:
    content = {"channel_names": {"0": "T1"}, "numTraining": 1, "file_ending": ".nii.gz", "labels": {"background": 0, "a": 1}}
    return DatasetSpec.from_dict({**content, "auxiliary_tasks": auxiliary})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "distance"}, "distance_transform"),
        ({"type": "distance_transform", "distance_type": "both"}, "distance_type"),
        ({"type": "surface_normals", "sigma": 1}, "grad_sigma"),
        ({"type": "surface_normals", "losses": [{"name": "lncc"}]}, "no loss of derived maps"),
        ({}, "type"),
    ],
)
def test_nonsense_is_refused_by_key(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        auxiliary_targets(spec({"extra": entry}))


def test_of_several_targets_one_is_the_source() -> None:
    def two(auxiliary: dict[str, Any]) -> DatasetSpec:
        return DatasetSpec.from_dict({**spec(auxiliary).to_dict(), "targets": {"ink": {}, "damage": {}}})

    for source in ("", "iink"):
        with pytest.raises(DatasetError, match=r"source_target.*ink"):
            auxiliary_targets(two({"d": {"type": "distance_transform", "source_target": source}}))
    with pytest.raises(DatasetError, match="is a target too"):
        auxiliary_targets(two({"ink": {"type": "distance_transform", "source_target": "ink"}}))
    labels = torch.stack([torch.zeros(10, 12, dtype=torch.int16), torch.from_numpy(blob((10, 12)).astype(np.int16))])
    of_one, of_other = (DerivedMaps.of(two({"d": {"type": "distance_transform", "source_target": name}}), (1.0, 1.0)) for name in ("ink", "damage"))
    assert (of_one(labels)["derived_d"] == UNKNOWN).all()
    alone = DerivedMaps.of(spec({"d": {"type": "distance_transform"}}), (1.0, 1.0))(labels[1:])
    assert torch.equal(of_other(labels)["derived_d"], alone["derived_d"])
    seen = torch.zeros(2, 10, 12, dtype=torch.bool)
    seen[1, :4] = True
    masked = of_other(labels, seen)["derived_d"]
    assert torch.equal(masked[:, :4], alone["derived_d"][:, :4])
    assert (masked[:, 4:] == UNKNOWN).all()


def network(name: str = "plain_unet", **options: Any) -> torch.nn.Module:
    stages: dict[str, Any] = {"strides": [(1, 1), (2, 2), (2, 2)], "kernel_sizes": [(3, 3)] * 3, "features_per_stage": (4, 6, 8), "blocks_per_stage": (1, 1, 1)}
    return build_dense_network(name, channels=1, outputs=3, ndim=2, **stages, **options)


@pytest.mark.parametrize("name", ["plain_unet", "resenc_unet"])
def test_every_target_has_a_decoder_and_shares_the_encoder(name: str) -> None:
    made = network(name, auxiliary={"distance": 1, "normals": 2})
    image = torch.randn(2, 1, 9, 14)
    logits, further = made.with_auxiliary(image)  # type: ignore[operator]
    assert [tuple(level.shape) for level in logits] == [(2, 3, 9, 14), (2, 3, 5, 7)]
    assert [tuple(level.shape) for level in further["normals"]] == [(2, 2, 9, 14), (2, 2, 5, 7)]
    for one, other in zip(made(image), logits, strict=True):
        assert torch.equal(one, other)
    sum(level.sum() for level in further["distance"]).backward()
    reached = {key.split(".")[0] + "." + key.split(".")[1] for key, parameter in made.named_parameters() if parameter.grad is not None}
    assert reached == {"backbone.encoder", "decoders.distance", "auxiliary_heads.distance"}
    plain = network(name).state_dict()
    assert set(plain) <= set(made.state_dict())


def test_a_network_with_one_decoder_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Use plain_unet or resenc_unet"):
        network("kiunet", auxiliary={"distance": 1})


def test_maps_of_a_patch_are_derived_from_what_the_network_sees() -> None:
    maps = DerivedMaps.of(spec({"d": {"type": "distance_transform"}, "n": {"type": "surface_normals"}}), (2.0, 1.0))
    labels = torch.from_numpy(blob((10, 12)).astype(np.int16))[None]
    found = maps(labels)
    assert {name: tuple(value.shape) for name, value in found.items()} == {"derived_d": (1, 10, 12), "derived_n": (2, 10, 12)}
    mirrored = maps(labels.flip(2))
    torch.testing.assert_close(mirrored["derived_d"], found["derived_d"].flip(2))
    torch.testing.assert_close(mirrored["derived_n"][1], -found["derived_n"][1].flip(1), atol=1e-4, rtol=0)

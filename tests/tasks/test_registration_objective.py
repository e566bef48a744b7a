"""The training loss of registration: levels, directions, masks, labels."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from nnreg.dataset import SyntheticEllipsoids
from nnreg.errors import ConfigurationError
from nnreg.geometry import resize_field
from nnreg.geometry.fields import identity_grid
from nnreg.losses import DC_and_Blob_CE_loss
from nnreg.planning.plans import Architecture, LossTerm, Normalization
from nnreg.planning.registration.plans import RegistrationConfiguration, RegistrationTraining
from nnreg.tasks.registration.objective import RegistrationObjective
from nnreg.training.configs import TrainerConfig

SHAPE, SPACING = (17, 26, 21), (2.0, 0.9, 1.4)
LEVELS = (SHAPE, (9, 13, 11), (5, 7, 6))


def configuration(**training: object) -> RegistrationConfiguration:
    plan = RegistrationTraining(
        similarity=(LossTerm("mse"),),
        regularisation=(LossTerm("diffusion", 0.5),),
        supervision=(),
        deep_supervision_weights=(0.5, 0.3, 0.2),
        batch_size=1,
        epochs=1,
        iterations_per_epoch=1,
        validation_iterations=1,
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        gradient_clip=None,
        lr_schedule="poly",
    )
    network = Architecture("dual_pyramid", ((1, 1, 1), (2, 2, 2)), ((3, 3, 3), (3, 3, 3)), (4, 8), (1, 1))
    return RegistrationConfiguration(
        data_identifier="x",
        spacing=SPACING,
        grid=SHAPE,
        normalization=(Normalization("percentile"),),
        architecture=network,
        training=dataclasses.replace(plan, **training),
        memory_gb=1.0,
    )


def objective(recipe: TrainerConfig | None = None, **training: object) -> RegistrationObjective:
    return RegistrationObjective(configuration(**training), recipe or TrainerConfig())


def batch_of(fixed: torch.Tensor, moving: torch.Tensor, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"fixed": fixed, "moving": moving, "fixed_input": fixed, "moving_input": moving, **more}


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return batch_of(torch.rand(2, 1, *SHAPE), torch.rand(2, 1, *SHAPE))


@pytest.fixture(scope="module")
def truth() -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """A pair with labels, and its true field at all levels."""
    sample = SyntheticEllipsoids(SHAPE, deform=True, max_displacement=3.0, noise_std=0.01)[0]
    labels = {f"{role}_labels": sample[f"{role}_labels"][None] for role in ("fixed", "moving")}
    pair = batch_of(sample["fixed"][None], sample["moving"][None], label_subset=torch.tensor([[1, 2, 3]], dtype=torch.int16), **labels)
    return pair, [resize_field(sample["field"][None], shape) for shape in LEVELS]


def none_moves(batch: int = 1) -> list[torch.Tensor]:
    return [torch.zeros(batch, 3, *shape) for shape in LEVELS]


@pytest.mark.parametrize("name", ["diffusion", "bending"])
def test_one_affine_field_costs_the_same_on_every_level(batch, name):
    """Regularisation counts in mm, so that one weight fits every level and any anisotropy."""
    matrix = 0.1 * torch.randn(3, 3, dtype=torch.float64)
    full = torch.einsum("ij,bj...->bi...", matrix, identity_grid(SHAPE).double()).float().expand(2, -1, *SHAPE)
    if name == "bending":  # of which affine maps have none: a quadratic one
        full = full + 0.01 * identity_grid(SHAPE).roll(1, dims=1) ** 2
    fields = [resize_field(full, shape) for shape in LEVELS]
    values = []
    for level in range(len(LEVELS)):
        weights = tuple(float(level == other) for other in range(len(LEVELS)))
        _, terms = objective(regularisation=(LossTerm(name),), deep_supervision_weights=weights).score(fields, batch)
        values.append(float(terms[name]))
    assert values[0] > 0
    # a corner-aligned coarser grid samples a linear field exactly; of a quadratic one it sees the chords
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-4 if name == "diffusion" else 0.2)


def test_the_total_is_the_weighted_sum_of_what_is_logged(truth):
    pair, fields = truth
    plan = configuration(regularisation=(LossTerm("diffusion", 0.5), LossTerm("bending", 0.25)), supervision=(LossTerm("soft_dice", 2.0),))
    total, terms = RegistrationObjective(plan, TrainerConfig()).score(fields, pair)
    assert not any(value.requires_grad for value in terms.values())
    assert float(total) == pytest.approx(float(terms["mse"] + 0.5 * terms["diffusion"] + 0.25 * terms["bending"] + 2.0 * terms["soft_dice"]), rel=1e-5)


@pytest.mark.parametrize("similarity", ["mse", "ncc", "lncc", "nmi", "mind"])
def test_the_true_field_costs_less_than_none(truth, similarity):
    pair, fields = truth
    scored = objective(similarity=(LossTerm(similarity),), regularisation=(), supervision=(LossTerm("soft_dice"),))
    (right, right_terms), (nothing, nothing_terms) = scored.score(fields, pair), scored.score(none_moves(), pair)
    assert right < nothing
    for name in (similarity, "soft_dice"):
        assert right_terms[name] < nothing_terms[name], name


def test_the_gradient_at_no_motion_points_towards_the_truth(truth):
    pair, fields = truth
    start = [field.requires_grad_() for field in none_moves()]
    objective(regularisation=()).score(start, pair)[0].backward()
    inside = pair["fixed_labels"] > 0
    descent = -(start[0].grad * fields[0] * inside).sum()
    assert descent > 0


class Guess(torch.nn.Module):
    """Fields that depend on which image is which."""

    def forward(self, *, fixed: torch.Tensor, moving: torch.Tensor) -> list[torch.Tensor]:
        motion = torch.cat([fixed, 0.5 * moving, fixed * moving], dim=1)
        return [resize_field(motion, shape) for shape in LEVELS]


def test_both_directions_are_the_mean_of_the_two_orders(batch):
    mask = (torch.rand(2, 1, *SHAPE) > 0.3).to(torch.uint8)
    one = batch_of(batch["fixed"], 3 * batch["moving"] ** 2) | {"fixed_mask": mask, "moving_mask": 1 - mask}
    other = batch_of(one["moving"], one["fixed"], fixed_mask=1 - mask, moving_mask=mask)
    forward, backward = (objective()(Guess(), pair)[0] for pair in (one, other))
    assert forward != pytest.approx(float(backward), rel=1e-3)
    both, terms = objective(bidirectional=True)(Guess(), one)
    assert float(both) == pytest.approx(float(forward + backward) / 2, rel=1e-5)
    assert float(both) == pytest.approx(float(objective(bidirectional=True)(Guess(), other)[0]), rel=1e-5)
    assert float(both) == pytest.approx(float(terms["mse"] + 0.5 * terms["diffusion"]), rel=1e-5)


@pytest.mark.parametrize("similarity", ["mse", "ncc"])
def test_what_a_mask_hides_costs_nothing(batch, similarity):
    mask = torch.ones(2, 1, *SHAPE, dtype=torch.uint8)
    mask[..., :9] = 0
    shown = batch["fixed"].clone()
    spoilt = torch.where(mask.bool(), shown, 100.0)
    only_finest = {"deep_supervision_weights": (1.0, 0.0, 0.0), "similarity": (LossTerm(similarity),)}
    fields = [0.5 * torch.randn(2, 3, *shape) for shape in LEVELS]
    first, second = (objective(**only_finest).score(fields, batch | {"fixed": fixed, "fixed_mask": mask})[0] for fixed in (shown, spoilt))
    assert float(first) == pytest.approx(float(second), rel=1e-5)
    assert float(first) != pytest.approx(float(objective(**only_finest).score(fields, batch | {"fixed": spoilt})[0]), rel=1e-3)


def test_a_label_loss_without_labels_names_the_setting(batch):
    with pytest.raises(ConfigurationError, match=r"training\.supervision"):
        objective(supervision=(LossTerm("soft_dice"),)).score(none_moves(2), batch)


def test_keypoints_count_in_mm(batch):
    """A shift by one voxel per axis costs the diagonal of a voxel; points that are not there cost nothing and spoil no gradient."""
    points = torch.rand(2, 5, 3) * 5 + 4
    shifted = [torch.ones(2, 3, *shape, requires_grad=True) for shape in LEVELS]
    both = {"fixed_keypoints": points, "moving_keypoints": points}
    scored = objective(supervision=(LossTerm("keypoints"),))
    _, terms = scored.score(shifted, batch | both)
    assert float(terms["keypoints"]) == pytest.approx(sum(step**2 for step in SPACING) ** 0.5, rel=1e-5)
    gone = points.clone()
    gone[:, 2:] = float("nan")
    total, terms = scored.score(shifted, batch | {"fixed_keypoints": gone, "moving_keypoints": gone})
    assert float(terms["keypoints"]) == pytest.approx(sum(step**2 for step in SPACING) ** 0.5, rel=1e-5)
    total.backward()
    assert torch.isfinite(shifted[0].grad).all()
    right = points + 1
    assert float(scored.score(shifted, batch | {"fixed_keypoints": points, "moving_keypoints": right})[1]["keypoints"]) == pytest.approx(0, abs=1e-5)


def test_pairs_without_a_label_in_common_cost_nothing_and_are_not_in_the_log(batch):
    """Labels that are nowhere overlap perfectly: they would be -1 in the loss, and hide what those of other pairs do."""
    scored = objective(supervision=(LossTerm("soft_dice"),))
    halves = torch.zeros_like(batch["fixed"], dtype=torch.int16)
    halves[..., : halves.shape[-1] // 2] = 5
    labelled = batch | {"fixed_labels": halves, "moving_labels": halves.flip(-1), "label_subset": torch.tensor([[5], [-1]], dtype=torch.int16)}
    alone = {name: value[:1] for name, value in labelled.items()}
    bare = float(objective().score(none_moves(2), batch)[0])
    _, expected = scored.score(none_moves(1), alone)
    for known, shown, cost in (([True, False], float(expected["soft_dice"]), 0.5 * float(expected["soft_dice"])), ([False, False], math.nan, 0.0)):
        total, terms = scored.score(none_moves(2), labelled | {"labels_known": torch.tensor(known)})
        assert float(terms["soft_dice"]) == pytest.approx(shown, nan_ok=True)
        assert float(total) - bare == pytest.approx(cost, abs=1e-6)


def test_batches_without_keypoints_are_not_in_the_log(batch):
    gone = torch.full((2, 4, 3), float("nan"))
    total, terms = objective(supervision=(LossTerm("keypoints"),)).score(none_moves(2), batch | {"fixed_keypoints": gone, "moving_keypoints": gone})
    assert torch.isfinite(total)
    assert math.isnan(float(terms["keypoints"]))


def test_the_true_field_costs_nothing_under_its_own_supervision(truth):
    pair, fields = truth
    scored = objective(supervision=(LossTerm("dvf", 0.1),), bidirectional=True)
    known = pair | {"field": fields[0]}
    assert float(scored.score(fields, known)[1]["dvf"]) == 0
    mean_square = (fields[0] * torch.tensor(SPACING).reshape(1, 3, 1, 1, 1)).square().sum(dim=1).mean()
    assert float(scored.score(none_moves(), known)[1]["dvf"]) == pytest.approx(float(mean_square), rel=1e-4)
    # the other direction's truth is not known: it has no such term
    total, terms = scored(Guess(), known)
    assert torch.isfinite(total)
    assert "dvf" in terms


class ThereAndBack(torch.nn.Module):
    """A shift by a voxel along an axis, its sign that of the first value of the fixed image."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, *, fixed: torch.Tensor, moving: torch.Tensor) -> list[torch.Tensor]:
        first = float(fixed.flatten()[0]) > 0
        step = torch.tensor([0.0, 1.0 if first else -self.share, 0.0]).reshape(1, 3, 1, 1, 1)
        return [step.expand(len(fixed), 3, *shape) for shape in LEVELS]


def test_inverse_consistency_sees_both_directions(batch):
    sided = batch_of(batch["fixed"].abs() + 0.1, -batch["moving"].abs() - 0.1)
    plan = {"supervision": (LossTerm("inverse_consistency", 1.0, {"norm": "l2"}),), "bidirectional": True}
    assert float(objective(**plan)(ThereAndBack(1.0), sided)[1]["inverse_consistency"]) == pytest.approx(0, abs=1e-5)
    half, terms = objective(**plan)(ThereAndBack(0.5), sided)
    assert float(terms["inverse_consistency"]) == pytest.approx(0.5 * SPACING[1], rel=1e-5)
    alone = objective(bidirectional=True)(ThereAndBack(0.5), sided)[0]
    assert float(half - alone) == pytest.approx(0.5 * SPACING[1], rel=1e-5)
    with pytest.raises(ConfigurationError, match="bidirectional"):
        objective(supervision=(LossTerm("inverse_consistency"),))


@pytest.mark.parametrize(
    ("changes", "recipe", "named"),
    [
        ({"similarity": (LossTerm("blob_dice"),)}, None, "training.similarity"),
        ({"regularisation": (LossTerm("mse"),)}, None, "training.regularisation"),
        ({"supervision": (LossTerm("diffusion"),)}, None, "training.supervision"),
        ({}, TrainerConfig(loss="dice_ce"), "TrainerConfig.loss"),
        ({}, TrainerConfig(loss=DC_and_Blob_CE_loss({"batch_dice": True}, {})), "TrainerConfig.loss"),
    ],
)
def test_a_loss_for_another_task_is_refused_in_one_line(changes, recipe, named):
    with pytest.raises(ConfigurationError, match=named) as caught:
        objective(recipe, **changes)
    assert "\n" not in str(caught.value)
    assert any(name in str(caught.value) for name in ("lncc", "diffusion", "soft_dice"))


def test_what_a_validation_pair_has_not_is_left_out(batch):
    scored = objective(supervision=(LossTerm("soft_dice"), LossTerm("keypoints"), LossTerm("dvf")))
    with torch.no_grad():
        assert set(scored.score(none_moves(2), batch)[1]) == {"mse", "diffusion"}
    for name, folder in (("keypoints", "keypointsTr"), ("dvf", "generator")):
        with pytest.raises(ConfigurationError, match=folder):
            objective(supervision=(LossTerm(name),)).score(none_moves(2), batch)


def test_weights_must_fit_the_fields(batch):
    with pytest.raises(ConfigurationError, match=r"deep_supervision_weights.*2 values.*3 fields"):
        objective(deep_supervision_weights=(0.5, 0.5)).score(none_moves(2), batch)
    # a recipe's own network has as many levels as it likes
    assert torch.isfinite(objective(deep_supervision_weights=()).score(none_moves(2), batch)[0])


class Absolute(torch.nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, *, warped: torch.Tensor, fixed: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.factor * (warped - fixed).abs().mean()


@pytest.mark.parametrize(
    ("loss", "kwargs", "name"),
    [("ncc", {}, "ncc"), (Absolute, {"factor": 2.0}, "Absolute"), (Absolute(2.0), {}, "Absolute"), (lambda: Absolute(2.0), {}, "Absolute")],
)
def test_a_recipe_replaces_the_similarity(batch, loss, kwargs, name):
    _, terms = objective(TrainerConfig(loss=loss, loss_kwargs=kwargs)).score(none_moves(2), batch)
    assert set(terms) == {name, "diffusion"}
    if name == "Absolute":
        plain = objective(TrainerConfig(loss=Absolute)).score(none_moves(2), batch)[1]
        assert float(terms[name]) == pytest.approx(2 * float(plain[name]))


def test_a_loss_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match="expected a torch module"):
        objective(TrainerConfig(loss=lambda: 3))
    with pytest.raises(ConfigurationError, match="windw"):
        objective(similarity=(LossTerm("lncc", 1.0, {"windw": 3}),))

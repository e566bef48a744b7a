"""What a training on synthesised images needs of a dataset and its plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnreg.dataset.pairs import Pair
from nnreg.errors import ConfigurationError
from nnreg.losses import LOSSES
from nnreg.planning.registration.plans import RegistrationConfiguration
from nnreg.preprocessing.registration.storage import PreprocessedDataset
from nnreg.training.augmentation.registration.synthesis import SHAPES

NAME = "synthesis"
UNIT_SCHEMES = ("percentiles", "window")  # what they make of an image lies in [0, 1], as what is synthesised does


def validated_changes(augmentation: Mapping[str, Mapping[str, Any]], data: PreprocessedDataset) -> dict[str, Mapping[str, Any]]:
    """Of a plan's augmentation, what a validation has too: shapes where the dataset has no labels, for there is nothing else to measure by."""
    synthesis = augmentation.get(NAME)
    return {NAME: synthesis} if synthesis is not None and synthesis.get("maps") == SHAPES and not data.any_labels else {}


def check_synthesis(configuration: RegistrationConfiguration) -> None:
    """Refuse what does not fit synthesised images.

    Raises
    ------
    ConfigurationError
        A loss of other things than labels, no loss of labels, images that are not normalised to [0, 1].
    """
    training = configuration.training
    kinds = {term.name: getattr(LOSSES[term.name], "kind", "labels") for term in training.supervision}
    if "labels" not in kinds.values():
        raise ConfigurationError(
            f"augmentation.{NAME}: two images of random contrast are only compared by labels, and training.supervision names no loss of labels. "
            "Train with -tr synth, or add soft_dice."
        )
    if unfit := [name for name, kind in kinds.items() if kind in ("keypoints", "true_field")]:
        raise ConfigurationError(f"augmentation.{NAME}: {unfit[0]} needs what images made of labels do not have. Remove it from training.supervision.")
    if other := [scheme.scheme for scheme in configuration.normalization if scheme.scheme not in UNIT_SCHEMES]:
        raise ConfigurationError(
            f"augmentation.{NAME}: images are made in [0, 1], the plan normalises with {other[0]}. Plan normalization {' or '.join(UNIT_SCHEMES)}."
        )


def pairs_of_labelled(data: PreprocessedDataset, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose both sides have labels.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    found = [pair for pair in pairs if data.has_labels(pair.fixed) and data.has_labels(pair.moving)]
    if not found:
        raise ConfigurationError(
            f"{data.folder}: augmentation.{NAME} makes images of labels, but of no training pair both cases have any. Add labelsTr and preprocess again, "
            "or train on shapes made of noise with -tr synth_shapes."
        )
    return found

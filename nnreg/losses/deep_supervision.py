"""One loss over several levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nnreg.errors import ConfigurationError


def deep_supervision_weights(levels: int, *, keep_lowest: bool = True) -> tuple[float, ...]:
    """Weights 1, 1/2, 1/4 ... that sum to 1, finest level first.

    Parameters
    ----------
    levels
        How many fields the network returns.
    keep_lowest
        A registration network finds the large motion at its lowest level, so that level is trained too. False is nnU-Net's rule,
        which gives the lowest of several levels no weight.

    Examples
    --------
    >>> deep_supervision_weights(2)
    (0.6666666666666666, 0.3333333333333333)
    >>> deep_supervision_weights(3, keep_lowest=False)
    (0.6666666666666666, 0.3333333333333333, 0.0)
    """
    if levels < 1:
        raise ConfigurationError(f"deep supervision needs one level or more, found {levels}.")
    weights = [0.5**level for level in range(levels)]
    if not keep_lowest and levels > 1:
        weights[-1] = 0.0
    return tuple(weight / sum(weights) for weight in weights)


class DeepSupervision(nn.Module):
    """Weighted sum of a loss over levels, finest first.

    Parameters
    ----------
    loss
        Called once per level of non-zero weight. A dense loss of small structures scores the finest level alone (its `coarse`).
    weights
        One per level.
    """

    splits_over_ranks = None

    def __init__(self, loss: nn.Module, weights: Sequence[float]) -> None:
        super().__init__()
        if not any(weights):
            raise ConfigurationError(f"deep supervision needs a level of non-zero weight, found {tuple(weights)}.")
        self.loss, self.weights = loss, tuple(weights)

    def forward(self, *levels: Sequence[Any], **named_levels: Sequence[Any] | None) -> Tensor:
        """Total loss. Every argument of the loss is given as a list with one entry per level, or is None.

        Raises
        ------
        ConfigurationError
            If a list has not one entry per weight: a shorter one would silently drop levels.
        """
        given = {name: values for name, values in named_levels.items() if values is not None}
        for name, values in [*((f"argument {index}", values) for index, values in enumerate(levels)), *given.items()]:
            if len(values) != len(self.weights):
                raise ConfigurationError(
                    f"deep supervision: {name} has {len(values)} levels, there are {len(self.weights)} weights. Give one weight per level."
                )
        coarse = getattr(self.loss, "coarse", lambda: self.loss)()
        chosen = [self.loss if level == 0 else coarse for level in range(len(self.weights))]
        terms = [
            weight * loss(*(values[level] for values in levels), **{name: values[level] for name, values in given.items()})
            for level, (weight, loss) in enumerate(zip(self.weights, chosen, strict=True))
            if weight != 0 and loss is not None
        ]
        if not terms:
            raise ConfigurationError(f"deep supervision: {type(self.loss).__name__} scores the finest level alone, whose weight is 0.")
        total: Tensor = sum(terms[1:], start=terms[0])
        return total

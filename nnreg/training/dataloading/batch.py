"""A batch as ``train_step`` and ``validation_step`` are given it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nnreg.errors import TrainingError


class Batch(dict[str, Tensor]):
    """Tensors by name. A name of `others` reads the entry that it stands for.

    Parameters
    ----------
    entries
        The tensors.
    others
        What other programs call an entry, to its name here.

    Raises
    ------
    TrainingError
        If an entry is asked for that the batch does not have: the message names those it has.

    Examples
    --------
    >>> import torch
    >>> batch = Batch({"image": torch.ones(2)}, {"data": "image"})
    >>> batch["data"] is batch["image"], list(batch)
    (True, ['image'])
    """

    def __init__(self, entries: Mapping[str, Tensor], others: Mapping[str, str]) -> None:
        super().__init__(entries)
        self._others = others

    def __missing__(self, name: str) -> Tensor:
        if self._others.get(name) in self:
            return self[self._others[name]]
        raise TrainingError(f"a batch of this training has no {name!r}; it has {', '.join(self)}. documentation/training.md says what they are.")

"""What the outputs of a segmentation network mean: labels or regions, their order, and the label of voxels without annotation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.errors import DatasetError

if TYPE_CHECKING:
    from torch import Tensor

    Array = TypeVar("Array", npt.NDArray[Any], Tensor)
else:
    Array = TypeVar("Array")

Label = int | tuple[int, ...]
OUTSIDE = -1  # what stored labels hold outside the nonzero region; training takes it for background


@dataclass(frozen=True)
class LabelManager:
    """Labels of a dataset as a network sees them.

    Without regions there is a head (output channel) per label value, background first, values in ascending order, softmax over them. As soon
    as an entry of ``labels`` holds several values, every entry but background and ignore is a head of its own, in their order in the file,
    each with a sigmoid: regions may overlap.

    Attributes
    ----------
    values
        Label values in ascending order, background (0) included, ignore not.
    regions
        Entries in head order if any holds several values, else empty.
    region_values
        With regions: the value that each region's voxels get in a label map, in head order; later ones overwrite earlier ones.
    ignore
        Value of voxels without annotation; it is never predicted.
    """

    values: tuple[int, ...]
    regions: tuple[Label, ...] = ()
    region_values: tuple[int, ...] = ()
    ignore: int | None = None

    @classmethod
    def of(cls, spec: DatasetSpec, where: str = FILE_NAME) -> LabelManager:
        """From ``dataset.json``; background need not be named.

        Raises
        ------
        DatasetError
            If no label is named, regions come without their order, the order has another length, or ignore is -1.
        """
        if spec.ignore == OUTSIDE:
            raise DatasetError(f"{where}: the ignore label is {OUTSIDE}, which marks what is outside the nonzero region. Renumber it.")
        entries = {name: _plain(value) for name, value in spec.labels.items() if name != "ignore"}
        values = sorted({0, *(value for entry in entries.values() for value in _values(entry))} - {spec.ignore})
        if len(values) < 2:
            raise DatasetError(f"{where}: labels names nothing but background. Name at least one label, such as {{'background': 0, 'organ': 1}}.")
        if not any(isinstance(entry, tuple) for entry in entries.values()):
            return cls(tuple(values), ignore=spec.ignore)
        regions = tuple(entry for entry in entries.values() if set(_values(entry)) != {0})
        order = spec.regions_class_order
        if order is None:
            raise DatasetError(
                f"{where}: labels holds regions (several values in one entry), but regions_class_order is missing. Give one value per region, in the "
                "order of labels: what its voxels become in a label map; later ones overwrite earlier ones."
            )
        if len(order) != len(regions):
            raise DatasetError(f"{where}: regions_class_order has {len(order)} values, labels has {len(regions)} regions. Give one value per region.")
        return cls(tuple(values), regions, tuple(order), spec.ignore)

    @property
    def has_regions(self) -> bool:
        """Whether heads may overlap."""
        return bool(self.regions)

    @property
    def heads(self) -> int:
        """Output channels of a network."""
        return len(self.regions) or len(self.values)

    @property
    def foreground(self) -> tuple[Label, ...]:
        """What is scored and sampled, in head order: the regions, or the labels without background (whose heads are 1, 2, ...)."""
        return self.regions or self.values[1:]

    @property
    def annotated(self) -> tuple[int, ...] | None:
        """With an ignore label: every other value that stored labels may hold, so that patches can be drawn from what is annotated."""
        return None if self.ignore is None else (OUTSIDE, *self.values)

    @property
    def sampled(self) -> tuple[Label, ...]:
        """What locations are stored for: `foreground`, and `annotated` where there is an ignore label."""
        return self.foreground if self.annotated is None else (*self.foreground, self.annotated)

    @property
    def allowed(self) -> tuple[int, ...]:
        """Values that label files may hold."""
        return self.values if self.ignore is None else tuple(sorted((*self.values, self.ignore)))

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds every value that can be predicted: uint8 or int16 or int32."""
        largest = max((*self.values, *self.region_values))
        return np.dtype(np.uint8 if largest < 256 else np.int16 if largest < 2**15 else np.int32)

    @property
    def head_values(self) -> tuple[int, ...]:
        """The value in a label map that each head stands for."""
        return self.region_values or self.values

    def encode(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
        """Label values as class indices 0, 1, ...; what is outside becomes background, ignore becomes ``len(values)``, the one after the last.

        Raises
        ------
        DatasetError
            If a value is none of `allowed`.
        """
        unknown = self.unknown(labels)
        if unknown:
            raise DatasetError(f"labels hold the value {unknown[0]}, expected {', '.join(map(str, self.allowed))}. Mend labels in {FILE_NAME}, or the files.")
        known = {OUTSIDE: 0} | {value: index for index, value in enumerate(self.values)}
        if self.ignore is not None:
            known[self.ignore] = len(self.values)
        low = min(known)
        table = np.zeros(max(known) - low + 1, np.int16)
        for value, index in known.items():
            table[value - low] = index
        return np.asarray(table[labels.astype(np.int64, copy=False) - low])

    def unknown(self, labels: npt.NDArray[Any]) -> list[int]:
        """Values that neither ``dataset.json`` names nor preprocessing writes, in ascending order."""
        return sorted(set(unique(labels)) - {OUTSIDE, *self.allowed})

    def probabilities(self, logits: Array) -> Array:
        """Softmax over the heads, or a sigmoid of each where they are regions.

        Parameters
        ----------
        logits : Tensor or array, shape (heads, *spatial)

        Returns
        -------
        Tensor or array, float32
        """
        if isinstance(logits, np.ndarray):
            single = logits.astype(np.float32)
            return _sigmoid(single) if self.has_regions else _softmax(single)
        return logits.float().sigmoid() if self.has_regions else logits.float().softmax(0)

    def to_labels(self, predicted: Array, *, logits: bool = False) -> Array:
        """Label map (*spatial) of probabilities, or of logits: the most probable label, or the regions above one half painted over each other.

        Parameters
        ----------
        predicted : Tensor or array, shape (heads, *spatial)
        logits
            What `predicted` are; matters to regions only.

        Raises
        ------
        DatasetError
            If the number of heads is another one.
        """
        if len(predicted) != self.heads:
            raise DatasetError(f"a prediction has {len(predicted)} channels, the labels in {FILE_NAME} need {self.heads}. Use the model of this dataset.")
        given: Any = predicted  # the two kinds of arrays share what is used here, but no type
        table: Any = np.asarray(self.head_values, self.dtype)
        if not isinstance(predicted, np.ndarray):
            import torch

            table = torch.from_numpy(table).to(given.device)
        if not self.has_regions:
            return _strongest(given, table)
        result = np.zeros(given.shape[1:], self.dtype) if isinstance(predicted, np.ndarray) else table.new_zeros(given.shape[1:])
        for value, head in zip(table, given, strict=True):
            result[head > (0.0 if logits else 0.5)] = value
        return result


def _strongest(given: Any, table: Any) -> Any:
    """The entry of `table` whose output (heads, *spatial) is greatest, the first of equal ones.

    Head by head: on a processor argmax along the first axis takes 3 (20 heads) to 19 times (2 heads) as long.
    """
    if isinstance(given, np.ndarray):
        return strongest_of(given, table)
    if given.is_cuda:
        return table[given.argmax(0)]
    import torch

    most, result = given[0].clone(), table[0].expand(given.shape[1:]).clone()
    for value, head in zip(table[1:], given[1:], strict=True):
        result.masked_fill_(head > most, value)
        torch.maximum(most, head, out=most)
    return result


def strongest_of(heads: Iterable[npt.NDArray[Any]], table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """As :func:`_strongest` of outputs (*spatial) that come one after the other; two are in memory at most."""
    several = iter(heads)
    most = next(several).copy()
    result = np.full(most.shape, table[0])
    for value, head in zip(table[1:], several, strict=True):
        result[head > most] = value
        np.maximum(most, head, out=most)
    return result


def unique(labels: npt.NDArray[Any]) -> list[int]:
    """Values of an integer array, in ascending order; much faster than sorting where there are few."""
    low, high = int(labels.min()), int(labels.max())
    if high - low > 2**20:
        return [int(value) for value in np.unique(labels)]
    seen = np.zeros(high - low + 1, bool)
    # slice by slice: the index array of a whole volume would take eight times its size
    for part in labels.reshape(-1, labels.shape[-1]) if labels.ndim < 3 else labels.reshape(-1, *labels.shape[-2:]):
        seen[part.astype(np.int64) - low] = True
    return [int(index) + low for index in np.flatnonzero(seen)]


def _plain(entry: Label) -> Label:
    """A region of a single value is a label."""
    return entry[0] if isinstance(entry, tuple) and len(entry) == 1 else entry


def _values(entry: Label) -> Sequence[int]:
    return entry if isinstance(entry, tuple) else (entry,)


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits


def _sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    from scipy.special import expit

    return np.asarray(expit(logits, out=logits))

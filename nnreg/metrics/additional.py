"""Metrics beside the built-in ones: what Python code registers, and entry points ``nnreg.metrics`` of installed packages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np

from nnreg.errors import ConfigurationError
from nnreg.metrics.jacobian import sdlogj_learn2reg
from nnreg.metrics.surface import surface_distances
from nnreg.registry import Installed, Registry, entry_point_names, installed, one_line

ENTRY_POINTS = "nnreg.metrics"
STAGES = ("header", "aligned", "after")
NEEDS = ("images", "labels", "field", "points")
BUILT_IN = frozenset(
    {
        *("dice", "iou", "hd95", "hd95_mm", "asd", "asd_mm", "tp", "fp", "fn", "tn", "n_pred", "n_ref", "precision", "recall", "accuracy"),
        *("tre", "tre_mm", "tre_median_mm", "epe", "epe_mm", "epe_labels", "ncc", "mae", "rmse", "psnr", "ssim"),
        *("sdlogj", "folding_count", "folding_percent", "ndv_percent", "grad_l2", "seconds", "pairs"),
    }
)
"""Names in summaries, in lower case: a metric beside one of ours that differs only by capitals would be taken for it."""


@dataclass(frozen=True)
class Metric:
    """A metric and what it is measured on.

    Attributes
    ----------
    name : str
        As in summaries, before the stage: ``nsd`` becomes ``nsd_header``, ``nsd_aligned`` and ``nsd_after``.
    needs : ``images``, ``labels``, ``field`` or ``points``
        What it is computed from, and so what ``compute`` gets.
    compute : callable
        Called with named arrays, copies that it may change, and ``spacing``, mm in array axis order. Returns a number; NaN where there is none.

        ``images``: ``fixed``, ``warped`` (*spatial), ``mask`` (boolean, or None), channel by channel.
        ``labels``: ``reference``, ``prediction`` (boolean, *spatial), label by label, where the label is there to be found.
        ``field``: ``displacement`` (ndim, *spatial) of the whole map in voxels of the fixed grid, ``mask``.
        ``points``: ``mapped``, ``target`` (N, ndim), mm, x first.
    larger_is_better : bool
        Which pairs are its worst.
    stages : tuple of str
        Of a pair: those it is measured at. One of a field is measured of the whole map alone, whatever stands here.
    """

    name: str
    needs: Literal["images", "labels", "field", "points"]
    compute: Callable[..., float]
    larger_is_better: bool
    stages: tuple[str, ...] = STAGES

    def __post_init__(self) -> None:
        if self.needs not in NEEDS:
            raise ConfigurationError(f"metric {self.name!r}: needs is {self.needs!r}, expected one of {', '.join(NEEDS)}.")
        if not self.stages or not set(self.stages) <= set(STAGES):
            raise ConfigurationError(f"metric {self.name!r}: stages are {self.stages!r}, expected some of {', '.join(STAGES)}.")
        if not self.name.isidentifier() or self.name.endswith(tuple(f"_{stage}" for stage in STAGES)):
            raise ConfigurationError(f"metric {self.name!r}: expected a name of letters, digits and underscores that does not end in a stage.")


METRICS: Registry[Metric] = Registry("metric")
"""What Python code registers, for one process (``-np 1``). Metrics of installed packages are not in it, see :func:`additional_metrics`."""


@dataclass(frozen=True)
class AdditionalMetric:
    """A metric that is measured beside ours, and where it comes from."""

    metric: Metric
    offered: Installed | None = None

    def fault(self, what: str) -> ConfigurationError:
        """The error that says what is wrong with it."""
        if self.offered is None:  # no package
            return ConfigurationError(f"metric {self.metric.name!r} in nnreg.metrics.METRICS{what} Mend or remove it.")
        return self.offered.fault(what)

    def __call__(self, **values: Any) -> float:
        """Its number.

        Raises
        ------
        ConfigurationError
            If it fails, or gives something else.
        """
        # copies: what it writes into them must not reach the figures of others
        own = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        try:
            found = self.metric.compute(**own)
        except Exception as error:  # the code of others fails in many ways
            raise self.fault(f" failed ({one_line(error)}).") from error
        if not isinstance(found, Real) or isinstance(found, bool):
            raise self.fault(f" returned a {type(found).__name__}, expected a number.")
        return float(found)

    def mean(self, values: Iterable[dict[str, Any]]) -> float:
        """Mean of its numbers, NaN if there is none or one is NaN."""
        found = [self(**each) for each in values]
        return float(np.mean(found)) if found else math.nan


def additional_metrics(*needs: str) -> tuple[AdditionalMetric, ...]:
    """Every metric to be measured beside ours, by name; those that need one of `needs`, if any are given.

    Raises
    ------
    ConfigurationError
        If a package cannot be imported or gives no metric, or a name is a built-in one's or given twice. One line, with the package.
    """
    found = {name: _checked(AdditionalMetric(metric), name) for name, metric in METRICS.items()}
    outside = installed("metric", ENTRY_POINTS) if entry_point_names(ENTRY_POINTS) else {}
    for name, offered in outside.items():
        metric = offered.load()
        if not isinstance(metric, Metric):
            raise offered.fault(f": entry point {offered.entry.value} is a {type(metric).__name__}, expected a Metric.")
        if name in found:
            raise offered.fault(": it is registered in nnreg.metrics.METRICS already.")
        found[name] = _checked(AdditionalMetric(metric, offered), name)
    return tuple(found[name] for name in sorted(found) if not needs or found[name].metric.needs in needs)


def _checked(additional: AdditionalMetric, name: str) -> AdditionalMetric:
    if additional.metric.name != name:
        raise additional.fault(f": it is the metric {additional.metric.name!r}, registered as {name!r}; give both one name.")
    if name.lower() in BUILT_IN:
        raise additional.fault(": nnReg has a figure of that name already, choose another name.")
    return additional


def _within_2_mm(reference: Any, prediction: Any, spacing: Any) -> float:
    distances = surface_distances(reference.astype(np.uint8), prediction.astype(np.uint8), [1], spacing)[1]
    return math.nan if distances is None else distances.within(2.0)


NSD_2MM = Metric("nsd_2mm", "labels", _within_2_mm, larger_is_better=True)
"""Share of both surfaces of a label within 2 mm of the other. Not measured unless registered."""
SDLOGJ_LEARN2REG = Metric("sdlogj_learn2reg", "field", lambda displacement, mask, spacing: sdlogj_learn2reg(displacement, mask), larger_is_better=False)
"""Learn2Reg's figure of smoothness. Not measured unless registered."""

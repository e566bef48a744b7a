"""What a summary says of metrics beside ours, so that it is read without their packages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nnreg.metrics.additional import STAGES, additional_metrics

ADDITIONAL = "additional_metrics"


def described(names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Name of each additional metric among the figures `names`, with or without a stage, to what is known of it."""
    result = {}
    for more in additional_metrics():
        metric = more.metric
        if any(key in names for key in keys_of(metric.name)):
            package = None if more.offered is None else more.offered.package
            result[metric.name] = {"larger_is_better": metric.larger_is_better, "needs": metric.needs, "package": package}
    return result


def keys_of(name: str) -> tuple[str, ...]:
    """What a metric's numbers may be called: of a field its name, else with the stage."""
    return (name, *(f"{name}_{stage}" for stage in STAGES))

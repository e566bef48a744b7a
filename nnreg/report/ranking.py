"""Which pairs come first: those with a reason to look at them, likely failures before others; then the worst by the best figure there is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnreg.report.folder import Item

LIKELY_FAILED = 0.5  # probability of failure from which a pair is flagged
MUCH_FOLDING = 1.0  # percent of the voxels
CLEARLY = 0.005  # Dice or correlation: what is less is the noise of interpolation
# (figure, what it is called, whether more is better), the most telling one first
MAIN_FIGURES = (("dice", "Dice", True), ("tre_mm", "landmark error", False), ("ncc", "correlation", True))
STAGES_BEFORE = ("aligned", "header")


@dataclass(frozen=True)
class Ranked:
    """An item with the reasons to look at it, in the order of the page."""

    item: Item
    reasons: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


def ranked(items: Sequence[Item], shown: Mapping[str, tuple[float | None, float | None]], *, two_contrasts: bool) -> list[Ranked]:
    """Items, worst first.

    Parameters
    ----------
    items
    shown
        Name to the correlation before and after in the slices that are shown; used where nothing was measured.
    two_contrasts
        Correlation says nothing then.
    """
    found = [_with_reasons(item, shown.get(item.name, (None, None)), two_contrasts) for item in items]
    return sorted(found, key=lambda one: (not one.reasons, not _likely_failed(one.figures), _badness(one), one.item.name))


def _with_reasons(item: Item, shown: tuple[float | None, float | None], two_contrasts: bool) -> Ranked:
    figures = {name: float(value) for name, value in item.figures.items() if isinstance(value, (int, float)) and math.isfinite(value)}
    if not two_contrasts and "ncc_after" not in figures:
        figures |= {name: value for name, value in (("ncc_aligned", shown[0]), ("ncc_after", shown[1])) if value is not None}
    if two_contrasts:
        figures = {name: value for name, value in figures.items() if not name.startswith("ncc")}
    probability = item.record.get("failure_probability")
    if isinstance(probability, (int, float)):
        figures["failure_probability"] = float(probability)
    return Ranked(item, tuple(_reasons(item.record, figures)), figures)


def _reasons(record: Mapping[str, Any], figures: Mapping[str, float]) -> list[str]:
    found = []
    if _likely_failed(figures):
        found.append(f"probability of failure {figures['failure_probability']:.0%}: do not trust the transform")
    elif record.get("succeeded") is False:
        found.append("the similarity fell: do not trust the transform")
    for name, title, more_is_better in MAIN_FIGURES:
        if is_worse(figures, name, more_is_better=more_is_better):
            before, after = before_and_after(figures, name)
            found.append(f"{title} is worse than before: {before:.3g}, then {after:.3g}")
    if figures.get("folding_percent", 0.0) > MUCH_FOLDING:
        found.append(f"the map folds in {figures['folding_percent']:.1f} % of the voxels")
    lost_labels = record.get("labels_lost") or []
    if lost_labels:
        found.append(f"nothing is left of label {', '.join(map(str, lost_labels[:5]))}")
    return found


def _likely_failed(figures: Mapping[str, float]) -> bool:
    return figures.get("failure_probability", 0.0) >= LIKELY_FAILED


def is_worse(figures: Mapping[str, float], name: str, *, more_is_better: bool) -> bool:
    """Whether a figure is clearly worse after the deformation than before it."""
    before, after = before_and_after(figures, name)
    if before is None or after is None:
        return False
    return before - after > CLEARLY if more_is_better else after > before


def before_and_after(figures: Mapping[str, float | None], name: str) -> tuple[float | None, float | None]:
    """A figure before the deformation (after linear alignment, else by the headers alone) and after it; None for what was not measured."""
    values = (figures.get(f"{name}_{stage}") for stage in STAGES_BEFORE)
    before = next((value for value in values if _is_number(value)), None)
    after = figures.get(f"{name}_after")
    return before, after if _is_number(after) else None


def _badness(one: Ranked) -> float:
    """Lower is worse."""
    for name, _, more_is_better in MAIN_FIGURES:
        value = one.figures.get(f"{name}_after")
        if value is not None:
            return value if more_is_better else -value
    return -one.figures.get("failure_probability", 0.0)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

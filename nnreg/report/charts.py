"""Drawings of a report as SVG text: no script, readable in light and dark, each with a title and a description for screen readers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 720, 150, 16, 12, 34
ROW = 22  # of a label
PANEL = 190  # height of a panel of curves


def distributions(rows: Sequence[tuple[str, Sequence[float], Sequence[float]]], *, title: str, axis: str, limits: tuple[float, float] | None = None) -> str:
    """Per row the values before (hollow, above) and after (filled, below), a line at each median.

    Parameters
    ----------
    rows
        Name, values before, values after.
    title, axis
        What is drawn, and what the horizontal axis is.
    limits
        Of the axis; by default those of the values.
    """
    every = [value for _, before, after in rows for value in (*before, *after)]
    if not every:
        return ""
    low, high = limits or _limits(every)
    height = TOP + ROW * len(rows) + BOTTOM
    place = lambda value: LEFT + (min(max(value, low), high) - low) / (high - low) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    parts = [_ticks(low, high, place, height)]
    for number, (name, before, after) in enumerate(rows):
        middle = TOP + ROW * number + ROW / 2
        parts.append(f'<text x="{LEFT - 10}" y="{middle + 4:.1f}" class="name" text-anchor="end">{escape(_short(name))}</text>')
        for values, kind, shift in ((before, "before", -4.5), (after, "after", 4.5)):
            parts += [f'<circle cx="{place(value):.1f}" cy="{middle + shift:.1f}" r="2.6" class="{kind}"/>' for value in values]
            if values:
                median = place(float(np.median(values)))
                parts.append(f'<line x1="{median:.1f}" x2="{median:.1f}" y1="{middle + shift - 5:.1f}" y2="{middle + shift + 5:.1f}" class="median {kind}"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{height - 3}" class="axis" text-anchor="middle">{escape(axis)}</text>')
    return _svg(height, title, f"{len(rows)} rows; hollow dots above: before, filled dots below: after, bars: medians.", parts)


def curves(series: Mapping[str, Sequence[float | None]], *, title: str) -> str:
    """Lines over the epochs; epochs without a number are passed over."""
    points = {name: [(epoch + 1, value) for epoch, value in enumerate(values) if _finite(value)] for name, values in series.items()}
    points = {name: found for name, found in points.items() if found}
    if not points:
        return ""
    low, high = _limits([value for found in points.values() for _, value in found if value is not None])
    last = max(epoch for found in points.values() for epoch, _ in found)
    left, bottom = 64, PANEL - BOTTOM
    across = lambda epoch: left + (epoch - 1) / max(1, last - 1) * (WIDTH - left - RIGHT)  # noqa: E731
    up = lambda value: bottom - (value - low) / (high - low) * (bottom - TOP)  # noqa: E731
    parts = []
    for tick in _nice(low, high):
        parts.append(f'<line x1="{left}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 8}" y="{up(tick) + 4:.1f}" class="tick" text-anchor="end">{tick:g}</text>')
    for number, (name, found) in enumerate(points.items()):
        line = " ".join(f"{across(epoch):.1f},{up(value):.1f}" for epoch, value in found)
        parts.append(f'<polyline points="{line}" class="curve c{number % 4}"><title>{escape(name)}</title></polyline>')
        parts += [f'<circle cx="{across(epoch):.1f}" cy="{up(value):.1f}" r="2.4" class="dot c{number % 4}"/>' for epoch, value in found if len(found) < 30]
        parts.append(f'<text x="{left + 8 + 170 * number}" y="{PANEL - 6}" class="key c{number % 4}">{escape(name)} {found[-1][1]:.4g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{PANEL - 6}" class="axis" text-anchor="end">epoch 1 to {last}</text>')
    said = "; ".join(f"{name} from {found[0][1]:.4g} to {found[-1][1]:.4g}" for name, found in points.items())
    return _svg(PANEL, title, f"Over {last} epochs: {said}.", parts)


def _svg(height: float, title: str, description: str, parts: Sequence[str]) -> str:
    head = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(f"{title}. {description}")}">{head}{"".join(parts)}</svg>'


def _ticks(low: float, high: float, place, height: float) -> str:  # type: ignore[no-untyped-def]
    lines = []
    for tick in _nice(low, high):
        lines.append(f'<line x1="{place(tick):.1f}" x2="{place(tick):.1f}" y1="{TOP}" y2="{height - BOTTOM:.1f}" class="grid"/>')
        lines.append(f'<text x="{place(tick):.1f}" y="{height - BOTTOM + 14:.1f}" class="tick" text-anchor="middle">{tick:g}</text>')
    return "".join(lines)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Of an axis: a little beyond the values, and never below 0 where no value is.

    Examples
    --------
    >>> _limits([0.0, 0.0]), _limits([-1.0, 1.0])
    ((0.0, 1.0), (-1.1, 1.1))
    """
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin if low < 0 else max(0.0, low - margin), high + margin


def _nice(low: float, high: float) -> list[float]:
    """Some five round numbers inside the limits."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(step * number, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"

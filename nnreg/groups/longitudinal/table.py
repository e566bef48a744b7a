"""A subject's report over time: a table of volumes and a picture with curves."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.evaluation.registration.pictures import window
from nnreg.evaluation.slices import page, planes
from nnreg.files import write_text
from nnreg.geometry import resample_image
from nnreg.groups.longitudinal.subject import Followed
from nnreg.groups.plots import figure
from nnreg.imageio import Image

MOST_CURVES = 8
COLUMNS = ("subject", "visit", "time", "label", "volume_mm3", "change_percent", "error_percent", "own_labels_mm3", "told_alone")
LEAST_RANGE = 0.02  # of the logarithm of the Jacobian, so that nothing looks like much


def write_table(path: Path, found: Followed) -> None:
    """One row a visit and label."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for visit, changes in zip(found.subject.visits, found.changes, strict=True):
        for change in changes:
            name = change.label or "all"
            own = "" if change.own_volume is None else f"{change.own_volume:.6g}"
            numbers = f"{change.volume:.6g}", f"{change.change:.4f}", f"{change.error:.4f}"
            alone = "" if change.told_alone is None else f"{change.told_alone:.3f}"
            rows.writerow([found.subject.name, visit.name, f"{visit.time:g}", name, *numbers, own, alone])
    write_text(path, text.getvalue())


def draw(path: Path, found: Followed) -> None:
    """The mean with the change of volume until the last visit, and the curves of the largest labels."""
    first, last = found.subject.visits[0].name, found.subject.visits[-1].name
    with figure(path, 10, 6.2) as drawn:
        drawn.suptitle(f"{found.subject.name}: change of volume from {first} to {last}, and over time", fontsize=11)
        above, below = drawn.subfigures(2, 1, height_ratios=[1.1, 1])
        _draw_change(above, found)
        _draw_curves(below.subplots(), found)


def _draw_change(drawn: Any, found: Followed) -> None:
    """In percent, over the mean image."""
    last = found.volumes.since_first(len(found.changes) - 1)
    seen = np.abs(last[found.labels[0] > 0])
    limit = 100 * max(LEAST_RANGE, float(np.percentile(seen, 99)) if seen.size else 0.0)
    views = planes(Image(found.mean.astype(np.float32), found.grid))
    low, high = window(found.mean)
    axes = drawn.subplots(1, len(views), squeeze=False)[0]
    for axis, (name, space) in zip(axes, views, strict=True):
        grey, change, inside = (
            page(resample_image(array, moving=found.grid, fixed=space))[0] for array in (found.mean[:1], last[None], found.labels[0][None] > 0)
        )
        aspect = space.spacing[-2] / space.spacing[-1]
        axis.imshow(grey, cmap="gray", vmin=low, vmax=high, aspect=aspect)
        image = axis.imshow(100 * np.expm1(change), cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.5 * (inside > 0.5), aspect=aspect)
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    drawn.colorbar(image, ax=list(axes), shrink=0.8, label="change, %")


def _draw_curves(axis: Any, found: Followed) -> None:
    """Change over time with its error; the largest labels of the first visit."""
    times = [visit.time for visit in found.subject.visits]
    for number in sorted(range(len(found.changes[0])), key=lambda number: -found.changes[0][number].volume)[:MOST_CURVES]:
        curve = [changes[number] for changes in found.changes]
        name = f"label {curve[0].label}" if curve[0].label else "all"
        axis.errorbar(times, [each.change for each in curve], [each.error for each in curve], marker="o", markersize=3, capsize=3, label=name)
    axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axis.set_xlabel("time" if found.subject.timed else "visit, by name")
    axis.set_ylabel("change of volume, %")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))

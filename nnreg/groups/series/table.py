"""Motion of a series as a table and as curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.arrays import Doubles
from nnreg.files import write_text
from nnreg.groups.plots import figure
from nnreg.groups.series.correct import Corrected

UNKNOWN = "n/a"  # as BIDS has it


def write_motion(path: Path, found: Corrected) -> None:
    """A row a frame: time, rotations in degrees, translations in mm, framewise displacement, DVARS before and after, similarity."""
    turns, shifts = _axes(found)
    header = ["frame", "time_s", *(f"rot_{axis}_deg" for axis in turns), *(f"trans_{axis}_mm" for axis in shifts)]
    rows = [[*header, "framewise_displacement_mm", "dvars_before_percent", "dvars_after_percent", "similarity", "status"]]
    for number, parameters in enumerate(found.parameters):
        values = [float("nan")] * (len(turns) + len(shifts)) if parameters is None else [*parameters.degrees, *parameters.mm]
        others = found.displacement[number], found.dvars_before[number], found.dvars_after[number], found.motion.similarity[number]
        status = "failed" if parameters is None else "registered"
        rows.append([str(number), f"{number * found.series.repetition:.6g}", *map(written, values), *map(written, others), status])
    write_text(path, table_text(rows))


def written(value: float) -> str:
    """A number of a table."""
    return f"{value:.6f}" if np.isfinite(value) else UNKNOWN


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows with tabs between their cells."""
    return "".join("\t".join(row) + "\n" for row in rows)


def _axes(found: Corrected) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (("z",), ("x", "y")) if found.series.space.ndim == 2 else (("x", "y", "z"),) * 2


def draw_motion(path: Path, found: Corrected) -> None:
    """Translations, rotations, framewise displacement and DVARS over time."""
    turns, shifts = _axes(found)
    times = np.arange(len(found.parameters), dtype=np.float64) * found.series.repetition
    missing = (float("nan"),) * (len(turns) + len(shifts))
    values = np.array([missing if each is None else (*each.mm, *each.degrees) for each in found.parameters])
    with figure(path, 9, 7) as drawn:
        axes = drawn.subplots(4, 1, sharex=True)
        _curves(axes[0], times, {f"{axis}": values[:, number] for number, axis in enumerate(shifts)}, "translation, mm")
        _curves(axes[1], times, {f"{axis}": values[:, len(shifts) + number] for number, axis in enumerate(turns)}, "rotation, degrees")
        _curves(axes[2], times, {"": found.displacement}, "framewise\ndisplacement, mm")
        _curves(axes[3], times, {"before": found.dvars_before, "after": found.dvars_after}, "DVARS, %")
        axes[3].set_xlabel("time, s")
        for number in found.motion.failed:
            for axis in axes:
                axis.axvspan(times[number] - found.series.repetition / 2, times[number] + found.series.repetition / 2, color="0.85", zorder=0)
        failed = f", {len(found.motion.failed)} failed (grey)" if found.motion.failed else ""
        drawn.suptitle(f"{found.series.files[0].name}: {len(times)} frames{failed}", fontsize=11)


def _curves(axis: Any, times: Doubles, curves: dict[str, Doubles], title: str) -> None:
    for name, values in curves.items():
        axis.plot(times, values, linewidth=1.1, marker="." if len(times) < 60 else None, label=name or None)
    axis.set_ylabel(title, fontsize=9)
    axis.grid(color="0.9")
    if len(curves) > 1:
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))

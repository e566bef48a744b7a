"""Series in time: motion correction of frames, and points followed around a cycle."""

from nnreg.groups.series.cine import Cycle, Tracked, follow_points, track_series
from nnreg.groups.series.correct import Corrected, Correction, correct
from nnreg.groups.series.frames import Series, read_series
from nnreg.groups.series.results import correct_series
from nnreg.groups.series.rigid import Motion, Settings

__all__ = [
    "Corrected",
    "Correction",
    "Cycle",
    "Motion",
    "Series",
    "Settings",
    "Tracked",
    "correct",
    "correct_series",
    "follow_points",
    "read_series",
    "track_series",
]

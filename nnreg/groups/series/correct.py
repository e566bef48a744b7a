"""Motion correction of a series: motion is estimated, every frame resampled once, and what was done written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles, Floats
from nnreg.dataset.label_files import read_label_map
from nnreg.engine.failure import LIKELY
from nnreg.engine.options import EngineOptions
from nnreg.engine.prepared_image import foreground, prepare
from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.geometry import Transform, resample_image
from nnreg.groups.maps import Maps
from nnreg.groups.members import Member
from nnreg.groups.series.frames import Series
from nnreg.groups.series.parameters import Parameters, dvars, framewise_displacement
from nnreg.groups.series.resampling import CUBIC, INTERPOLATIONS, LINEAR, resampled
from nnreg.groups.series.rigid import Motion, Settings, at_most, estimate
from nnreg.imageio import check_same_space, write_image
from nnreg.progress import Progress, part_of

RIGID, DEFORMABLE = MODELS = ("rigid", "deformable")
ROUNDS = 2  # of deformable means
RIGID_PART = 0.2  # of the progress, before what bends
WORSE = 1.1  # times the DVARS of the series: a correction that leaves more is no correction
COARSE = "frames have several contrasts and are compared by their edges: to a tenth or two of a degree, in a crop whose object is cut off to about a degree"


@dataclass(frozen=True)
class Correction:
    """What is done.

    Attributes
    ----------
    model : "rigid" or "deformable"
        Deformable starts from rigid.
    rigid : Settings
    engine : EngineOptions
        Of the deformable part.
    interpolation : "cubic" or "linear"
        Of the result.
    """

    model: str = RIGID
    rigid: Settings = field(default_factory=Settings)
    engine: EngineOptions = field(default_factory=lambda: EngineOptions(preset="fast", alignment="none"))
    interpolation: str = CUBIC

    def __post_init__(self) -> None:
        for name, value, known in (("model", self.model, MODELS), ("interpolation", self.interpolation, INTERPOLATIONS)):
            if value not in known:
                raise ConfigurationError(f"{name} {value!r} is unknown; {did_you_mean(value, known)}")


@dataclass(frozen=True, eq=False)
class Corrected:
    """A series whose frames lie on each other.

    Attributes
    ----------
    series : Series
    motion : Motion
        Its rigid part.
    transforms : list of Transform
        From the corrected series to each frame.
    frames : array, shape (T, *grid), float32
    mean : array, shape (*grid)
        Of the frames that did not fail.
    parameters : list of Parameters or None
        None for frames that failed.
    displacement, dvars_before, dvars_after : arrays (T,)
        mm, and percent; NaN where they are not known.
    likely_failed : frame to probability
        Of deformable registrations that likely failed.
    """

    series: Series
    motion: Motion
    transforms: list[Transform]
    frames: Floats
    mean: Floats
    parameters: list[Parameters | None]
    displacement: Doubles
    dvars_before: Doubles
    dvars_after: Doubles
    likely_failed: dict[int, float] = field(default_factory=dict)

    @property
    def worse(self) -> str | None:
        """That frames are less alike than before, which motion that was found right does not do; None if they are not, or have several contrasts."""
        before, after = _mean(self.dvars_before), _mean(self.dvars_after)
        if self.motion.several or not after > WORSE * before:
            return None
        return f"DVARS rose from {before:.2f} % to {after:.2f} %: the motion is likely wrong. Look at motion.png; a mask of the object (--mask) may help"

    def summary(self) -> dict[str, Any]:
        """What is told in ``summary.json``."""
        return {
            "frames": len(self.frames),
            "repetition_s": self.series.repetition,
            "registered": self.motion.because,
            "note": COARSE if self.motion.several else self.worse,
            "failed": {number: f"{reason}; it lies as the nearest frame does" for number, reason in self.motion.failed.items()},
            "likely_failed": self.likely_failed,
            "framewise_displacement_mm": {"mean": _mean(self.displacement), "largest": at_most(self.displacement.tolist())},
            "dvars_percent": {"before": _mean(self.dvars_before), "after": _mean(self.dvars_after)},
        }


def _mean(values: Doubles) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def correct(
    series: Series,
    work: Path,
    correction: Correction | None = None,
    *,
    mask: Path | str | None = None,
    processes: int = 1,
    on_progress: Progress | None = None,
) -> Corrected:
    """Bring the frames of a series onto each other.

    Parameters
    ----------
    series
    work
        Folder for what is kept of a run that is killed.
    correction
        Rigid, to the mean, by default.
    mask
        Where the reference may be looked at, and where DVARS counts; by default the foreground of the mean.
    processes
        Frames that are registered at a time; the result is the same for any number.

    Raises
    ------
    NnRegError
        If fewer than two frames can be registered, or the mask does not fit.
    """
    correction = correction or Correction()
    looked_at = None if mask is None else _mask(series, Path(mask))
    motion = estimate(
        series,
        correction.rigid,
        work,
        mask=looked_at,
        processes=processes,
        on_progress=part_of(on_progress, 0, RIGID_PART if correction.model == DEFORMABLE else 1),
    )
    transforms = [Transform.affine(matrix) for matrix in motion.matrices]
    failures: dict[int, float] = {}
    if correction.model == DEFORMABLE:
        transforms, failures = _deformed(series, motion, work, correction, looked_at, processes, part_of(on_progress, RIGID_PART, 1))
    frames = np.concatenate([resampled(series.frame(number), series.space, transform, correction.interpolation) for number, transform in enumerate(transforms)])
    good = np.array([number not in motion.failed for number in range(len(frames))])
    mean = frames[good].mean(axis=0)
    where = (foreground(prepare(mean[None], series.space, None, "mean")) if looked_at is None else looked_at) > 0.5
    where = _always_in_view(where, series, [transforms[number] for number in np.flatnonzero(good)])
    parameters = [Parameters.of(matrix, series.space) if ok else None for matrix, ok in zip(motion.matrices, good, strict=True)]
    moved = framewise_displacement(parameters)
    before, after = dvars(series.frames, where, good), dvars(frames, where, good)
    return Corrected(series, motion, transforms, frames, mean, parameters, moved, before, after, failures)


def _always_in_view(where: npt.NDArray[np.bool_], series: Series, transforms: Sequence[Transform]) -> npt.NDArray[np.bool_]:
    """Those voxels of `where` that no frame lacks: what lies beyond a frame is made up. All of them, if none is left."""
    shown = np.ones((1, *series.space.shape), np.float32)
    seen = where.copy()
    for transform in transforms:
        seen &= resample_image(shown, moving=series.space, fixed=series.space, transform=transform, outside=0.0)[0] > 0.99
    return seen if seen.any() else where


def _mask(series: Series, path: Path) -> Floats:
    found = read_label_map(path)
    check_same_space(found.space, path, series.stored, series.files[0])
    return np.asarray(found.array.reshape(series.space.shape) != 0, dtype=np.float32)


def _deformed(
    series: Series, motion: Motion, work: Path, correction: Correction, mask: Floats | None, processes: int, on_progress: Progress | None
) -> tuple[list[Transform], dict[int, float]]:
    """From the mean to each frame: rigid, then what the engine finds between the mean and the frame where rigid motion put it; and what likely failed."""
    matrices = [Transform.affine(matrix) for matrix in motion.matrices]
    numbers = [number for number in range(len(matrices)) if number not in motion.failed]
    placed = {number: _written(series, number, matrices[number], work / "placed") for number in numbers}
    transforms = dict(zip(numbers, (matrices[number] for number in numbers), strict=True))
    for count in range(ROUNDS):
        mean = _mean_member(series, transforms, work / f"mean_{count}.nii.gz", mask)
        maps = Maps(work / f"maps_{count}", correction.engine)
        maps.make([(mean, member) for member in placed.values()], processes=processes, on_progress=part_of(on_progress, count / ROUNDS, (count + 1) / ROUNDS))
        transforms = {number: maps.transform(mean, placed[number]).then(matrices[number]).simplified() for number in numbers}
    nearest = [min(numbers, key=lambda other, number=number: abs(other - number)) for number in range(len(matrices))]  # type: ignore[misc]
    failures = {number: maps.failure(mean, placed[number]) for number in numbers}
    return [transforms[number] for number in nearest], {number: value for number, value in failures.items() if value >= LIKELY}


def _written(series: Series, number: int, transform: Transform, folder: Path) -> Member:
    path = folder / f"frame_{number:04d}.nii.gz"
    write_image(path, resampled(series.frame(number), series.space, transform, LINEAR), series.space)
    return Member(f"frame_{number:04d}", (path,))


def _mean_member(series: Series, transforms: dict[int, Transform], path: Path, mask: Floats | None) -> Member:
    total = np.mean([resampled(series.frame(number), series.space, transform, LINEAR) for number, transform in transforms.items()], axis=0)
    write_image(path, total.astype(np.float32), series.space)
    mask_path = path.with_name("mask.nii.gz")
    if mask is not None:
        write_image(mask_path, mask[None].astype(np.uint8), series.space)
    return Member("mean", (path,), mask=None if mask is None else mask_path)

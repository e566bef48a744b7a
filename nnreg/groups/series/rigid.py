"""Rigid motion of a series: from frame to frame on a coarse grid, then each frame to the mean of the others, which gets sharper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter

from nnreg.arrays import Doubles, Floats
from nnreg.engine.linear import Fit, Pair, Parameters
from nnreg.engine.prepared_image import PreparedImage, foreground, moments, prepare
from nnreg.engine.similarity import SAME_CONTRAST, inner_correlation
from nnreg.errors import ConfigurationError, NnRegError, RegistrationError, did_you_mean
from nnreg.files import content_digest, read_json, write_json
from nnreg.geometry import Space, Transform, resample_image
from nnreg.groups.longitudinal.mid_space import logarithm
from nnreg.groups.series.frames import Series
from nnreg.groups.series.gauss_newton import fit_rigid
from nnreg.parallel import run_all
from nnreg.progress import Progress

MEAN, FIRST, PREVIOUS = REFERENCES = ("mean", "first", "previous")
ONE, SEVERAL = "ncc", "cr"
SIMILARITIES = ("auto", ONE, SEVERAL)
KNOTS = {ONE: 2, SEVERAL: 16}  # of the map between the intensities of two frames
ROUNDS = 5  # of means, at most: two do, but for few frames
SETTLED = 0.01  # voxels: a round that moves no frame by more is the last
CHUNK = 16  # frames that are registered and kept together, whatever the number of processes
ITERATIONS = 40
COARSE_VOXELS = 16  # an axis of fewer is not pooled
LEAST_OVERLAP = 0.5
SMOOTHING = 1.5  # voxels. On a brain of 3.5 mm with 2 % noise rotations were wrong by up to 0.16 degrees without, 0.05 with 1.0, 0.03 with 1.5
UNLIKE = 0.5  # of the median similarity of all frames: a frame below shows something else
FEW = 5  # frames whose contrast with the reference decides the similarity, spread over the series


@dataclass(frozen=True, eq=False)
class Motion:
    """Where every frame lies.

    Attributes
    ----------
    matrices : list of arrays (ndim+1, ndim+1)
        From the reference to the world of each frame. Of a frame that failed: of the nearest one that did not.
    similarity : list of float
        To the reference; NaN for frames that failed.
    failed : frame number to the reason
    because : how it was found, in words
    several
        Whether frames have several contrasts: motion from one to another is then found coarsely.
    """

    matrices: list[Doubles]
    similarity: list[float]
    failed: dict[int, str]
    because: str
    several: bool = False


@dataclass(frozen=True)
class Settings:
    """How frames are registered.

    Attributes
    ----------
    reference : "mean", "first", "previous" or the number of a frame
        Previous: each frame to the one before, and the maps composed.
    similarity : "auto", "ncc" or "cr"
        Correlation for frames of one contrast, correlation ratio for others (diffusion weighting), which are registered to a frame where the mean is asked for.
    """

    reference: str = MEAN
    similarity: str = "auto"

    def __post_init__(self) -> None:
        if self.reference not in REFERENCES and not self.reference.isdigit():
            raise ConfigurationError(f"reference {self.reference!r} is unknown; expected {', '.join(REFERENCES)} or the number of a frame.")
        if self.similarity not in SIMILARITIES:
            raise ConfigurationError(f"similarity {self.similarity!r} is unknown; {did_you_mean(self.similarity, SIMILARITIES)}")

    def frame(self, series: Series) -> int:
        """The frame that others are brought to first.

        Raises
        ------
        RegistrationError
            If the series has no such frame, or it is not usable.
        """
        if self.reference == MEAN:
            return typical_frame(series)
        number = int(self.reference) if self.reference.isdigit() else 0
        if number >= len(series.frames) or not series.usable[number]:
            raise RegistrationError(f"the reference is frame {number}, which is {'empty' if number < len(series.frames) else 'not there'}. Name another one.")
        return number


def typical_frame(series: Series) -> int:
    """The usable frame that correlates best with the median of some."""
    numbers = np.flatnonzero(series.usable)
    if len(numbers) < 2:
        raise RegistrationError(f"{series.files[0]}: {len(numbers)} of {len(series.frames)} frames can be registered (finite, not constant); two are needed.")
    some = numbers[:: max(1, len(numbers) // 50)]
    middle = np.median(series.frames[some], axis=0).ravel()
    return int(some[np.argmax([np.corrcoef(series.frames[number].ravel(), middle)[0, 1] for number in some])])


def estimate(series: Series, settings: Settings, work: Path, *, mask: Floats | None = None, processes: int = 1, on_progress: Progress | None = None) -> Motion:
    """Find the rigid map from the reference to each frame.

    Parameters
    ----------
    series, settings
    work
        Folder for what is kept of a run that is killed.
    mask : array, shape (*series.space.shape), optional
        Where the reference may be looked at.
    processes
        Groups of frames that are registered at a time; the result is the same for any number.

    Raises
    ------
    NnRegError
        If the reference cannot be used.
    """
    return _Estimate(series, settings, work, mask, processes, on_progress).run()


class _Estimate:
    def __init__(self, series: Series, settings: Settings, work: Path, mask: Floats | None, processes: int, on_progress: Progress | None) -> None:
        self.series, self.settings, self.work, self.processes, self.on_progress = series, settings, work, processes, on_progress
        self.first = settings.frame(series)
        self.mask = None if mask is None else np.ascontiguousarray(mask > 0, dtype=np.float32)
        self.reference = self.prepared(self.first)
        self.frame = _Frame.of(self.reference)
        self.similarity, self.why = self._similarity()
        seen = None if self.mask is None else blake2b(self.mask.tobytes(), digest_size=8).hexdigest()
        self.made_from = content_digest(series.files) + repr((settings, seen, series.repetition))
        self.failed = {int(number): "it is constant, or has values that are not finite" for number in np.flatnonzero(~series.usable)}

    def prepared(self, number: int) -> PreparedImage:
        return _prepared(self.series.frame(number), self.series.space, self.mask if number == self.first else None, f"frame {number}")

    def run(self) -> Motion:
        starts = self._chained()
        if self.settings.reference == PREVIOUS:
            return self._finished(*self._composed(starts), "each frame to the one before, composed")
        # a mean of several contrasts has none
        to_mean = self.settings.reference == MEAN and self.similarity == ONE
        rounds = ROUNDS if to_mean else 1
        matrices, similarity, said = starts, [float("nan")] * len(starts), ""
        for number in range(rounds):
            found, similarity = self._round(number, matrices, self._mean(matrices) if to_mean else None)
            self._mark_unlike(similarity)
            if to_mean:
                found = self._shared(matrices, found)
            moved = max((self.frame.distance(one, other) for one, other in zip(matrices, found, strict=True)), default=0.0)
            matrices, said = found, f"{number + 1} rounds, the last moved a frame by up to {moved:.3f} voxels"
            if moved < SETTLED:
                break
        to = "the mean of the others" if to_mean else f"frame {self.first}"
        return self._finished(matrices, similarity, f"each frame to {to}, {said}")

    def _finished(self, matrices: list[Doubles], similarity: list[float], said: str) -> Motion:
        self._mark_unlike(similarity)
        good = [number for number in range(len(matrices)) if number not in self.failed]
        if len(good) < 2:
            raise RegistrationError(f"{self.series.files[0]}: fewer than two frames could be registered. The first reason: {next(iter(self.failed.values()))}.")
        nearest = [min(good, key=lambda other, number=number: abs(other - number)) for number in range(len(matrices))]  # type: ignore[misc]
        values = [float("nan") if number in self.failed else value for number, value in enumerate(similarity)]
        because = f"{said}; frame {self.first} came first; {self.why}"
        return Motion([matrices[number] for number in nearest], values, dict(sorted(self.failed.items())), because, self.similarity == SEVERAL)

    def _mark_unlike(self, similarity: list[float]) -> None:
        """Frames that show something else have failed, and do not count in the mean."""
        known = {number: value for number, value in enumerate(similarity) if number not in self.failed and np.isfinite(value)}
        usual = float(np.median(list(known.values()))) if known else 0.0
        for number, value in known.items():
            if value < UNLIKE * usual:
                self.failed[number] = f"it does not look like the others: similarity {value:.2f}, {usual:.2f} is usual"

    def _similarity(self) -> tuple[str, str]:
        """What compares frames, and why."""
        if self.settings.similarity != "auto":
            return self.settings.similarity, f"{self.settings.similarity} was asked for"
        numbers = np.flatnonzero(self.series.usable)
        some = [int(number) for number in numbers[:: max(1, len(numbers) // FEW)] if number != self.first]
        pairs = [Pair(self.reference, self.prepared(number)) for number in some]
        inner = min(inner_correlation(pair.fixed, pair.moving, pair.body > 0) for pair in pairs)
        name = ONE if inner >= SAME_CONTRAST else SEVERAL
        contrast = "one contrast" if name == ONE else "different contrasts"
        return name, f"{contrast} (local correlation {inner:.2f} at least): {name}"

    def _chained(self) -> list[Doubles]:
        """On a coarse grid, outwards from the reference, each frame starting where its neighbour ended."""
        size = len(self.series.frames)
        result = [np.eye(self.series.space.ndim + 1) for _ in range(size)]
        coarse = _pooled(self.reference)
        for way in (range(self.first - 1, -1, -1), range(self.first + 1, size)):
            last = result[self.first]
            for number in way:
                fit = self._fitted(coarse, number, last, _pooled)
                last = last if fit is None else fit.matrix
                result[number] = last
        return result

    def _fitted(self, reference: PreparedImage, number: int, start: Doubles, view: Callable[[PreparedImage], PreparedImage]) -> Fit | None:
        """One frame, or the reason why it failed among the others."""
        if number in self.failed:
            return None
        try:
            return self.frame.fit(reference, view(self.prepared(number)), self.similarity, start)
        except NnRegError as error:
            self.failed[number] = str(error)
            return None

    def _composed(self, starts: list[Doubles]) -> tuple[list[Doubles], list[float]]:
        """Each frame to the last usable one before it, from where the coarse grid put it."""
        matrices, similarity, before = list(starts), [float("nan")] * len(starts), self.first
        similarity[self.first] = 1.0
        for number in range(self.first + 1, len(starts)):
            step = starts[number] @ np.linalg.inv(starts[before])
            fit = self._fitted(self.prepared(before), number, step, lambda side: side)
            if fit is not None:
                matrices[number], similarity[number] = fit.matrix @ matrices[before], fit.similarity
                before = number
        return matrices, similarity

    def _mean(self, matrices: list[Doubles]) -> Floats:
        """Sum of all usable frames where they were last found, (1, *grid): of it each frame leaves itself out."""
        total = np.zeros((1, *self.series.space.shape), np.float64)
        for number, matrix in enumerate(matrices):
            if number not in self.failed:
                total += _moved(self.series.frame(number), self.series.space, matrix)
        return total.astype(np.float32)

    def _shared(self, before: list[Doubles], after: list[Doubles]) -> list[Doubles]:
        """The steps of a round, a little shorter, less what all frames did together.

        The mean of the others lies off by what the frame itself does, divided by their number, to the other side. What all do together moves the mean alone.
        """
        good = [number for number in range(len(before)) if number not in self.failed]
        steps = [(1 - 1 / len(good)) * logarithm(np.linalg.inv(old) @ new) for old, new in zip(before, after, strict=True)]
        common = np.mean([steps[number] for number in good], axis=0)
        return [old @ expm(step - common) for old, step in zip(before, steps, strict=True)]

    def _round(self, number: int, starts: list[Doubles], total: Floats | None) -> tuple[list[Doubles], list[float]]:
        """Every frame once more, in groups that are kept."""
        usable = [frame for frame in range(len(starts)) if frame not in self.failed]
        groups = [usable[first : first + CHUNK] for first in range(0, len(usable), CHUNK)]
        jobs = [
            _Job(
                self.work / f"round_{number}_{index:04d}.json",
                self.made_from,
                self.series.space,
                self.mask,
                self.reference if total is None else None,
                total,
                len(usable),
                tuple((frame, self.series.frame(frame), starts[frame]) for frame in group),
                self.frame,
                self.similarity,
            )
            for index, group in enumerate(groups)
        ]
        matrices, similarity = list(starts), [float("nan")] * len(starts)
        for done, (_, results) in enumerate(run_all(_register, jobs, processes=self.processes, name=_Job.name), start=1):
            for frame, matrix, value, reason in results:
                if reason is None:
                    matrices[frame], similarity[frame] = np.asarray(matrix), value
                else:
                    self.failed[frame] = reason
            if self.on_progress is not None:
                self.on_progress(done, len(jobs), f"round {number + 1}")
        return matrices, similarity


@dataclass(frozen=True)
class _Frame:
    """About which point maps turn, and how far the object reaches from it, mm."""

    centre: tuple[float, ...]
    radius: float
    voxel: float

    @classmethod
    def of(cls, side: PreparedImage) -> _Frame:
        centre, spread = moments(foreground(side), side.space)
        return cls(tuple(centre.tolist()), 2 * float(np.sqrt(np.linalg.eigvalsh(spread).max())), min(side.space.spacing))

    def fit(self, reference: PreparedImage, moving: PreparedImage, similarity: str, start: Doubles) -> Fit:
        """A rigid map from `start`."""
        pair = Pair(reference, moving)
        parameters = Parameters("rigid", self.centre, self.radius, 10.0 ** round(np.log10(self.voxel)))
        return fit_rigid(pair, parameters, start, knots=KNOTS[similarity], iterations=ITERATIONS, least_overlap=LEAST_OVERLAP)

    def distance(self, one: Doubles, other: Doubles) -> float:
        """How far two maps differ at most at the ends of the object, voxels."""
        n = len(self.centre)
        ends = np.concatenate([np.eye(n), -np.eye(n)]) * self.radius + np.asarray(self.centre)
        moved = (np.linalg.inv(one) @ other - np.eye(n + 1)) @ np.concatenate([ends, np.ones((len(ends), 1))], axis=1).T
        return float(np.linalg.norm(moved[:n], axis=0).max()) / self.voxel


@dataclass(frozen=True, eq=False)
class _Job:
    """Some frames, registered to one frame or to the mean of all others."""

    path: Path
    made_from: str
    space: Space
    mask: Floats | None
    reference: PreparedImage | None
    total: Floats | None
    count: int
    frames: tuple[tuple[int, Floats, Doubles], ...]
    frame: _Frame
    similarity: str

    def name(self) -> str:
        return f"frames {self.frames[0][0]} to {self.frames[-1][0]}"


def _register(job: _Job) -> list[Any]:
    """(frame, matrix, similarity, None), or (frame, None, None, reason), for each frame."""
    kept = read_json(job.path) if job.path.is_file() else {}
    if kept.get("made_from") == job.made_from:
        return list(kept["frames"])
    found = [_one(job, number, frame, start) for number, frame, start in job.frames]
    write_json(job.path, {"made_from": job.made_from, "frames": found})
    return found


def _one(job: _Job, number: int, frame: Floats, start: Doubles) -> tuple[int, Any, Any, str | None]:
    try:
        reference = job.reference
        if reference is None:
            assert job.total is not None
            others = (job.total - _moved(frame, job.space, start)) / np.float32(max(1, job.count - 1))
            reference = _prepared(others, job.space, job.mask, "the mean")
        fit = job.frame.fit(reference, _prepared(frame, job.space, None, f"frame {number}"), job.similarity, start)
    except NnRegError as error:
        return number, None, None, str(error)
    return number, fit.matrix.tolist(), fit.similarity, None


def _prepared(frame: Floats, space: Space, mask: Floats | None, name: str) -> PreparedImage:
    """A frame smoothed a little: linear sampling blurs what lies between voxels, and draws the maximum to where both images are blurred alike."""
    found = prepare(frame, space, mask, name)
    return replace(found, image=np.asarray(gaussian_filter(found.image, (0, *(SMOOTHING,) * space.ndim), mode="nearest")))


def _moved(frame: Floats, space: Space, matrix: Doubles) -> Floats:
    """A frame (1, *grid) seen from the reference."""
    return resample_image(frame, moving=space, fixed=space, transform=Transform.affine(matrix))


def _pooled(side: PreparedImage) -> PreparedImage:
    """Half as many voxels along long axes."""
    return side.pooled_by(tuple(2 if size >= COARSE_VOXELS else 1 for size in side.space.shape))


def at_most(values: Sequence[float]) -> float:
    """The largest of those that are known; NaN if none is."""
    known = [value for value in values if np.isfinite(value)]
    return max(known, default=float("nan"))

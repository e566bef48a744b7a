"""Rigid motion of a series: from frame to frame on a coarse grid, then each frame to the mean of the others, which gets sharper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

from nnreg.arrays import Doubles, Floats
from nnreg.engine.linear import Fit, Pair, Parameters
from nnreg.engine.prepared_image import PreparedImage, foreground, moments, prepare
from nnreg.engine.similarity import inner_correlation
from nnreg.errors import ConfigurationError, NnRegError, RegistrationError, did_you_mean
from nnreg.files import content_digest, read_json, write_json
from nnreg.geometry import Space, Transform, resample_image
from nnreg.groups.longitudinal.mid_space import logarithm
from nnreg.groups.series.frames import Series
from nnreg.groups.series.gauss_newton import fit_rigid
from nnreg.parallel import run_all
from nnreg.progress import Progress, part_of

MEAN, FIRST, PREVIOUS = REFERENCES = ("mean", "first", "previous")
ONE, SEVERAL = "ncc", "edges"
SIMILARITIES = ("auto", ONE, SEVERAL)
ROUNDS = 5  # of means, at most: two do, but for few frames
SETTLED = 0.01  # voxels: a round that moves no frame by more is the last
CHUNK = 16  # frames that are registered and kept together, whatever the number of processes
ITERATIONS = 40
COARSE_VOXELS = 16  # an axis of fewer is not pooled
LEAST_OVERLAP = 0.5
# voxels. On a brain of 3.5 mm with 2 % noise rotations were wrong by up to 0.16 degrees without, 0.05 with 1.0, 0.03 with 1.5
SMOOTHING = {ONE: 1.5, SEVERAL: 0.3}
EDGE, AROUND, FAINT = 0.5, 4.0, 0.3  # voxels, voxels, and share of the strongest edges; see `edges`
ALIKE = 0.9  # least local correlation of frames of one contrast: 0.99 with 6 % noise, 0.6 to 0.7 between diffusion weightings
MARGIN = {ONE: 2, SEVERAL: 0}  # voxels: so far from the border smoothing made up what lies beyond it
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
        Whether frames have several contrasts: motion from one to another is then found less exactly.
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
    similarity : "auto", "ncc" or "edges"
        Correlation of intensities for frames of one contrast, of the strength of edges for others (diffusion weighting).
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
        self.mask = None if mask is None else np.ascontiguousarray(mask != 0, dtype=np.float32)
        self.similarity = SEVERAL if settings.similarity == SEVERAL else ONE
        self.why = f"{settings.similarity} was asked for"
        self.frame = _Frame.of(prepare(series.frame(self.first), series.space, self.mask, f"frame {self.first}"))
        seen = None if self.mask is None else blake2b(self.mask.tobytes(), digest_size=8).hexdigest()
        self.made_from = content_digest(series.files) + repr((settings, seen, series.repetition))
        self.failed: dict[int, str] = {}

    def prepared(self, number: int) -> PreparedImage:
        return _prepared(self.seen(number), self.series.space, self.mask if number == self.first else None, f"frame {number}", self.similarity)

    def seen(self, number: int) -> Floats:
        """What of a frame (1, *grid) is compared: a mean of several contrasts shows little, a mean of their edges all of them."""
        return edges(self.series.frame(number)) if self.similarity == SEVERAL else self.series.frame(number)

    def run(self) -> Motion:
        starts = self._chained()
        if self.settings.similarity == "auto" and not self._are_alike(starts):
            self.similarity = SEVERAL
            starts = self._chained()
        if self.settings.reference == PREVIOUS:
            return self._finished(*self._composed(starts), "each frame to the one before, composed")
        to_mean = self.settings.reference == MEAN
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
        if self.on_progress is not None:
            self.on_progress(1, 1, "motion")
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

    def _are_alike(self, matrices: list[Doubles]) -> bool:
        """Whether frames, where they were roughly found, have one contrast with the first one; says so."""
        numbers = [int(number) for number in np.flatnonzero(self.series.usable) if number not in self.failed]
        some = [number for number in numbers[:: max(1, len(numbers) // FEW)] if number != self.first]
        first = self.prepared(self.first)
        pairs = [(Pair(first, self.prepared(number)), matrices[number]) for number in some]
        inner = min((inner_correlation(pair.fixed, pair.sample(matrix)[0], pair.body > 0) for pair, matrix in pairs), default=1.0)
        alike = bool(inner >= ALIKE)
        self.why = f"{'one contrast' if alike else 'different contrasts'} (local correlation {inner:.2f} at least): {ONE if alike else SEVERAL}"
        return alike

    def _chained(self) -> list[Doubles]:
        """On a coarse grid, outwards from the reference, each frame starting where its neighbour ended."""
        size = len(self.series.frames)
        self.failed = {int(number): "it is constant, or has values that are not finite" for number in np.flatnonzero(~self.series.usable)}
        result = [np.eye(self.series.space.ndim + 1) for _ in range(size)]
        coarse = _pooled(self.prepared(self.first))
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
            return self.frame.fit(reference, view(self.prepared(number)), start)
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
        """Sum of all usable frames where they were last found, and how many show each voxel, (2, *grid): of it each frame leaves itself out."""
        total = np.zeros((2, *self.series.space.shape), np.float64)
        for number, matrix in enumerate(matrices):
            if number not in self.failed:
                total += _moved(self.seen(number), self.series.space, matrix)
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
                self.prepared(self.first) if total is None else None,
                total,
                len(usable),
                tuple((frame, self.seen(frame), starts[frame]) for frame in group),
                self.frame,
                self.similarity,
            )
            for index, group in enumerate(groups)
        ]
        matrices, similarity = list(starts), [float("nan")] * len(starts)
        # how many rounds there will be nobody knows: each takes half of what is left
        tell = part_of(self.on_progress, 1 - 0.5**number, 1 - 0.5 ** (number + 1))
        for done, (_, results) in enumerate(run_all(_register, jobs, processes=self.processes, name=_Job.name), start=1):
            for frame, matrix, value, reason in results:
                if reason is None:
                    matrices[frame], similarity[frame] = np.asarray(matrix), value
                else:
                    self.failed[frame] = reason
            if tell is not None:
                tell(done, len(jobs), f"round {number + 1}")
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

    def fit(self, reference: PreparedImage, moving: PreparedImage, start: Doubles) -> Fit:
        """A rigid map from `start`."""
        pair = Pair(reference, moving)
        parameters = Parameters("rigid", self.centre, self.radius, 10.0 ** round(np.log10(self.voxel)))
        return fit_rigid(pair, parameters, start, iterations=ITERATIONS, least_overlap=LEAST_OVERLAP)

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
        reference = _others(job, frame, start) if job.reference is None else job.reference
        fit = job.frame.fit(reference, _prepared(frame, job.space, None, f"frame {number}", job.similarity), start)
    except NnRegError as error:
        return number, None, None, str(error)
    return number, fit.matrix.tolist(), fit.similarity, None


def _others(job: _Job, frame: Floats, start: Doubles) -> PreparedImage:
    """The mean of all frames but one, where half of them or more show something."""
    assert job.total is not None
    left = job.total - _moved(frame, job.space, start)
    known = np.asarray(left[1] >= max(1.0, (job.count - 1) / 2), dtype=np.float32)
    mean = np.where(known > 0, left[:1] / np.maximum(left[1:], np.float32(1)), frame.min()).astype(np.float32)
    mask = known if job.mask is None else known * job.mask
    return _prepared(mean, job.space, mask if mask.min() < 1 else None, "the mean", job.similarity)


def _prepared(frame: Floats, space: Space, mask: Floats | None, name: str, similarity: str) -> PreparedImage:
    """A frame smoothed a little: linear sampling blurs what lies between voxels, and draws the maximum to where both images are blurred alike."""
    found = prepare(frame, space, mask, name)
    image = np.asarray(gaussian_filter(found.image, (0, *(SMOOTHING[similarity],) * space.ndim), mode="nearest"))
    inner = _away_from_border(space.shape, MARGIN[similarity])
    return replace(found, image=image, mask=inner if found.mask is None else found.mask * inner)


def _away_from_border(shape: tuple[int, ...], margin: int) -> Floats:
    """1 (*grid) where nothing that lies beyond the image had a part in smoothing; short axes keep all of theirs."""
    inner = np.zeros(shape, np.float32)
    inner[tuple(slice(margin, size - margin) if size >= COARSE_VOXELS else slice(None) for size in shape)] = 1
    return inner


def edges(frame: Floats) -> Floats:
    """How strong edges are (1, *grid), relative to those around: much the same whatever the contrast.

    The gradient's length, divided by its root mean square nearby and a share of the strongest. Intensities of frames whose contrasts differ are no
    function of each other where a voxel holds several tissues, which draws maps by correlation ratio aside by up to a degree; edges lie where they lie.
    """
    length = gaussian_gradient_magnitude(frame[0].astype(np.float32), EDGE)
    nearby = np.sqrt(gaussian_filter(np.square(length), AROUND))
    return np.asarray(length / (nearby + FAINT * max(float(np.percentile(nearby, 95)), 1e-12)))[None].astype(np.float32)


def _moved(frame: Floats, space: Space, matrix: Doubles) -> Floats:
    """A frame (1, *grid) seen from the reference, 0 where it shows nothing, and where it shows something: (2, *grid)."""
    transform = Transform.affine(matrix)
    seen = resample_image(np.ones_like(frame), moving=space, fixed=space, transform=transform, outside=0.0)
    return np.concatenate([resample_image(frame, moving=space, fixed=space, transform=transform, outside=0.0) * (seen > 0), seen])


def _pooled(side: PreparedImage) -> PreparedImage:
    """Half as many voxels along long axes."""
    return side.pooled_by(tuple(2 if size >= COARSE_VOXELS else 1 for size in side.space.shape))


def at_most(values: Sequence[float]) -> float:
    """The largest of those that are known; NaN if none is."""
    known = [value for value in values if np.isfinite(value)]
    return max(known, default=float("nan"))

"""A group registered without a template: all pairs, then maps that agree around every loop, through the space in the middle.

Direct maps disagree: going from an image to a second and on to a third ends elsewhere than going there at once. A point x of image i lies at ``F_ik(x)`` in
image k. The mean of these places over all k, each seen from the middle of the affine maps, is where x lies in the middle of the group: ``m_i(x)``. Maps through
it, ``m_j^-1 after m_i``, agree around every loop as far as an inverse is exact, and are the direct ones where those agree. (Seghers et al. 2004 build a mean
shape so, from all pairs.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnreg import metrics
from nnreg.arrays import Doubles
from nnreg.engine.failure import LIKELY
from nnreg.engine.options import EngineOptions
from nnreg.engine.prepared_image import foreground, prepare
from nnreg.errors import DatasetError, RegistrationError
from nnreg.files import no_empty_folders
from nnreg.geometry import AffineMap, FieldMap, Space, Transform, resample_image, resample_labels
from nnreg.geometry.itk import write_result
from nnreg.geometry.transform_files import read_transform
from nnreg.groups.affine_mean import centred
from nnreg.groups.maps import Maps
from nnreg.groups.members import Member, taken_for_channels
from nnreg.groups.output_folder import SUMMARY, files_of, group_record, own_folder, write_record
from nnreg.groups.template.linear import template_space
from nnreg.groups.template.mean_image import mean_of
from nnreg.groups.template.rounds import save
from nnreg.groups.template.subjects import Subject, check_alike, mean_scale, measure
from nnreg.imageio import write_image
from nnreg.parallel import run_all
from nnreg.progress import Progress

SCHEMA_VERSION = 1
FEWEST_IMAGES = 3
POINTS = 2000  # of the foreground of an image, that loops are measured at
SOUND = 0.5  # voxels: a loop error that is added to those by which images are weighed, so that none of a good group decides alone
BROKEN = 4.0  # times the median loop error, and a voxel: a map that disagrees more with all ways around it counts as failed

Route = Callable[[int, int], Transform]


def register_group(
    members: Sequence[Member],
    output: Path | str,
    options: EngineOptions | None = None,
    *,
    pairs: bool = False,
    accept_likely_failed: bool = False,
    processes: int = 1,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Register all pairs of a group and make the maps agree around loops.

    Parameters
    ----------
    members
        Three at least, of one part of the body.
    output
        ``direct/FIXED__MOVING.h5``: as registered, kept and not made again. ``middle/NAME.h5`` and ``middle/NAME_inverse.h5``: from an image to the middle of
        the group and back; with the first of one image and then the second of another, the maps agree. ``middle.nii.gz``: the mean image there.
        ``summary.json``.
    options : EngineOptions, optional
    pairs
        Whether to write the maps of all pairs too, as ``pairs/FIXED__MOVING.h5``.
    accept_likely_failed
        Whether maps that likely failed are used as all others are: the alarm is false.
    processes
        Pairs that are registered at a time.
    on_progress
        Called with (done, total, what is being done).

    Returns
    -------
    dict
        What ``summary.json`` holds: ``loop_error_voxels`` ``before`` and ``after`` (mean, and 95th percentile of loops of three), ``weights`` of the images,
        ``likely_failed`` maps with the probability, which are in no loop, ``replaced`` maps, ``left_out`` images with the reason, ``dice`` before and after
        where all images have labels.

    Raises
    ------
    DatasetError
        If there are fewer than three images.
    RegistrationError
        If so many maps likely failed that fewer than three images are left, or an image is in no loop.
    NnRegError
        If a file cannot be read, a pair not be registered, a map not be inverted, or the folder not be written.
    """
    if len(members) < FEWEST_IMAGES:
        remedy = taken_for_channels(members) or " Two images are registered by nnreg_register."
        raise DatasetError(f"a group needs {FEWEST_IMAGES} images at least for a loop, found {len(members)}.{remedy}")
    output = Path(output)
    with no_empty_folders():
        own_folder(output, files_of(members), "loop_error_voxels")
        subjects = [measure(member) for member in members]
        for subject in subjects[1:]:
            check_alike(subject, subjects[0])
        maps = Maps(output / "direct", EngineOptions() if options is None else options)
        maps.make([(one, other) for one in members for other in members if one is not other], processes=processes, on_progress=on_progress)
        failed = {} if accept_likely_failed else _likely_failed(members, maps)
        left_out = _left_out([member.name for member in members], failed)
        group = _Group([subject for subject in subjects if subject.name not in left_out], maps, output / "middle", frozenset(failed))
        content = group.run(processes) | {"left_out": left_out, "likely_failed": {_way(pair): value for pair, value in failed.items()}}
        written = [output / "middle.nii.gz"]
        written += [output / "middle" / f"{name}{ending}" for name in content["images"] for ending in (".h5", "_inverse.h5")]
        written += [
            output / "direct" / f"{one.name}__{other.name}{ending}" for one in members for other in members if one is not other for ending in (".h5", ".json")
        ]
        for i, j in group.ordered_pairs() if pairs else ():
            written.append(output / "pairs" / f"{_way((group.subjects[i].name, group.subjects[j].name))}.h5")
            write_result(written[-1], group.through_middle(i, j))
        write_record(output / SUMMARY, {"schema_version": SCHEMA_VERSION, **group_record(files_of(members)), **content}, written)
    return content


def _way(pair: tuple[str, str]) -> str:
    """What the map of a fixed and a moving image is called."""
    return "__".join(pair)


def _likely_failed(members: Sequence[Member], maps: Maps) -> dict[tuple[str, str], float]:
    """Names of the fixed and moving images of maps that likely failed, with the probability."""
    found = {(one.name, other.name): maps.failure(one, other) for one in members for other in members if one is not other}
    return {pair: value for pair, value in found.items() if value >= LIKELY}


def _left_out(names: Sequence[str], failed: Collection[tuple[str, str]]) -> dict[str, str]:
    """Images of which half of the maps or more likely failed, those with most of them first, with the reason.

    Raises
    ------
    RegistrationError
        If fewer than three images are left.
    """
    result: dict[str, str] = {}
    left = list(names)
    while len(left) > 1:
        maps = 2 * (len(left) - 1)
        counts = {name: sum(name in pair for pair in failed if set(pair) <= set(left)) for name in left}
        most = max(counts.values())
        if 2 * most < maps:
            break
        worst = [name for name in left if counts[name] == most]
        result |= dict.fromkeys(worst, f"{most} of the {maps} registrations with it likely failed")
        left = [name for name in left if name not in worst]
    if len(left) < FEWEST_IMAGES and result:
        told = "; ".join(f"{name}: {reason}" for name, reason in result.items())
        raise RegistrationError(
            f"{len(left)} of {len(names)} images are left, {FEWEST_IMAGES} at least are needed for a loop. {told}. Look at direct/, give other images, "
            "or use --accept_likely_failed if these maps are right."
        )
    return result


def loop_errors(route: Route, points: Sequence[Doubles], spaces: Sequence[Space]) -> Doubles:
    """How far apart two ways end: from image i to k at once, and over j.

    Parameters
    ----------
    route
        The map from image i to image j, by their numbers; every map is asked for twice, so that few are in memory.
    points
        Of each image, (N, ndim) mm of its world.
    spaces
        Grids of the images, in whose voxels distances are measured.

    Returns
    -------
    array, shape (images, images, images)
        Mean distance at [i, j, k], voxels of image k; NaN where two of them are the same image.
    """
    count = len(points)
    result = np.full((count,) * 3, np.nan)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    places = {pair: route(*pair).map_points(points[pair[0]]) for pair in pairs}
    for j, k in pairs:
        transform = route(j, k)
        for i in set(range(count)) - {j, k}:
            away = (transform.map_points(places[i, j]) - places[i, k]) @ spaces[k].inverse_matrix[:-1, :-1].T
            result[i, j, k] = np.linalg.norm(away, axis=1).mean()
    return result


@dataclass(frozen=True)
class _Group:
    """A group whose direct maps are made.

    Attributes
    ----------
    subjects
    maps : Maps
    middle
        Folder of the maps to the middle.
    failed
        Names of the fixed and moving images of maps that take no part.
    """

    subjects: list[Subject]
    maps: Maps
    middle: Path
    failed: frozenset[tuple[str, str]] = frozenset()

    def run(self, processes: int) -> dict[str, Any]:
        """Find the middle, write the maps to it and the mean image; what was measured."""
        points, spaces = [_points(subject) for subject in self.subjects], [subject.space for subject in self.subjects]
        before = self._without_failed(loop_errors(self.direct, points, spaces))
        around = self._replaced(before)
        weights = _weights(before)
        affine = self._affine(around)
        jobs = [_ToMiddle(self, i, affine, tuple(weights), around) for i in range(len(self.subjects))]
        for _ in run_all(_to_middle, jobs, processes=processes, name=lambda job: f"middle of {self.subjects[job.number].name}"):
            pass
        after = loop_errors(self.through_middle, points, spaces)
        self._write_mean(affine)
        names = [subject.name for subject in self.subjects]
        return {
            "images": names,
            "loop_error_voxels": {"before": _told(before), "after": _told(after)},
            "weights": dict(zip(names, weights, strict=True)),
            "replaced": {_way((names[i], names[k])): names[j] for (i, k), j in around.items()},
            "dice": self._dice(),
        }

    def ordered_pairs(self) -> Iterator[tuple[int, int]]:
        """Numbers of fixed and moving images."""
        count = len(self.subjects)
        return ((i, j) for i in range(count) for j in range(count) if i != j)

    def direct(self, i: int, j: int) -> Transform:
        """The map of a pair as it was registered."""
        return self.maps.transform(self.subjects[i].member, self.subjects[j].member)

    def through_middle(self, i: int, j: int) -> Transform:
        """The map of a pair that agrees with all others."""
        there, back = self.to_middle(i), self.middle / f"{self.subjects[j].name}_inverse.h5"
        return read_transform(there).then(read_transform(back))

    def to_middle(self, i: int) -> Path:
        """File of the map from an image to the middle."""
        return self.middle / f"{self.subjects[i].name}.h5"

    def _without_failed(self, errors: Doubles) -> Doubles:
        """Loop errors with NaN where one of the three maps likely failed.

        Raises
        ------
        RegistrationError
            If an image is then the end of no loop.
        """
        for i, k in self.ordered_pairs():
            if self._is_failed(i, k):
                errors[i, :, k] = errors[i, k, :] = errors[:, i, k] = np.nan
        for k, subject in enumerate(self.subjects):
            if np.isnan(errors[:, :, k]).all():
                raise RegistrationError(
                    f"{subject.name}: in every loop that ends there a registration likely failed. Leave it out, or use --accept_likely_failed."
                )
        return errors

    def _is_failed(self, i: int, k: int) -> bool:
        return (self.subjects[i].name, self.subjects[k].name) in self.failed

    def _replaced(self, errors: Doubles) -> dict[tuple[int, int], int]:
        """Maps (i, k) that likely failed, or disagree with all ways around them, with the image of the best way.

        Raises
        ------
        RegistrationError
            If maps of all ways around one that likely failed did so too.
        """
        usual = float(np.nanmedian(errors))
        least = np.full((len(self.subjects),) * 2, np.inf)  # of the loops around each map
        for i, k in self.ordered_pairs():
            least[i, k] = np.nanmin(np.append(errors[i, :, k], np.inf))
        around = {}
        for i, k in self.ordered_pairs():
            failed = self._is_failed(i, k)
            if not failed and (np.isinf(least[i, k]) or least[i, k] <= max(1.0, BROKEN * usual)):
                continue
            ways = [j for j in range(len(self.subjects)) if j not in (i, k) and not self._is_failed(i, j) and not self._is_failed(j, k)]
            if not ways:
                way = _way((self.subjects[i].name, self.subjects[k].name))
                raise RegistrationError(f"{way}: likely failed, as one map or more did of every way around it. Leave out one of the two images.")
            # the way whose two maps agree best with what goes around them
            around[i, k] = min(ways, key=lambda j, i=i, k=k: least[i, j] + least[j, k])  # type: ignore[misc]
        return around

    def _affine(self, around: Mapping[tuple[int, int], int]) -> list[Doubles]:
        """Matrices from the middle to every image."""
        ndim = self.subjects[0].space.ndim
        result = [np.eye(ndim + 1)]
        for k in range(1, len(self.subjects)):
            j = around.get((0, k))
            result.append(_affine_part(self.direct(0, k)) if j is None else _affine_part(self.direct(j, k)) @ _affine_part(self.direct(0, j)))
        return centred(result)

    def _write_mean(self, affine: Sequence[Doubles]) -> None:
        space = template_space(self.subjects[0], self.subjects, affine, None)
        files = []
        for subject in self.subjects:
            image = subject.member.image()
            values = np.concatenate([subject.scale.common(image.array.astype(np.float32)), np.ones((1, *image.space.shape), np.float32)])
            transform = read_transform(self.middle / f"{subject.name}_inverse.h5")
            files.append(self.middle / f"{subject.name}.npy")
            save(files[-1], resample_image(values, moving=image.space, fixed=space, transform=transform, outside=0.0))
        write_image(self.middle.parent / "middle.nii.gz", mean_scale(self.subjects).own(mean_of(files, space).array), space)
        for file in files:
            file.unlink()

    def _dice(self) -> dict[str, float] | None:
        """Mean over labels and ordered pairs, before and after; None unless all images have labels."""
        if any(subject.member.labels is None for subject in self.subjects):
            return None
        maps = [subject.member.label_map(subject.member.image()) for subject in self.subjects]
        found: dict[str, list[float]] = {"before": [], "after": []}
        for i, j in self.ordered_pairs():
            fixed, moving = maps[i], maps[j]
            assert fixed is not None
            assert moving is not None
            labels = sorted({*np.unique(fixed.array).tolist(), *np.unique(moving.array).tolist()} - {0})
            for name, route in (("before", self.direct), ("after", self.through_middle)):
                warped = resample_labels(moving.array, moving=moving.space, fixed=fixed.space, transform=route(i, j))
                found[name].append(float(np.nanmean(list(metrics.dice(fixed.array, warped, labels, moving=moving.array).values()))))
        return {name: float(np.mean(values)) for name, values in found.items()}


@dataclass(frozen=True)
class _ToMiddle:
    """One image's map to the middle, to be made from its maps to all others."""

    group: _Group
    number: int
    affine: list[Doubles]
    weights: tuple[float, ...]
    around: dict[tuple[int, int], int]

    def route(self, k: int) -> Transform:
        """To image k, at once or, where that failed, around."""
        if k == self.number:
            return Transform.identity(self.group.subjects[k].space.ndim)
        j = self.around.get((self.number, k))
        return self.group.direct(self.number, k) if j is None else self.group.direct(self.number, j).then(self.group.direct(j, k))


def _to_middle(job: _ToMiddle) -> None:
    space = job.group.subjects[job.number].space
    own = job.affine[job.number]
    total = np.zeros((space.ndim, *space.shape))
    for k, (matrix, weight) in enumerate(zip(job.affine, job.weights, strict=True)):
        # where its image sees the place, from the middle of the affine maps, back in the own world: small displacements are averaged
        seen = job.route(k).then(Transform.affine(own @ np.linalg.inv(matrix)))
        total += weight * seen.sampled_on(space).displacement
    mean = FieldMap((total / sum(job.weights)).astype(np.float32), space)
    transform = Transform((mean, AffineMap(own).inverse()), space.ndim)
    write_result(job.group.middle / f"{job.group.subjects[job.number].name}_inverse.h5", transform.inverse())
    write_result(job.group.to_middle(job.number), transform)


def _weights(errors: Doubles) -> list[float]:
    """Of each image, by the loops it is the end of; the same for all images, or maps that agree would be changed. Sum 1."""
    typical = np.array([np.nanmedian(errors[:, :, k]) for k in range(len(errors))])
    weights = 1 / (SOUND**2 + typical**2)
    return list((weights / weights.sum()).tolist())


def _told(errors: Doubles) -> dict[str, float]:
    loops = errors[np.isfinite(errors)]
    return {"mean": float(loops.mean()), "p95": float(np.percentile(loops, 95))}


def _affine_part(transform: Transform) -> Doubles:
    """The matrix that a registration's deformation is followed by."""
    last = transform.stages[-1] if transform.stages else None
    return np.asarray(last.matrix) if isinstance(last, AffineMap) else np.eye(transform.ndim + 1)


def _points(subject: Subject) -> Doubles:
    """Places in the foreground, mm of the world, evenly through the file's order."""
    image = subject.member.image()
    mask = subject.member.mask_map(image)
    body = foreground(prepare(image.array, image.space, None if mask is None else mask.array, subject.name)) > 0.5
    indices = np.argwhere(body)
    return image.space.to_world(indices[:: max(1, len(indices) // POINTS)])

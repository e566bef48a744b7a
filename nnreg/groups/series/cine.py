"""A cine: points followed from frame to frame around the cycle, which has to close, then each frame held against the first one; strain over time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles, Floats
from nnreg.dataset.label_files import read_label_map
from nnreg.engine.failure import LIKELY
from nnreg.engine.options import EngineOptions
from nnreg.engine.prepared_image import foreground, prepare
from nnreg.errors import ConfigurationError, RegistrationError
from nnreg.files import write_text
from nnreg.geometry import FieldMap, Transform
from nnreg.groups.halfway import Between, from_first
from nnreg.groups.maps import Maps
from nnreg.groups.members import Member
from nnreg.groups.output_folder import SUMMARY, group_record, own_folder, own_work, write_record
from nnreg.groups.plots import figure
from nnreg.groups.series.frames import Series, names_of, stop_or_note
from nnreg.groups.series.resampling import LINEAR, resampled
from nnreg.groups.series.results import write_transforms
from nnreg.groups.series.strain import RegionStrain, cavity_centres, region_strain
from nnreg.groups.series.table import UNKNOWN, table_text, written
from nnreg.imageio import check_same_space, write_image
from nnreg.kernels import volumes
from nnreg.progress import Progress, part_of

PARTS = ((0.0, 0.5), (0.5, 0.75), (0.75, 1.0))  # of the progress: the engine, least squares, against the first frame
PARTS_OF_CHAIN = ((0.0, 0.7), (0.7, 1.0), (1.0, 1.0))


@dataclass(frozen=True)
class Cycle:
    """What is done.

    Attributes
    ----------
    first
        The frame whose points are followed: end-diastole, mostly.
    closed
        Whether the last frame is followed by the first one. The error of the way around is then known, and shared among the frames.
    to_first
        Whether each frame is also registered to the first one from where the chain put it: twice the time, less drift.
    cavity
        Label about whose middle strain is radial and circumferential.
    engine : EngineOptions
    """

    first: int = 0
    closed: bool = True
    to_first: bool = True
    cavity: int | None = None
    engine: EngineOptions = field(default_factory=lambda: EngineOptions(alignment="none"))


@dataclass(frozen=True, eq=False)
class Tracked:
    """Points of the first frame in all frames.

    Attributes
    ----------
    numbers : list of int
        Frames that were followed, the first one first, then in time.
    fields : list of FieldMap
        From the first frame to each of them, on its grid.
    closure : array (*grid), voxels, or None
        How far the chain of frames misses the point that it started from, before that was shared among the frames.
    missed : list of float
        Of each frame, how far the chain was from what its registration to the first frame found: mean over the regions, voxels.
    regions : label to array of bool (*grid)
        0 is everything labelled, or the foreground.
    strains : of each frame, label to RegionStrain
    skipped : frame to the reason
    doubtful : pairs of frames whose registration likely failed, with the probability
    """

    series: Series
    numbers: list[int]
    fields: list[FieldMap]
    closure: Floats | None
    missed: list[float]
    regions: dict[int, npt.NDArray[np.bool_]]
    strains: list[dict[int, RegionStrain]]
    skipped: dict[int, str]
    doubtful: dict[str, float]

    def closure_voxels(self) -> dict[str, float]:
        """Mean, 95th percentile and largest closure error over the regions; empty where the cycle is open."""
        if self.closure is None:
            return {}
        values = self.closure[self.regions[0]]
        return {"mean": float(values.mean()), "percentile_95": float(np.percentile(values, 95)), "largest": float(values.max())}

    def summary(self) -> dict[str, Any]:
        """What is told in ``summary.json``."""
        two = "two frames: closing their cycle shows that both directions agree, not that the motion between is known"
        return {
            "frames": len(self.series.frames),
            "followed": self.numbers,
            "repetition_s": self.series.repetition,
            "skipped": self.skipped,
            "closure_voxels": self.closure_voxels(),
            "note": two if len(self.numbers) == 2 and self.closure is not None else None,
            "chain_against_first_voxels": dict(zip(self.numbers, self.missed, strict=True)),
            "likely_failed": self.doubtful,
        }


def follow_points(
    series: Series,
    work: Path,
    cycle: Cycle | None = None,
    *,
    labels: Path | str | None = None,
    processes: int = 1,
    on_progress: Progress | None = None,
) -> Tracked:
    """Follow the points of a frame through a series.

    Parameters
    ----------
    series
    work
        Folder for what is kept of a run that is killed.
    cycle
    labels
        Label map of the first frame: strain is told for each label.
    processes
        Pairs of frames that are registered at a time.

    Raises
    ------
    NnRegError
        If the first frame or the labels cannot be used, fewer than two frames can, or a pair cannot be registered.
    """
    cycle = cycle or Cycle()
    numbers = _order(series, cycle)
    members = {number: _written(series.frame(number), series, work / "frames" / f"frame_{number:04d}.nii.gz") for number in numbers}
    regions = _regions(series, numbers[0], labels)
    centres = None if cycle.cavity is None else _centres(regions, cycle.cavity)
    pairs = list(zip(numbers, [*numbers[1:], numbers[0]], strict=True))[: None if cycle.closed else -1]
    maps = Maps(work / "steps", cycle.engine)
    engine, measuring, further = (part_of(on_progress, *part) for part in (PARTS if cycle.to_first else PARTS_OF_CHAIN))
    maps.make([(members[one], members[other]) for one, other in pairs], processes=processes, on_progress=engine)
    chain = [FieldMap(np.zeros((series.space.ndim, *series.space.shape), np.float32), series.space).volume]
    between = Between(work / "between", maps, both_ways=False, with_halves=False)
    between.make([(members[one], members[other]) for one, other in pairs], processes=processes, on_progress=measuring)
    for one, other in pairs:
        chain.append(volumes.compose(from_first(between.fields(members[one], members[other])[0]), chain[-1]))
    doubtful = {f"{one} and {other}": maps.failure(members[one], members[other]) for one, other in pairs}
    closure = chain.pop() if cycle.closed else None
    if closure is not None:
        chain = [found - closure * np.float32(number / len(pairs)) for number, found in enumerate(chain)]
    fields = [_as_map(found, series) for found in chain]
    missed = [0.0] * len(fields)
    if cycle.to_first:
        fields, missed = _held_against_first(series, numbers, members, fields, regions[0], work / "first", processes, further)
    strains = [{label: region_strain(found, where, centres) for label, where in regions.items()} for found in fields]
    left = None if closure is None else np.linalg.norm(closure, axis=0).reshape(series.space.shape)
    skipped = {number: "it is constant, or has values that are not finite" for number in range(len(series.frames)) if number not in numbers}
    likely = {pair: value for pair, value in doubtful.items() if value >= LIKELY}
    return Tracked(series, numbers, fields, left, missed, regions, strains, skipped, likely)


def _order(series: Series, cycle: Cycle) -> list[int]:
    """Usable frames from the first one on, around."""
    count = len(series.frames)
    if not 0 <= cycle.first < count or not series.usable[cycle.first]:
        raise RegistrationError(f"the first frame is {cycle.first}, which is {'empty' if 0 <= cycle.first < count else 'not there'}. Name another one.")
    numbers = [number for number in ((cycle.first + step) % count for step in range(count)) if series.usable[number]]
    if len(numbers) < 2:
        raise RegistrationError(f"{series.files[0]}: one of {count} frames can be registered (finite, not constant); two are needed.")
    return numbers


def _written(frame: Floats, series: Series, path: Path) -> Member:
    write_image(path, frame, series.space)
    return Member(path.name.removesuffix(".nii.gz"), (path,))


def _as_map(found: Floats, series: Series) -> FieldMap:
    return FieldMap(np.ascontiguousarray(found if series.space.ndim == 3 else found[:, 0], dtype=np.float32), series.space)


def _regions(series: Series, first: int, labels: Path | str | None) -> dict[int, npt.NDArray[np.bool_]]:
    if labels is None:
        return {0: foreground(prepare(series.frame(first), series.space, None, f"frame {first}")) > 0.5}
    found = read_label_map(Path(labels))
    check_same_space(found.space, labels, series.stored, series.files[0])
    array = found.array.reshape(series.space.shape)
    values = [int(value) for value in np.unique(array) if value]
    if not values:
        raise RegistrationError(f"{labels}: has no label. Give a label map of frame {first}, or none.")
    return {0: array > 0} | {value: array == value for value in values}


def _centres(regions: dict[int, npt.NDArray[np.bool_]], cavity: int) -> Doubles:
    if cavity not in regions or cavity == 0:
        known = ", ".join(str(label) for label in regions if label)
        raise ConfigurationError(f"the cavity is label {cavity}, which {f'the labels do not have; they have {known}' if known else 'needs a label map'}.")
    return cavity_centres(regions[cavity].astype(np.uint8), 1)


def _held_against_first(
    series: Series,
    numbers: list[int],
    members: dict[int, Member],
    fields: list[FieldMap],
    where: npt.NDArray[np.bool_],
    work: Path,
    processes: int,
    on_progress: Progress | None,
) -> tuple[list[FieldMap], list[float]]:
    """Register each frame, from where the chain put it, to the first one; the maps with what was found, and how far that went."""
    first = members[numbers[0]]
    placed = []
    for number, found in zip(numbers[1:], fields[1:], strict=True):
        seen = resampled(series.frame(number), series.space, Transform((found,), series.space.ndim), LINEAR)
        placed.append(_written(seen, series, work / "frames" / f"chained_{number:04d}.nii.gz"))
    between = Between(work, None, with_halves=False)
    between.make([(first, member) for member in placed], processes=processes, on_progress=on_progress)
    result, missed = [fields[0]], [0.0]
    for found, member in zip(fields[1:], placed, strict=True):
        left = from_first(between.fields(first, member)[0])
        result.append(_as_map(volumes.compose(found.volume, left), series))
        missed.append(float(np.linalg.norm(left, axis=0).reshape(where.shape)[where].mean()))
    return result, missed


def track_series(
    series: Series,
    output: Path | str,
    cycle: Cycle | None = None,
    *,
    labels: Path | str | None = None,
    stop: bool = False,
    processes: int = 1,
    on_note: Callable[[str], None] | None = None,
    on_progress: Progress | None = None,
) -> Tracked:
    """:func:`follow_points`, and its results in a folder: ``strain.tsv``, ``strain.png``, ``transforms/``, ``summary.json``.

    Parameters
    ----------
    stop
        Refuse a series of which a frame cannot be used, or the registration of two frames likely failed; else the summary names them.
    on_note
        Called with a line on frames that are left out, and on registrations that likely failed.

    Raises
    ------
    NnRegError
        As :func:`follow_points`; and with `stop`, naming the frames.
    """
    read = [*series.files, None if labels is None else Path(labels)]
    output, work = own_folder(output, read, "series"), own_work(Path(output) / "work")
    empty = [int(number) for number in np.flatnonzero(~series.usable)]
    said = f"{series.files[0]}: frames {names_of(empty)} are constant, or have values that are not finite"
    if empty and stop:  # before the work; else told after it
        raise RegistrationError(f"{said}. Repair them, or run without --stop to leave them out.")
    found = follow_points(series, work, cycle, labels=labels, processes=processes, on_progress=on_progress)
    if empty and on_note is not None:
        on_note(f"{said}; they are left out.")
    if found.doubtful:
        doubt = f"{series.files[0]}: the registrations of frames {', '.join(found.doubtful)} likely failed"
        mend, meanwhile = "Look at the frames, or run without --stop.", "strain from there on is not to be trusted."
        stop_or_note(doubt, stop=stop, on_note=on_note, mend=mend, meanwhile=meanwhile)
    written = write_transforms(output / "transforms", [Transform((each,), series.space.ndim) for each in found.fields], found.numbers)
    write_text(output / "strain.tsv", table_text(_rows(found)))
    draw_strain(output / "strain.png", found)
    content = group_record(read) | {"series": series.files[0], "model": "strain"} | found.summary()
    write_record(output / SUMMARY, content, [*written, output / "strain.tsv", output / "strain.png"])
    shutil.rmtree(work)
    return found


def _rows(found: Tracked) -> list[list[str]]:
    rows = [["frame", "time_s", "label", *(f"{name}_percent" for name in RegionStrain.__dataclass_fields__), "chain_missed_voxels"]]
    for step, (number, strains) in enumerate(zip(found.numbers, found.strains, strict=True)):
        after = (number - found.numbers[0]) % len(found.series.frames)
        for label, strain in strains.items():
            values = [UNKNOWN if value is None else written(value) for value in asdict(strain).values()]
            rows.append([str(number), f"{after * found.series.repetition:.6g}", str(label or "all"), *values, written(found.missed[step])])
    return rows


def draw_strain(path: Path, found: Tracked) -> None:
    """Curves of each label over the cycle, and the error that closing it showed."""
    count = len(found.series.frames)
    times = np.array([(number - found.numbers[0]) % count for number in found.numbers]) * found.series.repetition
    known = [name for name in RegionStrain.__dataclass_fields__ if getattr(found.strains[0][0], name) is not None]
    with figure(path, 9, 2.1 * len(known) + 0.6) as drawn:
        axes = drawn.subplots(len(known), 1, sharex=True, squeeze=False)[:, 0]
        for axis, name in zip(axes, known, strict=True):
            for label in found.regions:
                axis.plot(
                    times, [getattr(strain[label], name) for strain in found.strains], marker=".", linewidth=1.1, label=f"label {label}" if label else "all"
                )
            axis.set_ylabel(f"{name}, %", fontsize=9)
            axis.grid(color="0.9")
        axes[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes[-1].set_xlabel("time, s")
        closure = found.closure_voxels()
        said = f"; the cycle closes within {closure['mean']:.2f} voxels (mean), {closure['percentile_95']:.2f} (95 %)" if closure else ""
        drawn.suptitle(f"{found.series.files[0].name}: strain from frame {found.numbers[0]}{said}", fontsize=11)

"""A corrected series in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from nnreg.geometry import AffineMap, Transform
from nnreg.geometry.itk import write_result
from nnreg.groups.output_folder import SUMMARY, group_record, own_folder, own_work, write_record
from nnreg.groups.series.correct import Corrected, Correction, correct
from nnreg.groups.series.frames import Series, names_of, stop_or_note
from nnreg.groups.series.table import draw_motion, write_motion
from nnreg.imageio import write_image
from nnreg.progress import Progress

OF_CORRECTION = ("corrected.nii.gz", "mean.nii.gz", "motion.tsv", "motion.png")


def correct_series(
    series: Series,
    output: Path | str,
    correction: Correction | None = None,
    *,
    mask: Path | str | None = None,
    stop: bool = False,
    processes: int = 1,
    on_note: Callable[[str], None] | None = None,
    on_progress: Progress | None = None,
) -> Corrected:
    """:func:`correct`, and its results in a folder: ``corrected.nii.gz``, ``mean.nii.gz``, ``motion.tsv``, ``motion.png``, ``transforms/``, ``summary.json``.

    Parameters
    ----------
    output
        A run that was killed goes on from what it had.
    stop
        Refuse a series of which a frame cannot be registered; else such frames lie as their nearest neighbour does, and the summary names them.
    on_note
        Called with a line on frames that failed, and on frames of several contrasts.

    Raises
    ------
    NnRegError
        As :func:`correct`; and with `stop`, naming the frames that failed.
    """
    read = [*series.files, None if mask is None else Path(mask)]
    output, work = own_folder(output, read, "series"), own_work(Path(output) / "work")
    found = correct(series, work, correction, mask=mask, processes=processes, on_progress=on_progress)
    failed = found.motion.failed
    if failed:
        said = f"{series.files[0]}: frames {names_of(list(failed))} could not be registered. The first: {next(iter(failed.values()))}"
        stop_or_note(said, stop=stop, on_note=on_note, mend="Look at them, or run without --stop.", meanwhile="each lies as the nearest frame does.")
    if found.likely_failed:
        said = f"{series.files[0]}: the deformable registrations of frames {names_of(list(found.likely_failed))} likely failed"
        stop_or_note(said, stop=stop, on_note=on_note, mend="Look at the frames, or run without --stop.", meanwhile="look at corrected.nii.gz there.")
    note = found.summary()["note"]
    if note is not None and on_note is not None:
        on_note(f"{series.files[0]}: {note}.")
    series.write(output / "corrected.nii.gz", found.frames)
    write_image(output / "mean.nii.gz", found.mean.reshape(1, *series.stored.shape), series.stored)
    written = write_transforms(output / "transforms", found.transforms)
    write_motion(output / "motion.tsv", found)
    draw_motion(output / "motion.png", found)
    written += [output / name for name in OF_CORRECTION]
    content = group_record(read) | {"series": series.files[0], "model": (correction or Correction()).model} | found.summary()
    write_record(output / SUMMARY, content, written)
    shutil.rmtree(work, ignore_errors=True)
    return found


def write_transforms(folder: Path, transforms: Sequence[Transform], numbers: Sequence[int] | None = None) -> list[Path]:
    """One of each frame: ``frame_0000.tfm``, or ``.h5`` where it bends; `numbers` by default from 0 on. Returns the files."""
    files = []
    for number, transform in zip(range(len(transforms)) if numbers is None else numbers, transforms, strict=True):
        linear = all(isinstance(stage, AffineMap) for stage in transform.stages)
        files.append(folder / f"frame_{number:04d}{'.tfm' if linear else '.h5'}")
        write_result(files[-1], transform)
    return files

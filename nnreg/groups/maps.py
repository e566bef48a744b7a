"""Maps between the images of a group: each is made once, by the engine, and kept in a folder, so that a run that was killed goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnreg.engine import Registration
from nnreg.engine.options import EngineOptions
from nnreg.engine.registration import register_as
from nnreg.engine.result import Annotations
from nnreg.errors import NnRegError, TransformError, WriteError
from nnreg.files import content_digest, read_json, write_json
from nnreg.geometry import Transform
from nnreg.geometry.itk import write_result
from nnreg.geometry.transform_files import read_transform
from nnreg.groups.members import Member
from nnreg.parallel import run_all
from nnreg.progress import Progress


def register_members(fixed: Member, moving: Member, options: EngineOptions, initial: Transform | None = None) -> Registration:
    """One member registered to another, with their masks."""
    images = fixed.image(), moving.image()
    masks = fixed.mask_map(images[0]), moving.mask_map(images[1])
    return register_as(images, masks, Annotations(), options, initial)


def made_from(members: Sequence[Member], options: object) -> dict[str, str]:
    """What tells whether something made from members, their masks and options would be another now; for its record."""
    files = content_digest([path for member in members for path in (*member.files, member.mask)])
    return {"files": files, "options": repr(options)}


@dataclass(frozen=True)
class Maps:
    """Maps from fixed to moving members, kept as ``FIXED__MOVING.h5`` with ``FIXED__MOVING.json``: what they were made from, and whether they failed.

    Attributes
    ----------
    folder
        Made when the first map is.
    options
        Of the engine, the same for all.
    """

    folder: Path
    options: EngineOptions

    def make(self, pairs: Sequence[tuple[Member, Member]], *, processes: int = 1, on_progress: Progress | None = None) -> None:
        """Register those of `pairs` (fixed, moving) that are not there yet, or whose files have changed.

        Raises
        ------
        NnRegError
            The first that a pair raises, with the names of the pair before it. Maps that are finished stay.
        """
        missing = [_Job(self, fixed, moving) for fixed, moving in pairs if not self._is_made(fixed, moving)]
        done = len(pairs) - len(missing)
        for job, _ in run_all(_make, missing, processes=processes, name=_Job.name):
            done += 1
            if on_progress is not None:
                on_progress(done, len(pairs), job.name())

    def transform(self, fixed: Member, moving: Member) -> Transform:
        """From the fixed to the moving world.

        Raises
        ------
        TransformError
            If it has not been made.
        """
        path = self._path(fixed, moving, ".h5")
        if not path.is_file():
            raise TransformError(f"{path}: does not exist. Register the pair first.")
        return read_transform(path)

    def failure(self, fixed: Member, moving: Member) -> float:
        """How likely the registration of the pair failed, 0 to 1; see :mod:`nnreg.engine.failure`."""
        return float(read_json(self._path(fixed, moving, ".json"))["failure_probability"])

    def _path(self, fixed: Member, moving: Member, ending: str) -> Path:
        return self.folder / f"{fixed.name}__{moving.name}{ending}"

    def _is_made(self, fixed: Member, moving: Member) -> bool:
        record = self._path(fixed, moving, ".json")
        made = self._path(fixed, moving, ".h5").is_file() and record.is_file()
        return made and read_json(record).get("made_from") == made_from((fixed, moving), self.options)

    def register(self, fixed: Member, moving: Member) -> None:
        """Make one map and its record; the record is written last, so that a map without one is made again."""
        result = register_members(fixed, moving, self.options)
        write_result(self._path(fixed, moving, ".h5"), result.transform)
        measures = {
            "made_from": made_from((fixed, moving), self.options),
            "failure_probability": result.failure.probability,
            "similarity": result.similarity,
            "similarity_before": result.similarity_before,
            "similarity_after": result.similarity_after,
        }
        write_json(self._path(fixed, moving, ".json"), measures)


@dataclass(frozen=True)
class _Job:
    """One pair to register, in whatever process."""

    maps: Maps
    fixed: Member
    moving: Member

    def name(self) -> str:
        return f"{self.fixed.name}__{self.moving.name}"


def _make(job: _Job) -> None:
    try:
        job.maps.register(job.fixed, job.moving)
    except WriteError:
        raise
    except NnRegError as error:
        raise type(error)(f"{job.moving.name} to {job.fixed.name}: {error}") from error

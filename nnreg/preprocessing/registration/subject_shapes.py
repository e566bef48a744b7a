"""Displacements that give a training case the shape of another one: what the augmentation ``subject_shapes`` draws from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.errors import PlansError, PreprocessingError, RegistrationError
from nnreg.files import read_object, write_json
from nnreg.imageio import Image
from nnreg.parallel import run_all
from nnreg.planning.registration.engine_settings import Optimisation
from nnreg.preprocessing.registration.storage import ENDING, IMAGE, PreprocessedDataset, read_array, write_array
from nnreg.progress import Progress

PARTNERS = 12  # shapes a case may take: at most so many others, so that the work grows with the cases and not with their square
PRESET = "fast"  # the shapes are only drawn from, not measured
STEP = 2  # voxels between stored displacements: they are smooth
SUFFIX = f"_shape{ENDING}"
MADE_FOR = ".subject_shapes.json"


def place_subject_shapes(folder: Path, settings: Optimisation, *, processes: int = 1, on_progress: Progress | None = None) -> int:
    """Register every case of `folder` with up to twelve others and keep the fields; what is there and still true stays.

    Parameters
    ----------
    folder
        Of one configuration's arrays, all cases finished and on one grid.
    settings
        Of the engine, as planned; the preset is ``fast``.
    processes
        Workers.
    on_progress
        Called with (done, total, what).

    Returns
    -------
    int
        How many fields there are. A pair that cannot be registered has none.

    Raises
    ------
    PlansError
        If the cases lie on grids of several sizes.
    """
    data = PreprocessedDataset(folder)
    cases = data.cases
    if len({data.properties(case).working.shape for case in cases}) > 1:
        raise PlansError(
            f"{folder}: augmentation.subject_shapes needs all cases on one grid, which pairing 'groups' or 'pairs' does not give. Remove it from the plans."
        )
    marker = folder / MADE_FOR
    made: dict[str, str] = read_object(marker, PreprocessingError) if marker.is_file() else {}
    content = {case: _digest(folder, case) for case in cases}
    wanted = {(case, other): f"{settings.similarity} {content[case]} {content[other]}" for case in cases for other in _partners(case, cases)}
    names = {name_of(*pair): key for pair, key in wanted.items()}
    for name in set(made) - set(names):
        (folder / f"{name}{SUFFIX}").unlink(missing_ok=True)
    made = {name: key for name, key in made.items() if names.get(name) == key}
    unfinished = [pair for pair in wanted if name_of(*pair) not in made]
    for done, (pair, _) in enumerate(run_all(_Work(folder, settings), unfinished, processes=processes, name=lambda pair: name_of(*pair)), len(made)):
        if on_progress is not None:
            on_progress(done + 1, len(wanted), f"shapes of other subjects: {name_of(*pair)}")
        made[name_of(*pair)] = wanted[pair]
        write_json(marker, made)
    found = sum((folder / f"{name}{SUFFIX}").is_file() for name in names)
    if unfinished and on_progress is not None:
        on_progress(len(wanted), len(wanted), f"shapes of other subjects: {found} of {len(wanted)} pairs were registered")
    return found


def name_of(case: str, other: str) -> str:
    """Name of the field that gives `case` the shape of `other`."""
    return f"{case}__{other}"


def shapes_of(folder: Path, cases: Iterable[str]) -> dict[str, list[str]]:
    """Case to the other ones among `cases` whose shape it can take."""
    known = sorted(set(cases))
    return {case: [other for other in known if (folder / f"{name_of(case, other)}{SUFFIX}").is_file()] for case in known}


def read_shape(folder: Path, case: str, other: str) -> npt.NDArray[np.float32]:
    """Displacements (ndim, *coarse) in voxels of the working grid, at every second voxel of it.

    The image of `case`, sampled where they lead, has the shape of `other`.
    """
    return read_array(folder / f"{name_of(case, other)}{SUFFIX}").astype(np.float32)


def _partners(case: str, cases: list[str]) -> list[str]:
    """The cases that follow in the order of names, from the end on with the first."""
    at = cases.index(case)
    return [cases[(at + step) % len(cases)] for step in range(1, min(PARTNERS, len(cases) - 1) + 1)]


def _digest(folder: Path, case: str) -> str:
    content = (folder / f"{case}{IMAGE}{ENDING}").read_bytes() + (folder / f"{case}.json").read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


@dataclass(frozen=True)
class _Work:
    """Picklable: one case and the one whose shape it takes."""

    folder: Path
    settings: Optimisation

    def __call__(self, pair: tuple[str, str]) -> None:
        from nnreg.engine import register

        data = PreprocessedDataset(self.folder)
        moving, fixed = (data.load(case) for case in pair)
        space = fixed.properties.working  # arrays of one grid; their worlds may differ by the frames they come from
        target = self.folder / f"{name_of(*pair)}{SUFFIX}"
        try:
            found = register(
                fixed=Image(fixed.image, space), moving=Image(moving.image, space), preset=PRESET, similarity=self.settings.similarity, alignment="none"
            )
        except RegistrationError:
            found = None  # such as images without a common view: one shape fewer to draw
        field = None if found is None or not found.rose else found.field_on_fixed()
        if field is None:
            target.unlink(missing_ok=True)
            return
        write_array(target, field.displacement[(slice(None), *(slice(None, None, STEP),) * space.ndim)].astype(np.float16))

"""One pair of files is registered into a folder: transforms for ITK, field, warped image and labels, measures, picture.

Beside prediction, not in the engine's room: it draws pictures, and those lie above the engine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import AnyArray, Floats
from nnreg.dataset.keypoints import check_inside, read_keypoints
from nnreg.dataset.label_files import read_label_map
from nnreg.engine import Constraints, Registration, register, uncertainty_map
from nnreg.engine.constraints import FREE
from nnreg.errors import GeometryError, RegistrationError
from nnreg.evaluation.registration.pictures import overview_of_transform
from nnreg.files import folder_to_write, no_empty_folders, refuse_mixture, refuse_overwriting, writable_folder, write_json
from nnreg.geometry.itk import write_result
from nnreg.geometry.transform_files import files_of, read_transforms
from nnreg.imageio import ENDINGS, Image, as_stored, check_finite, check_same_space, ending_for, ending_of, read_channels, read_image, write_image
from nnreg.imageio.endings import unit_of
from nnreg.imageio.formats import formats
from nnreg.lock import held
from nnreg.progress import Further, Progress
from nnreg.run_record import digests, run_record

SCHEMA_VERSION = 1
OUTPUTS = (
    "transform.h5",
    "inverse_transform.h5",
    "field.nii.gz",
    "warped.nii.gz",
    "warped_labels.nii.gz",
    "uncertainty.nii.gz",
    "measures.json",
    "overview.png",
)
"""Of images that NIfTI holds; of 2D images in other formats the warped ones have the ending of the fixed image."""
WARPED = ("warped", "warped_labels")
NIFTI_ENDING = ".nii.gz"


@dataclass(frozen=True)
class PairFiles:
    """The files of a pair; several images of one side are its channels."""

    fixed: Sequence[Path | str]
    moving: Sequence[Path | str]
    fixed_mask: Path | str | None = None
    moving_mask: Path | str | None = None
    fixed_labels: Path | str | None = None
    moving_labels: Path | str | None = None
    fixed_points: Path | str | None = None
    moving_points: Path | str | None = None
    initial: Sequence[Path | str] = ()
    preserve: Path | str | None = None

    def all(self) -> list[Path | str | None]:
        """Every file that is read."""
        beside = (self.fixed_mask, self.moving_mask, self.fixed_labels, self.moving_labels, self.fixed_points, self.moving_points, self.preserve)
        return [*self.fixed, *self.moving, *beside, *files_of(self.initial)]


def register_files(
    files: PairFiles,
    output: Path | str,
    *,
    guided: bool = True,
    picture: bool = True,
    field: bool = False,
    uncertainty: bool = False,
    on_progress: Progress | None = None,
    **options: Any,
) -> Registration:
    """Register a pair of files into the folder `output`.

    Every file is made in a hidden folder beside its place and moved there when all of them are done.

    Parameters
    ----------
    files : PairFiles
    output
        Made if it is absent. Results of an earlier registration in it are replaced.
    guided
        Whether labels and landmarks guide the registration; if not, they only measure it.
    picture
        Whether to draw ``overview.png``.
    field
        Whether to write ``field.nii.gz``: what ``transform.h5`` holds already, affine part included, for programs that read displacements alone.
    uncertainty
        Whether to write ``uncertainty.nii.gz``: three more registrations.
    on_progress
        Called with (done, total, what is being done).
    **options
        preset, similarity, alignment, affine_only, symmetric, radius, smoothness, device, constraints: as in :func:`nnreg.engine.register`.

    Returns
    -------
    Registration

    Raises
    ------
    NnRegError
        If a file cannot be read, a mask or label map lies on another grid than its image, a landmark outside of it, a result would overwrite an input,
        the pair not be registered, or the folder not be written.
    """
    output = Path(output)
    for name in (*OUTPUTS, *(f"{stem}{ending}" for stem in WARPED for ending in ENDINGS)):
        refuse_overwriting(output / name, files.all())
    told = Further(on_progress, 1 + uncertainty)
    refuse_mixture(output, "prediction.json", "nnreg_predict")
    with no_empty_folders():
        with held(writable_folder(output), "written to", RegistrationError):  # told before the work, not after it
            result = _registered(files, guided=guided, on_progress=told, **options)
            write_registration(output, result, files=files, guided=guided, picture=picture, field=field, uncertainty=uncertainty, told=told)
        told.end()
        return result


def _registered(files: PairFiles, *, guided: bool, constraints: Constraints = FREE, **options: Any) -> Registration:
    started = time.perf_counter()
    fixed, moving = _image(files.fixed), _image(files.moving)
    initial = read_transforms(files.initial, fixed=fixed.space, moving=moving.space) if files.initial else None
    sides = ((fixed, files.fixed[0]), (moving, files.moving[0]))
    masks = [_beside(path, *side) for path, side in zip((files.fixed_mask, files.moving_mask), sides, strict=True)]
    labels = [_beside(path, *side) for path, side in zip((files.fixed_labels, files.moving_labels), sides, strict=True)]
    points = [_points(path, image) for path, (image, _) in zip((files.fixed_points, files.moving_points), sides, strict=True)]
    if files.preserve is not None:
        constraints = replace(constraints, preserve=_beside(files.preserve, *sides[0]))
    result = register(
        fixed=fixed,
        moving=moving,
        fixed_mask=masks[0],
        moving_mask=masks[1],
        fixed_labels=labels[0],
        moving_labels=labels[1],
        fixed_points=points[0],
        moving_points=points[1],
        guided=guided,
        initial=initial,
        constraints=constraints,
        **options,
    )
    # what is not one of the engine's stages
    result.timings["reading"] = time.perf_counter() - started - sum(result.timings.values())
    return result


def write_registration(
    output: Path,
    result: Registration,
    *,
    files: PairFiles,
    guided: bool,
    picture: bool,
    field: bool,
    uncertainty: bool = False,
    told: Further | None = None,
) -> None:
    """Write all that belongs to a result; nothing is in `output` before everything is written."""
    told = told or Further(None, 1 + uncertainty)
    if uncertainty:
        told.then("uncertainty")
    doubt = _uncertainty(result) if uncertainty else None
    told.then("writing")
    started = time.perf_counter()
    with folder_to_write(output / "registration") as part:
        write_result(part / "transform.h5", result.transform)
        _write_inverse(part / "inverse_transform.h5", result)
        if field:
            write_result(part / "field.nii.gz", result.transform, result.fixed.space)
        warped = _write_warped(part, result, files)
        if doubt is not None:
            write_image(part / "uncertainty.nii.gz", doubt[None], result.fixed.space)
        if picture:
            shown, unit = Image(warped, result.fixed.space), unit_of_pair(files, result)
            overview_of_transform(part / "overview.png", result.fixed, result.moving, shown, result.transform, unit=unit)
        result.timings["writing"] = time.perf_counter() - started
        write_json(part / "measures.json", _content(result, files, guided))
        made = {path.name for path in part.iterdir()}
        for path in part.iterdir():
            path.replace(output / path.name)
        for name in {*OUTPUTS, *(f"{stem}{ending}" for stem in WARPED for ending in (*ENDINGS, ".json"))} - made:
            if (output / name).is_file():  # of an earlier run, and no part of this result
                (output / name).unlink()


def written_names(files: PairFiles, *, field: bool, uncertainty: bool, picture: bool, report: bool = False) -> list[str]:
    """Names of the files that a registration writes; of images that are not there as of volumes."""
    first = Path(files.fixed[0])
    ending = NIFTI_ENDING
    if first.exists() and not first.name.endswith(NIFTI_ENDING):
        image = read_image(first)
        ending = ending_for(warped_ending(first, image.ndim), image.array.dtype)
    wanted = {
        "field.nii.gz": field,
        "uncertainty.nii.gz": uncertainty,
        "overview.png": picture,
        "warped_labels.nii.gz": files.moving_labels is not None,
        "report.html": report,
    }
    names = [name for name in (*OUTPUTS, "report.html") if wanted.get(name, True)]
    return [name.replace(NIFTI_ENDING, ending) if name.startswith(WARPED) else name for name in names]


def warped_ending(fixed: Path | str, ndim: int) -> str:
    """Under which ending warped images are written: 2D images in the format of the fixed one, volumes as NIfTI."""
    if ndim == 3 or "".join(Path(fixed).suffixes) == "":
        return NIFTI_ENDING
    ending = ending_of(fixed)
    return NIFTI_ENDING if ending == ".nii" or formats()[ending].folders else ending


def unit_of_pair(files: PairFiles, result: Registration) -> str:
    """In what lengths are told: "px" where neither image has a physical unit, else "mm"."""
    sides = ((files.fixed, result.fixed.space), (files.moving, result.moving.space))
    return "px" if all(unit_of(paths, space) == "px" for paths, space in sides) else "mm"


def _write_warped(part: Path, result: Registration, files: PairFiles) -> AnyArray:
    """The warped image and labels; returns the image as it was written."""
    wanted = warped_ending(files.fixed[0], result.fixed.ndim)
    colour = result.moving.array.dtype == np.uint8 and result.moving.channels in (3, 4)
    kept = colour or ending_for(wanted, np.float32) != wanted  # pictures hold whole numbers only
    warped = as_stored(result.warped.array, result.moving.array.dtype) if kept else result.warped.array
    write_image(part / f"warped{ending_for(wanted, warped.dtype)}", warped, result.fixed.space)
    if result.annotations.moving_labels is not None:
        labels = result.warped_labels(result.annotations.moving_labels)
        write_image(part / f"warped_labels{ending_for(wanted, labels.dtype)}", labels, result.fixed.space)
    return warped


def _write_inverse(path: Path, result: Registration) -> None:
    """The inverse; a registration that failed may have none, and its other files are written all the same."""
    try:
        write_result(path, result.inverse)
    except GeometryError:
        if result.succeeded:
            raise


def _uncertainty(result: Registration) -> Floats:
    started = time.perf_counter()
    found = uncertainty_map(result)
    result.timings["uncertainty"] = time.perf_counter() - started
    return found


def _content(result: Registration, files: PairFiles, guided: bool) -> dict[str, Any]:
    truth = result.annotations
    guides = {"labels": (truth.fixed_labels, truth.moving_labels), "points": (truth.fixed_points, truth.moving_points)}
    return {
        "schema_version": SCHEMA_VERSION,
        **run_record(),
        "read": digests(files.all()),
        "fixed": [str(path) for path in files.fixed],
        "moving": [str(path) for path in files.moving],
        "unit": unit_of_pair(files, result),
        **{side: str(path) for side, path in _beside_images(files).items() if path is not None},
        **result.measures,
        # what guided a registration says little about how good it is elsewhere
        "guided_by": [name for name, pair in guides.items() if guided and all(side is not None for side in pair)],
        "decisions": [{"name": decision.name, "value": decision.value, "because": decision.because} for decision in result.decisions],
        "seconds": {name: round(seconds, 3) for name, seconds in result.timings.items()},
    }


def _beside_images(files: PairFiles) -> dict[str, Path | str | None]:
    """Labels and landmarks, which the report and viewers look for."""
    return {name: getattr(files, name) for name in ("fixed_labels", "moving_labels", "fixed_points", "moving_points")}


def _image(paths: Sequence[Path | str]) -> Image:
    image = read_channels(paths)
    check_finite(image, paths[0])
    return image


def _beside(path: Path | str | None, image: Image, image_path: Path | str) -> Image | None:
    """A mask or label map, on the grid of its image."""
    if path is None:
        return None
    found = read_label_map(Path(path))
    check_same_space(found.space, path, image.space, image_path)
    return found


def _points(path: Path | str | None, image: Image) -> npt.NDArray[np.float64] | None:
    """Landmarks, inside their image."""
    if path is None:
        return None
    points = read_keypoints(path)
    check_inside(points, image.space, path)
    return points


__all__ = ["OUTPUTS", "PairFiles", "register_files", "unit_of_pair", "warped_ending", "write_registration"]

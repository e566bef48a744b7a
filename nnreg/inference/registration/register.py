"""One pair of files is registered into a folder: transforms for ITK, field, warped image and labels, measures, picture.

Beside prediction, not in the engine's room: it draws pictures, and those lie above the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import AnyArray, Floats
from nnreg.dataset.keypoints import check_inside, read_keypoints
from nnreg.dataset.label_files import read_label_map
from nnreg.engine import Registration, register, uncertainty_map
from nnreg.engine.constraints import FREE
from nnreg.engine.options import EngineOptions
from nnreg.errors import GeometryError, NnRegError, RegistrationError
from nnreg.evaluation.registration.pictures import overview_of_transform
from nnreg.files import folder_to_write, no_empty_folders, read_object, refuse_mixture, refuse_overwriting, writable_folder, write_json
from nnreg.geometry import AffineMap, Space, Transform
from nnreg.geometry.itk import write_result
from nnreg.geometry.transform_files import files_of, read_transform, read_transforms
from nnreg.imageio import Image, as_stored, check_finite, check_same_space, ending_for, ending_of, read_channels, read_image, write_image
from nnreg.imageio.endings import unit_of
from nnreg.imageio.formats import formats
from nnreg.imageio.image import without_opaque_alpha
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
NIFTI_ENDING = ".nii.gz"
MEASURES = "measures.json"
INVERSE = "inverse_transform.h5"
REPORT = "report.html"
REPORT_TITLE = b"nnReg report</title>"  # by which a page of this package is known
REPORT_HEAD = 2**12  # bytes in which it stands


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
    report: bool = False,
    on_left_out: Callable[[str], None] = lambda note: None,
    on_progress: Progress | None = None,
    **options: Any,
) -> Registration:
    """Register a pair of files into the folder `output`.

    Every file is made in a hidden folder beside its place and moved there when all of them are done.

    Parameters
    ----------
    files : PairFiles
    output
        Made if it is absent. What an earlier registration wrote there, as its ``measures.json`` lists it, is replaced or removed; other files stay.
    guided
        Whether labels and landmarks guide the registration; if not, they only measure it.
    picture
        Whether to draw ``overview.png``.
    field
        Whether to write ``field.nii.gz``: what ``transform.h5`` holds already, affine part included, for programs that read displacements alone.
    uncertainty
        Whether to write ``uncertainty.nii.gz``: three more registrations.
    report
        Whether the caller will write ``report.html`` there.
    on_left_out
        Hears that a map has no inverse, so that ``inverse_transform.h5`` is not written.
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
        If an option would have no effect, a file cannot be read, a mask or label map lies on another grid than its image, a landmark outside of it, a result
        would overwrite an input or a file that no earlier registration wrote, the pair not be registered, or the folder not be written.
    """
    output = Path(output)
    landmarks = files.fixed_points is not None and files.moving_points is not None
    EngineOptions(guided=guided, **options).check_effect(initial=bool(files.initial), landmarks=landmarks, preserve=files.preserve is not None)
    told = Further(on_progress, 1 + uncertainty)
    refuse_mixture(output, "prediction.json", "nnreg_predict")
    wanted = Wanted(picture=picture, field=field, uncertainty=uncertainty, report=report)
    with no_empty_folders():
        with held(writable_folder(output), "written to", RegistrationError):  # told before the work, not after it
            started = time.perf_counter()
            pair = _read(files)
            _check_free(output, wanted.names(files, pair["fixed"], pair["moving"], pair["moving_labels"]), files)
            if files.preserve is not None:
                preserve = _beside(files.preserve, pair["fixed"], files.fixed[0])
                options["constraints"] = replace(options.get("constraints", FREE), preserve=preserve)
            result = _registered(files, **pair, guided=guided, on_progress=told, **options)
            # what is not one of the engine's stages
            result.timings["reading"] = time.perf_counter() - started - sum(result.timings.values())
            write_registration(output, result, files=files, wanted=wanted, told=told, on_left_out=on_left_out)
        told.end()
        return result


@dataclass(frozen=True)
class Wanted:
    """Which files are to be written beside those that always are; see :func:`register_files`."""

    picture: bool = True
    field: bool = False
    uncertainty: bool = False
    report: bool = False

    def names(self, files: PairFiles, fixed: Image, moving: Image, labels: Image | None) -> list[str]:
        """The names of all of them; `labels` are those of the moving image."""
        ending, kind = _warped_type(files, fixed, moving)
        return self.named(ending_for(ending, kind), None if labels is None else ending_for(ending, labels.array.dtype))

    def named(self, warped: str, labels: str | None) -> list[str]:
        """The same, where the endings of the warped image and labels are known."""
        beside = {
            "field.nii.gz": self.field,
            "warped_labels.nii.gz": labels is not None,
            "uncertainty.nii.gz": self.uncertainty,
            "overview.png": self.picture,
            REPORT: self.report,
        }
        endings = {"warped.nii.gz": f"warped{warped}", "warped_labels.nii.gz": f"warped_labels{labels}"}
        return [endings.get(name, name) for name in (*OUTPUTS, REPORT) if beside.get(name, True)]


def _read(files: PairFiles) -> dict[str, Any]:
    """What the engine takes of the pair's files, but for the regions that keep their volume."""
    fixed, moving = _image(files.fixed), _image(files.moving)
    initial = _initial(files.initial, fixed.space, moving.space) if files.initial else None
    sides = ((fixed, files.fixed[0]), (moving, files.moving[0]))
    masks = [_beside(path, *side) for path, side in zip((files.fixed_mask, files.moving_mask), sides, strict=True)]
    labels = [_beside(path, *side) for path, side in zip((files.fixed_labels, files.moving_labels), sides, strict=True)]
    points = [_points(path, image) for path, (image, _) in zip((files.fixed_points, files.moving_points), sides, strict=True)]
    if points[0] is not None and points[1] is not None and len(points[0]) != len(points[1]):
        raise RegistrationError(
            f"{files.fixed_points}: has {len(points[0])} landmarks, {files.moving_points} has {len(points[1])}. Row by row they are the same places: "
            "give as many on both sides."
        )
    annotations = {"fixed_labels": labels[0], "moving_labels": labels[1], "fixed_points": points[0], "moving_points": points[1]}
    return {"fixed": fixed, "moving": moving, "fixed_mask": masks[0], "moving_mask": masks[1], "initial": initial, **annotations}


def _registered(files: PairFiles, **options: Any) -> Registration:
    """:func:`nnreg.engine.register`, whose errors know an image by its side only: here they name its files."""
    try:
        return register(**options)
    except RegistrationError as error:
        told = str(error)
        for side, paths in (("fixed", files.fixed), ("moving", files.moving)):
            told = told.replace(f"the {side} image", f"the {side} image ({','.join(map(str, paths))})", 1)
        raise RegistrationError(told) from error


def write_registration(
    output: Path,
    result: Registration,
    *,
    files: PairFiles,
    wanted: Wanted,
    told: Further | None = None,
    on_left_out: Callable[[str], None] = lambda note: None,
) -> None:
    """Write all that belongs to a result; nothing is in `output` before everything is written.

    Raises
    ------
    NnRegError
        If a file that no earlier registration wrote there is in the way, or the folder cannot be written.
    """
    told = told or Further(None, 1 + wanted.uncertainty)
    _check_free(output, wanted.names(files, result.fixed, result.moving, result.annotations.moving_labels), files)
    if wanted.uncertainty:
        told.then("uncertainty")
    doubt = _uncertainty(result) if wanted.uncertainty else None
    told.then("writing")
    started = time.perf_counter()
    with folder_to_write(output / "registration") as part:
        write_result(part / "transform.h5", result.transform)
        _write_inverse(part / INVERSE, result, on_left_out)
        if wanted.field:
            write_result(part / "field.nii.gz", result.transform, result.fixed.space)
        warped = _write_warped(part, result, files)
        if doubt is not None:
            write_image(part / "uncertainty.nii.gz", doubt[None], result.fixed.space)
        if wanted.picture:
            shown, unit = Image(warped, result.fixed.space), unit_of_pair(files, result)
            overview_of_transform(part / "overview.png", result.fixed, result.moving, shown, result.transform, unit=unit)
        result.timings["writing"] = time.perf_counter() - started
        made = sorted({*(path.name for path in part.iterdir()), MEASURES})
        write_json(part / MEASURES, {**_content(result, files), "written": made})
        _check_free(output, made, files)  # some formats write further files beside an image
        stale = _written_before(output) - set(made)
        for name in made:
            (part / name).replace(output / name)
        for name in stale:  # of an earlier run, and no part of this result
            (output / name).unlink()


def _check_free(output: Path, names: Sequence[str], files: PairFiles) -> None:
    """Refuse results that would take the place of an input, of a folder, or of a file that no earlier registration wrote."""
    before = _written_before(output)
    for name in sorted({*names, *before}):
        refuse_overwriting(output / name, files.all())
    for name in names:
        path = output / name
        if path.is_dir():
            raise RegistrationError(f"{path}: is a folder, and a result is to be written under that name. Choose another output folder, or move it away.")
        if path.exists() and name not in before:
            raise RegistrationError(
                f"{path}: is there already, and {output / MEASURES} does not list it as written by a registration: it would be lost. "
                "Choose another output folder, or move it away."
            )


def _written_before(output: Path) -> set[str]:
    """The files in a folder that its ``measures.json`` lists as written, and a page that ``nnreg_report`` made of them."""
    try:
        listed = read_object(output / MEASURES).get("written", [])
    except NnRegError:  # none, or of another program
        listed = []
    names = {name for name in listed if isinstance(name, str) and Path(name).name == name} if isinstance(listed, list) else set()
    if names and (output / REPORT).is_file():
        with (output / REPORT).open("rb") as page:
            names |= {REPORT} if REPORT_TITLE in page.read(REPORT_HEAD) else set()
    return {name for name in names if (output / name).is_file()}


def written_names(files: PairFiles, wanted: Wanted) -> list[str]:
    """Names of the files that a registration writes; of images that are not there as of volumes."""
    first = Path(files.fixed[0])
    ending = NIFTI_ENDING
    if first.exists() and not first.name.endswith(NIFTI_ENDING):
        image = read_image(first)
        ending = ending_for(warped_ending(first, image.ndim), image.array.dtype)
    return wanted.named(ending, None if files.moving_labels is None else ending)


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


def _warped_type(files: PairFiles, fixed: Image, moving: Image) -> tuple[str, npt.DTypeLike]:
    """The ending that warped images should have, and the type of the warped image: pictures hold whole numbers only, and colours stay what they are."""
    wanted = warped_ending(files.fixed[0], fixed.ndim)
    colour = moving.array.dtype == np.uint8 and moving.channels in (3, 4)
    return wanted, moving.array.dtype if colour or ending_for(wanted, np.float32) != wanted else np.float32


def _write_warped(part: Path, result: Registration, files: PairFiles) -> AnyArray:
    """The warped image and labels; returns the image as it was written."""
    wanted, kind = _warped_type(files, result.fixed, result.moving)
    warped = as_stored(result.warped.array, kind)
    write_image(part / f"warped{ending_for(wanted, kind)}", warped, result.fixed.space)
    if result.annotations.moving_labels is not None:
        labels = result.warped_labels(result.annotations.moving_labels)
        write_image(part / f"warped_labels{ending_for(wanted, labels.dtype)}", labels, result.fixed.space)
    return warped


def _write_inverse(path: Path, result: Registration, on_left_out: Callable[[str], None]) -> None:
    """The inverse; a map may have none, and the other files are written all the same."""
    try:
        inverse = result.inverse
    except GeometryError as error:
        on_left_out(f"the transform has no inverse, so {path.name} is not written: {error}")
        return
    write_result(path, inverse)


def _uncertainty(result: Registration) -> Floats:
    started = time.perf_counter()
    found = uncertainty_map(result)
    result.timings["uncertainty"] = time.perf_counter() - started
    return found


def _content(result: Registration, files: PairFiles) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        **run_record(),
        "read": digests(files.all()),
        "fixed": [str(path) for path in files.fixed],
        "moving": [str(path) for path in files.moving],
        "unit": unit_of_pair(files, result),
        **{side: str(path) for side, path in _beside_images(files).items() if path is not None},
        **result.measures,
        "guided_by": result.guided_by,
        "decisions": [{"name": decision.name, "value": decision.value, "because": decision.because} for decision in result.decisions],
        "seconds": {name: round(seconds, 3) for name, seconds in result.timings.items()},
    }


def _beside_images(files: PairFiles) -> dict[str, Path | str | None]:
    """Labels and landmarks, which the report and viewers look for."""
    return {name: getattr(files, name) for name in ("fixed_labels", "moving_labels", "fixed_points", "moving_points")}


def _image(paths: Sequence[Path | str]) -> Image:
    image = read_channels(paths)
    check_finite(image, paths[0])
    return without_opaque_alpha(image, paths[0]) if len(paths) == 1 else image


def _initial(paths: Sequence[Path | str], fixed: Space, moving: Space) -> Transform:
    """The transforms to start from, whose matrices have to have an inverse."""
    found = read_transforms(paths, fixed=fixed, moving=moving)
    if _is_singular(found):
        path = next(path for path in paths if _is_singular(read_transform(path, fixed=fixed, moving=moving)))
        raise RegistrationError(f"{path}: its matrix cannot be inverted: it maps a whole image onto a plane, a line or a point. Give another transform.")
    return found


def _is_singular(transform: Transform) -> bool:
    return any(isinstance(stage, AffineMap) and stage.flattens for stage in transform.stages)


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


__all__ = ["OUTPUTS", "PairFiles", "Wanted", "register_files", "unit_of_pair", "warped_ending", "write_registration", "written_names"]

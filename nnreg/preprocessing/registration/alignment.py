"""The linear map that brings a case into its frame, found once per case and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles
from nnreg.documents import understood
from nnreg.errors import PreprocessingError, RegistrationError
from nnreg.files import read_json, write_json
from nnreg.geometry.space import Space
from nnreg.planning.registration.plans import RegistrationPlans
from nnreg.preprocessing.registration.reference_space import ReferenceSpace

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class CaseAlignment:
    """How a case lies in its frame.

    Attributes
    ----------
    matrix : array, shape (ndim+1, ndim+1)
        From the frame's world to the case's native world, mm, x first.
    frame : str
        The case that owns the frame.
    kind, similarity_before, similarity_after, because
        As :func:`nnreg.engine.align` gives them; similarities are None where nothing was aligned.
    """

    matrix: Doubles
    frame: str
    kind: str
    because: str
    similarity_before: float | None = None
    similarity_after: float | None = None

    def summary(self) -> dict[str, Any]:
        """Everything but the matrix, for the properties of a case."""
        return {
            "frame": self.frame,
            "kind": self.kind,
            "similarity_before": self.similarity_before,
            "similarity_after": self.similarity_after,
            "because": self.because,
        }


def align_case(case: str, array: npt.NDArray[np.float32], space: Space, frame: ReferenceSpace, plans: RegistrationPlans, *, owner: bool) -> CaseAlignment:
    """Align a normalised image (C, *spatial) to `frame` as the plans say; the frame's owner stays where it is.

    Raises
    ------
    PreprocessingError
        If it cannot be aligned; the message names the case.
    """
    ndim = space.ndim
    if ndim != frame.native.ndim:
        raise PreprocessingError(f"{case}: is {ndim}D, the frame it is to be aligned to ({frame.case}) is {frame.native.ndim}D.")
    if owner:
        return CaseAlignment(np.eye(ndim + 1), frame.case, "none", "it owns the frame")
    if plans.pre_alignment == "none":
        return CaseAlignment(np.eye(ndim + 1), frame.case, "none", "the headers align the images")
    from nnreg.engine import align

    try:
        found = align(fixed=frame.image, fixed_space=frame.space, moving=array, moving_space=space, kind=plans.pre_alignment, spacing=plans.alignment_spacing)
    except RegistrationError as error:
        raise PreprocessingError(f"{case}: cannot be aligned to {frame.case}: {error}") from error
    return CaseAlignment(found.matrix, frame.case, found.kind, found.because, found.similarity_before, found.similarity_after)


def alignment_key(plans: RegistrationPlans, frame: ReferenceSpace, files: str) -> dict[str, Any]:
    """What an alignment depends on: it is used again only while all of it is the same."""
    return {
        "schema_version": SCHEMA_VERSION,
        "pre_alignment": plans.pre_alignment,
        "alignment_spacing": list(plans.alignment_spacing),
        "orientation": plans.orientation,
        "frame": frame.case,
        "frame_digest": frame.digest,
        "frame_space": frame.space.to_dict(),
        "files": files,
    }


def stored_alignment(path: Path, made_for: dict[str, Any]) -> CaseAlignment | None:
    """The alignment kept at `path`, None if there is none or it was made for something else."""
    if not path.is_file():
        return None
    content = read_json(path, PreprocessingError)
    if not isinstance(content, dict) or content.get("made_for") != made_for:
        return None
    with understood(path, PreprocessingError, "Remove it and preprocess the dataset again."):
        fields = {key: content[key] for key in ("frame", "kind", "because", "similarity_before", "similarity_after")}
        return CaseAlignment(matrix=np.asarray(content["matrix"], dtype=float), **fields)


def store_alignment(path: Path, alignment: CaseAlignment, made_for: dict[str, Any]) -> None:
    """Keep an alignment for the other configurations and the next run."""
    write_json(path, {"made_for": made_for, "matrix": alignment.matrix.tolist(), **alignment.summary()})

"""One error tree. A message names the file or key, what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NnRegError(Exception):
    """Anything that the user can mend. The command line prints its message in one line and exits with 2."""


class WorkspaceError(NnRegError):
    """A workspace folder is missing, ambiguous or cannot be written."""


class WriteError(NnRegError):
    """A file or folder cannot be written, or a disk is full: no fault of what was to be written, so that nothing may be left out for it."""


class ImageError(NnRegError):
    """A file is not a readable image, or cannot be written."""


class ImageWriteError(ImageError, WriteError):
    """An image cannot be written to its place, or the disk is full."""


class GeometryError(NnRegError):
    """Two grids, matrices or fields do not fit together."""


class TransformError(GeometryError):
    """A file is not a spatial transform that can be read, or a transform cannot be written in the form asked for."""


class DatasetError(NnRegError):
    """The raw dataset contradicts its dataset.json."""


class PlansError(NnRegError):
    """A fingerprint or plans file is damaged, hand-edited wrongly or made for something else."""


class PreprocessingError(NnRegError):
    """A case could not be preprocessed, or its preprocessed arrays are missing."""


class ConfigurationError(NnRegError):
    """A name, setting or option is unknown or has the wrong type."""


class RegistrationError(NnRegError):
    """A pair cannot be registered."""


class TrainingError(NnRegError):
    """A training cannot start or go on."""


class PredictionError(NnRegError):
    """A prediction cannot start, or a model folder is incomplete."""


class EvaluationError(NnRegError):
    """Results and truth do not fit together."""


class WorkerError(NnRegError):
    """A background worker failed; the message carries the case and the worker's own traceback."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Remedy for an unknown name: the nearest valid one, or all of them when none is near.

    Examples
    --------
    >>> did_you_mean("pairng", ["pairing", "labels"])
    "did you mean 'pairing'?"
    >>> did_you_mean("x", ["pairing", "labels"])
    'valid: labels, pairing'
    """
    names = sorted(map(str, valid))
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(names)}"

"""Registered pairs as BIDS derivatives: names, sidecars, ``dataset_description.json``.

Names follow the derivatives part of the BIDS specification (1.9) and, for transforms, the names that BEP 014 proposes and fMRIPrep writes:
``sub-01_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5``.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnreg import __version__
from nnreg.engine import Registration
from nnreg.errors import PredictionError
from nnreg.files import make_folder, read_json, refuse_overwriting, write_json
from nnreg.imageio import ENDINGS, stem_of
from nnreg.inference.registration.register import PairFiles, register_files
from nnreg.run_record import run_record

VERSION = "1.9.0"
DESCRIPTION = "dataset_description.json"
ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9]+)")
DATATYPES = {"bold": "func", "sbref": "func", "boldref": "func", "dwi": "dwi", "dwiref": "dwi", "pet": "pet", "asl": "perf"}  # of suffixes; others are anat
ANATOMICAL = ("T1w", "T2w", "FLAIR", "PDw", "PDT2", "inplaneT1", "inplaneT2", "T2starw", "angio", "T1map", "T2map", "T2starmap", "MTw", "UNIT1")
SUFFIXES = (*ANATOMICAL, *DATATYPES)
CHANNELS = {"t1": "T1w", "mr": "T1w", "t2": "T2w", "pd": "PDw", "t2star": "T2starw", "flair": "FLAIR"}  # what a dataset calls it, to its suffix
TEMPLATE = "tpl"


@dataclass(frozen=True)
class BidsName:
    """What a file name says in BIDS.

    Attributes
    ----------
    entities
        Key to label, in their order: ``{"sub": "01", "ses": "1"}``.
    suffix
        ``T1w``.
    source
        The image that is called so.
    """

    entities: Mapping[str, str]
    suffix: str
    source: str

    @property
    def whom(self) -> tuple[str | None, str | None]:
        """Subject and session."""
        return self.entities.get("sub"), self.entities.get("ses")

    @property
    def folder(self) -> str:
        """Where its derivatives go: ``sub-01/ses-1/anat``."""
        parts = [f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self.entities]
        return "/".join([*parts, DATATYPES.get(self.suffix, "anat")])

    def label_seen_from(self, other: BidsName) -> str:
        """What its space is called beside `other`: of the same visit the suffix, of a template its name, else subject, session and suffix in one word."""
        if TEMPLATE in self.entities:
            return self.entities[TEMPLATE]
        if self.whom == other.whom:
            distinct = self.suffix != other.suffix
            return self.suffix if distinct else "".join(f"{key}{value}" for key, value in self.entities.items() if key not in ("sub", "ses")) + self.suffix
        return "".join(f"{key}{value}" for key, value in self.entities.items() if key in ("sub", "ses")) + self.suffix

    def name(self, suffix: str, **more: str) -> str:
        """A derivative's name without its ending: its entities, further ones, a suffix."""
        return "_".join([*(f"{key}-{value}" for key, value in {**self.entities, **more}.items() if key != TEMPLATE), suffix])


def name_of(source: Path | str, suffix: str | None = None) -> BidsName:
    """Read a name.

    Parameters
    ----------
    source
        An image file, or the name of a case. Without ``sub-LABEL`` or ``tpl-LABEL`` its letters and digits become the subject's label.
    suffix
        Where the name has none: that of a channel, see ``CHANNELS``.

    Raises
    ------
    PredictionError
        If no suffix is known.

    Examples
    --------
    >>> name_of("in/sub-01_ses-1_T1w.nii.gz").folder
    'sub-01/ses-1/anat'
    >>> name_of("hippocampus_007", "T1").name("dseg", space="T1w")
    'sub-hippocampus007_space-T1w_dseg'
    """
    path = Path(source)
    stem = stem_of(path) if path.name.lower().endswith(tuple(ENDINGS)) else path.name
    parts = stem.split("_")
    entities = {found[1]: found[2] for part in parts if (found := ENTITY.fullmatch(part))}
    if not entities.keys() & {"sub", TEMPLATE}:
        return BidsName({"sub": re.sub("[^a-zA-Z0-9]", "", stem)}, _suffix(suffix, source), str(source))
    named = parts[-1] if parts[-1] in SUFFIXES else suffix
    return BidsName(entities, _suffix(named, source), str(source))


def _suffix(given: str | None, source: Path | str) -> str:
    if given is not None:
        found = CHANNELS.get(given.lower().removesuffix("w"), given)
        if found in SUFFIXES:
            return found
    raise PredictionError(f"{source}: its name has no BIDS suffix, so it has no name among derivatives. Call it sub-LABEL_T1w.nii.gz ({', '.join(SUFFIXES)}).")


def check_distinct(names: Sequence[tuple[BidsName, BidsName]]) -> None:
    """Refuse pairs of which one would replace another.

    Raises
    ------
    PredictionError
        It names both images.
    """
    known: dict[str, BidsName] = {}
    for fixed, moving in names:
        target = transform_stem(fixed, moving)
        if target in known:
            raise PredictionError(f"{moving.source} and {known[target].source} would both be written as {target}. Rename one of them.")
        known[target] = moving


def transform_stem(fixed: BidsName, moving: BidsName) -> str:
    """Path, below the folder of derivatives and without an ending, of what resamples the moving image onto the fixed grid."""
    labels = {"from": moving.label_seen_from(fixed), "to": fixed.label_seen_from(moving), "mode": "image"}
    return f"{moving.folder}/{moving.name('xfm', **labels)}"


@contextmanager
def derivatives(output: Path) -> Iterator[Path]:
    """A hidden folder in `output` for results in nnReg's own layout, which goes in the end; ``dataset_description.json`` is written first.

    Raises
    ------
    PredictionError
        If `output` is a raw BIDS dataset.
    """
    path = output / DESCRIPTION
    if path.is_file():
        found = read_json(path, PredictionError)
        if not isinstance(found, dict) or found.get("DatasetType") != "derivative":
            raise PredictionError(f"{path}: is of a dataset that is no derivative. Choose another output folder, such as derivatives/nnreg.")
    make_folder(output)
    if not path.is_file():
        write_json(path, _description())
    with tempfile.TemporaryDirectory(prefix=".nnreg.", dir=output) as temporary:
        yield Path(temporary)


def _description() -> dict[str, Any]:
    made = {"Name": "nnReg", "Version": __version__, "Description": str(run_record().get("command", "nnreg"))}
    return {"Name": "Registrations by nnReg", "BIDSVersion": VERSION, "DatasetType": "derivative", "GeneratedBy": [made]}


def lay_out(part: Path, output: Path, fixed: BidsName, moving: BidsName, record: Mapping[str, Any]) -> list[Path]:
    """Move the results of a pair from nnReg's own layout to their BIDS names.

    Parameters
    ----------
    part
        Folder of the pair: ``transform.h5``, ``warped.nii.gz``, ...
    output
        The folder of derivatives.
    fixed, moving
        What the images are called.
    record
        What is known of the registration: goes into the sidecar of the transform.

    Returns
    -------
    list of Path
        Every file that was written.
    """
    written = []
    for file, target, content in _targets(fixed, moving, record):
        for found in _named(part, file):
            place = output / f"{target}{found.name[len(file) :]}"
            make_folder(place.parent)
            refuse_overwriting(place, [fixed.source, moving.source])
            found.replace(place)
            if content is not None:
                write_json(output / f"{target}.json", content)
            written.append(place)
    return written


def _named(part: Path, stem: str) -> list[Path]:
    """The file of a stem, whatever its ending, but no sidecar of it: BIDS has its own."""
    return [path for path in part.glob(f"{stem}.*") if path.name[len(stem) :] in (".h5", *ENDINGS)]


def _targets(fixed: BidsName, moving: BidsName, record: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any] | None]]:
    """Stem of a result, where it goes (without ending), and its sidecar."""
    there, here = fixed.label_seen_from(moving), moving.label_seen_from(fixed)

    def image(suffix: str, **more: str) -> str:
        return f"{moving.folder}/{moving.name(suffix, space=there, **more)}"

    def transform(source: str, target: str, **more: str) -> str:
        return f"{moving.folder}/{moving.name('xfm', **{'from': source, 'to': target}, mode='image', **more)}"

    sidecar = {"Sources": [moving.source, fixed.source], "SpatialReference": fixed.source}
    back = {"Sources": [fixed.source, moving.source], "SpatialReference": moving.source}
    figures = "/".join([*moving.folder.split("/")[:-1], "figures"])
    return [
        ("transform", transform(here, there), {**sidecar, "nnReg": dict(record)}),
        ("field", transform(here, there, desc="field"), sidecar),
        ("alignment", transform(here, there, desc="linear"), sidecar),
        ("inverse_transform", transform(there, here), back),
        ("warped", image(moving.suffix, desc="nnReg"), sidecar),
        ("warped_labels", image("dseg", desc="nnReg"), sidecar),
        ("uncertainty", image("uncertainty", desc="nnReg"), {**sidecar, "Units": record.get("unit", "mm")}),
        ("overview", f"{figures}/{moving.name(moving.suffix, space=there, desc='overview')}", None),
    ]


def register_as_bids(files: PairFiles, output: Path, **options: Any) -> Registration:
    """:func:`nnreg.inference.registration.register.register_files`, laid out as BIDS derivatives.

    Raises
    ------
    NnRegError
        If a name has no BIDS suffix, or `output` is a raw dataset; and all that ``register_files`` refuses.
    """
    fixed, moving = name_of(files.fixed[0]), name_of(files.moving[0])
    with derivatives(output) as part:
        result = register_files(files, part, **options)
        measures = read_json(part / "measures.json")
        measures.pop("written")  # names in the hidden folder
        lay_out(part, output, fixed, moving, measures)
        return result


__all__ = ["BidsName", "check_distinct", "derivatives", "lay_out", "name_of", "register_as_bids", "transform_stem"]

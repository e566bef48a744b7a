"""Label maps for a folder of images from a folder of atlases: selected, registered, warped once and fused."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.dataset.labels import LabelManager
from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.errors import NnRegError, WriteError
from nnreg.files import read_json, write_json
from nnreg.groups.fusion.atlases import AtlasSet, atlases_in
from nnreg.groups.fusion.check import leave_one_out
from nnreg.groups.fusion.one_image import AS_IT_COMES, FuseOptions, Fusion
from nnreg.groups.fusion.registrars import ENGINE, Registrar
from nnreg.groups.fusion.vote import PLAIN, Meaning
from nnreg.groups.members import Member, members_in
from nnreg.groups.output_folder import SUMMARY, files_of, group_record, own_folder
from nnreg.progress import Progress

SCHEMA_VERSION = 1
MARK = "atlases_folder"  # key of a summary.json that no other command writes


def fuse(
    images: Path | str,
    atlases: Path | str,
    output: Path | str,
    *,
    labels: Path | str | None = None,
    atlas_labels: Path | str | None = None,
    registrar: Registrar = ENGINE,
    options: FuseOptions = AS_IT_COMES,
    check: int = 0,
    processes: int = 1,
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> dict[str, Any]:
    """Label the images of a folder by the atlases of another one.

    Parameters
    ----------
    images, atlases
        Folders of images ``CASE_0000.ending``; masks lie in ``masksTr`` beside ``imagesTr``.
    output
        Gets ``IMAGE.ending`` (labels), ``uncertainty/IMAGE.ending`` (entropy of the vote) and ``summary.json``.
    labels
        Folder of true labels of the images, which are compared with; ``labelsTs`` beside ``imagesTs`` by default.
    atlas_labels
        Folder of labels of the atlases; ``labelsTr`` beside ``imagesTr`` by default.
    registrar
        The engine with its options, or a trained model.
    options
    check
        So many atlases are labelled by all others, by every method, and the results compared with the best atlas alone.
    processes
        Atlases that are registered at a time.
    on_progress, on_note
        Told how far it is, and in sentences what was left out.

    Returns
    -------
    dict
        The content of ``summary.json``: ``cases`` by name, with ``failed`` where an image could not be labelled, and ``mean_dice``.

    Raises
    ------
    NnRegError
        If folders are none of images, too few atlases can be used, the output is read, and, if asked for (`options.strict`), for the first atlas or image
        that cannot be used.
    """
    images, atlases, output = Path(images), Path(atlases), Path(output)
    members = members_in(images, labels=labels)
    own_folder(output, _read(members, members_in(atlases, labels=atlas_labels)), MARK)
    found = atlases_in(atlases, labels=atlas_labels, strict=options.strict, fewest=options.fewest)
    fusion = Fusion(found, output, options, registrar, meaning_beside(atlases), processes)
    return fuse_members(fusion, members, check=check, on_progress=on_progress, on_note=on_note)


def fuse_members(
    fusion: Fusion, members: Sequence[Member], *, check: int = 0, on_progress: Progress | None = None, on_note: Callable[[str], None] = lambda note: None
) -> dict[str, Any]:
    """Label images, wherever they and the atlases lie; see :func:`fuse`.

    Parameters
    ----------
    fusion
        Atlases, options and output.
    members
        The images.
    check, on_progress, on_note
        As :func:`fuse` takes them.

    Returns
    -------
    dict
        The content of ``summary.json``.
    """
    output, options = fusion.output, fusion.options
    read = _read(members, [atlas.member for atlas in fusion.atlases.atlases])
    own_folder(output, read, MARK)
    content = _content(fusion, read)
    for note in _notes(fusion.atlases):
        on_note(note)
    if check:
        content["check"] = leave_one_out(fusion, check, on_progress=on_progress, on_note=on_note)
    earlier = _earlier(output / SUMMARY)
    cases: dict[str, Any] = content.setdefault("cases", {})
    for number, member in enumerate(members):
        if fusion.finished(member, earlier.get(member.name)):
            cases[member.name] = earlier[member.name]
        else:
            cases[member.name] = _labelled(fusion, member, _of_all(on_progress, number, len(members), member.name), on_note)
            if "failed" not in earlier.get(member.name, {"failed": None}):
                fusion.discard(member, labelled="failed" not in cases[member.name])
        write_json(output / SUMMARY, content)
        if not options.keep_warped and "failed" not in cases[member.name]:
            shutil.rmtree(fusion.work(member), ignore_errors=True)
    content |= _means(cases)
    write_json(output / SUMMARY, content)
    with contextlib.suppress(OSError):  # not there, or what failed images go on from lies in it
        (output / "work").rmdir()
    return content


def _read(members: Sequence[Member], atlases: Sequence[Member]) -> list[Path | None]:
    return files_of([*members, *atlases])


def _labelled(fusion: Fusion, member: Member, on_progress: Progress | None, on_note: Callable[[str], None]) -> dict[str, Any]:
    """The record of an image; one that cannot be labelled has the reason in it."""
    try:
        record = fusion.run(member, on_progress)
    except WriteError:
        raise
    except NnRegError as error:
        if fusion.options.strict:
            raise
        reason = str(error).splitlines()[0]
        on_note(f"image {member.name} could not be labelled: {reason}")
        return {"failed": reason}
    for name, found in record["atlases"].items():
        if found["failed"] is not None:
            on_note(f"image {member.name}: atlas {name} left out: {found['failed']}")
    return record


def _of_all(on_progress: Progress | None, number: int, count: int, name: str) -> Progress | None:
    """Progress of one image as part of that of all: a registration or a block is a step."""
    if on_progress is None:
        return None

    def show(done: int, total: int, what: str) -> None:
        on_progress(number * 1000 + 1000 * done // max(1, total), 1000 * count, f"{name}: {what}")

    return show


def meaning_beside(atlases: Path) -> Meaning:
    """What dataset.json beside the folder of atlases says of labels."""
    path = atlases.parent / FILE_NAME
    if not path.is_file():
        return PLAIN
    spec = DatasetSpec.read(path)
    if not spec.labels:
        return PLAIN
    manager = LabelManager.of(spec, str(path))
    regions = tuple((region,) if isinstance(region, int) else region for region in manager.regions)
    return Meaning(regions, manager.region_values, manager.ignore)


def _content(fusion: Fusion, read: list[Path | None]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        **group_record(read),
        MARK: str(fusion.atlases.atlases[0].member.files[0].parent.absolute()),
        "atlases": [atlas.name for atlas in fusion.atlases.atlases],
        "left_out": fusion.atlases.left_out,
        "labels_missing": fusion.atlases.lacking(),
        "labels": [0, *fusion.atlases.values()],
        "method": fusion.options.method,
        "options": asdict(fusion.options),
        "registered_by": repr(fusion.registrar),
    }


def _notes(atlases: AtlasSet) -> list[str]:
    """What is said of a set of atlases."""
    notes = [f"atlas {name} left out: {reason}" for name, reason in atlases.left_out.items()]
    lacking = atlases.lacking()
    for name, values in list(lacking.items())[:3]:
        told = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
        notes.append(f"atlas {name} lacks {len(values)} labels that others have ({told}): where these are, its background does not vote")
    if len(lacking) > 3:
        notes.append(f"{len(lacking) - 3} more atlases lack labels: {SUMMARY} names them under labels_missing")
    return notes


def _earlier(path: Path) -> dict[str, Any]:
    return dict(read_json(path).get("cases", {})) if path.is_file() else {}


def _means(cases: Mapping[str, Any]) -> dict[str, Any]:
    """Mean Dice over images whose labels are known, and of the best atlas of each alone."""
    known = [case["dice"] for case in cases.values() if "dice" in case]
    if not known:
        return {}
    fused, single = np.mean([dice["mean"] for dice in known]), np.mean([dice["best_single"]["mean"] for dice in known])
    return {"mean_dice": float(fused), "mean_dice_of_best_single": float(single)}

"""A BIDS dataset: one image per subject, or per subject and session."""

from __future__ import annotations

import re
from pathlib import Path

from nnreg.dataset.sources.collected import Collected, Wanted, case_name, listed
from nnreg.dataset.writing import NewCase
from nnreg.errors import DatasetError

DESCRIPTION = "dataset_description.json"
DEFAULT = "T1w"
NAME = re.compile(r"^(?P<entities>sub-[A-Za-z0-9]+.*)_(?P<suffix>[A-Za-z0-9]+)\.nii(\.gz)?$")
SESSION = re.compile(r"_ses-([A-Za-z0-9]+)")


def is_bids(source: Path) -> bool:
    """Whether it has a ``dataset_description.json`` and folders of subjects."""
    return source.is_dir() and (source / DESCRIPTION).is_file() and any(path.is_dir() for path in source.glob("sub-*"))


def read_bids(source: Path, wanted: Wanted) -> Collected:
    """Images with one suffix (``T1w`` where none was named); several suffixes are channels. Sessions of a subject are registered to each other."""
    suffixes = wanted.suffixes or (DEFAULT,)
    found: dict[str, dict[str, list[Path]]] = {}
    others: set[str] = set()
    for path in sorted(source.glob("sub-*/**/*.nii*")):
        match = NAME.match(path.name)
        if match is None:
            continue
        if match["suffix"] in suffixes:
            subject, session = match["entities"].partition("_")[0], SESSION.search(match["entities"])
            visit = subject if session is None else f"{subject}_ses-{session[1]}"
            found.setdefault(visit, {}).setdefault(match["suffix"], []).append(path)
        else:
            others.add(match["suffix"])
    if not found:
        there = f"Found {listed(sorted(others))}: name one with --suffix." if others else "It holds no NIfTI image of a subject."
        raise DatasetError(f"{source}: has no image with the suffix {' or '.join(suffixes)}. {there}")
    cases, left_out = {}, []
    for visit, by_suffix in found.items():
        several = next((paths for paths in by_suffix.values() if len(paths) > 1), None)
        if several is not None:
            raise DatasetError(f"{source}: {visit} has {len(several)} images of one suffix ({listed([path.name for path in several])}). Keep one.")
        if set(by_suffix) == set(suffixes):
            cases[case_name(visit)] = NewCase([by_suffix[suffix][0] for suffix in suffixes])
        else:
            left_out.append(visit)
    if not cases:
        raise DatasetError(f"{source}: no subject has all of {', '.join(suffixes)}. Name fewer with --suffix.")
    groups = {case: case.partition("_")[0] for case in cases}
    sessions = len(set(groups.values())) < len(cases)
    spec = {"channel_names": {str(number): suffix for number, suffix in enumerate(suffixes)}}
    decisions = [
        f"{len(cases)} images with the suffix {' and '.join(suffixes)}" + (f"; left out, because one is missing: {listed(left_out)}" if left_out else "")
    ]
    if sessions:
        decisions.append("subjects have several sessions: pairing groups, the sessions of a subject to each other")
        return Collected("BIDS", cases, spec | {"pairing": "groups", "groups": groups}, tuple(decisions))
    return Collected("BIDS", cases, spec, tuple(decisions))

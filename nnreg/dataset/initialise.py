"""``dataset.json`` of a dataset that is made from a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnreg.dataset.label_files import values_in
from nnreg.dataset.sources.collected import Collected, subjects_in
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.writing import NewCase, ending_for_cases
from nnreg.errors import DatasetError
from nnreg.imageio import Image, read_image
from nnreg.task import DEFAULT_TASK


def planned_spec(found: Collected, given: Mapping[str, Any], channel_names: Sequence[str] | None) -> tuple[DatasetSpec, list[str]]:
    """``dataset.json`` and what was decided for it, a sentence each.

    Parameters
    ----------
    found
        What the source holds and tells.
    given
        Entries that the user named: they count before the source's.
    channel_names
        Of the user; by default the source's, else ``channel_0``, ...

    Raises
    ------
    DatasetError
        If cases differ in their channels, or entries contradict each other.
    """
    channels = _channels(found.cases)
    decisions = list(found.decisions)
    names = list(channel_names or found.spec.get("channel_names", {}).values())
    if len(names) != channels:
        if names:
            raise DatasetError(
                f"the images have {channels} channels, the names {', '.join(names)} are for {len(names)}. Name one for each with --channel_names."
            )
        names = [f"channel_{number}" for number in range(channels)]
        decisions.append(f"channels are called {', '.join(names)}; --channel_names CT chooses the normalisation of CT")
    labels = found.spec.get("labels")
    if labels is None:
        labels = _labels(found.cases)
        if labels:
            decisions.append(f"labels are called by their values: {', '.join(str(value) for value in labels.values() if value)}"[:200])
    content = {
        **found.spec,
        **given,
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": labels,
        "numTraining": sum(not case.test for case in found.cases.values()),
        "file_ending": ending_for_cases(found.cases),
    }
    content.setdefault("task", DEFAULT_TASK)
    groups = {} if "groups" in content else subjects_in(found.cases)
    if groups and content.get("pairing") == "groups":
        content["groups"] = groups
        decisions.append(f"subjects are told by the names: {_example(groups)}")
    elif groups and content.get("pairing", "all") == "all":
        decisions.append(f"names count images of one subject ({_example(groups)}): --pairing groups registers within subjects")
    if content.get("pairing", "all") == "all":
        decisions.append("pairing all: every image to every other; --atlas CASE or a table of pairs says otherwise")
    return DatasetSpec.from_dict(content, where="dataset.json"), decisions


def _example(groups: Mapping[str, str]) -> str:
    """A subject with its first two cases."""
    subjects = list(groups.values())
    subject = next(subject for subject in subjects if subjects.count(subject) > 1)
    return f"{', '.join([case for case in groups if groups[case] == subject][:2])} are of {subject}"


def _channels(cases: Mapping[str, NewCase]) -> int:
    """Channels of every case; of files with one image each only the first case is opened."""
    counts = {name: len(case.images) for name, case in cases.items()}
    if len(set(counts.values())) > 1:
        least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        raise DatasetError(f"case {least!r} has {counts[least]} channel files, case {most!r} {counts[most]}. Add or remove files.")
    first = next(iter(cases.values()))
    return sum(_read(image).channels for image in first.images)


def _read(image: Image | Path) -> Image:
    return image if isinstance(image, Image) else read_image(image)


def _labels(cases: Mapping[str, NewCase]) -> dict[str, int]:
    values = sorted({value for case in cases.values() if isinstance(case.labels, Path) for value in values_in(case.labels)} - {0})
    return {"background": 0} | {f"label_{value}": value for value in values} if values else {}


__all__ = ["planned_spec"]

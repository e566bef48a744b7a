"""Atlases: images with labels that fit together. What cannot be used is left out and named; labels that an atlas lacks are named too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnreg.dataset.label_files import values_in
from nnreg.errors import DatasetError, NnRegError
from nnreg.groups.members import Member, members_in

COMMON = 0.5  # of the atlases: labels that so many have are those of the set; an atlas with fewer of its own among them has other labels


@dataclass(frozen=True)
class Atlas:
    """An image with labels.

    Attributes
    ----------
    member
    values
        The labels that it has, without the background.
    """

    member: Member
    values: frozenset[int]

    @property
    def name(self) -> str:
        """Of the member."""
        return self.member.name


@dataclass(frozen=True)
class AtlasSet:
    """The atlases of a folder.

    Attributes
    ----------
    atlases
        That can be used.
    left_out
        Those that cannot, each with the reason.
    """

    atlases: tuple[Atlas, ...]
    left_out: dict[str, str] = field(default_factory=dict)

    def values(self) -> list[int]:
        """Labels of any atlas, without the background."""
        return sorted(frozenset().union(*(atlas.values for atlas in self.atlases)))

    def lacking(self) -> dict[str, list[int]]:
        """Labels that others have and an atlas has nowhere, by the atlas; atlases that have all are not named."""
        every = self.values()
        return {atlas.name: lacks for atlas in self.atlases if (lacks := [value for value in every if value not in atlas.values])}

    def without(self, name: str) -> AtlasSet:
        """The same without one of them."""
        return AtlasSet(tuple(atlas for atlas in self.atlases if atlas.name != name), self.left_out)


def atlases_in(folder: Path | str, *, labels: Path | str | None = None, strict: bool = False, fewest: int = 2) -> AtlasSet:
    """The atlases of a folder of images; see :func:`nnreg.groups.members.members_in` for where labels and masks lie.

    Parameters
    ----------
    folder
    labels
        Folder of label maps, instead of ``labelsTr`` beside ``imagesTr``.
    strict
        Whether an atlas that cannot be used is an error; if not, it is left out.
    fewest
        How many have to be left.

    Raises
    ------
    DatasetError
        If fewer than `fewest` atlases can be used; where `strict`, if one cannot. It names the first.
    NnRegError
        If the folder is none of images.
    """
    return atlases_of(members_in(folder, labels=labels), folder, strict=strict, fewest=fewest)


def atlases_of(members: Sequence[Member], where: Path | str, *, strict: bool = False, fewest: int = 2) -> AtlasSet:
    """The atlases among images of a group, as :func:`atlases_in` finds them; `where` they lie is named in errors."""
    left_out: dict[str, str] = {}
    found = []
    for member in members:
        try:
            found.append(_with_labels(member))
        except NnRegError as error:
            left_out[member.name] = str(error)
    fitting, others = _of_one_kind(found)
    left_out |= others
    if left_out and (strict or len(fitting) < fewest):
        name, reason = next(iter(left_out.items()))
        enough = "" if strict else f"{len(fitting)} of {len(fitting) + len(left_out)} atlases can be used, {fewest} are needed. "
        raise DatasetError(f"{where}: {enough}atlas {name!r} cannot be used: {reason}")
    if len(fitting) < fewest:
        raise DatasetError(f"{where}: holds {len(fitting)} atlas; labels are fused from {fewest} or more. Add atlases, or take --method majority.")
    return AtlasSet(tuple(fitting), left_out)


def _with_labels(member: Member) -> Atlas:
    if member.labels is None:
        raise DatasetError(f"{member.files[0]}: has no labels. Add a label map of its name to the folder of labels, or name that folder (--atlas_labels).")
    values = frozenset(values_in(member.labels) - {0})
    if not values:
        raise DatasetError(f"{member.labels}: holds background alone. Draw its labels, or remove the atlas.")
    if min(values) < 0:
        raise DatasetError(f"{member.labels}: holds the label {min(values)}; labels are 0 (background) or above. Renumber them.")
    image = member.image()
    member.label_map(image), member.mask_map(image)  # one that cannot be read, or lies on another grid, is told once, not for every image
    return Atlas(member, values)


def _of_one_kind(atlases: Sequence[Atlas]) -> tuple[list[Atlas], dict[str, str]]:
    """Those that share most of their labels with at least half of all, and the others, which were labelled by another list."""
    counts = Counter(value for atlas in atlases for value in atlas.values)
    common = {value for value, count in counts.items() if count >= max(COMMON * len(atlases), min(2, len(atlases)))}
    fitting, others = [], {}
    for atlas in atlases:
        shared = len(atlas.values & common)
        if 2 * shared >= len(atlas.values):
            fitting.append(atlas)
        else:
            told = ", ".join(map(str, sorted(atlas.values - common)[:5]))
            others[atlas.name] = (
                f"{atlas.member.labels}: {len(atlas.values) - shared} of its {len(atlas.values)} labels ({told}, ...) are in fewer than half of the atlases. "
                "Give atlases that were labelled by one list."
            )
    return fitting, others

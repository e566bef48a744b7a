"""The images of a group: files of a folder with what lies beside them, read when they are needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnreg.dataset.label_files import folder_beside, read_label_map
from nnreg.errors import DatasetError
from nnreg.imageio import ENDINGS, Image, check_finite, check_same_space, ending_of, is_image_file, read_channels

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_NOTES = (".json", ".txt", ".md", ".csv", ".tsv", ".html", ".log", ".yaml", ".yml")  # texts and tables that lie among images


@dataclass(frozen=True)
class Member:
    """One image of a group.

    Attributes
    ----------
    name
        Of the case: its file's name without channel number and ending.
    files
        Channel by channel.
    labels, mask
        Files on the image's grid; None where there is none.
    """

    name: str
    files: tuple[Path, ...]
    labels: Path | None = None
    mask: Path | None = None

    def all_files(self) -> list[Path | None]:
        """Every file that it may be read from."""
        return [*self.files, self.labels, self.mask]

    def image(self) -> Image:
        """All channels.

        Raises
        ------
        NnRegError
            If a file cannot be read, or holds values that are not finite.
        """
        image = read_channels(self.files)
        check_finite(image, self.files[0])
        return image

    def label_map(self, image: Image) -> Image | None:
        """Its labels, on the grid of `image`; None if it has none."""
        return self._beside(self.labels, image)

    def mask_map(self, image: Image) -> Image | None:
        """Where it may be looked at, on the grid of `image`; None for everywhere."""
        return self._beside(self.mask, image)

    def _beside(self, path: Path | None, image: Image) -> Image | None:
        if path is None:
            return None
        found = read_label_map(path)
        check_same_space(found.space, path, image.space, self.files[0])
        return found


def members_in(folder: Path | str, *, labels: Path | str | None = None, masks: Path | str | None = None) -> list[Member]:
    """The images of a folder, by name.

    Parameters
    ----------
    folder
        ``CASE_0000.ending``, a file for each channel, or ``CASE.ending``.
    labels, masks
        Folders with ``CASE.ending``; by default ``labelsTr`` and ``masksTr`` beside ``imagesTr`` (``Ts`` beside ``Ts``), if they are there.

    Raises
    ------
    DatasetError
        If a folder is missing or has no images, a case lacks a channel, is there twice, or has another number of channels than the first.
    """
    folder = Path(folder)
    files = _channels(_existing(folder))
    label_folder, mask_folder = _beside(folder, labels, "labels"), _beside(folder, masks, "masks")
    return [Member(name, paths, _named(label_folder, name), _named(mask_folder, name)) for name, paths in files.items()]


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder. Name a folder of images.")
    return folder


def _beside(folder: Path, named: Path | str | None, kind: str) -> Path | None:
    return folder_beside(folder, kind) if named is None else _existing(Path(named))


def _channels(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Cases to their files in the order of their channels, checked."""
    found: dict[str, dict[int, Path]] = {}
    for path in image_files(folder):
        case, channel = case_and_channel(path)
        earlier = found.setdefault(case, {}).setdefault(channel, path)
        if earlier != path:
            raise DatasetError(f"{path}: is there as {earlier.name} too, so which of them counts is not clear. Remove one.")
    return _complete(folder, found)


def image_files(folder: Path) -> list[Path]:
    """Files of a folder that are no texts or tables, sorted by name.

    Raises
    ------
    DatasetError
        If there is none.
    """
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and is_image_file(path) and path.suffix.lower() not in _NOTES]
    if not found:
        raise DatasetError(f"{folder}: holds no images. Expected files such as CASE.nii.gz or CASE_0000.nii.gz.")
    return found


def case_and_channel(path: Path) -> tuple[str, int]:
    """What the name of an image says: ``CASE_0001.ending`` is channel 1 of CASE, ``CASE.ending`` channel 0."""
    stem = path.name[: -len(ending_of(path))]
    numbered = _CHANNEL.fullmatch(stem)
    return (stem, 0) if numbered is None else (numbered["case"], int(numbered["channel"]))


def counted(name: str) -> list[tuple[int, str]]:
    """By which names are sorted as people count: visit 2 before visit 10.

    Examples
    --------
    >>> sorted(["visit10", "visit2", "baseline"], key=counted)
    ['baseline', 'visit2', 'visit10']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)] + [(-1, name)]


def taken_for_channels(members: Sequence[Member]) -> str:
    """What to say where one image was found and its files may have been meant as several; else nothing."""
    if len(members) != 1 or len(members[0].files) < 2:
        return ""
    names = f"{members[0].files[0].name} to {members[0].files[-1].name}"
    return f" {names} are read as channels of one image, by the four digits at their end; are they images, add _0000 to each name."


def _complete(folder: Path, found: dict[str, dict[int, Path]]) -> dict[str, tuple[Path, ...]]:
    first = next(iter(found))
    for case, channels in found.items():
        if sorted(channels) != list(range(len(found[first]))):
            raise DatasetError(
                f"{folder}: case {case!r} has channels {sorted(channels)}, expected {list(range(len(found[first])))}, as many as case {first!r} has. "
                "Add or remove channel files; if the four digits count images or visits, add _0000 to each name."
            )
    return {case: tuple(channels[channel] for channel in sorted(channels)) for case, channels in sorted(found.items())}


def _named(folder: Path | None, name: str) -> Path | None:
    if folder is None:
        return None
    there = [path for ending in ENDINGS if is_image_file(path := folder / f"{name}{ending}")]
    if len(there) > 1:
        raise DatasetError(f"{there[0]}: is there as {there[1].name} too, so which of them counts is not clear. Remove one.")
    return there[0] if there else None

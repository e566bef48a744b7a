"""A dataset folder ``DatasetXXX_Name``: its cases and their files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnreg.dataset.keypoints import ENDING as KEYPOINT_ENDING
from nnreg.dataset.keypoints import check_inside, read_keypoints
from nnreg.dataset.label_files import values_in, whole_numbers
from nnreg.dataset.pair import Pair
from nnreg.dataset.pairs import pairs_among, require_names, subjects_of
from nnreg.dataset.spec import FILE_NAME, CaseFiles, DatasetSpec
from nnreg.dataset.target_spec import label_targets
from nnreg.errors import DatasetError, GeometryError, did_you_mean
from nnreg.files import content_digest
from nnreg.geometry import index_points_to_world
from nnreg.imageio import ENDINGS, Image, check_finite, is_image_file, read_channels, read_image
from nnreg.imageio.image import check_same_space

if TYPE_CHECKING:
    from nnreg.geometry import FieldMap


@dataclass(frozen=True, eq=False)
class Case:
    """One image and what is known of it.

    Attributes
    ----------
    image
        All channels.
    labels
        Integer label map (1, *spatial), on its own grid; of a raw dataset on the image's.
    keypoints_voxel : array, shape (N, ndim), or None
        Voxel indices, x first, as Learn2Reg writes them. Row i of one case corresponds to row i of another.
    mask
        Not zero where the image is valid.
    name
        In its dataset.
    """

    image: Image
    labels: Image | None = None
    keypoints_voxel: npt.NDArray[np.float64] | None = None
    mask: Image | None = None
    name: str = ""

    @property
    def keypoints_mm(self) -> npt.NDArray[np.float64] | None:
        """Its keypoints in world mm (N, ndim), x first."""
        return None if self.keypoints_voxel is None else index_points_to_world(self.keypoints_voxel, self.image.space)


STORED_SUFFIXES = ("_seg", "_mask", "_maps", "_locations")  # of the arrays beside that of the image, in the preprocessed dataset


class RawDataset:
    """A dataset as users store it. Opening lists files and reads ``dataset.json``; images are read when they are asked for.

    Attributes
    ----------
    folder : Path
    spec : DatasetSpec
    cases : tuple of str
        Sorted names of the training cases.
    test_cases : tuple of str
        Sorted names of the cases in ``imagesTs``.
    """

    def __init__(self, folder: Path, spec: DatasetSpec, cases: Sequence[str], test_cases: Sequence[str]) -> None:
        self.folder, self.spec = folder, spec
        self.cases, self.test_cases = tuple(sorted(cases)), tuple(sorted(test_cases))
        self._training, self._testing = frozenset(cases), frozenset(test_cases)

    @classmethod
    def open(cls, folder: Path | str) -> RawDataset:
        """Open a dataset folder.

        Raises
        ------
        DatasetError
            No such folder, a wrong ``dataset.json``, no cases, a name in ``imagesTr`` without a channel number, or a case in
            both ``imagesTr`` and ``imagesTs``.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such dataset folder. Check the id and nnReg_raw.")
        spec = DatasetSpec.read(folder / FILE_NAME)
        cases = sorted(spec.dataset) if spec.dataset else _cases_in(folder / "imagesTr", spec.file_ending)
        if not cases:
            raise DatasetError(f"{folder / 'imagesTr'}: holds no case. Expected files such as CASE_0000{spec.file_ending} (file_ending of {FILE_NAME}).")
        testing = _cases_in(folder / "imagesTs", spec.file_ending)
        both = sorted(set(cases) & set(testing))
        if both:
            raise DatasetError(f"{folder}: case {both[0]!r} is in imagesTr and in imagesTs. Rename or remove one.")
        _check_names([*cases, *testing], spec, folder)
        return cls(folder, spec, cases, testing)

    @property
    def name(self) -> str:
        """``DatasetXXX_Name``."""
        return self.folder.name

    # -- files --------------------------------------------------------------------------------------------------------

    def image_paths(self, case: str) -> tuple[Path, ...]:
        """Files of a case, one per channel of ``dataset.json``, whether they exist or not; one file alone may hold all channels (RGB)."""
        listed = self._listed(case)
        if listed is not None:
            return tuple(self._resolve(image) for image in listed.images)
        folder = self.folder / f"images{self._suffix(case)}"
        paths = tuple(folder / f"{case}_{channel:04d}{self.spec.file_ending}" for channel in range(len(self.spec.channels_of(case))))
        return paths if any(path.exists() for path in paths[1:]) else paths[:1]

    def label_path(self, case: str, target: str = "") -> Path | None:
        """Its label file (or that of one of several `targets`: ``CASE_TARGET``), None if it has none."""
        listed = self._listed(case)
        if listed is not None and not target:
            return self._resolve(listed.label) if listed.label is not None else None
        return self._beside("labels", case, (self.spec.file_ending, *ENDINGS), f"_{target}" if target else "")

    def mask_path(self, case: str, target: str = "") -> Path | None:
        """Its mask file (1 where the image is valid), or that of one of several `targets`: ``CASE_TARGET``; None if it has none."""
        listed = self._listed(case)
        if listed is not None and listed.mask is not None and not target:
            return self._resolve(listed.mask)
        return self._beside("masks", case, (self.spec.file_ending, *ENDINGS), f"_{target}" if target else "")

    def keypoints_path(self, case: str) -> Path | None:
        """Its keypoint file, None if it has none."""
        listed = self._listed(case)
        if listed is not None and listed.keypoints is not None:
            return self._resolve(listed.keypoints)
        return self._beside("keypoints", case, (KEYPOINT_ENDING,))

    def digest(self, case: str) -> str:
        """Of the content of all files of a case: images, labels of every target, masks, keypoints. Size and time of a file do not tell all that changes."""
        targets = sorted({*self.spec.targets, ""})
        beside = [path for target in targets for path in (self.label_path(case, target), self.mask_path(case, target))]
        return content_digest((*self.image_paths(case), *dict.fromkeys(beside), self.keypoints_path(case)))

    def field_path(self, pair: Pair) -> Path | None:
        """The true displacement of a pair (ITK, mm, on the fixed grid), None where it is not known."""
        folder = self.folder / f"fields{'Ts' if pair.fixed in self._testing else 'Tr'}"
        for ending in (".nii.gz", ".mha", ".nrrd"):
            path = folder / f"{pair.name}{ending}"
            if path.is_file():
                return path
        return None

    def true_field(self, pair: Pair) -> FieldMap | None:
        """The true displacement of a pair, None where it is not known.

        Raises
        ------
        DatasetError
            If the file holds something else than one displacement field.
        """
        from nnreg.geometry import FieldMap
        from nnreg.geometry.itk import read_itk

        path = self.field_path(pair)
        if path is None:
            return None
        try:
            stages = read_itk(path).stages
        except GeometryError as error:
            raise DatasetError(f"{path}: {error} Expected the displacement of the pair in mm.") from error
        if len(stages) != 1 or not isinstance(stages[0], FieldMap):
            raise DatasetError(f"{path}: expected one displacement field, found {len(stages)} stages.")
        return stages[0]

    def _beside(self, kind: str, case: str, endings: Sequence[str], more: str = "") -> Path | None:
        folder = self.folder / f"{kind}{self._suffix(case)}"
        if not folder.is_dir():  # asked of every case, and most datasets have no masks
            return None
        found = [path for ending in dict.fromkeys(endings) if is_image_file(path := folder / f"{case}{more}{ending}")]
        if len(found) > 1:
            raise DatasetError(f"{found[0]}: is there as {found[1].name} too, so which of them counts is not clear. Remove one.")
        return found[0] if found else None

    def _suffix(self, case: str) -> str:
        if case in self._testing:
            return "Ts"
        if case not in self._training:
            raise DatasetError(f"{self.folder}: has no case {case!r}; {did_you_mean(case, [*self.cases, *self.test_cases])}")
        return "Tr"

    def _listed(self, case: str) -> CaseFiles | None:
        return self.spec.dataset.get(case) if self._suffix(case) == "Tr" else None

    def _resolve(self, name: str) -> Path:
        path = Path(os.path.expandvars(name)).expanduser()
        return path if path.is_absolute() else self.folder / path

    # -- reading ------------------------------------------------------------------------------------------------------

    def read_image(self, case: str) -> Image:
        """All channels of a case.

        Raises
        ------
        DatasetError
            If the number of channels differs from ``dataset.json``.
        ImageError
            If a file is missing or damaged, or the channels lie on different grids.
        """
        paths, names = self.image_paths(case), self.spec.channels_of(case)
        wanted = f"{len(names)} channels ({', '.join(names.values())})"
        remedy = f"Add it, or mend channel_names in {FILE_NAME}."
        for path in paths:
            if not path.exists():
                raise DatasetError(f"{path}: does not exist, but case {case!r} needs {wanted}. {remedy}")
        image = read_channels(paths)
        if image.channels < len(names) and len(paths) == 1 and paths[0].name.endswith(f"_0000{self.spec.file_ending}"):
            absent = paths[0].with_name(f"{case}_{image.channels:04d}{self.spec.file_ending}")
            raise DatasetError(f"{absent}: does not exist, but case {case!r} needs {wanted}. {remedy}")
        if image.channels != len(names):
            raise DatasetError(f"{paths[0]}: case {case!r} has {image.channels} channels, but needs {wanted}. Mend channel_names in {FILE_NAME}, or the files.")
        return image

    def read_labels(self, case: str) -> Image | None:
        """Labels (1, *spatial) as int16, or int32 where values need it; None if the case has none, or its only target is no label map.

        Raises
        ------
        DatasetError
            If the file holds several channels or values that are not whole numbers.
        """
        path = self.label_path(case)
        return None if path is None or not label_targets(self.spec) else whole_numbers(read_image(path), path)

    def read_mask(self, case: str) -> Image | None:
        """Mask (1, *spatial) uint8, 1 where the image is valid (any value but 0); None if the case has none."""
        path = self.mask_path(case)
        if path is None:
            return None
        mask = whole_numbers(read_image(path), path)
        return Image((mask.array != 0).astype(np.uint8), mask.space, mask.notes)

    def read_keypoints(self, case: str) -> npt.NDArray[np.float64] | None:
        """Keypoints (N, ndim) as voxel indices, x first; row i of a fixed case corresponds to row i of its moving case."""
        path = self.keypoints_path(case)
        return None if path is None else read_keypoints(path)

    def read_case(self, case: str) -> Case:
        """Everything a case has, with finite values, on one grid.

        Raises
        ------
        NnRegError
            Whatever does not fit, by file.
        """
        image = self.read_image(case)
        paths = self.image_paths(case)
        check_finite(image, paths[0] if len(paths) == 1 else f"{paths[0]} (case {case!r})")
        labels, mask, keypoints = self.read_labels(case), self.read_mask(case), self.read_keypoints(case)
        for other, path in ((labels, self.label_path(case)), (mask, self.mask_path(case))):
            if other is not None and path is not None:
                check_same_space(other.space, path, image.space, paths[0])
        if keypoints is not None:
            check_inside(keypoints, image.space, str(self.keypoints_path(case)))
        return Case(image, labels, keypoints, mask, case)

    # -- meaning ------------------------------------------------------------------------------------------------------

    @cached_property
    def _subjects(self) -> dict[str, str]:
        return subjects_of(self.spec, self.cases) | {case: self.spec.groups.get(case, case) for case in self.test_cases}

    def subject(self, case: str) -> str:
        """Whom the case shows: splits keep the cases of a subject together."""
        self._suffix(case)
        return self._subjects[case]

    @cached_property
    def label_values(self) -> tuple[int, ...]:
        """Sorted label values without background and ignore: from ``dataset.json``, or from the label files if it names none."""
        if self.spec.foreground:
            return self.spec.foreground
        found: set[int] = set()
        named = label_targets(self.spec)
        for case in self.cases:
            for path in (self.label_path(case, target) for target in (("", *named) if named else ())):
                if path is not None:
                    found |= values_in(path)
        return tuple(sorted(found - {0, self.spec.ignore}))

    def pairs(self) -> tuple[Pair, ...]:
        """Training pairs by the dataset's policy.

        Raises
        ------
        DatasetError
            If `pairs`, `atlas` or `groups` name something that is no case.
        """
        self._require_names()
        return pairs_among(self.spec, self.cases)

    def test_pairs(self) -> tuple[Pair, ...]:
        """Pairs of test cases by the same policy; with an atlas, the atlas and every test case."""
        self._require_names()
        if self.spec.pairing == "atlas":
            return tuple(Pair(str(self.spec.atlas), case) for case in self.test_cases)
        return pairs_among(self.spec, self.test_cases)

    def _require_names(self) -> None:
        require_names(self.spec, {*self.cases, *self.test_cases}, str(self.folder / FILE_NAME))


def _check_names(cases: Sequence[str], spec: DatasetSpec, folder: Path) -> None:
    """Refuse names whose files would be taken for each other's.

    Raises
    ------
    DatasetError
        If one is no file name, or one is another one with a channel number, a target's name, or what preprocessing adds.
    """
    known, added = set(cases), (*STORED_SUFFIXES, *(f"_{target}" for target in spec.targets))
    for case in cases:
        if "/" in case or "\\" in case or case.startswith("."):
            raise DatasetError(f"{folder}: case {case!r} is no name of a file. Use letters, digits, '-', '_' and '.' in {FILE_NAME}, and no path.")
        shorter = [case[: -len(end)] for end in (*added, case[-5:] if re.search(r"_\d{4}$", case) else "") if end and case.endswith(end)]
        for other in shorter:
            if other in known:
                raise DatasetError(f"{folder}: files of case {case!r} would be taken for such of case {other!r} ('{case[len(other) :]}'). Rename one of them.")


def _cases_in(folder: Path, ending: str) -> list[str]:
    """Names of the cases with files ``CASE_0000.ending`` in a folder; none if there is no folder."""
    if not folder.is_dir():
        return []
    names = set()
    for path in folder.iterdir():
        if path.name.startswith(".") or not path.name.endswith(ending):
            continue
        match = re.fullmatch(r"(.+)_(\d{4})", path.name[: -len(ending)])
        if match is None:
            stem = path.name[: -len(ending)]
            raise DatasetError(f"{path}: has no channel number; expected CASE_0000{ending}, with the channel in four digits. Rename it to {stem}_0000{ending}.")
        names.add(match[1])
    return sorted(names)

"""Where a prediction's images come from: a dataset's training cases, or a folder of new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nnreg.dataset import RawDataset
from nnreg.dataset.keypoints import ENDING as KEYPOINT_ENDING
from nnreg.dataset.keypoints import check_inside, read_keypoints
from nnreg.dataset.label_files import folder_beside, read_label_map
from nnreg.dataset.pairs import Pair
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import PredictionError
from nnreg.files import content_digest
from nnreg.imageio import ENDINGS, Image, check_finite, ending_of, is_image_file, read_channels
from nnreg.imageio.image import check_same_space
from nnreg.preprocessing.registration.preprocessor import Preprocessor
from nnreg.preprocessing.registration.storage import PreprocessedCase, PreprocessedDataset


class NativeSource(Protocol):
    """Native images of cases, and what is known of them."""

    def image(self, case: str) -> Image:
        """The native image, all channels."""
        ...

    def labels(self, case: str) -> Image | None:
        """Its labels, if there are any."""
        ...

    def guide(self, case: str) -> Image | None:
        """Labels that guide the engine and measure nothing, if there are any."""
        ...

    def mask(self, case: str) -> Image | None:
        """Where it may be looked at, if that is known."""
        ...

    def keypoints_voxel(self, case: str) -> npt.NDArray[np.float64] | None:
        """Its keypoints (N, ndim), voxel indices, x first, if there are any."""
        ...


class CaseSource(NativeSource, Protocol):
    """Images of cases, native and preprocessed."""

    def paths(self, case: str) -> list[Path]:
        """Its files, channel by channel."""
        ...

    def digest(self, case: str) -> str:
        """Of the content of all its files: whether what was made of them is still true."""
        ...

    def preprocessed(self, case: str, *, frame: str) -> PreprocessedCase:
        """The case on the working grid; where cases are aligned in groups, to the case `frame`."""
        ...


class TrainingCases:
    """Cases of the raw dataset whose preprocessed arrays exist; `guides` is a folder of labels ``CASE.ending`` that guide the engine, None for none."""

    def __init__(self, raw: RawDataset, arrays: Path, guides: Path | None = None) -> None:
        self.raw, self.data, self.guides = raw, PreprocessedDataset(arrays), guides

    def image(self, case: str) -> Image:
        """The native image."""
        return self.raw.read_image(case)

    def labels(self, case: str) -> Image | None:
        """Its labels."""
        return self.raw.read_labels(case)

    def guide(self, case: str) -> Image | None:
        """Labels that guide the engine, where they were fused from other cases."""
        return _beside(self.guides, case, self.image(case), self.paths(case)[0])

    def mask(self, case: str) -> Image | None:
        """Its mask."""
        return self.raw.read_mask(case)

    def keypoints_voxel(self, case: str) -> npt.NDArray[np.float64] | None:
        """Its keypoints."""
        return self.raw.read_keypoints(case)

    def paths(self, case: str) -> list[Path]:
        """Its files."""
        return list(self.raw.image_paths(case))

    def digest(self, case: str) -> str:
        """Of the content of all its files."""
        return self.raw.digest(case)

    def preprocessed(self, case: str, *, frame: str) -> PreprocessedCase:
        """The stored arrays; the frame was chosen when they were made."""
        return self.data.load(case)


@dataclass(frozen=True)
class NewImages:
    """Images to register that no training has seen, what lies beside them, and which of them make pairs.

    Attributes
    ----------
    folder
        ``CASE_0000.ending`` files.
    labels
        Folder of label files to warp along; ``labelsTs`` beside ``imagesTs`` by default.
    pairs
        Which pairs; by the dataset's pairing if None.
    atlas_images
        Channel files of the atlas, where the dataset has one and it is not among the images.
    guides
        Folder of label files that guide the engine and measure nothing.
    guides_of_all
        Whether every image of a pair needs one; if not, pairs without are not guided.
    """

    folder: Path
    labels: Path | None = None
    pairs: Sequence[Pair] | None = None
    atlas_images: Mapping[str, list[Path]] = field(default_factory=dict)
    guides: Path | None = None
    guides_of_all: bool = True


class FolderCases:
    """New images ``CASE_0000.ending`` of a folder, preprocessed as the training images were.

    Parameters
    ----------
    folder
        The images.
    labels_folder
        ``CASE.ending`` label files to be warped along; None for none.
    spec
        dataset.json of the model: how many channels a case has.
    preprocessor
        Of the model; None where no network is used.
    extra
        Further cases by name (an atlas that lies elsewhere) to their channel files.
    ndim
        Axes of the images that the plans are for; None for any.
    guides
        Folder of ``CASE.ending`` label files that guide the engine; None for none.
    guides_of_all
        Whether every image needs one.
    """

    def __init__(
        self,
        folder: Path,
        labels_folder: Path | None,
        spec: DatasetSpec,
        preprocessor: Preprocessor | None,
        extra: Mapping[str, list[Path]] | None = None,
        ndim: int | None = None,
        guides: Path | None = None,
        *,
        guides_of_all: bool = True,
    ) -> None:
        if not folder.is_dir():
            raise PredictionError(f"{folder}: no such folder. Give the folder with the images to register as -i.")
        if guides is not None and not guides.is_dir():
            raise PredictionError(f"--guides {guides}: no such folder. Give one with a label file CASE.ending for every image.")
        self.folder, self.labels_folder, self.guides, self.preprocessor = folder, labels_folder, guides, preprocessor
        self.guides_of_all = guides_of_all
        self.channels, self.ndim = len(spec.channel_names), ndim
        self._files = cases_in(folder, self.channels) | dict(extra or {})
        self._images: dict[str, Image] = {}
        self._digests: dict[str, str] = {}
        self._preprocessed: dict[tuple[str, str], PreprocessedCase] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the arrays that are kept: another process reads what it needs."""
        return self.__dict__ | {"_images": {}, "_preprocessed": {}}

    @property
    def cases(self) -> list[str]:
        """Names of the cases."""
        return sorted(self._files)

    def image(self, case: str) -> Image:
        """The native image; the last few are kept, because a case is in several pairs."""
        if case not in self._images:
            paths = self.paths(case)
            image = read_channels(paths)
            check_finite(image, paths[0])
            check_axes(image.ndim, self.ndim, paths[0])
            if image.channels != self.channels:
                raise PredictionError(
                    f"{paths[0]}: case {case!r} has {image.channels} channels, the model was trained with {self.channels}. Add or remove channel files."
                )
            _remember(self._images, case, image)
        return self._images[case]

    def labels(self, case: str) -> Image | None:
        """Its labels, if the labels folder has them."""
        return self._beside(self.labels_folder, case)

    def guide(self, case: str) -> Image | None:
        """Labels that guide the engine, where there is a folder of them.

        Raises
        ------
        PredictionError
            If that has none of the case, and should have.
        """
        found = self._beside(self.guides, case)
        if found is None and self.guides is not None and self.guides_of_all:
            ending = ending_of(self.paths(case)[0])
            raise PredictionError(f"--guides {self.guides}: has no {case}{ending}. Every image of a pair needs labels there, or leave --guides out.")
        return found

    def mask(self, case: str) -> Image | None:
        """Its mask, if ``masksTs`` beside ``imagesTs`` has one."""
        return self._beside(folder_beside(self.folder, "masks"), case)

    def keypoints_voxel(self, case: str) -> npt.NDArray[np.float64] | None:
        """Its keypoints, if ``keypointsTs`` beside ``imagesTs`` has them."""
        folder = folder_beside(self.folder, "keypoints")
        path = None if folder is None else folder / f"{case}{KEYPOINT_ENDING}"
        if path is None or not path.is_file():
            return None
        points = read_keypoints(path)
        check_inside(points, self.image(case).space, path)
        return points

    def _beside(self, folder: Path | None, case: str) -> Image | None:
        """The map of `case` in `folder`, on the grid of its image."""
        return _beside(folder, case, self.image(case), self.paths(case)[0])

    def digest(self, case: str) -> str:
        """Of the content of all its files."""
        if case not in self._digests:
            masks, keypoints = (folder_beside(self.folder, kind) for kind in ("masks", "keypoints"))
            beside = (_file_beside(folder, case) for folder in (self.labels_folder, masks, self.guides))
            points = None if keypoints is None else keypoints / f"{case}{KEYPOINT_ENDING}"
            self._digests[case] = content_digest((*self.paths(case), *beside, points))
        return self._digests[case]

    def paths(self, case: str) -> list[Path]:
        """Its files.

        Raises
        ------
        PredictionError
            If there is no such case.
        """
        if case not in self._files:
            raise PredictionError(f"{self.folder}: has no case {case!r} (expected {case}_0000 and an image ending). Found: {', '.join(self.cases[:8])} ...")
        return self._files[case]

    def preprocessed(self, case: str, *, frame: str) -> PreprocessedCase:
        """The case, aligned and resampled now."""
        if self.preprocessor is None:
            raise PredictionError(f"{self.folder}: case {case!r} cannot be preprocessed without a model.")
        key = (case, frame if self.preprocessor.by_group else "")
        if key not in self._preprocessed:
            frame_image = self.image(frame) if self.preprocessor.by_group else None
            _remember(self._preprocessed, key, self.preprocessor.run(case, self.image(case), frame_of=frame_image))
        return self._preprocessed[key]


def _beside(folder: Path | None, case: str, image: Image, path: Path) -> Image | None:
    """The map of `case` in `folder`, on the grid of its image, which lies in `path`."""
    own = _file_beside(folder, case)
    if own is None:
        return None
    found = read_label_map(own)
    check_same_space(found.space, own, image.space, path)
    return found


def _file_beside(folder: Path | None, case: str) -> Path | None:
    paths = [] if folder is None else [folder / f"{case}{ending}" for ending in ENDINGS]
    return next((path for path in paths if is_image_file(path)), None)


KEPT = 12


def _remember(cache: dict, key: object, value: object) -> None:
    if len(cache) >= KEPT:
        cache.pop(next(iter(cache)))
    cache[key] = value


def check_axes(found: int, planned: int | None, path: Path) -> None:
    """Refuse an image of another number of axes than the model's or the plans'.

    Raises
    ------
    PredictionError
        It names the image.
    """
    if planned is not None and found != planned:
        raise PredictionError(f"{path}: is {found}D, the model or the plans are for {planned}D images. Take a model for {found}D images.")


def refuse_own_folder(output: Path, *read: Path | None) -> None:
    """Refuse an output folder that is one of those that are read: results would lie among the images, or replace them.

    Raises
    ------
    PredictionError
        It names the folder.
    """
    for folder in read:
        if folder is not None and output.resolve() == folder.resolve():
            raise PredictionError(f"{output}: is read as the folder of the images or labels. Choose another output folder.")


def case_names(folder: Path) -> list[str]:
    """Names of the cases whose first channel is in `folder`."""
    return sorted({path.name[: -len(ending_of(path)) - 5] for path in folder.iterdir() if path.name.lower().endswith(tuple(f"_0000{end}" for end in ENDINGS))})


def cases_in(folder: Path, channels: int) -> dict[str, list[Path]]:
    """Case names to their channel files, checked to be complete; one file alone may hold all channels (RGB)."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        if not is_image_file(path) or path.name.startswith(".") or not path.name.lower().endswith(tuple(ENDINGS)):
            continue
        stem = path.name[: -len(ending_of(path))]
        case, _, channel = stem.rpartition("_")
        if not case or len(channel) != 4 or not channel.isdigit():
            end = path.name[len(stem) :]
            raise PredictionError(f"{path}: has no channel number; expected CASE_0000{end}, with the channel in four digits. Rename it to {stem}_0000{end}.")
        earlier = found.setdefault(case, {}).setdefault(int(channel), path)
        if earlier != path:
            raise PredictionError(f"{path}: is there as {earlier.name} too, so which of them counts is not clear. Remove one.")
    if not found:
        raise PredictionError(f"{folder}: holds no images. Expected files such as CASE_0000.nii.gz.")
    for case, files in found.items():
        if sorted(files) not in ([0], list(range(channels))):
            raise PredictionError(
                f"{folder}: case {case!r} has channels {sorted(files)}, the model was trained with {channels} (0 to {channels - 1}). "
                "Add or remove channel files."
            )
    return {case: [files[i] for i in sorted(files)] for case, files in found.items()}

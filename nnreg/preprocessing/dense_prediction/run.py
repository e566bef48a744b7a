"""Preprocess a dataset of dense prediction: every case is read, cropped and normalised once for all configurations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnreg.dataset.labels import LabelManager
from nnreg.dataset.large import large
from nnreg.dataset.spec import FILE_NAME
from nnreg.dataset.target_spec import Output, outputs_of
from nnreg.dataset.targets import read_masks, target_names, target_paths
from nnreg.errors import DatasetError
from nnreg.geometry import Space
from nnreg.imageio import Image
from nnreg.parallel import run_all
from nnreg.planning.dense_prediction.fingerprint import DenseFingerprint
from nnreg.planning.dense_prediction.measure import read_labelled
from nnreg.planning.dense_prediction.plans import DensePlans
from nnreg.preprocessing.dense_prediction.case import CroppedCase
from nnreg.preprocessing.dense_prediction.large import preprocess_large
from nnreg.preprocessing.dense_prediction.reoriented import turned_image
from nnreg.preprocessing.dense_prediction.storage import SUFFIXES
from nnreg.preprocessing.resume import keep_what_is_true
from nnreg.progress import Progress
from nnreg.typed import to_mapping

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset


@dataclass(frozen=True)
class _Work:
    """Picklable: one case, all configurations it still needs."""

    raw: RawDataset
    plans: DensePlans
    folder: Path
    configurations: tuple[str, ...]
    labels: tuple[Output, ...]

    def __call__(self, case: str) -> None:
        if large(self.raw, case):
            preprocess_large(self.raw, case, self.plans, self.folder, self.configurations)
            return
        image, labels, maps = read_labelled(self.raw, case)
        mask = read_masks(self.raw, case, image)
        for path, target, manager in zip(target_paths(self.raw, case).values(), labels.array, self.labels, strict=True):
            if isinstance(manager, LabelManager) and (unknown := manager.unknown(target)):
                allowed = ", ".join(map(str, manager.allowed))
                raise DatasetError(f"{path}: holds the value {unknown[0]}, labels in {FILE_NAME} names {allowed}. Add it to labels, or mend the file.")
        if self.plans.orientation:
            # labels, masks and values lie on the grid of the image, whatever their own files say of it
            seen = partial(_seen, image.space, self.plans.orientation)
            image, labels, mask, maps = seen(image), seen(labels), mask and seen(mask), maps and seen(maps)
        at_hand: CroppedCase | None = None
        normalization = None
        for name in self.configurations:
            configuration = self.plans.configuration(name)
            folder = self.folder / configuration.data_identifier
            if (folder / f"{case}.json").is_file():
                continue
            if at_hand is None or configuration.normalization != normalization:
                at_hand = CroppedCase.of(case, image, labels, self.plans, configuration, mask, maps, outputs=self.labels)
                normalization = configuration.normalization
            at_hand.onto(self.plans, configuration, self.labels).save(folder, configuration.patch_size)


def _seen(space: Space, orientation: str, found: Image) -> Image:
    return turned_image(Image(found.array, space), orientation)


def preprocess(
    raw: RawDataset,
    fingerprint: DenseFingerprint,
    plans: DensePlans,
    folder: Path,
    *,
    configurations: Sequence[str] = (),
    processes: int = 1,
    on_progress: Progress | None = None,
) -> dict[str, Path]:
    """Preprocess every training case for `configurations` (all if empty) into `folder`.

    Finished cases are not done again, unless the plans, the labels of ``dataset.json`` or their files are other ones now.

    Returns
    -------
    dict
        Configuration to the folder of its arrays; configurations that differ in nothing but the network share one.

    Raises
    ------
    NnRegError
        If a case cannot be preprocessed; what was finished stays.
    """
    names = tuple(configurations) or tuple(plans.configurations)
    folders = {name: folder / plans.configuration(name).data_identifier for name in names}
    managers = outputs_of(raw.spec, str(raw.folder / FILE_NAME))
    labels = [to_mapping(manager) for manager in managers.values()]
    files = {case: image.digest or str(image.file_bytes) for case, image in fingerprint.images.items()}
    # one configuration per folder
    owners = {target: name for name, target in reversed(folders.items())}
    for target, name in owners.items():
        configuration = plans.configuration(name)
        planned = {
            "spacing": configuration.spacing,
            "transpose_forward": plans.transpose_forward,
            "normalization": [to_mapping(scheme) for scheme in configuration.normalization],
            "resampling": to_mapping(configuration.resampling),
            "labels": labels[0] if len(labels) == 1 else labels,
            "targets": target_names(raw),
        }
        planned |= {"orientation": plans.orientation} if plans.orientation else {}
        planned |= {"values": {name: [to_mapping(channel) for channel in channels] for name, channels in plans.targets.items()}} if plans.targets else {}
        keep_what_is_true(target, planned, files, SUFFIXES)
    unfinished = [case for case in raw.cases if any(not (target / f"{case}.json").is_file() for target in owners)]
    work = _Work(raw, plans, folder, tuple(reversed(owners.values())), tuple(managers.values()))
    done = len(raw.cases) - len(unfinished)
    if on_progress is not None:
        on_progress(done, len(raw.cases), f"{done} cases were finished already" if done else "preprocessing")
    for case, _ in run_all(work, unfinished, processes=processes):
        done += 1
        if on_progress is not None:
            on_progress(done, len(raw.cases), case)
    return folders

"""Preprocess a dataset: every case once per configuration, aligned once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnreg.errors import PlansError
from nnreg.parallel import run_all
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.plans import RegistrationPlans
from nnreg.planning.registration.reference_space import ReferenceCases, frame_box, frames_of
from nnreg.preprocessing.registration.alignment import CaseAlignment, align_case, alignment_key, store_alignment, stored_alignment
from nnreg.preprocessing.registration.preprocessor import NormalisedCase, Preprocessor
from nnreg.preprocessing.registration.reference_space import ReferenceSpace
from nnreg.preprocessing.registration.storage import ENDING, IMAGE, LABELS, MASK
from nnreg.preprocessing.registration.true_fields import place_true_fields
from nnreg.preprocessing.resume import keep_what_is_true
from nnreg.progress import Progress
from nnreg.typed import to_mapping

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset


@dataclass(frozen=True)
class _Work:
    """Picklable: one case, all configurations it still needs."""

    raw: RawDataset
    plans: RegistrationPlans
    folder: Path
    frames: dict[str, tuple[ReferenceCases, tuple[float, ...]]]
    configurations: tuple[str, ...]
    files: dict[str, str]

    def __call__(self, case: str) -> None:
        whole = self.raw.read_case(case)
        image = whole.image
        frame = self._frame(case)
        first = self.plans.configuration(self.configurations[0])
        normalised = at_hand = NormalisedCase.of(case, image, first)
        alignment = self._alignment(normalised, frame)
        for name in self.configurations:
            configuration = self.plans.configuration(name)
            target = self.folder / configuration.data_identifier
            if (target / f"{case}.json").is_file():
                continue
            if configuration.normalization != first.normalization:
                at_hand = NormalisedCase.of(case, image, configuration)
            preprocessor = Preprocessor(self.plans, name, None if self.plans.alignment_target == "group" else frame)
            preprocessor.place(at_hand, frame, alignment, labels=whole.labels, mask=whole.mask, keypoints=whole.keypoints_voxel).save(target)

    def _frame(self, case: str) -> ReferenceSpace:
        if self.plans.alignment_target == "dataset":
            return ReferenceSpace.read(self.folder)
        owner, centre = self.frames[case]
        return ReferenceSpace.of(owner.owner, self.raw.read_image(owner.owner), self.plans, centre=np.asarray(centre))

    def _alignment(self, case: NormalisedCase, frame: ReferenceSpace) -> CaseAlignment:
        path = self.folder / f"{self.plans.plans_name}_alignment" / f"{case.name}.json"
        made_for = alignment_key(self.plans, frame, self.files[case.name])
        found = stored_alignment(path, made_for)
        if found is None:
            found = align_case(case.name, case.array, case.space, frame, self.plans, owner=case.name == frame.case)
            store_alignment(path, found, made_for)
        return found


def preprocess(
    raw: RawDataset,
    fingerprint: Fingerprint,
    plans: RegistrationPlans,
    folder: Path,
    *,
    configurations: Sequence[str] = (),
    processes: int = 1,
    on_progress: Progress | None = None,
) -> dict[str, Path]:
    """Preprocess every training case for `configurations` (all if empty) into `folder`, and the true fields of pairs that have one.

    Finished cases are not done again, unless the plans say something else about them now.

    Returns
    -------
    dict
        Configuration to the folder of its arrays.

    Raises
    ------
    PreprocessingError
        If a case cannot be preprocessed; what was finished stays.
    """
    names = tuple(configurations) or tuple(plans.configurations)
    folders = {name: folder / plans.configuration(name).data_identifier for name in names}
    owners = {target: name for name, target in reversed(folders.items())}  # the second stage of a cascade has the arrays of another configuration
    names = tuple(reversed(owners.values()))
    for target, name in owners.items():
        _start(target, plans, name, fingerprint)
    frames = _frames(raw, fingerprint, plans, folder)
    unfinished = [case for case in raw.cases if any(not (target / f"{case}.json").is_file() for target in owners)]
    work = _Work(raw, plans, folder, frames, names, {case: image.digest or str(image.file_bytes) for case, image in fingerprint.images.items()})
    done = len(raw.cases) - len(unfinished)
    if on_progress is not None:
        on_progress(done, len(raw.cases), f"{done} cases were finished already" if done else "preprocessing")
    for case, _ in run_all(work, unfinished, processes=processes):
        done += 1
        if on_progress is not None:
            on_progress(done, len(raw.cases), case)
    for target in owners:
        place_true_fields(raw, target, processes=processes)
    return folders


def _frames(raw: RawDataset, fingerprint: Fingerprint, plans: RegistrationPlans, folder: Path) -> dict[str, tuple[ReferenceCases, tuple[float, ...]]]:
    """Case to its frame and the world position of the frame's middle; the dataset's own frame is written for later."""
    result: dict[str, tuple[ReferenceCases, tuple[float, ...]]] = {}
    for frame in frames_of(fingerprint, plans.reference_case):
        if frame.owner not in fingerprint.images:
            raise PlansError(
                f"{plans.plans_name}: reference_case {frame.owner!r} is no training case of {plans.dataset_name}. Name one that is, or plan again."
            )
        centre = fingerprint.images[frame.owner].space.to_world(frame_box(fingerprint, frame, plans.pre_alignment).centre)
        if plans.alignment_target == "dataset":
            ReferenceSpace.of(frame.owner, raw.read_image(frame.owner), plans, centre=centre).write(folder)
        result |= {case: (frame, tuple(centre.tolist())) for case in frame.members}
    return result


def _start(target: Path, plans: RegistrationPlans, name: str, fingerprint: Fingerprint) -> None:
    """Keep what is finished in `target` and still true: made for what is planned now, from the files that are there now."""
    configuration = plans.configuration(name)
    planned: dict[str, Any] = {
        "spacing": list(configuration.spacing),
        "grid": list(configuration.grid),
        "normalization": [to_mapping(scheme) for scheme in configuration.normalization],
        "pre_alignment": plans.pre_alignment,
        "alignment_target": plans.alignment_target,
        "alignment_spacing": list(plans.alignment_spacing),
        "reference_case": plans.reference_case,
        "orientation": plans.orientation,
        "groups": [list(group) for group in fingerprint.groups],
    }
    if plans.frame_offset is not None or plans.grid_within_image:
        # only then, so that arrays of plans without them stay true
        planned |= {"frame_offset": plans.frame_offset, "grid_within_image": plans.grid_within_image}
    files = {case: image.digest or str(image.file_bytes) for case, image in fingerprint.images.items()}
    keep_what_is_true(target, planned, files, (".json", *(f"{part}{ENDING}" for part in (IMAGE, LABELS, MASK))))

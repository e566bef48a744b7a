"""``dataset.json``: nnU-Net's keys and those of registration, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from nnreg.dataset.pair import Pair
from nnreg.documents import understood
from nnreg.errors import DatasetError, did_you_mean
from nnreg.files import read_json, write_json
from nnreg.imageio.endings import ENDINGS
from nnreg.task import DEFAULT_TASK, TASKS, usable_tasks
from nnreg.typed import from_mapping, to_mapping

PairSpec = Pair
PAIRINGS = ("all", "atlas", "pairs", "groups")
FILE_NAME = "dataset.json"
OLD_NAMES = {"modality": "channel_names", "license": "licence"}  # what files made for older tools call a key


@dataclass(frozen=True)
class Modality:
    """Cases that have channels of their own.

    Attributes
    ----------
    channel_names : channel number ("0", "1", ...) to its name
    cases : names, or patterns such as ``*_ct``
    """

    channel_names: dict[str, str]
    cases: tuple[str, ...]


@dataclass(frozen=True)
class CaseFiles:
    """Files of a case that lie elsewhere. Relative paths count from the dataset folder; ``$NAME`` is taken from the environment.

    Attributes
    ----------
    images : one per channel
    label, keypoints, mask : optional
    """

    images: tuple[str, ...]
    label: str | None = None
    keypoints: str | None = None
    mask: str | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """The content of ``dataset.json``.

    Attributes
    ----------
    channel_names
        Channel number ("0", "1", ...) to its name ("T1", "CT": the name chooses the normalisation).
    numTraining
        Number of training cases.
    file_ending
        Of the images and labels: ``.nii.gz``.
    labels
        Name to value, or to several values (a region). ``background`` is 0. Empty: the values are read from the label files.
    task
        A name in :data:`nnreg.task.TASKS`; where it is not named, what the other keys tell (:func:`told_task`), else ``DEFAULT_TASK``.
    pairing
        ``all``: every ordered pair of different subjects; ``atlas``: `atlas` is fixed, every other case moving;
        ``pairs``: as listed in `pairs`; ``groups``: every ordered pair within a subject of `groups`.
    pairs
        Fixed and moving case of each pair; test cases may be named too.
    atlas
        The fixed case of pairing ``atlas``.
    groups
        Case to subject. A case that is not named is a subject of its own.
    modalities
        Name to the cases that have channels of their own; all others have `channel_names`.
    dataset
        Case to its files, where they lie elsewhere, so that nothing need be copied (nnU-Net's key).
    targets, auxiliary_tasks
        Outputs of a dense prediction.
    ignore_label
        Value of voxels without annotation; also spelt ``"ignore"`` in `labels`, as nnU-Net has it.
    regions_class_order, overwrite_image_reader_writer
        nnU-Net's.
    name, description, reference, licence, release, citation, converted_by, tensorImageSize
        For people; not used.
    """

    channel_names: dict[str, str]
    numTraining: int
    file_ending: str
    labels: dict[str, int | tuple[int, ...]] = field(default_factory=dict)
    task: str = DEFAULT_TASK
    pairing: Literal["all", "atlas", "pairs", "groups"] = "all"
    pairs: tuple[Pair, ...] = ()
    atlas: str | None = None
    groups: dict[str, str] = field(default_factory=dict)
    modalities: dict[str, Modality] = field(default_factory=dict)
    dataset: dict[str, CaseFiles] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    auxiliary_tasks: dict[str, Any] = field(default_factory=dict)
    ignore_label: int | None = None
    regions_class_order: tuple[int, ...] | None = None
    overwrite_image_reader_writer: str | None = None
    name: str | None = None
    description: str | None = None
    reference: str | None = None
    licence: str | None = None
    release: str | None = None
    citation: Any = None
    converted_by: str | None = None
    tensorImageSize: Any = None

    @classmethod
    def read(cls, path: Path | str) -> DatasetSpec:
        """Read and validate a ``dataset.json``.

        Raises
        ------
        DatasetError
            Missing or damaged file, unknown or missing key, wrong type, keys that contradict each other.
        """
        return cls.from_dict(read_json(path, DatasetError), where=str(path))

    @classmethod
    def from_dict(cls, content: Any, where: str = FILE_NAME) -> DatasetSpec:
        """Build from parsed JSON; `where` starts every message."""
        if isinstance(content, Mapping):
            content = {OLD_NAMES[key] if key in OLD_NAMES and OLD_NAMES[key] not in content else key: value for key, value in content.items()}
            content = {"task": told_task(content) or DEFAULT_TASK, **content}
        with understood(where, DatasetError):
            spec = from_mapping(cls, content, where=where, error=DatasetError)
            for problem in spec.contradictions():
                raise DatasetError(f"{where}: {problem}")
        return spec

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; keys that say nothing are left out."""
        required = ("channel_names", "labels", "numTraining", "file_ending", "task", "pairing")
        return {key: value for key, value in to_mapping(self).items() if key in required or value not in (None, {}, [])}

    def write(self, path: Path | str) -> None:
        """Write ``dataset.json``, whole or not at all."""
        write_json(path, self.to_dict())

    @property
    def ignore(self) -> int | None:
        """Value of voxels without annotation, if there is one."""
        named = self.labels.get("ignore")
        return named if isinstance(named, int) else self.ignore_label

    @property
    def registers_pairs(self) -> bool:
        """Whether the dataset is one of pairs to be registered, not of images with labels to be predicted."""
        return TASKS[self.task].registers_pairs

    @property
    def foreground(self) -> tuple[int, ...]:
        """Sorted label values other than background and ignore; empty if `labels` is empty."""
        values = {value for entry in self.labels.values() for value in (entry if isinstance(entry, tuple) else (entry,))}
        return tuple(sorted(values - {0, self.ignore}))

    def modality_of(self, case: str) -> str | None:
        """Name of the modality that `case` belongs to, None for the dataset's own channels."""
        for name, modality in self.modalities.items():
            if any(fnmatchcase(case, pattern) for pattern in modality.cases):
                return name
        return None

    def channels_of(self, case: str) -> dict[str, str]:
        """Channel names of `case`."""
        name = self.modality_of(case)
        return self.channel_names if name is None else self.modalities[name].channel_names

    def contradictions(self) -> list[str]:
        """What is wrong with the keys taken together, one sentence each, with the remedy."""
        return [*self._task_problems(), *self._channel_problems(), *self._label_problems(), *self._pairing_problems()]

    def _task_problems(self) -> list[str]:
        return [] if self.task in TASKS else [f"task: found {self.task!r}; {did_you_mean(self.task, TASKS)}"]

    def _channel_problems(self) -> list[str]:
        problems = []
        named = {"channel_names": self.channel_names} | {f"modalities.{name}.channel_names": m.channel_names for name, m in self.modalities.items()}
        for key, channels in named.items():
            if sorted(channels) != sorted(str(i) for i in range(len(channels))) or not channels:
                problems.append(f"{key} has the keys {list(channels)}. Number the channels '0', '1', ... without gaps.")
        if self.file_ending not in ENDINGS:
            problems.append(f"file_ending is {self.file_ending!r}. Use one of {', '.join(ENDINGS)}.")
        return problems

    def _label_problems(self) -> list[str]:
        problems = []
        if "background" in self.labels and self.labels["background"] != 0:
            problems.append(f"labels.background is {self.labels['background']}. Background must be 0.")
        named = self.labels.get("ignore")
        if named is not None and not isinstance(named, int):
            problems.append(f"labels.ignore is {list(named)}. It must be one value.")
        elif named is not None and self.ignore_label is not None and named != self.ignore_label:
            problems.append(f"labels.ignore is {named} but ignore_label is {self.ignore_label}. Keep one of them.")
        if any(value < 0 for value in self.foreground):
            problems.append(f"labels holds the negative value {self.foreground[0]}. Label values are 0 or more.")
        return problems

    def _pairing_problems(self) -> list[str]:
        problems = []
        if self.pairing == "atlas" and self.atlas is None:
            problems.append("pairing is 'atlas' but the key 'atlas' is missing. Name the case that is fixed in every pair.")
        if self.pairing == "pairs" and not self.pairs:
            problems.append("pairing is 'pairs' but 'pairs' is empty. List them as {\"fixed\": CASE, \"moving\": CASE}.")
        if self.pairing == "groups" and not self.groups:
            problems.append("pairing is 'groups' but 'groups' is empty. Say which subject each case belongs to: {CASE: SUBJECT}.")
        problems += [f"pairs[{i}] pairs {pair.fixed!r} with itself. Name two cases." for i, pair in enumerate(self.pairs) if pair.fixed == pair.moving]
        repeated = {pair.name for pair in self.pairs if self.pairs.count(pair) > 1}
        problems += [f"pairs lists {name} twice. Remove one." for name in sorted(repeated)]
        return problems


def told_task(content: Mapping[str, Any]) -> str | None:
    """The task that a ``dataset.json`` names, or that its keys tell; None if it could be either.

    Examples
    --------
    >>> told_task({"labels": {}}), told_task({"targets": {"ink": {}}}), told_task({"pairing": "all", "targets": {"ink": {}}})
    (None, 'dense_prediction', 'registration')
    """
    if "task" in content:
        return str(content["task"])
    return next((name for name, entry in usable_tasks() if any(content.get(key) for key in entry.dataset_keys)), None)

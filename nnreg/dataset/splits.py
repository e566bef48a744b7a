"""Cross-validation splits by subject: nnU-Net's rule and numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnreg.errors import DatasetError
from nnreg.files import read_json, write_json

if TYPE_CHECKING:
    from nnreg.dataset.raw import RawDataset

Split = dict[str, list[str]]
FOLDS = 5
SEED = 12345
FILE_NAME = "splits_final.json"


def make_splits(subjects: Mapping[str, str], *, always: str | None = None, folds: int = FOLDS, seed: int = SEED) -> list[Split]:
    """Split cases into folds; all cases of a subject are on one side.

    The rule is scikit-learn's ``KFold(folds, shuffle=True, random_state=seed)`` over the sorted subjects, as nnU-Net uses it.

    Parameters
    ----------
    subjects
        Case to subject.
    always
        A case that is on both sides of every fold: the atlas.
    folds
        Wanted. With fewer subjects every subject is a fold of its own; with one subject, its cases are both sides of a single fold.
    seed
        Of the shuffle.

    Returns
    -------
    list of ``{"train": [...], "val": [...]}``, sorted case names

    Raises
    ------
    DatasetError
        If there is no case at all.
    """
    names = sorted({subject for case, subject in subjects.items() if case != always})
    if not names:
        raise DatasetError("there is no case to split. Add training cases besides the atlas.")
    shared = [always] if always is not None else []
    if len(names) == 1:
        everything = sorted(subjects)
        return [{"train": everything, "val": everything}]
    # scikit-learn's own generator, for the same numbers
    order = np.random.RandomState(seed).permutation(len(names))
    splits: list[Split] = []
    for part in np.array_split(order, min(folds, len(names))):
        held_out = {names[i] for i in part}
        validation = sorted(case for case, subject in subjects.items() if subject in held_out and case != always)
        training = sorted(case for case, subject in subjects.items() if subject not in held_out and case != always)
        splits.append({"train": sorted(training + shared), "val": sorted(validation + shared)})
    return splits


def load_or_make_splits(path: Path | str, raw: RawDataset, *, on_note: Callable[[str], None] | None = None) -> list[Split]:
    """The splits of ``splits_final.json``, made and written if the file is not there.

    Parameters
    ----------
    path
        The file. One that exists is honoured, but one made by nnU-Net's rule gives way to one in the dataset's own folder; without either, the rule.
    raw
        The dataset.
    on_note
        Told, in one sentence, when there are fewer folds than five, or when the file in the dataset's own folder begins to count or does not.

    Raises
    ------
    DatasetError
        If the file is damaged or names a case that is not there.
    """
    path, given = Path(path), raw.folder / FILE_NAME
    kept = check_splits(read_json(path, DatasetError), raw.cases, where=str(path)) if path.is_file() else None
    own = check_splits(read_json(given, DatasetError), raw.cases, where=str(given)) if given.is_file() else None
    if kept is not None and (own is None or own == kept):
        return kept
    subjects = {case: raw.subject(case) for case in raw.cases}
    always = raw.spec.atlas if raw.spec.pairing == "atlas" else None
    splits = make_splits(subjects, always=always)
    if kept is not None and kept != splits:
        if on_note is not None:
            on_note(f"{given}: is not used, {path} has other folds. Remove the one that should not count.")
        return kept
    if own is not None:
        if kept is not None and on_note is not None:
            on_note(f"{given}: takes the place of the folds made by nnU-Net's rule; folds trained before had other cases")
        write_json(path, own)
        return own
    if len(splits) < FOLDS and on_note is not None:
        count = len({subject for case, subject in subjects.items() if case != always})
        what = "training and validation cases are the same" if len(splits) == 1 else f"{len(splits)} folds instead of {FOLDS}"
        on_note(f"{raw.name}: number of subjects is {count}: {what}")
    write_json(path, splits)
    return splits


def check_splits(content: Any, cases: Collection[str] | None = None, where: str = FILE_NAME) -> list[Split]:
    """Validate parsed splits: a list of ``{"train": [...], "val": [...]}`` of known cases.

    Raises
    ------
    DatasetError
        Names the fold and what is wrong with it.
    """
    if not isinstance(content, list) or not content:
        raise DatasetError(f'{where}: expected a list of {{"train": [...], "val": [...]}}. Mend it, or remove it to have it made again.')
    for fold, split in enumerate(content):
        if not isinstance(split, Mapping) or set(split) != {"train", "val"} or not all(_names(side) for side in split.values()):
            raise DatasetError(f'{where}: fold {fold} is not {{"train": [...], "val": [...]}} with at least one case each. Mend it.')
        unknown = [case for side in ("train", "val") for case in split[side] if cases is not None and case not in cases]
        if unknown:
            raise DatasetError(f"{where}: fold {fold} names {unknown[0]!r}, which is no training case. Mend it, or remove the file to have it made again.")
    return [{side: list(split[side]) for side in ("train", "val")} for split in content]


def _names(side: Any) -> bool:
    return isinstance(side, list) and bool(side) and all(isinstance(case, str) for case in side)


def available_folds(splits: Sequence[Any]) -> list[int]:
    """Numbers of the folds of parsed splits."""
    return list(range(len(check_splits(splits))))


def fold_cases(splits: Sequence[Any], fold: int | str, where: str = FILE_NAME) -> tuple[list[str], list[str]]:
    """Training and validation cases of a fold; ``"all"`` trains and validates on every case.

    Raises
    ------
    DatasetError
        If there is no such fold.
    """
    checked = check_splits(splits, where=where)
    if str(fold) == "all":
        everything = sorted({case for split in checked for side in split.values() for case in side})
        return everything, everything
    if not str(fold).isdigit() or int(fold) >= len(checked):
        raise DatasetError(f"{where}: has no fold {fold!r}. Use one of {', '.join(map(str, range(len(checked))))}, or 'all'.")
    split = checked[int(fold)]
    return split["train"], split["val"]

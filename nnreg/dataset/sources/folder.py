"""A folder of images, a case each."""

from __future__ import annotations

import re
from pathlib import Path

from nnreg.dataset.sources.collected import Collected, Wanted, case_name, images_in, listed, named
from nnreg.dataset.writing import NewCase
from nnreg.errors import DatasetError
from nnreg.imageio.endings import stem_of

LABEL_WORDS = ("seg", "label", "labels", "gt", "mask", "aseg", "parc")
OF_LABELS = "label|seg|mask|gt|annot"  # how the name of a folder of label maps begins
CHANNEL = re.compile(r"^(.+)_(\d{4})$")


def read_folder(source: Path, wanted: Wanted) -> Collected:
    """Every image of the folder; ``CASE_0000``, ``CASE_0001`` are channels of one case. Labels are those of the labels' folder, by the same name."""
    files = images_in(source)
    if not files:
        raise DatasetError(f"{source}: holds no image{_below(source)}")
    if suspicious := [path.name for path in files if stem_of(path).lower().rpartition("_")[2] in LABEL_WORDS]:
        raise DatasetError(
            f"{source}: {listed(suspicious)} look like label maps among the images. Move label maps into a folder of their own and name it with --labels."
        )
    channels = _channels(files)
    labels = {} if wanted.labels is None else _labels(wanted.labels, list(channels))
    decisions = [f"{len(files)} images are {len(channels)} cases"]
    if wanted.labels is not None:
        without = [case for case in channels if case not in labels]
        decisions.append(f"{len(labels)} of them have labels" + (f"; none have {listed(without)}" if without else ""))
    return Collected("folder", {case: NewCase(paths, labels.get(case)) for case, paths in channels.items()}, {}, tuple(decisions))


def _below(source: Path) -> str:
    """Where the images of a folder without any are, and what to name instead of it."""
    counts = {path.name: len(images_in(path)) for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    folders = {name: count for name, count in counts.items() if count}
    if not folders:
        return ". Name the folder that holds them; for DICOM the folder of a subject's files."
    labels = next((name for name in folders if re.match(OF_LABELS, name, re.IGNORECASE)), None)
    images = next((name for name in folders if name != labels), None)
    found = f" itself, its folders do: {listed([f'{name} ({count})' for name, count in folders.items()])}. "
    if labels is None or images is None:
        return f"{found}Name one of them; --labels DIR names the folder of label maps."
    return f"{found}Name that of the images, and that of the label maps with --labels: nnreg_init_dataset {source / images} --labels {source / labels}"


def _channels(files: list[Path]) -> dict[str, list[Path]]:
    """Case to channel files: as the numbers say where every file has one, else a file a case."""
    matches = [CHANNEL.match(stem_of(path)) for path in files]
    if not all(matches):
        return {case: [path] for case, path in named(files).items()}
    found: dict[str, dict[int, Path]] = {}
    for path, match in zip(files, matches, strict=True):
        assert match is not None
        channels = found.setdefault(case_name(match[1]), {})
        if int(match[2]) in channels:
            raise DatasetError(f"{path}: is channel {match[2]} of case {match[1]!r} as {channels[int(match[2])]} is. Remove one.")
        channels[int(match[2])] = path
    return {case: [channels[number] for number in sorted(channels)] for case, channels in found.items()}


def _labels(folder: Path, cases: list[str]) -> dict[str, Path]:
    """Case to label file: of the same name, with one of the words for labels behind it or not."""
    if not folder.is_dir():
        raise DatasetError(f"--labels {folder}: is no folder. Name the folder of the label maps.")
    found: dict[str, Path] = {}
    for name, path in named(images_in(folder)).items():
        stem, _, word = name.rpartition("_")
        case = name if name in cases else stem if stem in cases and word.lower() in LABEL_WORDS else None
        if case is None:
            raise DatasetError(f"{path}: is the label map of no case. Expected CASE or CASE_seg of {listed(cases)}.")
        if case in found:
            raise DatasetError(f"{path}: is the label map of case {case!r} as {found[case]} is. Remove one.")
        found[case] = path
    return found

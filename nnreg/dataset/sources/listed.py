"""A dataset that a ``.json`` lists: Learn2Reg's, or of the Medical Segmentation Decathlon's kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnreg.dataset.keypoints import read_keypoints
from nnreg.dataset.sources.collected import Collected, Wanted, case_name, needed
from nnreg.dataset.writing import NewCase
from nnreg.errors import DatasetError
from nnreg.files import read_json, read_object
from nnreg.imageio.endings import stem_of

TRAINING, TESTING = ("training", "numTraining"), ("test", "registration_test")
PAIRS = ("training_paired_images", "registration_val", "registration_test")


def is_listed(source: Path) -> bool:
    """Whether it is such a file, or a folder that holds just one ``*.json`` of this kind."""
    return _file(source) is not None


def _file(source: Path) -> Path | None:
    candidates = [source] if source.is_file() and source.suffix == ".json" else sorted(source.glob("*.json")) if source.is_dir() else []
    fitting = [path for path in candidates if _lists_images(path)]
    return fitting[0] if len(fitting) == 1 else None


def _lists_images(path: Path) -> bool:
    try:
        content = read_json(path, DatasetError)
    except DatasetError:
        return False
    return isinstance(content, dict) and any(isinstance(entry, Mapping) and "image" in entry for entry in _entries(content.get("training")))


def read_listed(source: Path, wanted: Wanted) -> Collected:
    """Training and test images with labels, masks and keypoints; pairs where the file lists them."""
    path = _file(source)
    if path is None:
        raise DatasetError(f"{source}: is no dataset that lists its images: expected one .json with 'training': [{{'image': ...}}, ...].")
    content = read_object(path, DatasetError)
    cases = dict(_cases(path, content.get("training"), test=False))
    for name, case in _cases(path, content.get("test"), test=True):
        cases.setdefault(name, case)
    pairs = [_pair(entry) for key in PAIRS for entry in _entries(content.get(key)) if isinstance(entry, Mapping) and {"fixed", "moving"} <= entry.keys()]
    if unknown := sorted({name for pair in pairs for name in pair.values()} - set(cases)):
        raise DatasetError(f"{path}: a pair names {unknown[0]!r}, which is no image of 'training' or 'test'. Mend the file.")
    modality = content.get("modality")
    spec: dict[str, Any] = {} if not isinstance(modality, Mapping) else {"channel_names": {str(key): str(value) for key, value in modality.items()}}
    if isinstance(content.get("labels"), Mapping) and any(case.labels is not None for case in cases.values()):
        spec["labels"] = _labels(content["labels"])
    if pairs:
        spec |= {"pairing": "pairs", "pairs": [dict(pair) for pair in {tuple(pair.items()): pair for pair in pairs}.values()]}
    names = spec.get("channel_names", {})
    if len(names) > 1 and all(len(case.images) == 1 for case in cases.values()):
        spec["channel_names"] = {"0": " or ".join(dict.fromkeys(names.values()))}  # Learn2Reg numbers modalities of single images so
    training = sum(not case.test for case in cases.values())
    return Collected("Learn2Reg", cases, spec, (f"{path.name}: {training} training and {len(cases) - training} test images, {len(pairs)} listed pairs",))


def _entries(value: Any) -> Iterator[Any]:
    """Entries of a list, or of the lists of a mapping from modality to list."""
    for part in value.values() if isinstance(value, Mapping) else [value]:
        yield from part if isinstance(part, list) else []


def _cases(path: Path, value: Any, *, test: bool) -> Iterator[tuple[str, NewCase]]:
    for entry in _entries(value):
        found = entry if isinstance(entry, Mapping) else {"image": entry}
        if not isinstance(found.get("image"), str):
            raise DatasetError(f"{path}: an entry is {str(entry)[:60]!r}, expected {{'image': FILE}}. Mend the file.")
        image = needed(path.parent / found["image"], path)
        beside = {key: needed(path.parent / found[key], path) for key in ("label", "mask", "keypoints") if isinstance(found.get(key), str)}
        points = None if "keypoints" not in beside else read_keypoints(beside["keypoints"])
        yield case_name(stem_of(image)), NewCase([image], beside.get("label"), beside.get("mask"), points, test)


def _pair(entry: Mapping[str, Any]) -> dict[str, str]:
    return {side: case_name(stem_of(Path(str(entry[side])))) for side in ("fixed", "moving")}


def _labels(given: Mapping[str, Any]) -> dict[str, int]:
    """Name to value; Learn2Reg and the decathlon have value to name."""
    if all(str(key).isdigit() for key in given):
        return {"background": 0} | {str(value): int(key) for key, value in given.items() if int(key)}
    return {str(key): int(value) for key, value in given.items()}

"""A trained model as one file: JSON, safetensors and a card in a zip, with checksums; nothing in it is code, and installing it runs none."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from nnreg import __version__
from nnreg.documents import parse_json, understood
from nnreg.errors import ConfigurationError, PredictionError
from nnreg.files import COMPONENT, atomic_folder, atomic_path, check_component, plain, writable_folder
from nnreg.inference.predictor import ModelFolder
from nnreg.training.trainer.checkpoint import FINAL, load_checkpoint, save_checkpoint
from nnreg.typed import from_mapping, to_mapping
from nnreg.workspace import DATASET_PATTERN, Workspace

FORMAT = "nnreg-model"
VERSION = 1
MANIFEST, CARD = "manifest.json", "MODEL_CARD.md"
WEIGHTS, STATE = "weights.safetensors", "checkpoint.json"
SHARED = ("plans.json", "dataset.json")  # of a model folder
OF_FOLD = ("validation_summary.json", "prediction_method.json", "progress.png", "training_log.txt")
LARGEST_TEXT = 2**26  # bytes of a text: weights and pictures are stored as they are
TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the same model is the same file


@dataclass(frozen=True)
class Manifest:
    """What a model file holds.

    Attributes
    ----------
    format, version
        ``nnreg-model`` and of its layout.
    nnreg
        The version of nnReg that wrote it.
    dataset, model
        Names of the results folders: ``Dataset001_Name`` and ``TRAINER__PLANS__CONFIGURATION``.
    folds
        Names without ``fold_``.
    files
        Name to SHA-256 and bytes.
    """

    format: str
    version: int
    nnreg: str
    dataset: str
    model: str
    folds: tuple[str, ...]
    files: dict[str, dict[str, Any]]


def export_model(
    model: ModelFolder, path: Path, *, folds: Sequence[str] = (), checkpoint: str = FINAL, licence: str | None = None, notes: str = ""
) -> Manifest:
    """Write a trained model as one ``.zip``, whole or not at all.

    Parameters
    ----------
    model
    path
        ``.zip``.
    folds
        All trained ones if empty.
    checkpoint
        File name in each fold's folder.
    licence
        Of the weights: ``CC-BY-4.0``. Without one the card says that none was named.
    notes
        What else the card says: data, limits, whom to ask.

    Raises
    ------
    PredictionError
        If no fold is trained, the name is no ``.zip``, or the model's folder has a name that a file of models cannot have.
    TrainingError
        If a checkpoint is missing or damaged.
    """
    if path.suffix != ".zip":
        raise PredictionError(f"{path}: expected a name that ends in .zip.")
    chosen = list(folds) or model.folds()
    if not chosen:
        raise PredictionError(f"{model.path}: no fold is trained to its end. Train one, or name its checkpoint: -f 0 -chk checkpoint_latest.pth.")
    files = dict(_files(model, chosen, checkpoint))
    files[CARD] = _card(model, chosen, files, licence, notes).encode()
    described = {name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()}
    manifest = Manifest(FORMAT, VERSION, __version__, model.plans.dataset_name, model.path.name, tuple(chosen), described)
    _checked(manifest, path)
    writable_folder(path.parent)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in {MANIFEST: _json(to_mapping(manifest)), **files}.items():
            kind = zipfile.ZIP_STORED if name.endswith((".safetensors", ".png")) else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name, TIMESTAMP), content, kind)
    return manifest


def _files(model: ModelFolder, folds: Sequence[str], checkpoint: str) -> Iterator[tuple[str, bytes]]:
    """Names in the file and contents."""
    from safetensors.torch import save

    for name in SHARED:
        yield name, (model.path / name).read_bytes()
    for path in sorted((model.path / "reference").glob("*")) if (model.path / "reference").is_dir() else ():
        yield f"reference/{path.name}", path.read_bytes()
    for fold in folds:
        folder = model.path / f"fold_{fold}"
        content = load_checkpoint(folder / checkpoint)
        weights = {name: value.detach().clone().contiguous() for name, value in content["network_weights"].items()}  # tensors that share memory are refused
        yield f"fold_{fold}/{WEIGHTS}", save(weights)
        yield f"fold_{fold}/{STATE}", _json({key: content.get(key) for key in ("init", "trainer_name", "current_epoch")})
        for name in OF_FOLD:
            if (folder / name).is_file():
                yield f"fold_{fold}/{name}", (folder / name).read_bytes()


def _json(content: Any) -> bytes:
    return (json.dumps(plain(content), indent=2) + "\n").encode()


def _card(model: ModelFolder, folds: Sequence[str], files: Mapping[str, bytes], licence: str | None, notes: str) -> str:
    """What a person wants to know before using it."""
    plans, configuration = model.plans, model.plans.configuration(model.configuration_name)
    lines = [
        f"# {plans.dataset_name}: {model.path.name}",
        "",
        f"- Task: {plans.task}. Configuration: {model.configuration_name}, folds {', '.join(folds)}.",
        f"- Channels, in this order: {', '.join(model.spec.channel_names.values())}.",
        f"- Labels: {', '.join(name for name in model.spec.labels if name != 'background') or 'none'}.",
        f"- Spacing {' x '.join(f'{step:g}' for step in configuration.spacing)} mm (array axis order).",
        f"- Trained on {model.spec.numTraining} cases with nnReg {__version__}.",
        f"- Licence of the weights: {licence or 'none was named; ask whoever gave you this file'}.",
    ]
    for fold in folds:
        summary = files.get(f"fold_{fold}/validation_summary.json")
        if summary is not None:
            mean = json.loads(summary).get("mean", {})
            figures = ", ".join(f"{name} {value:.4g}" for name, value in mean.items() if isinstance(value, (int, float)))
            lines.append(f"- Validation of fold {fold} (held-out cases): {figures}.")
    lines += ["", notes] if notes else []
    return "\n".join([*lines, "", "Install: `nnreg_install_model FILE.zip`. It holds JSON, text, pictures and safetensors; no code.", ""])


# -- installing ---------------------------------------------------------------------------------------------------------


def install_model(path: Path, workspace: Workspace) -> Path:
    """Put a model file into the results of a workspace, whole or not at all.

    Returns
    -------
    Path
        The model folder, as ``nnreg_predict -m`` takes it.

    Raises
    ------
    PredictionError
        If it is no model file, is damaged, a checksum is wrong, a name in it is not plain, or the model is there already.
    """
    try:
        with understood(path, PredictionError, "Copy it again, or do not use it."), zipfile.ZipFile(path) as archive:
            manifest = _manifest(archive, path)
            target = workspace.results / manifest.dataset / manifest.model
            if target.exists():
                raise PredictionError(f"{target}: exists. Remove or rename it to install {path.name} in its place.")
            with atomic_folder(target) as part:
                for name, described in manifest.files.items():
                    _place(part, name, _content(archive, name, described, path))
                for fold in manifest.folds:
                    _restore(part / f"fold_{fold}", path)
                ModelFolder.open(part)  # what it does not understand is not installed
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        if not path.is_file():
            raise PredictionError(f"{path}: does not exist.") from error
        raise PredictionError(f"{path}: is no model file, or is damaged ({error}). Copy it again.") from error
    return target


def _manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    names = [entry.filename for entry in archive.infolist()]
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED and entry.file_size > LARGEST_TEXT:
            raise PredictionError(f"{path}: {entry.filename[:80]!r} inflates to {entry.file_size} bytes, expected {LARGEST_TEXT} at most. Do not use it.")
    if MANIFEST not in names:
        raise PredictionError(f"{path}: holds no {MANIFEST}, so it is no model file. nnreg_export_model writes them.")
    content = parse_json(archive.read(MANIFEST).decode(errors="replace"), f"{path}: {MANIFEST}", PredictionError)
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise PredictionError(f"{path}: expected format {FORMAT}, version {VERSION}. Install a newer nnReg, or ask for a file of this version.")
    manifest = from_mapping(Manifest, content, where=f"{path}: {MANIFEST}", error=PredictionError)
    _checked(manifest, path)
    if unknown := sorted({*names} - {MANIFEST, *manifest.files}) or sorted({*manifest.files} - {*names}):
        raise PredictionError(f"{path}: {unknown[0]!r} is in the file or in its {MANIFEST} alone. Do not use it.")
    if len(names) != len(set(names)):
        raise PredictionError(f"{path}: holds a name twice. Do not use it.")
    return manifest


def _checked(manifest: Manifest, path: Path) -> None:
    """Refuse names that are not plain: they become folders and files."""
    for name in (manifest.dataset, manifest.model, *manifest.folds):
        check_component(name, "a folder", path, PredictionError)
    if not DATASET_PATTERN.match(manifest.dataset):
        raise PredictionError(f"{path}: dataset is {manifest.dataset!r}, expected Dataset001_Name.")
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        if len(parts) > 2 or "/".join(parts) != name or not all(COMPONENT.fullmatch(part) for part in parts):
            raise PredictionError(f"{path}: the name {name!r} is not plain. Do not use it.")
        if name.endswith((".pth", ".pt", ".pkl", ".py")):
            raise PredictionError(f"{path}: holds {name!r}; a model file has no pickles and no code. Do not use it.")


def _content(archive: zipfile.ZipFile, name: str, described: Mapping[str, Any], path: Path) -> bytes:
    size = archive.getinfo(name).file_size
    if size != described.get("bytes"):
        raise PredictionError(f"{path}: {name} has {size} bytes, its {MANIFEST} says {described.get('bytes')}. Copy the file again.")
    with archive.open(name) as file:
        content = file.read(size)
    if hashlib.sha256(content).hexdigest() != described.get("sha256"):
        raise PredictionError(f"{path}: the checksum of {name} is wrong. Copy the file again, or do not use it.")
    return content


def _place(folder: Path, name: str, content: bytes) -> None:
    target = folder / name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(content)


def _restore(folder: Path, path: Path) -> None:
    """The checkpoint of a fold from its weights and its state."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    weights, state = folder / WEIGHTS, folder / STATE
    if not weights.is_file() or not state.is_file():
        raise PredictionError(f"{path}: {folder.name} has no {WEIGHTS} or no {STATE}. Copy the file again.")
    try:
        tensors: dict[str, torch.Tensor] = load(weights.read_bytes())
    except SafetensorError as error:
        raise PredictionError(f"{path}: {folder.name}/{WEIGHTS} is damaged ({error}). Copy the file again.") from error
    content = parse_json(state.read_bytes().decode(errors="replace"), f"{path}: {folder.name}/{STATE}", PredictionError)
    if not isinstance(content, dict) or not isinstance(content.get("init"), dict) or "trainer_name" not in content:
        raise ConfigurationError(f"{path}: {folder.name}/{STATE} has no init or trainer_name. Ask for the file anew.")
    save_checkpoint(folder / FINAL, {"network_weights": tensors, **content})
    weights.unlink()
    state.unlink()


__all__ = ["Manifest", "export_model", "install_model"]

"""A trained network, and the warp behind it, as ONNX: one file that ONNX Runtime runs, in many languages, without torch and nnReg."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnreg.errors import PredictionError
from nnreg.files import atomic_path, writable_folder
from nnreg.inference.predictor import ModelFolder
from nnreg.inference.torchscript import DESCRIPTION, check_same, opened
from nnreg.training.trainer.checkpoint import FINAL

ENDING = ".onnx"
OPSET = 20  # the first whose GridSample takes volumes
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(model: ModelFolder, path: Path, *, folds: Sequence[str] = (), checkpoint: str = FINAL, trainer: str | None = None) -> dict[str, Any]:
    """Write the networks of a model as ONNX, after ONNX Runtime has given what they give.

    Parameters
    ----------
    model
    path
        ``.onnx``.
    folds, checkpoint, trainer
        As in :func:`nnreg.inference.torchscript.export_torchscript`.

    Returns
    -------
    dict
        What the file's metadata hold under ``nnreg.json``: inputs, outputs, grid, spacing, normalisation.

    Raises
    ------
    PredictionError
        If the name ends otherwise, a package is missing, no fold is trained, or the network cannot be expressed.
    """
    if path.suffix != ENDING:
        raise PredictionError(f"{path}: expected a name that ends in {ENDING}.")
    check_installed()
    whole, images, content = opened(model, folds=folds, checkpoint=checkpoint, trainer=trainer)
    writable_folder(path.parent)
    with atomic_path(path) as temporary:
        write_onnx(whole, images, temporary, outputs=tuple(content["outputs"]), inputs=tuple(content["inputs"]), description=content, name=str(model.path))
    return content


def check_installed() -> None:
    """Refuse to begin without the packages that write and run ONNX.

    Raises
    ------
    PredictionError
        It names the first that is missing.
    """
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise PredictionError(f"--onnx: needs the package {missing[0]}: pip install 'nnreg[onnx]'.")


def write_onnx(
    whole: nn.Module, images: tuple[Tensor, ...], path: Path, *, inputs: tuple[str, ...], outputs: tuple[str, ...], description: dict[str, Any], name: str
) -> None:
    """ONNX of a module for inputs of one size, run beside it by ONNX Runtime.

    Raises
    ------
    PredictionError
        If it cannot be expressed, or then gives something else.
    """
    # the first run leaves real coordinate grids in their caches, which the export would fill with placeholders
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # sizes become constants: that is known
        expected = whole(*images)
        try:
            program = torch.onnx.export(whole, images, dynamo=True, opset_version=OPSET, input_names=list(inputs), output_names=list(outputs), verbose=False)
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            lines = [line for line in str(error).splitlines() if line.startswith("<class")] or str(error).splitlines()
            raise PredictionError(f"{name}: its network cannot be written as ONNX ({lines[0][:200]}).") from error
    assert program is not None  # only the older exporter returns nothing
    program.model.metadata_props[DESCRIPTION] = json.dumps(description, indent=2)
    program.save(str(path))
    found = tuple(torch.from_numpy(array) for array in _run(path, dict(zip(inputs, images, strict=True))))
    check_same(expected if isinstance(expected, tuple) else (expected,), found, name=name, form="ONNX")


def _run(path: Path, images: dict[str, Tensor]) -> Sequence[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: image.numpy() for name, image in images.items()}))


__all__ = ["check_installed", "export_onnx", "write_onnx"]

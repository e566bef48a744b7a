"""A trained network, and the warp behind it, as TorchScript: one file that torch runs in Python or C++ without nnReg."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnreg import __version__
from nnreg.errors import PredictionError
from nnreg.files import atomic_path, plain, writable_folder
from nnreg.geometry.fields import warp
from nnreg.inference.predictor import ModelFolder
from nnreg.task import TASKS
from nnreg.training.trainer.checkpoint import FINAL
from nnreg.typed import to_mapping

DESCRIPTION = "nnreg.json"
ENDINGS = (".pt", ".ts")
LARGEST_DIFFERENCE = 1e-3  # voxels or logits between the traced and the original network: rounding of another order of sums


class Registering(nn.Module):
    """``(fixed, moving) -> (field, warped)``: mean field of the networks in voxels of the grid (pull-back), and the moving image sampled by it."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, *grid), normalised as the plans say."""
        field = torch.stack([network(fixed=fixed, moving=moving)[0].float() for network in self.networks]).mean(dim=0)
        return field, warp(moving, field)


class Predicting(nn.Module):
    """``image -> logits``: mean logits of the networks on a patch."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """A patch (B, C, *patch), normalised as the plans say."""
        outputs = [network(image) for network in self.networks]
        return torch.stack([(output[0] if isinstance(output, (list, tuple)) else output).float() for output in outputs]).mean(dim=0)


def export_torchscript(model: ModelFolder, path: Path, *, folds: Sequence[str] = (), checkpoint: str = FINAL, trainer: str | None = None) -> dict[str, Any]:
    """Write the networks of a model as TorchScript, after a comparison of what both versions give.

    Parameters
    ----------
    model
    path
        ``.pt`` or ``.ts``.
    folds
        That are averaged; all trained ones if empty.
    checkpoint
        File name in each fold's folder.
    trainer
        What ``-tr`` said in training, where the network is made by code of one's own.

    Returns
    -------
    dict
        What ``torch.jit.load(path, _extra_files={"nnreg.json": ""})`` reads beside the network: inputs, outputs, grid, spacing, normalisation.

    Raises
    ------
    PredictionError
        If the name ends otherwise, no fold is trained, or the network cannot be traced.
    """
    if path.suffix not in ENDINGS:
        raise PredictionError(f"{path}: expected a name that ends in {' or '.join(ENDINGS)}.")
    whole, images, content = opened(model, folds=folds, checkpoint=checkpoint, trainer=trainer)
    traced = traced_as(whole, images, str(model.path))
    writable_folder(path.parent)
    with atomic_path(path) as temporary:
        torch.jit.save(traced, str(temporary), _extra_files={DESCRIPTION: json.dumps(content, indent=2)})
    return content


def opened(model: ModelFolder, *, folds: Sequence[str], checkpoint: str, trainer: str | None) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]:
    """The networks of a model as one module, images of noise that it takes, and what whoever runs it without nnReg has to know."""
    predictor = model.predictor(folds=folds, checkpoint=checkpoint, device=torch.device("cpu"), trainer=trainer)
    shape = tuple(getattr(predictor.configuration, "grid", None) or getattr(predictor.configuration, "patch_size"))  # noqa: B009  # of either task
    pairs = TASKS[model.plans.task].registers_pairs
    whole = (Registering if pairs else Predicting)(predictor.networks).eval().requires_grad_(False)
    content = plain(_described(model, shape, pairs, list(folds) or model.folds()))
    return whole, example(2 if pairs else 1, len(model.spec.channel_names), shape), content


def example(count: int, channels: int, shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Images of noise, to trace with and to compare."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, channels, *shape, generator=generator) for _ in range(count))


def traced_as(whole: nn.Module, images: tuple[Tensor, ...], name: str) -> torch.jit.ScriptModule:
    """TorchScript of a module for inputs of one size.

    Raises
    ------
    PredictionError
        If it cannot be traced, or then gives something else.
    """
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes become constants: that is known
        expected = whole(*images)
        try:
            traced = torch.jit.trace(whole, images, check_trace=False)
        except RuntimeError as error:
            raise PredictionError(f"{name}: its network cannot be written as TorchScript ({str(error).strip().splitlines()[0][:200]}).") from error
        found = traced(*images)
    check_same(*(value if isinstance(value, tuple) else (value,) for value in (expected, found)), name=name, form="TorchScript")
    return traced


def check_same(expected: Sequence[Tensor], found: Sequence[Tensor], *, name: str, form: str) -> None:
    """Refuse a network that gives something else in another form.

    Raises
    ------
    PredictionError
    """
    difference = max(float((one - other).abs().max()) for one, other in zip(expected, found, strict=True))
    if not difference <= LARGEST_DIFFERENCE:
        raise PredictionError(f"{name}: its network as {form} differs by up to {difference:.3g} from itself, so it is not written. Use the model with nnReg.")


def _described(model: ModelFolder, shape: Sequence[int], pairs: bool, folds: Sequence[str]) -> dict[str, Any]:
    """What whoever runs the file has to know."""
    configuration = model.plans.configuration(model.configuration_name)
    size = [1, len(model.spec.channel_names), *shape]
    outputs = (
        {"field": "(1, axes, *grid) voxels of the grid, array axis order: x + field(x) is where the moving image is sampled", "warped": "as moving"}
        if pairs
        else {"logits": "(1, classes, *patch)"}
    )
    return {
        "nnreg": __version__,
        "dataset": model.plans.dataset_name,
        "model": model.path.name,
        "folds": list(folds),
        "inputs": dict.fromkeys(("fixed", "moving") if pairs else ("image",), size),
        "outputs": outputs,
        "channels": list(model.spec.channel_names.values()),
        "spacing_mm": list(configuration.spacing),
        "configuration": to_mapping(configuration),
    }


__all__ = ["Predicting", "Registering", "check_same", "example", "export_torchscript", "opened", "traced_as"]

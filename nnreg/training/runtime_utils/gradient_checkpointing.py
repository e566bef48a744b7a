"""Stages that are computed again in the backward pass, so that what lies inside them need not be kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nnreg.errors import ConfigurationError


def checkpoint_gradients(network: nn.Module) -> int:
    """Let every stage of `network` be computed again in the backward pass; the weights keep their names.

    A stage is an entry of a list of modules, the outermost one where lists are nested. A network that has a switch of its own,
    ``gradient_checkpointing``, is asked for that instead.

    Returns
    -------
    int
        How many stages there are; 1 for a network with a switch of its own.

    Raises
    ------
    ConfigurationError
        If the network has neither.
    """
    if hasattr(network, "gradient_checkpointing"):
        setattr(network, "gradient_checkpointing", True)  # noqa: B010 - an attribute of its own, which nn.Module does not declare
        return 1
    stages = _stages(network)
    if not stages:
        raise ConfigurationError(
            f"gradient_checkpointing: {type(network).__name__} keeps no stages in a ModuleList or Sequential. "
            "Give it an attribute gradient_checkpointing that it heeds itself, or turn the option off."
        )
    for stage in stages:
        stage.forward = partial(_recomputed, stage, stage.forward)
    return len(stages)


def _stages(module: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.Sequential)):
            found += [entry for entry in child if any(True for _ in entry.parameters())]
        else:
            found += _stages(child)
    return found


def _recomputed(stage: nn.Module, forward: Any, *arguments: Any, **named: Any) -> Any:
    if not (stage.training and torch.is_grad_enabled()):
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, **named)

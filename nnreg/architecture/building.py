"""Networks by name, class or function: found, checked, built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import nn

from nnreg.architecture.backbone import Backbone, DenseNetwork, FieldNetwork
from nnreg.architecture.base import NETWORKS, RegistrationNetwork
from nnreg.errors import ConfigurationError, did_you_mean
from nnreg.registry import entry_point_names, installed, load_entry_point

ENTRY_POINTS = "nnreg.networks"
Stages = Sequence[Sequence[int]]


def network_names() -> list[str]:
    """Registered networks, and those of installed packages (entry points ``nnreg.networks``)."""
    return sorted({*NETWORKS, *installed("network", ENTRY_POINTS)})


def find_network(name: str) -> Callable[..., nn.Module]:
    """The class or function registered as `name`, here or by an installed package.

    Raises
    ------
    ConfigurationError
        Unknown name, an entry point that cannot be loaded, or a name that is registered twice.
    """
    if name in entry_point_names(ENTRY_POINTS):
        made: Callable[..., nn.Module] = load_entry_point("network", ENTRY_POINTS, name, taken=NETWORKS)
        return made
    if name in NETWORKS:
        return NETWORKS[name]
    raise ConfigurationError(f"network {name!r} is unknown; {did_you_mean(name, network_names())}")


def build_network(
    architecture: str | Callable[..., nn.Module],
    *,
    channels: int,
    ndim: int,
    strides: Stages,
    kernel_sizes: Stages,
    features_per_stage: Sequence[int],
    blocks_per_stage: Sequence[int],
    deep_supervision: bool = True,
    **kwargs: Any,
) -> RegistrationNetwork:
    """A registration network, built from a plan.

    Parameters
    ----------
    architecture
        Key of ``NETWORKS``, or a class or function called as the registered ones are; a :class:`Backbone` gets flow heads.
    channels, ndim
        Channels of each image, axes of the grid.
    strides, kernel_sizes
        One tuple per stage, one number per axis; stage 0 has stride 1.
    features_per_stage, blocks_per_stage
        One number per stage.
    deep_supervision
        Whether a call returns the coarser fields too; can be changed later.
    **kwargs
        The network's own options.

    Raises
    ------
    ConfigurationError
        If the name or an option is unknown, or the stages contradict each other.
    """
    check_stages(ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage)
    made = find_network(architecture) if isinstance(architecture, str) else architecture
    name = _name_of(architecture)
    plan = {
        "channels": channels,
        "ndim": ndim,
        "strides": strides,
        "kernel_sizes": kernel_sizes,
        "features_per_stage": features_per_stage,
        "blocks_per_stage": blocks_per_stage,
        "deep_supervision": deep_supervision,
    }
    network = _called(name, made, FieldNetwork, (made,), plan, kwargs) if is_backbone(made) else _called(name, made, made, (), plan, kwargs)
    if not isinstance(network, nn.Module):
        raise ConfigurationError(f"network {name!r} gave a {type(network).__name__}, expected a torch module called as network(fixed=, moving=).")
    return network  # type: ignore[return-value]  # a module of the user's own need not derive from ours


def build_dense_network(
    architecture: str | Callable[..., nn.Module],
    *,
    channels: int,
    outputs: int,
    ndim: int,
    strides: Stages,
    kernel_sizes: Stages,
    features_per_stage: Sequence[int],
    blocks_per_stage: Sequence[int],
    deep_supervision: bool = True,
    **kwargs: Any,
) -> nn.Module:
    """A network that maps an image to a list of logits, built from a plan; arguments and errors as in :func:`build_network`.

    `outputs` is the number of logits per voxel. Networks that exist for pairs of images only are refused.
    """
    check_stages(ndim, strides, kernel_sizes, features_per_stage, blocks_per_stage)
    made = find_network(architecture) if isinstance(architecture, str) else architecture
    name = _name_of(architecture)
    plan = {
        "channels": channels,
        "outputs": outputs,
        "ndim": ndim,
        "strides": strides,
        "kernel_sizes": kernel_sizes,
        "features_per_stage": features_per_stage,
        "blocks_per_stage": blocks_per_stage,
        "deep_supervision": deep_supervision,
    }
    if is_backbone(made):
        return _called(name, made, DenseNetwork, (made,), plan, kwargs)
    if isinstance(made, type) and issubclass(made, RegistrationNetwork):
        dense = ", ".join(sorted(key for key, entry in NETWORKS.items() if is_backbone(entry)))
        raise ConfigurationError(f"network {name!r} registers pairs and predicts nothing from one image. For dense prediction: {dense}.")
    return _called(name, made, made, (), plan, kwargs)


def is_backbone(made: object) -> bool:
    """Whether heads are put on what is made, because it is the class of a :class:`Backbone`."""
    return isinstance(made, type) and issubclass(made, Backbone)


def _name_of(architecture: str | Callable[..., nn.Module]) -> str:
    return architecture if isinstance(architecture, str) else getattr(architecture, "__name__", type(architecture).__name__)


def _called(name: str, made: Callable[..., Any], builder: Callable[..., Any], first: tuple[Any, ...], plan: dict[str, Any], options: dict[str, Any]) -> Any:
    """``builder(*first, **plan, **options)``; options may override the plan, and an unknown one is named before anything is built."""
    _check_options(name, made, builder, plan, options)
    try:
        return builder(*first, **{**plan, **options})
    except TypeError as error:
        raise ConfigurationError(f"network {name!r} cannot be built with the options {options}: {error}.") from error


def check_options(architecture: str, options: Collection[str]) -> None:
    """Refuse options that a registration network does not take, without building it.

    Raises
    ------
    ConfigurationError
        With the nearest valid one; also if there is no such network.
    """
    made = find_network(architecture)
    planned = _parameters(build_network) - {"architecture"}
    _check_options(architecture, made, FieldNetwork if is_backbone(made) else made, planned, options)


def _check_options(name: str, made: Callable[..., Any], builder: Callable[..., Any], planned: Collection[str], options: Collection[str]) -> None:
    valid = _parameters(made) | _parameters(builder)
    unknown = [key for key in options if key not in planned and key not in valid]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(made).parameters.values()):
        own = valid - set(planned) - {"inputs", "backbone", "options"}
        raise ConfigurationError(f"network {name!r} takes no option {unknown[0]!r}; {did_you_mean(unknown[0], own or ['none'])}")


def _parameters(made: Callable[..., Any]) -> set[str]:
    return {key for key, parameter in inspect.signature(made).parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}


def check_stages(ndim: int, strides: Stages, kernel_sizes: Stages, features_per_stage: Sequence[int], blocks_per_stage: Sequence[int]) -> None:
    """Raise a ConfigurationError unless every list has one entry per stage and every tuple one number per axis."""
    counts = {
        "strides": len(strides),
        "kernel_sizes": len(kernel_sizes),
        "features_per_stage": len(features_per_stage),
        "blocks_per_stage": len(blocks_per_stage),
    }
    if len(set(counts.values())) != 1 or len(strides) < 2:
        raise ConfigurationError(f"architecture: every list needs one entry per stage and two stages or more, found {counts}.")
    for key, stages in (("strides", strides), ("kernel_sizes", kernel_sizes)):
        wrong = [tuple(stage) for stage in stages if len(stage) != ndim or min(stage) < 1]
        if wrong:
            raise ConfigurationError(f"architecture.{key}: each stage needs {ndim} positive numbers, found {wrong[0]}.")
    if any(size % 2 == 0 for stage in kernel_sizes for size in stage):
        raise ConfigurationError(f"architecture.kernel_sizes must be odd, found {[tuple(stage) for stage in kernel_sizes]}.")
    if max(strides[0]) != 1:
        raise ConfigurationError(f"architecture.strides: stage 0 keeps the resolution, its stride must be 1, found {tuple(strides[0])}.")

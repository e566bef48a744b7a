"""Plans of nnReg and nnU-Net side by side: that they agree, and a smaller network and patch for both."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from nnreg.errors import NnRegError
from nnreg.planning.dense_prediction import settings

STAGES, FEATURES, BATCH = 4, 4, 4  # of the small network: most stages, divisor of the features; its largest batch
Plan = dict[str, Any]
PER_STAGE = {"strides": "strides", "kernel_sizes": "kernel_sizes", "features_per_stage": "features_per_stage", "blocks_per_stage": "n_conv_per_stage"}


def agreed(own: Plan, peer: Plan, name: str) -> Plan:
    """What one configuration of both plans says of patch, batch, network, spacing and loss.

    Raises
    ------
    NnRegError
        If they differ.
    """
    network, theirs = _own(own, name), _peer(peer, name)
    different = [key for key in network if np.shape(network[key]) != np.shape(theirs[key]) or not np.allclose(network[key], theirs[key])]
    if different:
        said = "; ".join(f"{key} {network[key]}, {theirs[key]}" for key in different)
        raise NnRegError(f"{own['dataset_name']}, {name}: the plans of nnReg and nnU-Net differ: {said}. What they train cannot be compared.")
    return network


def _own(plans: Plan, name: str) -> Plan:
    configuration = plans["configurations"][name]
    architecture = configuration["architecture"]
    return {
        **{key: configuration[key] for key in ("patch_size", "spacing", "batch_dice")},
        **{key: architecture[key] for key in PER_STAGE},
        "decoder": architecture["kwargs"]["decoder_blocks_per_stage"],
        "batch_size": configuration["training"]["batch_size"],
        "masked": [scheme["kwargs"].get("use_mask", False) for scheme in configuration["normalization"]],
        "transpose": plans["transpose_forward"],
    }


def _peer(plans: Plan, name: str) -> Plan:
    configuration = plans["configurations"][name]
    network = configuration["architecture"]["arch_kwargs"]
    return {
        **{key: configuration[key] for key in ("patch_size", "spacing", "batch_dice", "batch_size")},
        **{key: network[theirs] for key, theirs in PER_STAGE.items()},
        "decoder": network["n_conv_per_stage_decoder"],
        "masked": configuration["use_mask_for_norm"],
        "transpose": plans["transpose_forward"],
    }


def small(network: Plan) -> Plan:
    """Half the patch, fewer stages, features and samples."""
    result = network | {key: network[key][:STAGES] for key in PER_STAGE}
    result["decoder"] = network["decoder"][: STAGES - 1]
    result["features_per_stage"] = [max(4, width // FEATURES) for width in result["features_per_stage"]]
    whole = np.prod(result["strides"], axis=0)
    # one more than the stride at the bottom: normalisation wants more than one voxel
    result["patch_size"] = [int(step * max(ceil(size / 2 / step), min(2, size // step))) for size, step in zip(network["patch_size"], whole, strict=True)]
    result["batch_size"] = min(network["batch_size"], BATCH)
    return result


def write_into(own: Plan, peer: Plan, name: str, network: Plan) -> None:
    """Change one configuration of both plans to `network`, with what follows from patch and depth."""
    configuration = own["configurations"][name]
    configuration["patch_size"] = network["patch_size"]
    configuration["architecture"] |= {key: network[key] for key in PER_STAGE}
    configuration["architecture"]["kwargs"]["decoder_blocks_per_stage"] = network["decoder"]
    configuration["training"] |= {
        "batch_size": network["batch_size"],
        "deep_supervision_weights": list(settings.deep_supervision_weights(len(network["strides"])).value),
        "augmentation": settings.augmentation(network["patch_size"]).value,
    }
    configuration = peer["configurations"][name]
    configuration |= {"patch_size": network["patch_size"], "batch_size": network["batch_size"]}
    configuration["architecture"]["arch_kwargs"] |= {theirs: network[key] for key, theirs in PER_STAGE.items()} | {
        "n_conv_per_stage_decoder": network["decoder"],
        "n_stages": len(network["strides"]),
    }

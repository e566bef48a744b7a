"""Losses of dense prediction and of derived targets, each with arguments worth testing."""

from __future__ import annotations

from typing import Any

DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "dice": ("dice", {}),
    "dice batch squared": ("dice", {"batch_dice": True, "squared": True}),
    "SoftDiceLoss": ("SoftDiceLoss", {}),
    "ce": ("ce", {}),
    "ce weighted": ("ce", {"class_weights": [0.2, 0.3, 0.5], "label_smoothing": 0.1}),
    "focal": ("focal", {}),
    "focal per class": ("focal", {"alpha": [0.2, 0.3, 0.5], "gamma": 1.5}),
    "topk": ("topk", {"k": 20}),
    "tversky": ("tversky", {}),
    "tversky focal": ("tversky", {"gamma": 0.75, "batch_dice": True}),
    "boundary": ("boundary", {}),
    "boundary clipped": ("boundary", {"clip": 2.0}),
    "blob_dice": ("blob_dice", {}),
    "blob_dice of the paper": ("blob_dice", {"cells": False, "batch_dice": True, "component_weight": "log"}),
    "region_dice": ("region_dice", {"band_width": 1.0}),
    "region_dice batch": ("region_dice", {"batch_dice": True}),
    "dice_ce": ("dice_ce", {}),
    "dice_topk": ("dice_topk", {}),
    "dice_blob_ce": ("dice_blob_ce", {}),
    "blob_dice_ce": ("blob_dice_ce", {}),
    "region_dice_ce": ("region_dice_ce", {}),
    "combined": ("combined", {}),
    "combined of all": ("combined", {f"{name}_weight": 0.3 for name in ("dice", "ce", "focal", "boundary", "tversky", "topk", "blob_dice", "region_dice")}),
    "dice_focal": ("dice_focal", {}),
    "dice_ce_boundary": ("dice_ce_boundary", {}),
    "bce": ("bce", {}),
    "dice_bce": ("dice_bce", {}),
    "focal regions": ("focal", {"regions": True}),
    "dice regions": ("dice", {"regions": True}),
    "blob_dice regions": ("blob_dice", {"regions": True}),
    "region_dice regions": ("region_dice", {"regions": True}),
    "combined regions": ("combined", {"regions": True}),
}
TARGETS: dict[str, tuple[str, dict[str, Any]]] = {
    "masked_mse": ("masked_mse", {}),
    "weighted_smooth_l1": ("weighted_smooth_l1", {"threshold": 0.5, "weight_below": 2.0}),
    "signed_distance": ("signed_distance", {}),
    "signed_distance plain": ("signed_distance", {"eikonal": False, "rho": 6.0}),
    "cosine": ("cosine", {}),
    "cosine of axes": ("cosine", {"sign_invariant": True}),
    "normal_smoothness": ("normal_smoothness", {"sigma": 1.0}),
}

"""Recipes of one loss each: to be joined with others. Those of registration take the place of the planned term, those of dense prediction of the whole loss."""

from __future__ import annotations

from typing import Any

from nnreg.training.configs.trainer_config import TRAINER_CONFIGS, TrainerConfig

SIMILARITIES = {
    "lncc": "registration: local correlation in windows of 9 voxels (one contrast)",
    "ncc": "registration: correlation of the whole images (one contrast)",
    "mse": "registration: mean squared difference (one contrast and scale)",
    "nmi": "registration: normalised mutual information of 32 bins (several contrasts)",
    "mind": "registration: self-similarity descriptors MIND-SSC (several modalities)",
}
DENSE = {
    "dice": "dense prediction: one minus Dice",
    "ce": "dense prediction: cross entropy",
    "bce": "dense prediction: binary cross entropy of regions",
    "focal": "dense prediction: focal loss",
    "tversky": "dense prediction: Tversky, missing voxels count more than false ones",
    "topk": "dense prediction: cross entropy of the worst tenth of the voxels",
    "dice_ce": "dense prediction: Dice and cross entropy, nnU-Net's default",
    "dice_topk": "dense prediction: Dice and the cross entropy of the worst tenth",
    "dice_focal": "dense prediction: Dice and focal loss, half each",
    "dice_ce_boundary": "dense prediction: Dice, cross entropy and boundary loss, 0.4, 0.4 and 0.2",
    "blob_dice": "dense prediction: Dice of every component",
    "blob_dice_ce": "dense prediction: Dice of every component, and cross entropy",
    "dice_blob_ce": "dense prediction: Dice, Dice of every component, and cross entropy",
    "region_dice": "dense prediction: Dice near the surface and of the interior",
    "region_dice_ce": "dense prediction: Dice near the surface and of the interior, and cross entropy",
}
TERMS: dict[str, tuple[dict[str, Any], str]] = {
    "diffusion_l1": ({"regularisation": [{"name": "diffusion", "kwargs": {"norm": "l1"}}]}, "registration: mean absolute gradient of the field"),
    "bending": ({"regularisation": [{"name": "bending"}]}, "registration: bending energy, blind to affine maps"),
    "elastic": ({"regularisation": [{"name": "elastic"}]}, "registration: linear elastic energy"),
    "label_dice": ({"supervision": [{"name": "soft_dice"}]}, "registration: also the Dice of warped labels, of pairs that have them"),
    "keypoint_distance": ({"supervision": [{"name": "keypoints", "weight": 0.1}]}, "registration: also the distance of mapped keypoints, 0.1 per mm"),
    "true_field": ({"supervision": [{"name": "dvf", "weight": 0.1}]}, "registration: also the squared distance from the true field, 0.1 per square mm"),
    "inverse_consistency": (
        {"supervision": [{"name": "inverse_consistency", "weight": 0.1}], "bidirectional": True},
        "registration: both directions, and what going forth and back leaves, 0.1 per square mm",
    ),
}

for _name, _description in {**SIMILARITIES, **DENSE}.items():
    TRAINER_CONFIGS[_name] = TrainerConfig(loss=_name, description=_description)
for _name, (_training, _description) in TERMS.items():
    TRAINER_CONFIGS[_name] = TrainerConfig(training=_training, description=_description)

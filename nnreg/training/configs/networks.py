"""Recipes that name a network: ``-tr kiunet``. Importing this module registers them."""

from __future__ import annotations

from typing import Any

from nnreg.training.configs.options import PRESETS
from nnreg.training.configs.trainer_config import TRAINER_CONFIGS, TrainerConfig

RESENC_BLOCKS = (1, 3, 4, 6)  # nnU-Net's residual encoder, the last number for every deeper stage


def _register(name: str, architecture: str, description: str, **options: Any) -> None:
    TRAINER_CONFIGS[name] = TrainerConfig(architecture=architecture, architecture_kwargs=options, description=description)


_register("kiunet", "kiunet", "KiU-Net: a U-Net beside a branch that enlarges, for small structures", pool_type="max")
_register("kiunet_conv", "kiunet", "kiunet with strided convolutions instead of pooling", pool_type="conv")
_register("kiunet_minimal", "kiunet", "kiunet with half the features", width=0.5)
_register("kiunet_large", "kiunet", "kiunet whose enlarging branch has 3 levels, checkpointed", ki_levels=3, checkpointing=True)
_register("uiunet", "uiunet", "UIU-Net: a U-Net whose every stage is a U-Net")
_register("uiunet_minimal", "uiunet", "uiunet with half the features and inner U-Nets two levels lower", width=0.5, height=5)
_register("globalnet", "globalnet", "GlobalNet: one affine map")
_register("localnet", "localnet", "LocalNet: the mean of the fields of all levels of a U-Net")
_register("corrmlp", "corrmlp", "CorrMLP: coarse to fine by correlation and windowed MLPs")
_register("plain_unet", "plain_unet", "nnU-Net's plain U-Net on both images")
_register("resenc_m", "resenc_unet", "nnU-Net's residual encoder U-Net, features from 8", encoder_blocks=RESENC_BLOCKS, encoder_features=(8, 16, 32, 64, 80))
_register("resenc_l", "resenc_unet", "resenc_m with features from 16", encoder_blocks=RESENC_BLOCKS, encoder_features=(16, 32, 64, 128, 160))
_register("resenc_xl", "resenc_unet", "resenc_m with nnU-Net's features, from 32", encoder_blocks=RESENC_BLOCKS, encoder_features=(32, 64, 128, 256, 320))
_register("primus", "primus", "Primus-S: a vision transformer (needs timm)")
TRAINER_CONFIGS["swin_unetr"] = TrainerConfig(
    "swin_unetr",
    # its length stays the plan's
    training={name: value for name, value in PRESETS["transformer_preset"][0].items() if name != "epochs"},
    description="Swin-UNETR (needs MONAI): AdamW, warm-up, cosine, clipped gradients",
)

for _name, _options, _description in (
    ("dropout", {"dropout": 0.5}, "plain_unet, resenc_unet, swin_unetr: half of the values are set to 0 in training"),
    ("batch_norm", {"normalization": "batch"}, "plain_unet, resenc_unet: statistics over the batch; batches of 2 or more"),
    ("group_norm", {"normalization": "group"}, "plain_unet, resenc_unet: statistics of 8 groups of features, for small batches"),
):
    TRAINER_CONFIGS[_name] = TrainerConfig(architecture_kwargs=_options, description=_description)

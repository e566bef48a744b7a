"""nnU-Net's planners as numbers: which network, and how much memory it may take."""

from __future__ import annotations

from dataclasses import dataclass

from nnreg.registry import Registry

PLAIN, RESIDUAL = "plain_unet", "resenc_unet"


@dataclass(frozen=True)
class Preset:
    """A planner of nnU-Net.

    Attributes
    ----------
    name
        nnU-Net's class.
    plans_name
        Plans file it writes unless another name is asked for.
    network
        Its name in ``nnreg.architecture.NETWORKS``.
    memory_gb
        What a training step may take unless -gpu_memory_target says otherwise.
    elements_3d, elements_2d
        Elements of feature maps, of one sample, that fit `memory_gb` at the reference batch size.
    encoder_blocks
        Per stage; the last number repeats. Convolutions of a plain encoder, residual blocks of a residual one.
    decoder_blocks
        Convolutions per stage.
    share
        Of the dataset's voxels that one batch may cover.
    shrinks_for_smallest_batch
        Whether the patch shrinks until the smallest batch fits, rather than the reference batch. They differ in 2D.
    """

    name: str
    plans_name: str
    network: str
    memory_gb: float
    elements_3d: int
    elements_2d: int
    encoder_blocks: tuple[int, ...]
    decoder_blocks: int
    share: float
    shrinks_for_smallest_batch: bool


def _residual(name: str, plans_name: str, gb: float, elements_3d: int, elements_2d: int, share: float = 1.0) -> Preset:
    return Preset(name, plans_name, RESIDUAL, gb, elements_3d, elements_2d, (1, 3, 4, 6), 1, share, shrinks_for_smallest_batch=False)


DEFAULT = Preset("ExperimentPlanner", "nnRegPlans", PLAIN, 8.0, 560_000_000, 85_000_000, (2,), 2, 0.05, shrinks_for_smallest_batch=True)
RESENC = _residual("ResEncUNetPlanner", "nnRegResEncUNetPlans", 8.0, 680_000_000, 135_000_000, share=0.05)
RESENC_M = _residual("nnUNetPlannerResEncM", "nnRegResEncUNetMPlans", 8.0, 680_000_000, 135_000_000)
RESENC_L = _residual("nnUNetPlannerResEncL", "nnRegResEncUNetLPlans", 24.0, 2_100_000_000, 380_000_000)
RESENC_XL = _residual("nnUNetPlannerResEncXL", "nnRegResEncUNetXLPlans", 40.0, 3_600_000_000, 560_000_000)

PRESETS: Registry[Preset] = Registry("planner")
"""By nnU-Net's class name and by a short one."""

for _preset, _short in ((DEFAULT, "default"), (RESENC, "resenc"), (RESENC_M, "resenc_m"), (RESENC_L, "resenc_l"), (RESENC_XL, "resenc_xl")):
    PRESETS[_preset.name] = PRESETS[_short] = _preset

PLANNERS = {name: {"planner": name} for name in PRESETS}
"""What -pl may name, to the arguments of ``plan_dataset``."""

"""What was measured and planned for dense prediction, in short tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnreg.cli.common import print_table

if TYPE_CHECKING:
    from pathlib import Path

    from nnreg.planning.dense_prediction.fingerprint import DenseFingerprint
    from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans


def print_fingerprint(fingerprint: DenseFingerprint) -> None:
    """What was measured, in a few lines."""
    from nnreg.planning.decision import text

    print(f"{fingerprint.dataset_name}: {len(fingerprint.images)} images with labels, {fingerprint.heads} entries in labels")
    for name, values in (("shape", fingerprint.shapes()), ("spacing", fingerprint.spacings())):
        low, high = values.min(axis=0).tolist(), values.max(axis=0).tolist()
        unit = "voxels, cropped to what is not 0" if name == "shape" else "mm"
        print(f"  {name:8} {text(low)}{'' if low == high else f' to {text(high)}'} {unit}")
    print(f"  cropping leaves {fingerprint.relative_size:.0%} of the median image")
    for name, channel in zip(fingerprint.channel_names, fingerprint.intensities, strict=True):
        robust = f"{channel.percentile_00_5:.4g} to {channel.percentile_99_5:.4g}, median {channel.median:.4g}"
        print(f"  {name}: {robust}, mean {channel.mean:.4g}, std {channel.std:.4g} on the labelled foreground")


def print_plans(plans: DensePlans) -> None:
    """What was decided, and why."""
    from nnreg.planning.decision import text

    network = plans.configurations[plans.recommended].architecture.name
    print(f"{plans.dataset_name}: {plans.planner}, {network}, axes {' '.join(map(str, plans.transpose_forward))} ({plans.because['transpose_forward']})")
    rows = [("configuration", "spacing mm", "median image", "patch", "batch", "stages", "features", "blocks", "batch Dice")]
    for name, configuration in plans.configurations.items():
        architecture = configuration.architecture
        rows.append(
            (
                name + (" *" if name == plans.recommended else ""),
                text(configuration.spacing),
                " x ".join(f"{size:g}" for size in configuration.median_image_size_in_voxels),
                " x ".join(map(str, configuration.patch_size)),
                str(configuration.training.batch_size),
                str(len(architecture.strides)),
                " ".join(map(str, architecture.features_per_stage)),
                " ".join(map(str, architecture.blocks_per_stage)),
                "yes" if configuration.batch_dice else "no",
            )
        )
    print_table(rows)
    print(f"  * recommended: {plans.because['recommended']}")
    first = plans.configurations[plans.recommended]
    for index, channel in enumerate(plans.channel_names):
        print(f"  {channel}: {first.because[f'normalization[{index}]']}")
    for name, configuration in plans.configurations.items():
        print(f"  {name}: {_reason(configuration)}")


def _reason(configuration: DenseConfiguration) -> str:
    if configuration.previous_stage is not None:
        return f"takes the prediction of {configuration.previous_stage} as further channels"
    because = configuration.because
    return "; ".join(because[key] for key in ("spacing", "patch_size", "3d_lowres") if key in because)


def print_arrays(name: str, folder: Path) -> None:
    """Where the arrays of a configuration lie, and how large they are."""
    from nnreg.preprocessing.dense_prediction.storage import DenseDataset

    data = DenseDataset(folder)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    print(f"{name}: {len(data.cases)} cases, {size:.0f} MiB: {folder}")

"""What was measured and planned for registration, in short tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nnreg.cli.common import print_table

if TYPE_CHECKING:
    from pathlib import Path

    from nnreg.planning.registration.fingerprint import Fingerprint
    from nnreg.planning.registration.pair_fingerprint import PairFingerprint, PairMeasurement, Stages
    from nnreg.planning.registration.plans import RegistrationPlans

MOST_CHANNELS = 8  # that tables show


def print_fingerprint(fingerprint: Fingerprint) -> None:
    """What was measured, in a few lines."""
    images = fingerprint.images.values()
    spacings, shapes = fingerprint.spacings(), fingerprint.shapes()
    print(
        f"{fingerprint.dataset_name}: {len(images)} images of {fingerprint.subjects} subjects, {fingerprint.pair_count} pairs, pairing {fingerprint.pairing!r}"
    )
    print(f"  shape    {_range(shapes)} voxels, axes run {fingerprint.orientation} (x first)")
    print(f"  spacing  {_range(spacings)} {fingerprint.unit}")
    found = [image.foreground_fraction for image in images if image.foreground_found]
    if found:
        whole = f"; of the other {len(images) - len(found)} the whole image" if len(found) < len(images) else ""
        print(f"  foreground told from a background in {len(found)} of {len(images)}, {sum(found) / len(found):.0%} of their voxels on average{whole}")
    else:
        print("  no background can be told apart in any image: all voxels are foreground")
    for name, channel in list(zip(fingerprint.channel_names, fingerprint.intensities, strict=True))[:MOST_CHANNELS]:
        robust = f"{channel.percentile_00_5:.4g} to {channel.percentile_99_5:.4g}, median {channel.median:.4g}"
        print(f"  {name}: {robust}" + (f" on the foreground, background {channel.background:.4g}" if found else ""))
    if len(fingerprint.intensities) > MOST_CHANNELS:
        print(f"  and {len(fingerprint.intensities) - MOST_CHANNELS} more channels")
    if fingerprint.pairs is not None:
        _print_pairs(fingerprint.pairs, fingerprint.unit)


def _print_pairs(pairs: PairFingerprint, unit: str) -> None:
    """What the pilot registrations measured, medians; lengths in `unit`."""
    seconds = sum(pair.seconds for pair in pairs.all)
    print(f"  pairs: {pairs.count} registered quickly in {seconds:.0f} s" + (f", {len(pairs.failed)} could not be" if pairs.failed else ""))
    for failure in pairs.failed[:1]:
        print(f"    {failure.fixed} and {failure.moving}: {failure.reason}")
    if not pairs.count:
        return
    p50, p99 = pairs.median(lambda pair: pair.displacement_mm.p50), pairs.median(lambda pair: pair.displacement_mm.p99)
    moved = f"linear alignment moves the body by {pairs.median(lambda pair: pair.alignment_mm):.1f} {unit}"
    print(f"    {moved}, then {p50:.1f} {unit} (50 %) to {p99:.1f} {unit} (99 %) remain")
    for name, value, form in (
        ("local correlation", lambda pair: pair.similarity["lncc"], ".2f"),
        ("Dice", lambda pair: pair.dice, ".3f"),
        (f"keypoints {unit}", lambda pair: pair.keypoint_mm, ".2f"),
    ):
        stages = [pairs.median(_stage(value, stage)) for stage in ("header", "aligned", "after")]
        if all(stage is not None for stage in stages):
            print(f"    {name}: {stages[0]:{form}} by the headers, {stages[1]:{form}} aligned, {stages[2]:{form}} after")


def _stage(value: Callable[[PairMeasurement], Stages | None], stage: str) -> Callable[[PairMeasurement], float | None]:
    return lambda pair: getattr(value(pair), stage, None)


def _range(values: object) -> str:
    import numpy as np

    array = np.asarray(values)
    low, high = array.min(axis=0), array.max(axis=0)
    return " x ".join(f"{a:.4g}" if np.isclose(a, b, atol=0) else f"{a:.4g}-{b:.4g}" for a, b in zip(low, high, strict=True))


def print_plans(plans: RegistrationPlans) -> None:
    """What was decided, and why."""
    from nnreg.planning.decision import text

    print(
        f"{plans.dataset_name}: pre-alignment {plans.pre_alignment}" + (f" to {plans.reference_case}" if plans.reference_case else ", a frame for each group")
    )
    print(f"  because {plans.because['pre_alignment']}")
    rows = [("configuration", f"spacing {plans.unit}", "grid", "features", "field", "batch", "GB")]
    for name, configuration in plans.configurations.items():
        network = configuration.architecture
        rows.append(
            (
                name + (" *" if name == plans.recommended else ""),
                text(configuration.spacing),
                text(configuration.grid),
                " ".join(map(str, network.features_per_stage)),
                f"1/{network.kwargs.get('field_resolution', 1)}",
                str(configuration.training.batch_size),
                f"{configuration.memory_gb:.2f}",
            )
        )
    print_table(rows)
    engine = plans.optimisation
    print(f"  optimise{' *' if plans.recommended == 'optimise' else ''}: no network; {engine.preset}, {engine.similarity}, alignment {engine.alignment}")
    print(f"  * recommended: {plans.because['recommended']}")
    for name, configuration in plans.configurations.items():
        if configuration.previous_stage is not None:
            print(f"  {name}: goes on from the field of {configuration.previous_stage}, which is trained first")
            continue
        print(f"  {name}: {configuration.because['grid']}; {configuration.because['spacing']}")
        if configuration.training_seconds is not None:
            print(f"  {name}: {configuration.because['training.epochs']}")
    print(f"next: {next_command(plans)}")


def next_command(plans: RegistrationPlans) -> str:
    """What the plans recommend, as it is typed."""
    number = plans.dataset_name[7:10]
    if plans.recommended not in plans.configurations:
        return f"nnreg_predict -d {number} -c {plans.recommended} -i IMAGES -o OUT"
    return f"nnreg_train {number} {plans.recommended} 0"


def print_arrays(name: str, folder: Path) -> None:
    """How well the cases were brought together."""
    from nnreg.preprocessing.registration.storage import PreprocessedDataset

    data = PreprocessedDataset(folder)
    kinds: dict[str, int] = {}
    inside = {}
    for case in data.cases:
        alignment = data.properties(case).alignment
        kinds[alignment["kind"]] = kinds.get(alignment["kind"], 0) + 1
        inside[case] = alignment["foreground_inside"]
    worst = min(inside, key=lambda case: inside[case])
    used = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"{name}: {len(inside)} cases ({used}), at least {inside[worst]:.1%} of each foreground on the grid ({worst}): {folder}")

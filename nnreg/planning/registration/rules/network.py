"""What the network looks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnreg.planning.decision import Decision, rule, text
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.rules.alignment import WITHIN_SUBJECT
from nnreg.planning.topology import Topology, topology

NETWORK = "dual_pyramid"
BASE_FEATURES = 16
FEWEST_BASE_FEATURES = 8
MOST_FEATURES = 64
SMALL_3D = 64**3  # voxels: up to here the field is predicted at every voxel
SMALL_2D = 256**2
CORRELATION_RADIUS, WIDER_RADIUS = 1, 2
INTEGRATION_STEPS = 5  # a level corrects about a voxel: steps of 1/32
FOLDING = 0.1  # percent of voxels, of the pilots
CAPTURE = 3.0  # voxels that one level of radius 1 with its two convolutions corrects reliably


@rule("topology")
def network_topology(spacing: Sequence[float], grid: Sequence[int]) -> Decision[Topology]:
    """nnU-Net's pooling on the whole working grid: axes of similar spacing together, down to 4 voxels."""
    value = topology(spacing, grid)
    return Decision(
        value, f"{len(value.strides)} stages: axes of similar spacing are halved together ({text(value.pools)} times) until fewer than 8 voxels are left"
    )


@rule("network")
def network_name() -> Decision[str]:
    """`dual_pyramid`: two images through one encoder, and a decoder that warps and correlates at every level."""
    return Decision(NETWORK, "shared encoder, coarse-to-fine warping, local correlation: best of five tasks at any backbone [evidence: rethink-reg 2024]")


@rule("field_resolution")
def field_resolution(grid: Sequence[int]) -> Decision[int]:
    """A field at every voxel up to 64^3 voxels (256^2 in 2D), at every second one above."""
    voxels, limit = int(np.prod(grid)), SMALL_3D if len(grid) == 3 else SMALL_2D
    if voxels > limit:
        return Decision(2, f"{voxels} voxels: a field is smooth, half the resolution loses little and saves three quarters of the memory")
    return Decision(1, f"{voxels} voxels, no more than {limit}: small enough for a displacement at every voxel")


@rule("features")
def features(stages: int, finest: int, base: int) -> Decision[tuple[int, ...]]:
    """16 at the finest level that is built (8 where memory or time ask for it), doubling from there, at most 64; stages before it are not built."""
    value = tuple(min(max(1, round(base * 2.0 ** (stage - finest))), MOST_FEATURES) for stage in range(stages))
    why = "narrowed to the memory target or the time budget" if base < BASE_FEATURES else "the width that VFA has at half resolution"
    return Decision(value, f"{base} at the finest level, stage {finest} ({why}), doubling, at most {MOST_FEATURES}")


@rule("blocks")
def blocks(stages: int) -> Decision[tuple[int, ...]]:
    """One residual block per stage."""
    return Decision((1,) * stages, "one residual block per stage: depth brings little in registration, warping and correlation bring most")


@rule("integration_steps")
def integration_steps(fingerprint: Fingerprint) -> Decision[int]:
    """5 between subjects: each level is a velocity, integrated, so that none folds. 0 within a subject, where organs may slide."""
    if fingerprint.pairing in WITHIN_SUBJECT:
        return Decision(0, f"pairing {fingerprint.pairing!r}: organs of one subject may slide along each other, a level's residual is a displacement")
    folding = None if fingerprint.pairs is None else fingerprint.pairs.median(lambda pair: pair.folding_percent)
    seen = "" if folding is None else f"; the pilots fold {folding:.2g} %"
    return Decision(
        INTEGRATION_STEPS,
        f"pairing {fingerprint.pairing!r}: anatomy keeps its topology, integrated residuals fold ten times less, as accurately "
        f"[evidence: registration designs 2025]{seen}",
    )


@rule("inverse_consistent")
def inverse_consistent(fingerprint: Fingerprint) -> Decision[bool]:
    """A decoder that is symmetric by construction between subjects whose pilots fold 0.1 % in the median or more; else not, which is as accurate or more."""
    if fingerprint.pairing in WITHIN_SUBJECT:
        return Decision(False, f"pairing {fingerprint.pairing!r}: organs of one subject may slide along each other")
    folding = None if fingerprint.pairs is None else fingerprint.pairs.median(lambda pair: pair.folding_percent)
    if folding is not None and folding >= FOLDING:
        return Decision(
            True, f"the pilots fold {folding:.2g} %, {FOLDING:g} % or more: a symmetric decoder folds ten times less [evidence: registration designs 2025]"
        )
    why = "no pair was measured" if folding is None else f"the pilots fold {folding:.2g} %, less than {FOLDING:g} %"
    return Decision(False, f"{why}: a symmetric decoder takes twice the time and loses up to a point of Dice, and maps are inverted afterwards anyway")


@rule("correlation_radius")
def correlation_radius(spacing: Sequence[float], grid: Sequence[int], levels: int, displacement: float | None) -> Decision[int]:
    """One voxel at every level, because the pyramid multiplies the reach; two where that falls short of what 99 % of the pilot's displacements stay below."""
    reach = CAPTURE * 2 ** (levels - 1) * min(spacing)
    if displacement is None:
        share = reach / max(size * step for size, step in zip(grid, spacing, strict=True))
        return Decision(CORRELATION_RADIUS, f"radius 1 on {levels} levels reaches about {reach:.0f} mm, {share:.0%} of the longest axis")
    if reach < displacement:
        return Decision(
            WIDER_RADIUS,
            f"radius 1 on {levels} levels reaches about {reach:.0f} mm, 99 % of the pilot's displacements are below {displacement:.1f} mm: twice as far",
        )
    return Decision(
        CORRELATION_RADIUS, f"radius 1 on {levels} levels reaches about {reach:.0f} mm, 99 % of the pilot's displacements are below {displacement:.1f} mm"
    )

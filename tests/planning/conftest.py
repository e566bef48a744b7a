"""Fingerprints made by hand, so that each rule is tested at its thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from nnreg.geometry import Space
from nnreg.planning import orientation
from nnreg.planning.registration.extract import connected
from nnreg.planning.registration.fingerprint import ChannelStatistics, Fingerprint, ImageFingerprint
from nnreg.planning.registration.pair_fingerprint import PairFingerprint, PairMeasurement, Percentiles, Stages


def _statistics(**changes: Any) -> ChannelStatistics:
    values: dict[str, Any] = {
        "mean": 500.0,
        "median": 480.0,
        "std": 150.0,
        "minimum": 10.0,
        "maximum": 1200.0,
        "percentile_00_5": 50.0,
        "percentile_01": 60.0,
        "percentile_99": 1000.0,
        "percentile_99_5": 1100.0,
        "background": 0.0,
        "hounsfield": False,
    }
    return ChannelStatistics(**(values | changes))


def _image(
    shape: tuple[int, ...] = (100, 120, 90),
    spacing: tuple[float, ...] | None = None,
    *,
    low: tuple[int, ...] | None = None,
    high: tuple[int, ...] | None = None,
    space: Space | None = None,
    channel: ChannelStatistics | None = None,
    channels: int = 1,
    **changes: Any,
) -> ImageFingerprint:
    space = space or Space.plain(shape, spacing)
    low, high = low or tuple(size // 8 for size in shape), high or tuple(size - size // 8 for size in shape)
    centre = space.to_world((np.asarray(low) + np.asarray(high) - 1) / 2)
    values: dict[str, Any] = {
        "shape": space.shape,
        "spacing": space.spacing,
        "origin": space.origin,
        "direction": space.direction,
        "orientation": orientation.code(space),
        "foreground_found": True,
        "foreground_low": low,
        "foreground_high": high,
        "foreground_faces": ((0.0, 0.0),) * space.ndim,
        "foreground_fraction": 0.4,
        "centre_of_mass": tuple(centre.tolist()),
        "channels": (channel or _statistics(),) * channels,
        "integer": True,
        "subject": "s",
        "labels": False,
        "keypoints": None,
        "mask": False,
        "file_bytes": 1,
    }
    return ImageFingerprint(**(values | changes))


class _NamedPair:
    def __init__(self, fixed: str, moving: str) -> None:
        self.fixed, self.moving = fixed, moving


def _fingerprint(
    images: dict[str, ImageFingerprint] | None = None,
    *,
    pairing: str = "all",
    pairs: tuple[tuple[str, str], ...] = (),
    channel_names: tuple[str, ...] = ("T1",),
    intensities: tuple[ChannelStatistics, ...] | None = None,
    atlas: str | None = None,
    measured: Sequence[PairMeasurement] = (),
) -> Fingerprint:
    images = images or {f"case{index}": _image() for index in range(4)}
    groups = connected([_NamedPair(*pair) for pair in pairs], images) if pairing in ("pairs", "groups") else ()
    return Fingerprint(
        dataset_name="Dataset001_Test",
        channel_names=channel_names,
        pairing=pairing,
        pair_count=len(pairs) or len(images) * (len(images) - 1),
        atlas=atlas,
        groups=groups,
        images=images,
        intensities=intensities or (_statistics(),) * len(channel_names),
        pairs=PairFingerprint(tuple(measured)) if measured else None,
    )


def _measurement(**changes: Any) -> PairMeasurement:
    same = Stages(0.8, 0.9, 0.95)
    values: dict[str, Any] = {
        "fixed": "case0",
        "moving": "case1",
        "files": "",
        "header_overlap": 1.0,
        "field_of_view_mismatch": 0.0,
        "centre_offset_mm": 1.0,
        "alignment_kind": "affine",
        "alignment_mm": 10.0,
        "displacement_mm": Percentiles(2.0, 5.0, 8.0),
        "similarity": {"ncc": same, "lncc": same, "nmi": same, "mind": same},
        "dice": None,
        "keypoint_mm": None,
        "sdlogj": 0.3,
        "folding_percent": 0.0,
        "mass_change": 0.0,
        "foreground": 0.4,
        "mask_coverage": 1.0,
        "left_right_symmetry": 0.95,
        "seconds": 1.0,
        "succeeded": True,
    }
    return PairMeasurement(**(values | changes))


@pytest.fixture
def measurement() -> Callable[..., PairMeasurement]:
    """``measurement(**changes)``: one registered pair."""
    return _measurement


@pytest.fixture
def statistics() -> Callable[..., ChannelStatistics]:
    """``statistics(**changes)``: intensities of one channel."""
    return _statistics


@pytest.fixture
def image() -> Callable[..., ImageFingerprint]:
    """``image(shape, spacing, low=, high=, ...)``: one image's measurements."""
    return _image


@pytest.fixture
def fingerprint() -> Callable[..., Fingerprint]:
    """``fingerprint(images, pairing=...)``: a dataset's measurements."""
    return _fingerprint

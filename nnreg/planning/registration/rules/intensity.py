"""How intensities become numbers around [0, 1]."""

from __future__ import annotations

import re
from typing import Any

from nnreg.planning.decision import Decision, rule
from nnreg.planning.plans import Normalization
from nnreg.planning.registration.fingerprint import Fingerprint

CT_NAMES = {"ct", "cbct", "cta", "cect", "ncct", "ldct"}
RGB_NAMES = {"r", "g", "b", "red", "green", "blue", "rgb"}
UNTOUCHED_NAMES = {"nonorm"}
PERCENTILES = (0.5, 99.5)
HOUNSFIELD_RANGE = (-1024.0, 3071.0)  # what a scanner can store in 12 bits; beyond it is padding or metal
BYTE = 255.0


@rule("normalization")
def normalization(fingerprint: Fingerprint, channel: int) -> Decision[Normalization]:
    """CT: one window for all images, 0.5 to 99.5 % of the body; photographs: the range of a byte; else 0.5 to 99.5 % of each image's own foreground.

    All give about [0, 1]; inverted where the background is bright, so that it is near 0 and the zeros that convolutions pad with look like background.
    """
    name = fingerprint.channel_names[channel]
    words = set(re.split(r"[^a-z]+", name.lower()))
    pooled = fingerprint.intensities[channel]
    if words & UNTOUCHED_NAMES:
        return Decision(Normalization("none"), f"channel {name!r} asks for none")
    is_ct = all(set(re.split(r"[^a-z]+", modality.lower())) & CT_NAMES for modality in name.split("/"))
    if is_ct or pooled.hounsfield:
        low, high = max(pooled.percentile_00_5, HOUNSFIELD_RANGE[0]), min(pooled.percentile_99_5, HOUNSFIELD_RANGE[1])
        told = f"channel {name!r}" if is_ct else "values look like Hounsfield units (air near -1000)"
        return Decision(
            Normalization("window", {"low": low, "high": high}), f"{told}: physical units, one window of the body's 0.5 to 99.5 % ({low:.0f} to {high:.0f})"
        )
    colour = bool(words & RGB_NAMES) and pooled.maximum <= BYTE
    bright = _bright_background(fingerprint, channel, BYTE if colour else None)
    if colour and not bright:
        return Decision(Normalization("window", {"low": 0.0, "high": BYTE}), f"channel {name!r}: colour, the range of a byte")
    low, high = PERCENTILES
    kwargs: dict[str, Any] = {"low": low, "high": high} | ({"invert": True} if bright else {})
    told = "stain varies from section to section" if colour else "arbitrary units"
    reason = "; inverted, because the background is brighter than the foreground" if bright else ""
    return Decision(
        Normalization("percentiles", kwargs), f"channel {name!r}: {told}, so {low:g} to {high:g} % of each image's own foreground become 0 to 1{reason}"
    )


def _bright_background(fingerprint: Fingerprint, channel: int, white: float | None) -> bool:
    """Whether most images have a background brighter than their foreground (stained sections, films).

    Where no background could be told apart, only a section in colour can be judged: by whether it is nearer `white` than black.
    """
    bright = 0
    for image in fingerprint.images.values():
        measured = image.channels[channel]
        if image.foreground_found:
            bright += measured.background > measured.median
        elif white is not None:
            bright += measured.background > white / 2
    return 2 * bright > len(fingerprint.images)

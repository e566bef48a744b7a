"""Does fusing help? Atlases are labelled by the others, by every method, and compared with the best atlas alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from nnreg.errors import DatasetError
from nnreg.groups.fusion.atlases import Atlas
from nnreg.groups.fusion.one_image import Fusion
from nnreg.groups.fusion.scores import mean_of
from nnreg.groups.fusion.vote import fuse_warped, method_names
from nnreg.progress import Progress

HARM = 0.01  # of Dice that a label may lose against the best atlas alone before it is named: two raters differ by more


def leave_one_out(fusion: Fusion, count: int, *, on_progress: Progress | None = None, on_note: Callable[[str], None] = lambda note: None) -> dict[str, Any]:
    """Label `count` atlases by all others.

    Returns
    -------
    dict
        ``methods``: mean Dice of each; ``best_single``: of the atlas that is best for each image, chosen by its labels; ``harmed``: labels that the method in
        use brings below that atlas, with the mean loss; ``no_harm``: whether its mean is not below; ``images``: the same numbers of each.

    Raises
    ------
    DatasetError
        With fewer than three atlases.
    """
    atlases = fusion.atlases.atlases
    if len(atlases) < 3:
        raise DatasetError(f"{len(atlases)} atlases: a check needs three or more, one to label and two that label it. Leave the check out.")
    chosen = [atlases[index] for index in np.unique(np.linspace(0, len(atlases) - 1, min(count, len(atlases))).round().astype(int))]
    images = {}
    for done, atlas in enumerate(chosen):
        if on_progress is not None:
            on_progress(done, len(chosen), f"check: {atlas.name}")
        images[atlas.name] = _one(fusion, atlas)
    if not fusion.options.keep_warped:
        shutil.rmtree(fusion.output / "work" / "check", ignore_errors=True)
    return _told(fusion, images, on_note)


def _one(fusion: Fusion, atlas: Atlas) -> dict[str, Any]:
    own = replace(fusion, atlases=fusion.atlases.without(atlas.name), output=fusion.output / "work" / "check")
    image = atlas.member.image()
    truth = atlas.member.label_map(image)
    assert truth is not None  # an atlas has labels
    used, _ = own.brought(atlas.member, image)
    warped = own.propagation(atlas.member).warped(used, image)
    result: dict[str, Any] = {"methods": {}}
    for method in method_names():
        fused = fuse_warped(warped, method, fusion.options.settings(image.space), meaning=fusion.meaning)
        found = own.compared(truth.array[0], fused.labels.reshape(image.space.shape), used, warped)
        result["methods"][method] = found["mean"]
        if method == fusion.options.method:
            result |= {"best_single": found["best_single"]["mean"], "gain": found["best_single"]["gain"]}
    del warped
    if not fusion.options.keep_warped:
        shutil.rmtree(own.work(atlas.member), ignore_errors=True)
    return result


def _told(fusion: Fusion, images: dict[str, dict[str, Any]], on_note: Callable[[str], None]) -> dict[str, Any]:
    method = fusion.options.method
    methods = {name: float(np.mean([image["methods"][name] for image in images.values()])) for name in method_names()}
    single = float(np.mean([image["best_single"] for image in images.values()]))
    labels = sorted({label for image in images.values() for label in image["gain"]})
    gains = {label: mean_of({name: image["gain"].get(label, np.nan) for name, image in images.items()}) for label in labels}
    harmed = {label: gain for label, gain in gains.items() if gain < -HARM}
    best = max(methods, key=lambda name: methods[name])
    on_note(f"check on {len(images)} atlases: Dice {methods[method]:.4f} by {method}, {single:.4f} by the best atlas alone")
    if methods[method] < single:
        on_note(f"{method} is worse than the best atlas alone by {single - methods[method]:.4f}: do not trust it on such images")
    if best != method:
        on_note(f"--method {best} reaches {methods[best]:.4f}")
    return {"methods": methods, "best_single": single, "no_harm": methods[method] >= single, "harmed": harmed, "images": images}

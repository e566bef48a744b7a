"""Labels of atlases fused on images whose labels are known: Dice of every method beside the best atlas alone, CPU seconds, memory, atlases left out."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.engine.options import EngineOptions
from nnreg.errors import NnRegError
from nnreg.geometry import resample_labels
from nnreg.groups.fusion import FuseOptions, fuse
from nnreg.groups.fusion.registrars import EngineRegistrar
from nnreg.groups.fusion.scores import mean_of, overlaps
from nnreg.groups.fusion.vote import method_names
from nnreg.groups.maps import register_members
from nnreg.groups.members import Member, members_in

LEAST_GAIN = 0.06  # of joint fusion over the best atlas of each image alone
REGISTERING = "registering"  # the first row: it brings the atlases onto the images, so that the methods after it fuse alone


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="folder of images; labelsTs beside imagesTs, or --labels")
    parser.add_argument("atlases", type=Path, help="folder of atlases; labelsTr beside imagesTr, or --atlas_labels")
    parser.add_argument("output", type=Path, help="where label maps and fusion.json go; warped atlases are kept there, so that a run that was stopped goes on")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--atlas_labels", type=Path)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--methods", nargs="+", default=method_names(), choices=method_names())
    parser.add_argument("--atlases_used", type=int)
    parser.add_argument("--left_out", action="store_true", help="register the atlases that were left out once more: how good would their labels have been?")
    options = parser.parse_args()
    rows = {name: _told(options, name) for name in (REGISTERING, *options.methods)}
    if options.left_out:
        rows["left_out"] = {"labels": list(_left_out(options, rows[REGISTERING]["cases"]))}
        print(json.dumps(rows["left_out"]), flush=True)
    (options.output / "fusion.json").write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if "joint" not in rows or rows["joint"]["dice"] >= rows["joint"]["best_single"] + LEAST_GAIN else 1


def _told(options: argparse.Namespace, method: str) -> dict[str, Any]:
    """What one method gives, and takes; memory is the highest of the process so far. A map of an earlier run counts no seconds."""
    started = time.process_time()
    # a majority looks at no patches: their radius makes it another run than that of the methods, which would find their maps finished
    how, radius = ("majority", 1) if method == REGISTERING else (method, FuseOptions.patch_radius)
    asked = FuseOptions(how, options.atlases_used, radius, keep_warped=True, pictures=False)
    folders = {"labels": options.labels, "atlas_labels": options.atlas_labels}
    registrar = EngineRegistrar(EngineOptions(preset=options.preset))
    found = fuse(options.images, options.atlases, options.output, **folders, registrar=registrar, options=asked)
    for name, case in found["cases"].items():
        if "dice" not in case:
            raise SystemExit(f"{options.images}: {name}: {case.get('failed', 'its true labels are not known; give --labels')}")
    row = {
        "cpu_seconds": round(time.process_time() - started, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "dice": found["mean_dice"],
        "best_single": found["mean_dice_of_best_single"],
        "mean_single": float(np.mean([np.mean(list(case["dice"]["alone"].values())) for case in found["cases"].values()])),
        "cases": {name: _of_case(case) for name, case in found["cases"].items()},
    }
    print(json.dumps({"method": method, **row}), flush=True)
    return row


def _of_case(case: dict[str, Any]) -> dict[str, Any]:
    failed = {name: record["failed"] for name, record in case["atlases"].items() if record["failed"] is not None}
    dice = case["dice"]
    worse = sum(gain < -0.01 for gain in dice["best_single"]["gain"].values())
    single = {
        "best_single": dice["best_single"]["mean"],
        "worst_single": min(dice["alone"].values()),
        "mean_single": float(np.mean(list(dice["alone"].values()))),
    }
    return {"dice": dice["mean"], **single, "labels_worse": worse, "disputed_percent": case["disputed_percent"], "used": len(case["used"]), "left_out": failed}


def _left_out(options: argparse.Namespace, cases: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each atlas that was left out the Dice that its labels would have had, beside those of the atlases that were used."""
    images = {member.name: member for member in members_in(options.images, labels=options.labels)}
    atlases = {member.name: member for member in members_in(options.atlases, labels=options.atlas_labels)}
    for name, case in cases.items():
        for atlas, reason in case["left_out"].items():
            about = {key: case[key] for key in ("best_single", "mean_single", "worst_single")}
            yield {"image": name, "atlas": atlas, "reason": reason, **about, **_alone(images[name], atlases[atlas], options.preset)}


def _alone(image: Member, atlas: Member, preset: str) -> dict[str, Any]:
    """Dice of an atlas whatever the estimate of failure says of its registration, from its own start."""
    fixed, moving = image.image(), atlas.image()
    truth, labels = image.label_map(fixed), atlas.label_map(moving)
    assert truth is not None
    assert labels is not None
    try:
        found = register_members(image, atlas, EngineOptions(preset=preset))
    except NnRegError as error:
        return {"dice": None, "error": str(error)}
    warped = resample_labels(labels.array, moving=moving.space, fixed=fixed.space, transform=found.transform)
    values = [int(value) for value in np.unique(truth.array) if value > 0]
    return {"dice": mean_of(overlaps(truth.array[0], warped[0], values)), "failure_probability": found.failure_probability}


if __name__ == "__main__":
    sys.exit(main())

"""Labels of atlases fused on images whose labels are known: Dice and CPU seconds of every method, beside the best atlas alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from nnreg.engine.options import EngineOptions
from nnreg.groups.fusion import FuseOptions, fuse
from nnreg.groups.fusion.registrars import EngineRegistrar
from nnreg.groups.fusion.vote import method_names

LEAST_GAIN = 0.06  # of joint fusion over the best atlas of each image alone


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="folder of images; labelsTs beside imagesTs, or --labels")
    parser.add_argument("atlases", type=Path, help="folder of atlases; labelsTr beside imagesTr, or --atlas_labels")
    parser.add_argument("output", type=Path, help="where label maps and fusion.json go; warped atlases are kept there, so that a run that was stopped goes on")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--atlas_labels", type=Path)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--methods", nargs="+", default=method_names())
    parser.add_argument("--atlases_used", type=int)
    options = parser.parse_args()
    registrar, rows = EngineRegistrar(EngineOptions(preset=options.preset)), {}
    for method in options.methods:
        asked = FuseOptions(method=method, atlases_used=options.atlases_used, keep_warped=True, pictures=False)
        started = time.process_time()
        folders = {"labels": options.labels, "atlas_labels": options.atlas_labels}
        found = fuse(options.images, options.atlases, options.output, **folders, registrar=registrar, options=asked)
        cases = {name: case["dice"] for name, case in found["cases"].items() if "dice" in case}
        rows[method] = {
            # the first method pays for the registrations, unless they were kept
            "cpu_seconds": round(time.process_time() - started, 1),
            "dice": found["mean_dice"],
            "best_single": found["mean_dice_of_best_single"],
            "mean_single": float(np.mean([np.mean(list(dice["alone"].values())) for dice in cases.values()])),
            "cases": {name: dice["mean"] for name, dice in cases.items()},
        }
        print(json.dumps({"method": method, **rows[method]}), flush=True)
    (options.output / "fusion.json").write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if "joint" not in rows or rows["joint"]["dice"] >= rows["joint"]["best_single"] + LEAST_GAIN else 1


if __name__ == "__main__":
    sys.exit(main())

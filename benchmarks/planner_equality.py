"""Does the planner of dense prediction equal nnU-Net's? Prints each difference and equal/total per planner; exits with 1 unless all are equal.

    python benchmarks/planner_equality.py FILE

FILE is JSON: ``{dataset: {"input": {...}, PLANNER: {"transpose": [...], CONFIGURATION: {...}}}}``. ``input`` has ``spacings`` and ``shapes``
(after cropping) per case, ``channels``, ``labels`` (background included), ``relative_size`` (median, after cropping) and ``n`` (training
cases), and may have ``channel_names``. PLANNER is ``default``, ``M``, ``L``, ``XL``, or any name that -pl takes. What a recorded
configuration does not name is not compared, but a configuration more or fewer is a difference.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from nnreg.planning.dense_prediction.fingerprint import DenseFingerprint, DenseImage, Intensities
from nnreg.planning.dense_prediction.planner import plan_dense
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans

PLANNERS = {"M": "resenc_m", "L": "resenc_l", "XL": "resenc_xl"}
TOLERANCE = 1e-9  # of spacings, relative


def fingerprint_of(name: str, content: dict[str, Any]) -> DenseFingerprint:
    """The recorded input as a fingerprint; intensities play no part in what is compared."""
    names = content.get("channel_names") or [f"MR{channel}" for channel in range(content["channels"])]
    images = {
        f"case_{index}": DenseImage(tuple(map(float, spacing)), tuple(map(int, shape)), float(content["relative_size"]), 0)
        for index, (spacing, shape) in enumerate(zip(content["spacings"], content["shapes"], strict=True))
    }
    intensities = (Intensities(*(0.0,) * 7),) * len(names)
    return DenseFingerprint(name, tuple(names), content["labels"], False, content["n"], images, intensities)


def as_recorded(plans: DensePlans) -> dict[str, Any]:
    """Plans in the recorded form."""
    result: dict[str, Any] = {"transpose": plans.transpose_forward}
    for name, configuration in plans.configurations.items():
        result[name] = _configuration(configuration)
    return result


def _configuration(configuration: DenseConfiguration) -> dict[str, Any]:
    network = configuration.architecture
    return {
        "patch_size": configuration.patch_size,
        "batch_size": configuration.training.batch_size,
        "spacing": configuration.spacing,
        "median_image_size_in_voxels": configuration.median_image_size_in_voxels,
        "use_mask_for_norm": configuration.use_mask_for_norm,
        "batch_dice": configuration.batch_dice,
        "n_stages": len(network.strides),
        "features_per_stage": network.features_per_stage,
        "kernel_sizes": network.kernel_sizes,
        "strides": network.strides,
        "blocks": network.blocks_per_stage,
        "blocks_dec": network.kwargs["decoder_blocks_per_stage"],
        "previous_stage": configuration.previous_stage,
    }


def differences(found: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    """What differs, one line each."""
    lines = [f"{name}: not planned" for name in recorded.keys() - found.keys()] + [f"{name}: not in nnU-Net's plans" for name in found.keys() - recorded.keys()]
    for name in recorded.keys() & found.keys():
        wanted = recorded[name]
        if not isinstance(wanted, dict):
            lines += [] if _same(found[name], wanted) else [f"{name}: {found[name]}, nnU-Net {wanted}"]
            continue
        if "inherits_from" in wanted:
            wanted = recorded[wanted["inherits_from"]] | {key: value for key, value in wanted.items() if key != "inherits_from"}
        lines += [f"{name}.{key}: {found[name].get(key)}, nnU-Net {value}" for key, value in wanted.items() if not _same(found[name].get(key), value)]
    return sorted(lines)


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, (list, tuple)):
        return isinstance(found, (list, tuple)) and len(found) == len(wanted) and all(map(_same, found, wanted))
    if isinstance(wanted, float) and not isinstance(found, (bool, type(None), str)):
        return math.isclose(found, wanted, rel_tol=TOLERANCE)
    return bool(found == wanted)


def main(arguments: list[str]) -> int:
    """Compare every dataset and planner of a file."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    equal: dict[str, int] = {}
    total: dict[str, int] = {}
    for dataset, content in json.loads(Path(arguments[0]).read_text(encoding="utf-8")).items():
        for planner, recorded in content.items():
            if planner == "input":
                continue
            plans = plan_dense(fingerprint_of(dataset, content["input"]), planner=PLANNERS.get(planner, planner))
            lines = differences(as_recorded(plans), recorded)
            for line in lines:
                print(f"{dataset} {planner} {line}")
            total[planner] = total.get(planner, 0) + 1
            equal[planner] = equal.get(planner, 0) + (not lines)
    for planner, count in total.items():
        print(f"{planner}: {equal[planner]}/{count} equal")
    print(f"all: {sum(equal.values())}/{sum(total.values())} equal")
    return 0 if equal == total and total else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

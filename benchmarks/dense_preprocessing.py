"""Preprocessing and export of dense prediction beside nnU-Net's own, on made-up volumes: seconds, peak memory, and how equal the results are.

    python benchmarks/dense_preprocessing.py [--peer FOLDER ...] [--only export] [--labels 15] [--classes 20] [--size 256] [--threads 2]

Each program runs in a process of its own, on the same arrays. nnunetv2 is imported from --peer, or from the environment. Memory is what a
step adds to what the process held before it (arrays handed over included there). Wall and processor seconds are printed, because other
work on the machine lengthens the first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

CASES = {  # shape, spacing, target spacing
    "CT, isotropic": ((120, 220, 220), (1.5, 1.2, 1.2), (1.2, 1.0, 1.0)),
    "MR, thick slices": ((24, 384, 384), (5.0, 0.7, 0.7), (4.0, 0.6, 0.6)),
}
WINDOW = {"low": -900.0, "high": 1200.0, "mean": 90.0, "std": 300.0}
Array = npt.NDArray[Any]


def volume(shape: tuple[int, ...], labels: int) -> tuple[Array, Array]:
    """A smooth image (1, *shape) with a border of zeros, and blobs of labels."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    coarse = tuple(max(4, size // 16) for size in shape)
    values = ndimage.zoom(rng.normal(0, 400, coarse), [size / part for size, part in zip(shape, coarse, strict=True)], order=1)
    noise = rng.normal(0, 20, shape)
    image = (values + noise).astype(np.float32)
    image[:, :8] = image[:, -8:] = 0
    found = np.clip(np.digitize(values, np.linspace(-500, 500, labels)), 0, labels).astype(np.int16)
    found[image == 0] = 0
    return image[None], found[None]


def peer_managers(spacing: tuple[float, ...], target: tuple[float, ...], heads: int) -> tuple[Any, Any, dict[str, Any]]:
    """nnU-Net's plans, configuration and dataset.json for one CT channel."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    def resampling(order: int, is_seg: bool) -> dict[str, Any]:
        return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}

    name = "resample_data_or_seg_to_shape"
    configuration = {
        "spacing": list(target),
        "patch_size": [64, 128, 128],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
        **{f"resampling_fn_{key}": name for key in ("data", "seg", "probabilities")},
        "resampling_fn_data_kwargs": resampling(3, False),
        "resampling_fn_seg_kwargs": resampling(1, True),
        "resampling_fn_probabilities_kwargs": resampling(1, False),
    }
    properties = {"mean": WINDOW["mean"], "std": WINDOW["std"], "percentile_00_5": WINDOW["low"], "percentile_99_5": WINDOW["high"]}
    plans = PlansManager(
        {
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "foreground_intensity_properties_per_channel": {"0": properties},
            "label_manager": "LabelManager",
            "configurations": {"c": configuration},
        }
    )
    names = {"background": 0} | {f"l{value}": value for value in range(1, heads)}
    return plans, plans.get_configuration("c"), {"channel_names": {"0": "CT"}, "labels": names, "file_ending": ".nii.gz"}


def own_plans(target: tuple[float, ...]) -> tuple[Any, Any]:
    """What ours needs of plans and configuration."""
    from nnreg.planning.dense_prediction.resampling import Resampling
    from nnreg.planning.plans import Normalization

    configuration = SimpleNamespace(spacing=target, normalization=(Normalization("ct", WINDOW),), resampling=Resampling())
    return SimpleNamespace(transpose_forward=(0, 1, 2), transpose_backward=(0, 1, 2)), configuration


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result, and what it cost."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    spent = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result, spent | {"mib": max(0.0, (peak - before) / 2**20)}


def preprocess(who: str, case: str, labels: int, folder: Path) -> tuple[Any, dict[str, float]]:
    """Crop, normalise, resample, draw locations and store one case."""
    shape, spacing, target = CASES[case]
    image, truth = volume(shape, labels)
    if who == "nnreg":
        from nnreg.dataset.labels import LabelManager
        from nnreg.geometry import Space
        from nnreg.imageio import Image
        from nnreg.preprocessing.dense_prediction.case import CroppedCase

        plans, configuration = own_plans(target)
        space, manager = Space.plain(shape, spacing), LabelManager(tuple(range(labels + 1)))

        def ours() -> tuple[Array, Array]:
            made = CroppedCase.of("a", Image(image, space), Image(truth, space), plans, configuration).onto(plans, configuration, manager)
            made.save(folder, (64, 128, 128))
            return made.image, made.labels

        return measured(ours)
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    plans, configuration, dataset = peer_managers(spacing, target, labels + 1)

    def theirs() -> tuple[Array, Array]:
        made = DefaultPreprocessor(verbose=False).run_case_npy(image, truth, {"spacing": list(spacing)}, plans, configuration, dataset)
        data, found = made[0].astype(np.float32, copy=False), made[1].astype(np.int16, copy=False)
        (blocks, chunks), (blocks_seg, chunks_seg) = (comp_blosc2_params(part.shape, (64, 128, 128), part.itemsize) for part in (data, found))
        nnUNetDatasetBlosc2.save_case(data, found, made[2], str(folder / "a"), chunks=chunks, blocks=blocks, chunks_seg=chunks_seg, blocks_seg=blocks_seg)
        return data, found

    return measured(theirs)


def export(who: str, classes: int, size: int) -> tuple[Any, dict[str, float]]:
    """Logits of two thirds of the size per axis to a label map."""
    import torch

    working = size * 2 // 3
    generator = torch.Generator().manual_seed(0)
    logits = torch.empty(classes, *(working,) * 3)
    for channel in logits:
        coarse = torch.randn(1, 1, 12, 12, 12, generator=generator)
        channel[:] = torch.nn.functional.interpolate(coarse, size=channel.shape, mode="trilinear")[0, 0]
    spacing, target = (1.0, 1.0, 1.0), (size / working,) * 3
    if who == "nnreg":
        from nnreg.dataset.labels import LabelManager
        from nnreg.geometry import Space
        from nnreg.preprocessing.dense_prediction.restore import restore_labels
        from nnreg.preprocessing.dense_prediction.storage import DenseProperties

        plans, configuration = own_plans(target)
        properties = DenseProperties("a", Space.plain((size,) * 3, spacing), (size,) * 3, ((0, size),) * 3)
        return measured(lambda: (restore_labels(logits, properties, plans, configuration, LabelManager(tuple(range(classes)))),))
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape as convert

    plans, configuration, dataset = peer_managers(spacing, target, classes)
    properties = {
        "spacing": list(spacing),
        "shape_before_cropping": (size,) * 3,
        "shape_after_cropping_and_before_resampling": (size,) * 3,
        "bbox_used_for_cropping": [[0, size]] * 3,
    }
    manager = plans.get_label_manager(dataset)
    return measured(lambda: (convert(logits, plans, configuration, manager, properties, num_threads_torch=torch.get_num_threads()),))


def worker(options: argparse.Namespace) -> None:
    """One program, one step; the cost goes to the standard output, the result into a file."""
    folder = Path(options.folder)
    done, spent = (
        export(options.who, options.classes, options.size) if options.step == "export" else preprocess(options.who, options.step, options.labels, folder)
    )
    np.savez(folder / f"{options.who}.npz", *done)
    print(json.dumps(spent))


def compare(step: str, options: argparse.Namespace) -> None:
    """Both programs on one step."""
    spent = {}
    with tempfile.TemporaryDirectory() as folder:
        for who in ("nnunetv2", "nnreg"):
            paths = [str(Path(__file__).resolve().parents[1]), *options.peer, os.environ.get("PYTHONPATH", "")]
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
            roots = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), folder)
            command = [sys.executable, "-W", "ignore", __file__, "--who", who, "--step", step, "--folder", folder]
            command += ["--labels", str(options.labels), "--classes", str(options.classes), "--size", str(options.size)]
            # once to compile and to fill caches of files, then measured
            for _ in range(2 if who == "nnreg" else 1):
                output = subprocess.run(
                    command, env=os.environ | roots | threads | {"PYTHONPATH": os.pathsep.join(paths)}, check=True, capture_output=True, text=True
                )
            spent[who] = json.loads(output.stdout.strip().splitlines()[-1])
        peer, own = (np.load(Path(folder) / f"{who}.npz") for who in ("nnunetv2", "nnreg"))
        equal = [float(np.abs(peer[key].astype(float) - own[key]).max()) for key in peer.files[:-1]], float((peer[peer.files[-1]] == own[own.files[-1]]).mean())
    print(f"{step}")
    for key, unit in (("wall", "s"), ("processor", "s processor time"), ("mib", "MiB")):
        theirs, ours = spent["nnunetv2"][key], spent["nnreg"][key]
        print(f"  nnU-Net {theirs:8.2f}, nnReg {ours:8.2f} {unit}: ratio {theirs / max(ours, 1e-9):.1f}")
    print(f"  largest difference of images {max(equal[0], default=0.0):.2g}, equal labels {equal[1]:.6%}")


def main() -> None:
    """Compare on every case and on export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", nargs="+", default=[], help="folders that nnunetv2 and what it needs are imported from")
    parser.add_argument("--only", nargs="+", choices=[*CASES, "export"], default=[*CASES, "export"], metavar="STEP", help="a case, or export (default: all)")
    parser.add_argument("--labels", type=int, default=15, help="labels of the cases")
    parser.add_argument("--classes", type=int, default=20, help="of the exported prediction")
    parser.add_argument("--size", type=int, default=256, help="of the exported label map, per axis")
    parser.add_argument("--threads", type=int, default=2)
    for hidden in ("--who", "--step", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.who:
        worker(options)
        return
    for step in options.only:
        compare(step, options)


if __name__ == "__main__":
    main()

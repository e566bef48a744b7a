"""An image larger than memory through the pipeline of dense prediction: seconds and peak memory of every step.

    python benchmarks/large_images.py --size 2048 --folder FOLDER

writes a sparse synthetic Zarr (uint8, SIZE^3, a few hundred balls) with labels and goes on to verify, fingerprint, plan, preprocess, draw training
patches, and predict. Every step is a process of its own, so that its peak is its own. `predict` sends the whole image through a network of one layer,
`planned network` the tiles of a corner through the planned one with random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

NAME = "Dataset099_Balls"
LIMIT_GIB = 4.0
CHUNK = 128


def make(folder: Path, size: int) -> None:
    """Balls of radius SIZE/32, at most 32, each of one brightness with a bright core that is labelled, on black."""
    from nnreg.geometry import Space
    from nnreg.imageio.zarr_files import create_zarr

    rng = np.random.default_rng(0)
    radius = min(32, max(6, size // 32))
    centres = rng.integers(radius, size - radius, (max(8, size // 8), 3))
    raw = folder / "nnReg_raw" / NAME
    space = Space.plain((size,) * 3)
    images = create_zarr(raw / "imagesTr" / "balls_0000.zarr", 1, np.uint8, space)
    labels = create_zarr(raw / "labelsTr" / "balls.zarr", 1, np.uint8, space)
    with images as image, labels as label:
        for place in np.ndindex(*[-(-size // CHUNK)] * 3):
            box = [(at * CHUNK, min(size, (at + 1) * CHUNK)) for at in place]
            near = [c for c in centres if all(low - radius <= at < high + radius for at, (low, high) in zip(c, box))]
            if not near:
                continue
            values = np.zeros([high - low for low, high in box], np.uint8)
            for centre in near:
                _add_ball(values, [int(at) - low for at, (low, _) in zip(centre, box)], radius, rng)
            image.write(box, values[None])
            label.write(box, (values > 100)[None].astype(np.uint8))
    spec = {
        "channel_names": {"0": "intensity"},
        "labels": {"background": 0, "core": 1},
        "numTraining": 1,
        "file_ending": ".zarr",
        "task": "dense_prediction",
    }
    (raw / "dataset.json").write_text(json.dumps(spec))


def _add_ball(values, centre: list[int], radius: int, rng) -> None:
    inside = tuple(slice(max(0, at - radius), min(size, at + radius)) for at, size in zip(centre, values.shape))
    part = values[inside]
    distance = sum((axis - at) ** 2 for axis, at in zip(np.ogrid[inside], centre))
    part[(distance < radius**2) & (part == 0)] = int(rng.integers(40, 90))
    core = (distance < radius**2 / 4) & (part < 100)
    part[core] += 100


def verify(folder: Path, size: int) -> None:
    from nnreg.dataset import RawDataset, verify_dataset

    verify_dataset(RawDataset.open(folder / "nnReg_raw" / NAME)).require_sound()


def fingerprint(folder: Path, size: int) -> None:
    from nnreg.preprocessing import fingerprint_dataset
    from nnreg.workspace import Workspace

    found = fingerprint_dataset(Workspace.resolve(folder), 99, task="dense_prediction", processes=1, clean=True)
    print("    ", *found.images.values(), *found.intensities)


def plan(folder: Path, size: int) -> None:
    from nnreg.preprocessing import plan_dataset
    from nnreg.workspace import Workspace

    plans = plan_dataset(Workspace.resolve(folder), 99, task="dense_prediction")
    print("    ", {name: (one.patch_size, one.spacing) for name, one in plans.configurations.items()})


def preprocess(folder: Path, size: int) -> None:
    from nnreg.preprocessing import preprocess_dataset
    from nnreg.workspace import Workspace

    preprocess_dataset(Workspace.resolve(folder), 99, configurations=["3d_fullres"], processes=1, clean=True)


def _plans(folder: Path):
    from nnreg.planning.plans import Plans

    plans = Plans.read(folder / "nnReg_preprocessed" / NAME / "nnRegPlans.json")
    return plans, plans.configuration("3d_fullres")


def patches(folder: Path, size: int) -> None:
    from nnreg.tasks.dense_prediction.samples import PatchSamples

    _, configuration = _plans(folder)
    arrays = folder / "nnReg_preprocessed" / NAME / configuration.data_identifier
    samples = PatchSamples(arrays, ["balls"], configuration, 20, "train", augment=False)
    shown = [float((samples[index]["labels"] > 0).float().mean()) for index in range(20)]
    print(f"     20 patches of {configuration.patch_size}, {sum(share > 0 for share in shown)} with labels")


def _predictor(folder: Path, network):
    import torch

    from nnreg.dataset.spec import DatasetSpec
    from nnreg.inference.dense_prediction.predictor import DensePredictor, TileOptions

    plans, configuration = _plans(folder)
    spec = DatasetSpec.read(folder / "nnReg_raw" / NAME / "dataset.json")
    tiles = TileOptions(mirror=False)
    return spec, DensePredictor(plans=plans, configuration=configuration, spec=spec, networks=[network.eval()], device=torch.device("cpu"), tiles=tiles)


def _predict(folder: Path, network, region_of=None) -> Path:
    from nnreg.inference.dense_prediction.large import predict_large
    from nnreg.inference.dense_prediction.sources import NewCases

    spec, predictor = _predictor(folder, network)
    prepared = NewCases(folder / "nnReg_raw" / NAME / "imagesTr", predictor.plans, "3d_fullres", spec).prepare_large("balls")
    path = folder / "predicted.zarr"
    counted = [0]
    predict_large(predictor, prepared, {"": path}, region=region_of and region_of(prepared.shape), on_tile=lambda done, total: counted.__setitem__(0, total))
    print(f"     {counted[0]} tiles of {predictor.configuration.patch_size}")
    return path


def predict(folder: Path, size: int) -> None:
    import torch

    class Threshold(torch.nn.Module):
        def forward(self, tiles):
            image = tiles[:, :1]
            return torch.cat([torch.zeros_like(image), image - self.level], dim=1)

    plans, _ = _plans(folder)
    from nnreg.inference.dense_prediction.sources import NewCases

    network = Threshold()
    spec, _ = _predictor(folder, network)
    network.level = 0.0  # found below
    source = NewCases(folder / "nnReg_raw" / NAME / "imagesTr", plans, "3d_fullres", spec)
    # bodies are below 90, cores above 140, of 255: halfway, as the image was normalised
    from nnreg.imageio import open_image
    from nnreg.preprocessing.dense_prediction.streamed import StreamedCase

    image = open_image(source.files("balls"))
    step = StreamedCase.of("balls", image, plans, plans.configuration("3d_fullres")).normaliser.steps[0]
    network.level = (115 - step.subtract) / step.divide
    path = _predict(folder, network)
    from nnreg.evaluation.dense_prediction.case import evaluate_label_files

    found = evaluate_label_files({"balls": folder / "nnReg_raw" / NAME / "labelsTr" / "balls.zarr"}, {"balls": path}, labels=[1])
    print(f"     Dice {found['foreground_mean']['Dice']:.4f}")


def planned_network(folder: Path, size: int) -> None:
    from nnreg.task import task_named
    from nnreg.training.configs.trainer_config import TrainerConfig

    plans, configuration = _plans(folder)
    from nnreg.dataset.spec import DatasetSpec

    spec = DatasetSpec.read(folder / "nnReg_raw" / NAME / "dataset.json")
    network = task_named("dense_prediction").network(plans=plans, spec=spec, configuration=configuration, recipe=TrainerConfig())
    _predict(folder, network, lambda shape: tuple((0, min(8, extent)) for extent in shape))


STEPS = {
    "make": make,
    "verify": verify,
    "fingerprint": fingerprint,
    "plan": plan,
    "preprocess": preprocess,
    "patches": patches,
    "predict": predict,
    "planned network": planned_network,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="voxels per axis (1024)")
    parser.add_argument("--folder", type=Path, required=True, help="where the data set goes; what is there is written over")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="all")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        STEPS[arguments.steps[0]](arguments.folder, arguments.size)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        (arguments.folder / "peak.txt").write_text(str(peak))
        return 0
    arguments.folder.mkdir(parents=True, exist_ok=True)
    # small ones too take the path of the large
    environment = os.environ | {"nnReg_whole_voxels": str(min(2**28, arguments.size**3 - 1))}
    worst = 0.0
    for step in arguments.steps:
        started = time.monotonic()
        command = [sys.executable, __file__, "--inside", "--steps", step, "--size", str(arguments.size), "--folder", str(arguments.folder)]
        if subprocess.run(command, env=environment, check=False).returncode:
            return 1
        peak = float((arguments.folder / "peak.txt").read_text())
        worst = max(worst, peak)
        print(f"{step:16} {time.monotonic() - started:7.1f} s  {peak:5.2f} GiB", flush=True)
    print(f"{arguments.size}^3: at most {worst:.2f} GiB, {'below' if worst < LIMIT_GIB else 'ABOVE'} {LIMIT_GIB:g} GiB")
    return 0 if worst < LIMIT_GIB else 1


if __name__ == "__main__":
    sys.exit(main())

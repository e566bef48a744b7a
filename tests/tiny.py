"""Tiny raw datasets with awkward geometry, for tests that run the commands: every case has its own size, spacing, origin and direction."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.geometry import Space
from nnreg.imageio import write_image

ENDING = ".nii.gz"
QUIET = ["-np", "1", "--no_pbar"]
NO_PAIRS = ("--pair_budget", "0")  # plans from the images alone: pairs have their own tests


def oblique_space(shape: Sequence[int], seed: int, *, degrees: float = 15.0) -> Space:
    """A grid of the given size whose spacing, origin and direction no other seed shares."""
    rng = np.random.default_rng([seed, len(shape)])
    n = len(shape)
    skew = rng.normal(size=(n, n)) * np.radians(degrees) / 2
    direction = np.linalg.qr(np.eye(n) + (skew - skew.T))[0]
    direction *= np.sign(np.diag(direction))  # near the identity, not its mirror image
    spacing = rng.uniform(1.2, 2.0, n)
    return Space(tuple(shape), tuple(spacing.tolist()), tuple(rng.uniform(-30, 30, n).tolist()), tuple(direction.ravel().tolist()))


def anatomy(space: Space, seed: int, *, radius: float = 13.0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int16]]:
    """A textured body (mm wide `radius`) with two organs in the middle of the grid, bent a little in a way of its own.

    Returns
    -------
    image : array, shape (1, *space.shape), float32, 0 outside the body
    labels : array, shape (1, *space.shape), int16, values 0, 3 and 7
    """
    rng = np.random.default_rng([seed, space.ndim, 1])
    indices = np.moveaxis(np.indices(space.shape), 0, -1)
    points = space.to_world(indices) - space.centre  # mm, x first
    bend = rng.uniform(-1, 1, (space.ndim, space.ndim)) * 2.0
    points = points + np.sin(points / radius) @ bend + rng.uniform(-2, 2, space.ndim)
    texture = np.sin(points / 2.1).sum(axis=-1) + np.cos(points[..., 0] / 1.3 + points[..., 1] / 1.7)
    inside = (points**2).sum(axis=-1) < radius**2
    image = np.where(inside, 400 + 60 * texture, 0.0)
    labels = np.zeros(space.shape, np.int16)
    for value, place in ((3, -0.35), (7, 0.4)):
        organ = ((points - place * radius) ** 2).sum(axis=-1) < (0.4 * radius) ** 2
        image = np.where(organ & inside, image + 40 * value, image)
        labels[organ & inside] = value
    return image.astype(np.float32)[None], labels[None]


def write_case(folder: Path, case: str, space: Space, seed: int, *, suffix: str = "Tr", ending: str = ENDING) -> None:
    """Image and labels of a case."""
    image, labels = anatomy(space, seed)
    write_image(folder / f"images{suffix}" / f"{case}_0000{ending}", image, space)
    write_image(folder / f"labels{suffix}" / f"{case}{ending}", labels, space)


def write_dataset(folder: Path, spaces: dict[str, Space], *, test_spaces: dict[str, Space] | None = None, ending: str = ENDING, **spec: Any) -> Path:
    """A raw dataset of the given training and test cases; `spec` goes into dataset.json."""
    for suffix, cases in (("Tr", spaces), ("Ts", test_spaces or {})):
        for seed, (case, space) in enumerate(cases.items()):
            write_case(folder, case, space, seed + (100 if suffix == "Ts" else 0), suffix=suffix, ending=ending)
    content = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "left": 3, "right": 7},
        "numTraining": len(spaces),
        "file_ending": ending,
        "pairing": "all",
    }
    (folder / "dataset.json").write_text(json.dumps(content | spec))
    return folder


def spaces(shape: Sequence[int], names: Sequence[str], *, first: int = 0) -> dict[str, Space]:
    """Case to a grid of its own, all about as large as `shape`."""
    rng = np.random.default_rng([len(shape), first])
    return {name: oblique_space((np.asarray(shape) + rng.integers(-1, 3, len(shape))).tolist(), first + i) for i, name in enumerate(names)}


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder: relative path to size and time of change; folders count too."""
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (-1, -1) for path in sorted(folder.rglob("*"))}


def succeeded(main: Callable[[Sequence[str]], int], *arguments: object) -> None:
    """Run a command in this process; it must succeed."""
    assert main([str(argument) for argument in arguments]) == 0


class Tiny:
    """A workspace with one tiny dataset, and the commands run on it in this process, as a user types them."""

    def __init__(self, root: Path, dataset: str, configuration: str) -> None:
        self.root, self.dataset, self.configuration = root, dataset, configuration
        self.id = dataset[7:10]
        self.where = ["--workspace", str(root)]
        self.raw, self.preprocessed, self.results = (root / f"nnReg_{kind}" / dataset for kind in ("raw", "preprocessed", "results"))

    @property
    def arrays(self) -> Path:
        """Preprocessed arrays of the configuration."""
        return self.preprocessed / f"nnRegPlans_{self.configuration}"

    def model(self, trainer: str = "nnRegTrainer") -> Path:
        """Results of a trainer."""
        return self.results / f"{trainer}__nnRegPlans__{self.configuration}"

    def fold(self, fold: int | str, trainer: str = "nnRegTrainer") -> Path:
        """Results of a fold."""
        return self.model(trainer) / f"fold_{fold}"

    def image(self, case: str) -> Path:
        """Channel 0 of a training or test case."""
        return next(self.raw.glob(f"images*/{case}_0000.*"))

    def label(self, case: str) -> Path:
        """Labels of a training or test case."""
        return next(self.raw.glob(f"labels*/{case}.*"))

    def copy(self, root: Path) -> Tiny:
        """A copy that a test may change."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return Tiny(root, self.dataset, self.configuration)

    def try_train(self, fold: int | str, *more: object, epochs: int = 1, iterations: int = 1) -> int:
        """``nnreg_train``; returns its exit code."""
        from nnreg.cli.train import main

        length = ["--epochs", str(epochs), "--iterations_per_epoch", str(iterations)]
        return main([self.id, self.configuration, str(fold), *length, "-device", "cpu", "--quiet", "--no_report", *self.where, *map(str, more)])

    def train(self, fold: int | str, *more: object, epochs: int = 1, iterations: int = 1) -> Path:
        """``nnreg_train``, which must succeed."""
        assert self.try_train(fold, *more, epochs=epochs, iterations=iterations) == 0
        return self.fold(fold)

    def try_predict(self, output: Path, *more: object, images: Path | None = None, refine: bool = False) -> int:
        """``nnreg_predict`` of the test images, without pictures, by default without refinement; returns its exit code."""
        from nnreg.cli.predict import main

        given = [
            "-i",
            str(images or self.raw / "imagesTs"),
            "-o",
            str(output),
            "-d",
            self.id,
            "-c",
            self.configuration,
            "-device",
            "cpu",
            "--no_pictures",
            "--no_report",
        ]
        return main([*given, *([] if refine else ["--no_refinement"]), *self.where, *map(str, more)])

    def predict(self, output: Path, *more: object, images: Path | None = None, refine: bool = False) -> dict[str, Any]:
        """``nnreg_predict``, which must succeed; returns ``prediction.json``."""
        assert self.try_predict(output, *more, images=images, refine=refine) == 0
        return json.loads((output / "prediction.json").read_text())


def scramble(fold: Path, seed: int, *, largest: float = 0.3, name: str = "checkpoint_scrambled.pth") -> str:
    """A checkpoint whose last layers are random, so that its fields reach voxels, not thousandths; returns its file name."""
    import torch

    content = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    generator = torch.Generator().manual_seed(seed)
    for key, value in content["network_weights"].items():
        if ".head." in key:
            value.copy_(largest * torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
    torch.save(content, fold / name)
    return name


def build_plane(root: Path) -> Tiny:
    """2D, pairing ``groups``, the two images of a subject on one oblique grid: nothing to align, so everything is quick. Folds 0 and 1 are trained."""
    from nnreg.cli import extract_fingerprint, plan_experiment, preprocess

    subjects = {f"s{k}_{scan}": f"s{k}" for k in range(5) for scan in "ab"}
    grids = {case: oblique_space((22 + int(subject[1]), 27 - int(subject[1])), int(subject[1])) for case, subject in subjects.items()}
    result = Tiny(root, "Dataset004_Plane", "2d")
    training, testing = ({case: grid for case, grid in grids.items() if (subjects[case] == "s4") == held_out} for held_out in (False, True))
    write_dataset(result.raw, training, test_spaces=testing, pairing="groups", groups=subjects)
    succeeded(extract_fingerprint.main, "-d", result.id, *QUIET, *NO_PAIRS, *result.where)
    succeeded(plan_experiment.main, "-d", result.id, *result.where)
    succeeded(preprocess.main, "-d", result.id, *QUIET, *result.where)
    for fold in (0, 1):
        result.train(fold, epochs=2, iterations=2)
        scramble(result.fold(fold), seed=fold)
    return result


def build_flat(root: Path) -> Tiny:
    """2D, pairing ``atlas``, every image on a grid of its own. The fold ``all`` is trained."""
    from nnreg.cli import plan_and_preprocess

    result = Tiny(root, "Dataset002_Flat", "2d")
    cases = spaces((26, 30), ["f0", "f1", "f2"])
    write_dataset(result.raw, cases, test_spaces=spaces((26, 30), ["g0", "g1"], first=50), pairing="atlas", atlas="f1")
    succeeded(plan_and_preprocess.main, "-d", result.id, *QUIET, *NO_PAIRS, *result.where)
    result.train("all")
    scramble(result.fold("all"), seed=0)
    return result


def build_solid(root: Path) -> Tiny:
    """3D, pairing ``all``, every image on a grid of its own, the user's own two folds. Fold 0 is trained."""
    from nnreg.cli import plan_and_preprocess

    result = Tiny(root, "Dataset001_Solid", "3d_fullres")
    write_dataset(result.raw, spaces((20, 24, 18), list("abcd")), test_spaces=spaces((20, 24, 18), ["x", "y"], first=50))
    folds = [{"train": ["a", "b"], "val": ["c", "d"]}, {"train": ["c", "d"], "val": ["a", "b"]}]
    (result.raw / "splits_final.json").write_text(json.dumps(folds))
    succeeded(plan_and_preprocess.main, "-d", result.id, *QUIET, *NO_PAIRS, *result.where)
    result.train(0)
    scramble(result.fold(0), seed=0)
    return result

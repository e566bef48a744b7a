"""Draw documentation/atlases.png: a phantom labelled by five others, by a majority and by joint fusion, and how sure the vote is.

Run from anywhere: ``python documentation/draw_atlases.py``. Everything is made here; nothing is read.
"""

import tempfile
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from nnreg.engine.options import EngineOptions
from nnreg.evaluation.dense_prediction.pictures import PALETTE
from nnreg.evaluation.registration.pictures import sheet
from nnreg.geometry import Space
from nnreg.groups import fusion
from nnreg.groups.fusion.registrars import EngineRegistrar
from nnreg.imageio import read_image, write_image

HERE, SIZE, ATLASES = Path(__file__).parent, 96, 5
TINTS = np.array([[0, 0, 0], *[[int(tint[at : at + 2], 16) for at in (1, 3, 5)] for tint in PALETTE]]) / 255


def phantom(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A folded body with four structures, bent in a way of its own, and its labels."""
    rng = np.random.default_rng(seed)
    bend = np.stack([gaussian_filter(rng.normal(size=(SIZE, SIZE)), 10) for _ in range(2)])
    y, x = np.indices((SIZE, SIZE)) + 5 * bend / np.abs(bend).max()
    radius, angle = np.hypot(y - SIZE / 2, x - SIZE / 2), np.arctan2(y - SIZE / 2, x - SIZE / 2)
    edge = 34 + 3 * np.sin(9 * angle)  # folds at which one structure is easily taken for its neighbour
    labels = np.where(radius < edge, 1 + (angle > 0), 0) + np.where(radius < edge - 9, 2, 0)
    image = np.array([0, 60, 68, 110, 118])[labels] + 6 * gaussian_filter(rng.normal(size=(SIZE, SIZE)), 1)
    return image.astype(np.float32)[None], labels.astype(np.uint8)[None]


def main() -> None:
    """Make the phantoms, label one, draw."""
    registrar = EngineRegistrar(EngineOptions(preset="fast", similarity="lncc"))
    with tempfile.TemporaryDirectory() as temporary:
        folder, space = Path(temporary), Space.plain((SIZE, SIZE))
        for seed in range(ATLASES + 1):
            suffix, name = ("Tr", f"atlas_{seed}") if seed else ("Ts", "image")
            for kind, array, ending in zip(("images", "labels"), phantom(seed), ("_0000.nii.gz", ".nii.gz"), strict=True):
                write_image(folder / f"{kind}{suffix}" / f"{name}{ending}", array, space)
        found = {}
        for method in ("majority", "joint"):
            options = fusion.FuseOptions(method=method, keep_warped=True, pictures=False)
            summary = fusion.fuse(folder / "imagesTs", folder / "imagesTr", folder / "out", registrar=registrar, options=options)
            found[f"{method}: Dice {summary['mean_dice']:.3f}"] = read_image(folder / "out" / "image.nii.gz").array[0]
        doubt = read_image(folder / "out" / "uncertainty" / "image.nii.gz").array[0]
        draw(HERE / "atlases.png", phantom(0), found, doubt, summary["mean_dice_of_best_single"])


def draw(path: Path, case: tuple[np.ndarray, np.ndarray], found: dict[str, np.ndarray], doubt: np.ndarray, single: float) -> None:
    """Image, truth, fused labels, uncertainty."""
    image, truth = case[0][0], case[1][0]
    titles = ("image", "true labels", *found, "joint: uncertainty")
    with sheet(path, [2.2], titles, f"labelled by {ATLASES} atlases; the best of them alone: Dice {single:.3f}") as axes:
        axes[0][0].imshow(image, cmap="gray")
        for axis, labels in zip(axes[0][1:], (truth, *found.values()), strict=False):
            axis.imshow(TINTS[labels])
        axes[0][-1].imshow(doubt, cmap="magma", vmin=0)
        for axis in axes[0]:
            axis.set_axis_off()


if __name__ == "__main__":
    main()

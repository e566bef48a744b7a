"""Draw documentation/templates.png: synthetic images of one shape, each bent in its own way, and the template that is built of them.

Run from anywhere: ``python documentation/draw_templates.py``. It takes a minute.
"""

import tempfile
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from scipy.ndimage import gaussian_filter

from nnreg.dataset.phantom import WAVES, Phantom
from nnreg.geometry import Space
from nnreg.groups.members import members_in
from nnreg.groups.template import TemplateOptions, build_template
from nnreg.imageio import read_image, write_image

SHAPE, COUNT, BEND, SMOOTH = (120, 104), 12, 8.0, 13.0


def phantom() -> Phantom:
    """A body with four structures and a fold along its border."""
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(WAVES, 2))
    waves = directions / np.linalg.norm(directions, axis=1, keepdims=True) * 2 * np.pi / rng.uniform(8, 18, (WAVES, 1))
    centres = np.array([(60, 52), (60, 52), (48, 38), (48, 66), (78, 52)], dtype=float)
    radii = np.array([(46, 38), (39, 31), (10, 6), (10, 6), (7, 16)], dtype=float)
    return Phantom(centres, radii, np.array([0.9, 0.55, 0.2, 0.2, 0.95]), waves, rng.uniform(0, 2 * np.pi, WAVES))


def write_group(folder: Path) -> np.ndarray:
    """Bent copies with noise; the shape whose bends are zero."""
    body, rng = phantom(), np.random.default_rng(0)
    straight = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in SHAPE), indexing="ij"))
    bends = np.stack([gaussian_filter(rng.normal(size=SHAPE), SMOOTH) for _ in range(2 * COUNT)]).reshape(COUNT, 2, *SHAPE)
    bends *= BEND / np.abs(bends).max(axis=(2, 3), keepdims=True)
    for number, bend in enumerate(bends):
        image, labels = body.render((straight + bend).astype(np.float32))
        noisy = image + 0.03 * rng.normal(size=image.shape)
        write_image(folder / "imagesTr" / f"person{number:02d}.nii.gz", noisy.astype(np.float32), Space.plain(SHAPE))
        write_image(folder / "labelsTr" / f"person{number:02d}.nii.gz", labels, Space.plain(SHAPE))
    return np.asarray(body.render(straight)[0][0])


def main() -> None:
    """Build and draw."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_group(folder)
        content = build_template(members_in(folder / "imagesTr"), folder / "out", TemplateOptions(sharpen=False))
        panels = {f"image {number + 1} of {COUNT}": read_image(folder / "imagesTr" / f"person{number:02d}.nii.gz").array[0] for number in range(3)}
        panels["affine mean"] = read_image(folder / "out" / "affine_mean.nii.gz").array[0]
        panels["template"] = read_image(folder / "out" / "template.nii.gz").array[0]
        figure, axes = pyplot.subplots(1, len(panels), figsize=(2.1 * len(panels), 3.0), dpi=110)
        for axis, (title, image) in zip(axes, panels.items(), strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
        figure.suptitle(f"gradient energy {content['sharpness']:.2f} times the affine mean's", fontsize=9, y=0.05)
        figure.tight_layout(rect=(0, 0.03, 1, 1))
        figure.savefig(Path(__file__).with_name("templates.png"))


if __name__ == "__main__":
    main()

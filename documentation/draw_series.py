"""Draw documentation/series_motion.png and documentation/series_strain.png: a synthetic head that moves, and a synthetic ring that beats.

Run from anywhere: ``python documentation/draw_series.py``.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from nnreg.engine.options import EngineOptions
from nnreg.geometry import FieldMap, Space, Transform, resample_image
from nnreg.groups.series import Cycle, correct_series, read_series, track_series
from nnreg.groups.series.parameters import Parameters
from nnreg.imageio import write_image
from nnreg.imageio.itk_files import write_series

HEAD = Space.plain((24, 36, 32), (3.5, 3.5, 3.5))
PLANE = Space.plain((1, 72, 72), (8.0, 1.5, 1.5))
FRAMES, BEATS = 40, 12


def head(folder):
    """Frames of a textured ellipsoid on a random walk with two jerks; one frame is lost."""
    rng = np.random.default_rng(4)
    walk = np.cumsum(rng.normal(0, 0.06, (FRAMES, 6)), axis=0)
    walk[15:] += (0.8, 0, -0.5, 0, 0.7, 0)
    walk[27] += (1.2, -0.8, 0, 0, 0, 1.0)
    points = HEAD.to_world(np.moveaxis(np.indices(HEAD.shape), 0, -1)) - HEAD.centre
    frames = []
    for angles_and_shifts in walk:
        back = np.linalg.inv(Parameters(tuple(angles_and_shifts[:3]), tuple(angles_and_shifts[3:])).matrix(HEAD))
        placed = (points + HEAD.centre) @ back[:3, :3].T + back[:3, 3] - HEAD.centre
        inside = ((placed / (42, 50, 36)) ** 2).sum(axis=-1) < 1
        texture = np.sin(placed / 5.3).sum(axis=-1) + np.cos((placed @ [1.0, 0.6, -0.5]) / 4.1)
        frames.append(gaussian_filter(inside * (700 + 70 * texture), 1.0) + rng.normal(0, 12, HEAD.shape))
    frames[33] = np.zeros(HEAD.shape)
    write_series(folder / "head.nii.gz", np.stack(frames).astype(np.float32), HEAD, 2.0)


def ring(folder):
    """Frames of a ring around a cavity that contracts and twists, with the labels of the first."""
    rng = np.random.default_rng(5)
    plane = Space.plain(PLANE.shape[1:], PLANE.spacing[1:])
    offset = np.moveaxis(np.indices(plane.shape), 0, -1) - 35.5
    radius = np.linalg.norm(offset, axis=-1)
    labels = np.select([radius < 12, radius < 19], [2, 1]).astype(np.int16)
    texture = gaussian_filter(rng.normal(size=plane.shape), 1.5) * 90
    image = (np.select([radius < 12, radius < 19], [260.0, 110.0], 180.0) + texture)[None].astype(np.float32)
    inward = np.moveaxis(-0.25 * offset * np.exp(-((radius / 20) ** 4))[..., None], -1, 0)
    frames = []
    for beat in range(BEATS):
        share = np.sin(np.pi * beat / BEATS) ** 2
        field = FieldMap((share * inward).astype(np.float32), plane)
        moved = resample_image(image, moving=plane, fixed=plane, transform=Transform((field,), 2).inverse())
        frames.append(moved + rng.normal(0, 5, moved.shape))
    write_series(folder / "cine.nii.gz", np.stack(frames).astype(np.float32), PLANE, 0.07)
    write_image(folder / "labels.nii.gz", labels[None, None], PLANE)


def main():
    """Make both series, correct and follow them, keep the pictures."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        head(folder)
        correct_series(read_series(folder / "head.nii.gz"), folder / "corrected", on_note=print)
        shutil.copy(folder / "corrected" / "motion.png", here / "series_motion.png")
        ring(folder)
        cycle = Cycle(cavity=2, engine=EngineOptions(preset="fast", alignment="none"))
        track_series(read_series(folder / "cine.nii.gz"), folder / "strain", cycle, labels=folder / "labels.nii.gz")
        shutil.copy(folder / "strain" / "strain.png", here / "series_strain.png")


if __name__ == "__main__":
    main()

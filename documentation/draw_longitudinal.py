"""Draw documentation/longitudinal.png: the report of a synthetic subject, one of whose organs grows by 3 % a year, the other shrinks by 4 %.

Run from anywhere: ``python documentation/draw_longitudinal.py``.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from nnreg.geometry import Space
from nnreg.groups.longitudinal import Settings, Subject, Visit, follow_subjects
from nnreg.groups.members import Member
from nnreg.imageio import write_image

SPACE = Space.plain((40, 48, 44), (1.5, 1.5, 1.5))
ORGANS = ((np.array([-11.0, 3.0, 2.0]), 9.0, 0.03), (np.array([12.0, -3.0, -2.0]), 9.0, -0.04))  # middle and radius in mm, growth of volume a year
YEARS = (0.0, 1.0, 2.5)


def visit(years, seed):
    """Image and labels: organs, each with texture that grows with it, in a body, turned a little."""
    rng = np.random.default_rng(seed)
    points = SPACE.to_world(np.moveaxis(np.indices(SPACE.shape), 0, -1)) - SPACE.centre
    angle = np.radians(rng.uniform(-3, 3))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    points = points @ turn + rng.uniform(-1, 1, 3)
    for middle, radius, growth in ORGANS:
        scale = (1 + growth * years) ** (1 / 3)
        offset = points - middle
        fade = np.exp(-((np.linalg.norm(offset, axis=-1, keepdims=True) / (1.6 * radius)) ** 6))
        points = points + (1 / scale - 1) * offset * fade
    body = ((points / (26, 30, 26)) ** 2).sum(axis=-1) < 1
    texture = np.sin(points / 1.2).sum(axis=-1) + np.cos((points @ [1.0, 0.7, -0.4]) / 1.1)
    labels = np.zeros(SPACE.shape, np.int16)
    for value, (middle, radius, _) in enumerate(ORGANS, start=1):
        labels[np.linalg.norm(points - middle, axis=-1) < radius] = value
    image = body * (400 + 60 * texture + 120 * (labels == 1) - 130 * (labels == 2))
    return (gaussian_filter(image, 0.6) + rng.normal(0, 4, SPACE.shape)).astype(np.float32)[None], labels[None]


def main():
    """Make the visits, follow them, keep the picture."""
    with tempfile.TemporaryDirectory() as folder:
        visits = []
        for number, years in enumerate(YEARS):
            image, labels = visit(years, number)
            paths = Path(folder) / f"{number}.nii.gz", Path(folder) / f"labels_{number}.nii.gz"
            for path, array in zip(paths, (image, labels), strict=True):
                write_image(path, array, SPACE)
            visits.append(Visit(Member(f"visit{number}", (paths[0],), paths[1]), years))
        summary = follow_subjects([Subject("synthetic", tuple(visits), timed=True)], Path(folder) / "out", Settings(preset="fast", similarity="lncc"))
        for label, found in summary.done["synthetic"]["percent_per_unit_of_time"].items():
            print(f"label {label}: {found['slope']:+.2f} % a year, standard error {found['error']:.2f}")
        shutil.copy(Path(folder) / "out" / "synthetic" / "overview.png", Path(__file__).with_name("longitudinal.png"))


if __name__ == "__main__":
    main()

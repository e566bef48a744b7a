"""Fingerprints of dense prediction made by hand."""

import pytest

from nnreg.planning.dense_prediction.fingerprint import DenseFingerprint, DenseImage, Intensities


@pytest.fixture
def dense():
    """``dense(shapes, spacings, channels=, heads=, relative=, cases=)``."""

    def make(shapes, spacings, *, channels=("MR",), heads=3, relative=1.0, cases=None, regions=False):
        images = {f"c{i}": DenseImage(tuple(map(float, s)), tuple(n), relative, 0) for i, (n, s) in enumerate(zip(shapes, spacings, strict=True))}
        intensities = tuple(Intensities(90.0, 80.0, 200.0, -1000.0, 900.0, -300.0, 550.0) for _ in channels)
        return DenseFingerprint("Dataset001_Made", tuple(channels), heads, regions, cases or len(images), images, intensities)

    return make

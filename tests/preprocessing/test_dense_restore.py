"""From logits on the working grid back to the image, against interpolation by scikit-image and argmax over all classes at once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from skimage.transform import resize

from nnreg.dataset.labels import LabelManager
from nnreg.errors import PredictionError
from nnreg.geometry import Space
from nnreg.planning.dense_prediction.resampling import Resampling
from nnreg.preprocessing.dense_prediction import restore
from nnreg.preprocessing.dense_prediction.restore import restore_labels, restore_probabilities
from nnreg.preprocessing.dense_prediction.storage import DenseProperties

LABELS = LabelManager((0, 3, 7, 300))
REGIONS = LabelManager((0, 1, 2, 3), ((1, 2, 3), (2, 3), 3, 1), (1, 2, 3, 4))


class Setting:
    """A case of some geometry; axes are transposed, the box is cropped, the working grid is finer or coarser."""

    def __init__(self, native, spacing, transpose, box, working_spacing, working, **resampling):
        self.plans = SimpleNamespace(transpose_forward=transpose, transpose_backward=tuple(transpose.index(axis) for axis in range(3)))
        self.configuration = SimpleNamespace(spacing=working_spacing, resampling=Resampling(**resampling))
        volume = native if len(native) == 3 else (1, *native)
        self.properties = DenseProperties("c", Space.plain(native, spacing), tuple(volume[axis] for axis in transpose), box)
        self.logits = np.random.default_rng(0).normal(size=(4, *working)).astype(np.float32)

    def given(self, labels, logits=None):
        return self.logits if logits is None else logits, self.properties, self.plans, self.configuration, labels

    def native(self, cropped, background):
        whole = np.broadcast_to(np.reshape(background, (-1, 1, 1, 1)).astype(cropped.dtype), (len(cropped), *self.properties.shape_before_crop)).copy()
        whole[(slice(None), *(slice(low, high) for low, high in self.properties.box))] = cropped
        whole = whole.transpose(0, *(axis + 1 for axis in self.plans.transpose_backward))
        return whole if self.properties.native.ndim == 3 else whole[:, 0]

    def interpolated(self, alone, order=1):
        shape = self.properties.shape_after_crop
        if alone is None:
            return np.stack([resize(channel.astype(float), shape, order, mode="edge", anti_aliasing=False) for channel in self.logits])
        moved = np.moveaxis(self.logits, alone + 1, 1)
        plane = [size for axis, size in enumerate(shape) if axis != alone]
        slices = np.stack([[resize(part.astype(float), plane, order, mode="edge", anti_aliasing=False) for part in channel] for channel in moved])
        count, new = moved.shape[1], shape[alone]
        nearest = np.clip(np.floor((np.arange(new) + 0.5) * count / new), 0, count - 1).astype(int)
        return np.moveaxis(slices[:, nearest], 1, alone + 1)


SETTINGS = {
    "isotropic": (Setting((30, 41, 22), (1, 1.0, 1.3), (2, 0, 1), ((2, 20), (3, 30), (1, 40)), (1.0, 1.1, 0.9), (25, 22, 40)), None),
    "slices": (Setting((7, 41, 22), (5, 1.0, 1.3), (0, 1, 2), ((0, 7), (3, 30), (1, 20)), (2.0, 1.1, 0.9), (13, 22, 40)), 0),
    "2d of a volume": (Setting((41, 7, 22), (1, 5, 1.3), (1, 0, 2), ((0, 7), (3, 30), (1, 20)), (1.1, 0.9), (7, 22, 40)), 0),
    "a picture": (Setting((41, 22), (1, 1.3), (0, 1, 2), ((0, 1), (3, 30), (1, 20)), (1.1, 0.9), (1, 22, 40)), 0),
    "last axis": (Setting((41, 22, 9), (1, 1.3, 1.3), (0, 1, 2), ((0, 41), (0, 22), (0, 9)), (1.1, 0.9, 5), (22, 18, 4)), 2),
    "same grid": (Setting((9, 10, 11), (1, 1, 1), (0, 1, 2), ((1, 9), (0, 9), (2, 11)), (1, 1, 1), (8, 9, 9)), None),
}


@pytest.fixture(params=SETTINGS)
def setting(request):
    return SETTINGS[request.param]


@pytest.mark.parametrize("small_slabs", [False, True])
def test_labels_equal_argmax_of_interpolated_logits(setting, small_slabs, monkeypatch):
    if small_slabs:
        monkeypatch.setattr(restore, "SLAB_BYTES", 1)
    made, alone = setting
    values = made.interpolated(alone)
    expected = made.native(np.array([0, 3, 7, 300])[values.argmax(0)][None], 0)[0]
    for logits in (made.logits, torch.from_numpy(made.logits)):
        found = restore_labels(*made.given(LABELS, logits))
        assert found.dtype == np.int16
        assert np.array_equal(found, expected)
    painted = np.zeros(values.shape[1:], int)
    for value, channel in enumerate(values, start=1):
        painted[channel > 0] = value
    assert np.array_equal(restore_labels(*made.given(REGIONS)), made.native(painted[None], 0)[0])


@pytest.mark.parametrize("small_slabs", [False, True])
def test_probabilities_are_those_of_interpolated_logits(setting, small_slabs, monkeypatch):
    if small_slabs:
        monkeypatch.setattr(restore, "SLAB_BYTES", 1)
    made, alone = setting
    values = made.interpolated(alone)
    found = restore_probabilities(*made.given(LABELS))
    assert np.abs(found - made.native(softmax(values, axis=0), [1, 0, 0, 0])).max() < 1e-5
    assert np.abs(restore_probabilities(*made.given(REGIONS)) - made.native(expit(values), [0] * 4)).max() < 1e-5
    kept = np.full_like(found, 9, dtype=np.float16)
    assert restore_probabilities(*made.given(LABELS), out=kept) is kept
    assert np.abs(kept - found).max() < 1e-3


def test_half_precision_and_other_orders_take_their_own_ways(setting):
    made, alone = setting
    half = torch.from_numpy(made.logits).half()
    assert np.array_equal(restore_labels(*made.given(LABELS, half)), restore_labels(*made.given(LABELS, half.float())))
    cubic = SimpleNamespace(spacing=made.configuration.spacing, resampling=Resampling(probabilities_order=3))
    values = made.interpolated(alone, order=3)
    arguments = made.logits, made.properties, made.plans, cubic
    found = restore_labels(*arguments, LABELS) == made.native(np.array([0, 3, 7, 300])[values.argmax(0)][None], 0)[0]
    assert found.mean() > 0.999  # clipping to the range makes ties
    assert np.abs(restore_probabilities(*arguments, LABELS) - made.native(softmax(values, axis=0), [1, 0, 0, 0])).max() < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_agrees(setting):
    made, _ = setting
    on_gpu = torch.from_numpy(made.logits).cuda()
    for labels in (LABELS, REGIONS):
        assert (restore_labels(*made.given(labels, on_gpu)) == restore_labels(*made.given(labels))).mean() > 0.999
        assert np.abs(restore_probabilities(*made.given(labels, on_gpu)) - restore_probabilities(*made.given(labels))).max() < 1e-4


def test_predictions_that_do_not_fit_are_refused(setting):
    made, _ = setting
    with pytest.raises(PredictionError, match=r"expected \(4, D, H, W\)"):
        restore_labels(*made.given(LABELS, made.logits[:3]))
    with pytest.raises(PredictionError, match="have shape"):
        restore_probabilities(*made.given(LABELS), out=np.empty((4, 2, 2, 2)))

"""What heads of a network mean, for every way of writing labels."""

import numpy as np
import pytest
import torch

from nnreg.dataset.labels import LabelManager, unique
from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import DatasetError


def manager(labels, **more):
    return LabelManager.of(DatasetSpec({"0": "CT"}, 3, ".nii.gz", labels=labels, **more))


def test_labels_become_heads_in_ascending_order():
    labels = manager({"liver": 5, "background": 0, "spleen": 2})
    assert (labels.heads, labels.foreground, labels.head_values) == (3, (2, 5), (0, 2, 5))
    assert manager({"membrane": 255}).values == (0, 255)
    assert manager({"background": 0, "a": (3,)}).foreground == (3,)


@pytest.mark.parametrize(("labels", "more", "ignore"), [({"ignore": 3}, {}, 3), ({}, {"ignore_label": 255}, 255), ({}, {"ignore_label": -100}, -100)])
def test_ignore_is_no_head_however_it_is_spelt(labels, more, ignore):
    found = manager({"background": 0, "a": 1, "b": 2} | labels, **more)
    assert (found.ignore, found.heads, found.foreground) == (ignore, 3, (1, 2))
    assert found.sampled == (1, 2, (-1, 0, 1, 2))
    encoded = found.encode(np.array([[-1, 0, 1], [2, ignore, 1]], np.int16))
    assert encoded.tolist() == [[0, 0, 1], [2, 3, 1]]


def test_regions_keep_the_order_of_the_file():
    labels = manager({"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3, "ignore": 4}, regions_class_order=(1, 2, 3))
    assert (labels.heads, labels.foreground, labels.ignore) == (3, ((1, 2, 3), (2, 3), 3), 4)
    logits = np.array([[5.0, 5, 5, -5], [-5, 5, 5, -5], [-5, -5, 5, -5]], np.float32)
    for predicted in (logits, torch.from_numpy(logits)):
        assert labels.to_labels(predicted, logits=True).tolist() == [1, 2, 3, 0]
        assert labels.to_labels(labels.probabilities(predicted)).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("labels", "more", "said"),
    [
        ({"background": 0, "whole": (1, 2)}, {}, "regions_class_order is missing"),
        ({"background": 0, "whole": (1, 2), "a": 1}, {"regions_class_order": (1,)}, "2 regions"),
        ({"background": 0}, {}, "nothing but background"),
        ({"background": 0, "a": 1}, {"ignore_label": -1}, "the ignore label is -1"),
        ({"background": 0, "ignore": 1}, {}, "nothing but background"),
    ],
)
def test_what_cannot_be_meant_is_refused(labels, more, said):
    with pytest.raises(DatasetError, match=said):
        manager(labels, **more)


def test_numpy_and_torch_agree_and_probabilities_sum_to_one():
    labels = manager({"background": 0, "a": 1, "b": 7})
    logits = np.random.default_rng(0).normal(0, 30, (3, 4, 5, 6)).astype(np.float32)
    before = logits.copy()
    ours, theirs = labels.probabilities(logits), labels.probabilities(torch.from_numpy(logits)).numpy()
    assert np.array_equal(logits, before)
    assert np.allclose(ours, theirs, atol=1e-6)
    assert np.allclose(ours.sum(0), 1, atol=1e-5)
    assert np.array_equal(labels.to_labels(ours), np.array([0, 1, 7])[logits.argmax(0)])
    assert np.array_equal(labels.to_labels(torch.from_numpy(logits)).numpy(), labels.to_labels(logits))
    with pytest.raises(DatasetError, match="2 channels"):
        labels.to_labels(logits[:2])


def test_values_that_nothing_names_are_found():
    labels = manager({"background": 0, "a": 1}, ignore_label=255)
    array = np.array([[-1, 0, 1, 255, 9, -3]], np.int16)
    assert labels.unknown(array) == [-3, 9]
    with pytest.raises(DatasetError, match="value -3"):
        labels.encode(array)
    for shape in ((7,), (3, 4), (2, 3, 4), (1, 2, 3, 4)):
        values = np.random.default_rng(1).integers(-5, 90, shape)
        assert unique(values) == np.unique(values).tolist()
    assert unique(np.array([0, 2**30])) == [0, 2**30]


@pytest.mark.parametrize("heads", [2, 5])
def test_of_equal_outputs_the_first_label_is_taken(heads):
    """As argmax takes it, of arrays and tensors of every precision."""
    labels = manager({"background": 0, **{f"l{value}": value for value in range(1, heads)}})
    outputs = np.random.default_rng(0).integers(0, 3, (heads, 6, 7)).astype(np.float32)
    expected = outputs.argmax(0)
    for given in (outputs, torch.from_numpy(outputs), torch.from_numpy(outputs).half()):
        assert np.array_equal(np.asarray(labels.to_labels(given)), expected)

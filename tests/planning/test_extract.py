from types import SimpleNamespace

import numpy as np
import pytest

from nnreg.cli.registration.tables import print_fingerprint, print_plans
from nnreg.errors import PlansError
from nnreg.geometry import Space
from nnreg.imageio import Image
from nnreg.planning.registration.extract import channel_names, connected, extract_fingerprint, measure_image
from nnreg.planning.registration.planner import plan


def _ball(shape=(30, 34, 28), value=500.0):
    grid = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    rng = np.random.default_rng(0)
    return np.where(sum(axis**2 for axis in grid) < 0.5, value + 20 * rng.normal(size=shape), 0).astype(np.float32)[None]


def test_measurements_are_in_the_world(rotated_space):
    space = rotated_space((30, 34, 28), seed=2)
    measured, sample = measure_image(Image(_ball(), space))
    np.testing.assert_allclose(measured.centre_of_mass, space.centre, atol=1.0)
    assert measured.space == space
    assert sample.shape[0] == 1
    assert abs(measured.channels[0].mean - 500) < 10
    extent = np.asarray(measured.foreground_extent())
    np.testing.assert_allclose(extent, np.sqrt(0.5) * space.extent, rtol=0.1)


def test_sampling_is_seeded_by_case():
    image = Image(_ball(), Space.plain((30, 34, 28)))
    first, second, other = (measure_image(image, seed=seed)[1] for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def _raw(tmp_path, images, **spec):
    """The smallest thing that looks like a raw dataset."""
    for case in images:
        (tmp_path / case).write_bytes(b"1")
    channels = {str(index): f"c{index}" for index in range(max((len(image.array) for image in images.values()), default=1))}
    values = {"pairing": "all", "atlas": None, "channels_of": lambda case: channels, "file_ending": ".nii.gz"} | spec
    return SimpleNamespace(
        folder=tmp_path,
        name="Dataset001_Test",
        spec=SimpleNamespace(**values),
        cases=tuple(images),
        image_paths=lambda case: (tmp_path / case,),
        read_image=lambda case: images[case],
        read_keypoints=lambda case: None,
        read_labels=lambda case: None,
        digest=lambda case: case,
        label_path=lambda case: None,
        mask_path=lambda case: None,
        subject=lambda case: case,
        pairs=lambda: [SimpleNamespace(fixed=a, moving=b) for a in images for b in images if a != b],
    )


def test_a_dataset_is_measured_in_the_order_of_its_cases(tmp_path):
    images = {name: Image(_ball(value=value), Space.plain((30, 34, 28))) for name, value in (("b", 100.0), ("a", 900.0))}
    seen = []
    found = extract_fingerprint(_raw(tmp_path, images), on_progress=lambda done, total, case: seen.append((done, total, case)))
    assert list(found.images) == ["b", "a"]
    assert seen == [(1, 2, "b"), (2, 2, "a")]
    assert 300 < found.intensities[0].mean < 700  # both images weigh the same
    assert found.subjects == 2
    assert found.pair_count == 2


def test_mixed_axes_channels_and_emptiness_are_refused_by_case(tmp_path):
    flat = Image(_ball((30, 34)), Space.plain((30, 34)))
    solid = Image(_ball(), Space.plain((30, 34, 28)))
    double = Image(np.repeat(_ball(), 2, 0), Space.plain((30, 34, 28)))
    with pytest.raises(PlansError, match="'second' is 2D"):
        extract_fingerprint(_raw(tmp_path, {"first": solid, "second": flat}))
    with pytest.raises(PlansError, match="'second' has 2 channels"):
        extract_fingerprint(_raw(tmp_path, {"first": solid, "second": double}))
    with pytest.raises(PlansError, match="no case"):
        extract_fingerprint(_raw(tmp_path, {}))
    with pytest.raises(PlansError, match="1 training case form no pair"):
        extract_fingerprint(_raw(tmp_path, {"first": solid}))


def test_modalities_share_a_channel():
    names = {"a": {"0": "T1"}, "b": {"0": "T2"}, "c": {"0": "T1"}}
    raw = SimpleNamespace(cases=tuple(names), spec=SimpleNamespace(channels_of=names.__getitem__))
    assert channel_names(raw) == ("T1/T2",)


def test_connected_components_start_with_their_first_fixed_case():
    pairs = [SimpleNamespace(fixed=fixed, moving=moving) for fixed, moving in (("c", "a"), ("b", "a"), ("e", "d"))]
    assert connected(pairs, "abcdef") == (("c", "a", "b"), ("e", "d"), ("f",))


def test_pictures_without_a_unit_are_told_in_pixels(tmp_path, capsys):
    """The fingerprint, the reasons of the plans, and the tables."""
    images = {f"{name}.png": Image(_ball((40, 44), value), Space.plain((40, 44))) for name, value in (("a", 100.0), ("b", 300.0), ("c", 900.0))}
    for unit, raw in (("px", _raw(tmp_path, images)), ("mm", _raw(tmp_path, {name.replace(".png", ".mha"): image for name, image in images.items()}))):
        fingerprint = extract_fingerprint(raw)
        plans = plan(fingerprint)
        print_fingerprint(fingerprint)
        print_plans(plans)
        other = " mm" if unit == "px" else " px"
        reasons = [*plans.because.values(), *plans.optimisation.because.values(), *plans.configurations["2d"].because.values()]
        assert fingerprint.unit == plans.unit == unit
        assert not [reason for reason in reasons if other in reason]
        printed = capsys.readouterr().out
        assert f"1 x 1 {unit}" in printed
        assert other not in printed


def test_a_background_is_told_only_where_one_was_found(tmp_path, capsys):
    everywhere = np.random.default_rng(0).normal(400, 40, (1, 30, 34, 28)).astype(np.float32)
    space = Space.plain((30, 34, 28))
    print_fingerprint(extract_fingerprint(_raw(tmp_path, {"a": Image(everywhere, space), "b": Image(everywhere + 1, space)})))
    printed = capsys.readouterr().out
    assert "no background can be told apart in any image" in printed
    assert "on the foreground" not in printed
    print_fingerprint(extract_fingerprint(_raw(tmp_path, {"a": Image(everywhere, space), "b": Image(_ball(), space)})))
    printed = capsys.readouterr().out
    assert "in 1 of 2" in printed
    assert "of the other 1 the whole image" in printed
    assert "on the foreground, background" in printed

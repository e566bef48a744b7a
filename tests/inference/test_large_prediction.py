"""Images that are read by parts get the label maps they get whole."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from dense_models import HIGH, REGIONS, SPEC, by_brightness, configuration, plans, predictor, regions_by_brightness, truth_of

from nnreg.errors import NnRegError
from nnreg.geometry import Space
from nnreg.imageio import open_image, read_image, write_image
from nnreg.inference.dense_prediction import large, streamed_window
from nnreg.inference.dense_prediction.predict import DenseOptions, predict_cases
from nnreg.inference.dense_prediction.predictor import DEFAULT_TILES, TileOptions
from nnreg.inference.dense_prediction.sliding_window import SlidingWindow
from nnreg.inference.dense_prediction.sources import NewCases
from nnreg.inference.dense_prediction.streamed_window import StreamedWindow
from nnreg.planning.dense_prediction.fingerprint import MapValues
from nnreg.planning.orientation import code, reoriented
from nnreg.planning.plans import Normalization

pytest.importorskip("zarr")
SPACING = (3.0, 1.5, 1.0)
SHAPES = {"a": (9, 24, 17), "b": (5, 31, 16)}


def noted(calls, *done):
    calls.append(done)


def a_network(heads=3, ndim=3, channels=1):
    torch.manual_seed(0)
    return (torch.nn.Conv3d if ndim == 3 else torch.nn.Conv2d)(channels, heads, 3, padding=1)


@pytest.mark.parametrize(("shape", "patch"), [((9, 14, 21), (4, 8, 6)), ((5, 3, 11), (4, 6, 7)), ((3, 17, 12), (8, 6))])
@pytest.mark.parametrize("sums", [1, 20_000, 2**20])
def test_logits_are_those_of_the_whole(shape, patch, sums):
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    image[:, :, :9] = 0  # tiles that are one value throughout
    window = SlidingWindow([a_network(ndim=len(patch))], patch, mirror_axes=(0,))
    wanted = window(image)

    def read(box):
        return image[(slice(None), *(slice(low, high) for low, high in box))]

    for region in (None, tuple((size // 3, size - 1) for size in shape)):
        found = torch.full_like(wanted, torch.nan)
        calls: list[tuple[int, int]] = []
        for box, logits in StreamedWindow(window, read, shape, 3, sums_bytes=sums)(region, partial(noted, calls)):
            inside = (slice(None), *(slice(low, high) for low, high in box))
            assert found[inside].isnan().all()
            found[inside] = logits
        inside = (slice(None), *(slice(low, high) for low, high in region or [(0, size) for size in shape]))
        torch.testing.assert_close(found[inside], wanted[inside], atol=1e-5, rtol=1e-5)
        assert int(found.isnan().sum()) == wanted.numel() - wanted[inside].numel()
        assert calls[-1][0] == calls[-1][1] == len(calls)


def write_zarrs(folder, spacing=SPACING):
    result = {}
    for seed, (case, shape) in enumerate(SHAPES.items()):
        image = np.random.default_rng(seed).choice([2.0, 14.0, 27.0], shape).astype(np.float32)
        image[0] = 0
        image[..., -2:] = 0
        write_image(folder / f"{case}_0000.zarr", image[None], Space.plain(shape, spacing))
        result[case] = image
    return result


def predicted(folder, known, name, network, output, spec=SPEC, previous=None, tiles=DEFAULT_TILES, **options):
    source = NewCases(folder / "images", known, name, spec, previous)
    made = predictor(known, name, network, spec, tiles=tiles)
    predict_cases(made, source, folder / output, model="known", options=DenseOptions(pictures=False, **options))
    return {stem: read_image(folder / output / f"{stem}.zarr") for case in SHAPES for stem in made.stems(case).values()}


@pytest.mark.parametrize(("network", "spec"), [(by_brightness, SPEC), (regions_by_brightness, REGIONS)], ids=["labels", "regions"])
@pytest.mark.parametrize(("name", "transpose"), [("3d_fullres", (0, 1, 2)), ("3d_fullres", (2, 0, 1)), ("2d", (1, 0, 2))])
def test_a_network_that_looks_at_single_voxels_is_right(tmp_path, monkeypatch, network, spec, name, transpose):
    """Whatever is cropped, transposed, cut and put together again; a picture's worth of sums at a time."""
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    monkeypatch.setattr(streamed_window.StreamedWindow, "sums_bytes", 10_000)
    arrays = write_zarrs(tmp_path / "images")
    spacing = tuple(SPACING[axis] for axis in transpose)
    known = plans(transpose, **{"3d_fullres": configuration(spacing, (4, 8, 16)), "2d": configuration(spacing[1:], (8, 6))})
    for case, found in predicted(tmp_path, known, name, network, "out", spec).items():
        np.testing.assert_array_equal(found.array[0], truth_of(arrays[case]))
        assert found.space == Space.plain(SHAPES[case], SPACING)


@pytest.mark.parametrize("spacing", [(4.0, 1.1, 1.3), (2.0, 1.9, 0.7)])
def test_another_spacing_by_parts_is_as_whole(tmp_path, monkeypatch, spacing):
    """Normalised and resampled both ways; logits wait in half precision, so a voxel in some thousands may fall the other way."""
    monkeypatch.setattr(large, "BLOCK_VOXELS", 3000)
    write_zarrs(tmp_path / "images")
    known = plans(**{"3d_fullres": configuration(spacing, (4, 8, 8), normalization=(Normalization("zscore", {"use_mask": False}),))})
    whole = predicted(tmp_path, known, "3d_fullres", a_network(), "whole")
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    parts = predicted(tmp_path, known, "3d_fullres", a_network(), "parts")
    for case in SHAPES:
        assert len(np.unique(whole[case].array)) == 3
        assert (parts[case].array != whole[case].array).mean() < 2e-3


def test_a_cascade_reads_the_stage_before_by_parts(tmp_path, monkeypatch):
    write_zarrs(tmp_path / "images")
    second = dataclasses.replace(configuration(SPACING, (4, 8, 8)), previous_stage="3d_lowres")
    known = plans(**{"3d_lowres": configuration(SPACING, (4, 8, 8)), "3d_cascade_fullres": second})
    predicted(tmp_path, known, "3d_lowres", by_brightness, "low")
    network = a_network(channels=3)
    whole = predicted(tmp_path, known, "3d_cascade_fullres", network, "whole", previous=tmp_path / "low")
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    parts = predicted(tmp_path, known, "3d_cascade_fullres", network, "parts", previous=tmp_path / "low")
    for case in SHAPES:
        np.testing.assert_array_equal(parts[case].array, whole[case].array)


class Told:
    """A network of two targets, the second of that name."""

    def __init__(self, first, second, name="bright"):
        self.first, self.second, self.name = first, second, name

    def with_auxiliary(self, tiles):
        return [self.first(tiles)], {self.name: [self.second(tiles)]}


@pytest.mark.parametrize("spacing", [SPACING, (4.0, 1.1, 1.3)], ids=["as it is", "resampled"])
def test_several_targets_by_parts_are_as_whole(tmp_path, monkeypatch, spacing):
    arrays = write_zarrs(tmp_path / "images")
    spec = dataclasses.replace(SPEC, targets={"levels": {}, "bright": {"labels": {"background": 0, "high": 7}, "activation": "sigmoid"}})
    known = plans(**{"3d_fullres": configuration(spacing, (4, 8, 8))})
    network = Told(by_brightness, lambda tiles: tiles[:, :1] - HIGH)
    whole = predicted(tmp_path, known, "3d_fullres", network, "whole", spec)
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    parts = predicted(tmp_path, known, "3d_fullres", network, "parts", spec)
    for case in SHAPES:
        for target, truth in (("levels", truth_of(arrays[case])), ("bright", 7 * (arrays[case] > HIGH))):
            stem = f"{case}_{target}"
            assert (parts[stem].array != whole[stem].array).mean() < 2e-3
            if spacing == SPACING:
                np.testing.assert_array_equal(whole[stem].array[0], truth)


VALUES = (MapValues(1000.0, 12.5, 0.0, 2000.0, 3.0, "uint16"), MapValues(-7.0, 0.5, -9.0, 0.0, 0.25, "float32"))


UNEVEN = TileOptions(step_size=0.6, mirror=False)


@pytest.mark.parametrize(
    ("name", "transpose", "spacing", "alone"),
    [
        ("3d_fullres", (2, 0, 1), (1.0, 3.0, 1.5), False),
        ("3d_fullres", (1, 2, 0), (1.4, 1.1, 2.3), False),
        ("3d_fullres", (0, 1, 2), (9.5, 1.9, 0.8), True),
        ("2d", (1, 0, 2), (2.7, 1.1), True),
    ],
    ids=["as it is", "resampled", "slice by slice", "planes"],
)
def test_values_by_parts_are_as_whole(tmp_path, monkeypatch, name, transpose, spacing, alone):
    """In the units of the training files, interpolated as images are, outside the box what the training maps are there; tiles overlap unevenly."""
    monkeypatch.setattr(large, "BLOCK_VOXELS", 1)
    monkeypatch.setattr(large, "CHUNK", 7)
    write_zarrs(tmp_path / "images")
    targets = {"height": {"kind": "regression", "out_channels": 2}, **({} if alone else {"levels": {}})}
    spec = dataclasses.replace(SPEC, targets=targets, labels={} if alone else SPEC.labels)
    patch = (4, 9, 11) if name == "3d_fullres" else (5, 11)
    planned = configuration(spacing, patch, normalization=(Normalization("zscore", {"use_mask": False}),))
    known = dataclasses.replace(plans(transpose, **{name: planned}), targets={"height": VALUES})
    network = a_network(2, len(patch)) if alone else Told(a_network(2, len(patch)), a_network(3, len(patch)), "levels")
    whole = predicted(tmp_path, known, name, network, "whole", spec, tiles=UNEVEN)
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    parts = predicted(tmp_path, known, name, network, "parts", spec, tiles=UNEVEN)
    for case, shape in SHAPES.items():
        found, expected = (made[case if alone else f"{case}_height"] for made in (parts, whole))
        assert found.array.dtype == expected.array.dtype == np.float32
        assert found.array.shape == (2, *shape)
        for channel, values in enumerate(VALUES):
            # single precision of the file's own values, and what sums in another order leave of a deviation
            np.testing.assert_allclose(found.array[channel], expected.array[channel], atol=1e-4 * values.std, rtol=1e-6)
            assert (found.array[channel, 0] == values.outside).all()
            assert np.ptp(found.array[channel, 1:, :, :-2]) > values.std / 10
        if not alone:
            assert (parts[f"{case}_levels"].array != whole[f"{case}_levels"].array).mean() < 2e-3


@pytest.mark.parametrize(
    ("stored", "orientation", "spacing"), [("LPI", "RAS", None), ("ASL", "RAS", (2.0, 1.9, 1.2)), ("RAS", "PIR", None)], ids=["mirrored", "resampled", "turned"]
)
def test_images_that_run_otherwise_are_turned_by_parts(tmp_path, monkeypatch, rotated_space, stored, orientation, spacing):
    """Labels, values and the stage before, of a network that tells directions apart: voxel for voxel as whole, on the image's own axes."""
    monkeypatch.setattr(large, "BLOCK_VOXELS", 1)
    monkeypatch.setattr(large, "CHUNK", 7)
    for seed, (case, shape) in enumerate(SHAPES.items()):
        space = reoriented(dataclasses.replace(rotated_space(shape, seed), spacing=(1.5, 1.5, 1.5)), stored)
        image = np.random.default_rng(seed).normal(20, 5, space.shape).astype(np.float32)
        image[:, 1] = image[..., :2] = 0
        write_image(tmp_path / "images" / f"{case}_0000.zarr", image[None], space)
    spec = dataclasses.replace(SPEC, targets={"levels": {}, "height": {"kind": "regression", "out_channels": 2}})
    first = configuration(spacing or (1.5, 1.5, 1.5), (6, 9, 8))
    known = plans((0, 2, 1), **{"3d_lowres": first, "3d_cascade_fullres": dataclasses.replace(first, previous_stage="3d_lowres")})
    known = dataclasses.replace(known, targets={"height": VALUES}, orientation=orientation)
    found = {}
    for name, bound in (("whole", "1000000"), ("parts", "100")):
        monkeypatch.setenv("nnReg_whole_voxels", bound)
        network = Told(a_network(3), a_network(2), "height")
        if name == "whole":
            predicted(tmp_path, known, "3d_lowres", network, "low", spec, tiles=UNEVEN)
        network = Told(a_network(3, channels=3), a_network(2, channels=3), "height")
        found[name] = predicted(tmp_path, known, "3d_cascade_fullres", network, name, spec, tmp_path / "low", UNEVEN)
    for case in SHAPES:
        for target in spec.targets:
            whole, parts = (made[f"{case}_{target}"] for made in (found["whole"], found["parts"]))
            assert parts.space == whole.space == open_image(tmp_path / "images" / f"{case}_0000.zarr").space
            assert code(parts.space) == stored
            if target == "height":
                np.testing.assert_allclose(parts.array, whole.array, atol=1e-3, rtol=1e-6)
            elif spacing is None:
                np.testing.assert_array_equal(parts.array, whole.array)
            else:
                assert (parts.array != whole.array).mean() < 2e-3


def test_what_cannot_be_is_said_and_what_was_there_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("nnReg_whole_voxels", "100")
    write_zarrs(tmp_path / "images")
    known = plans(**{"3d_fullres": configuration(SPACING, (4, 8, 8))})
    before = predicted(tmp_path, known, "3d_fullres", by_brightness, "out")
    with pytest.raises(NnRegError, match="too large to keep its probabilities"):
        predicted(tmp_path, known, "3d_fullres", by_brightness, "out", save_probabilities=True)
    chunk = next(path for path in (tmp_path / "images" / "a_0000.zarr" / "0").rglob("*") if path.is_file() and not path.name.startswith("."))
    chunk.write_bytes(chunk.read_bytes()[:9])
    with pytest.raises(NnRegError, match=r"a_0000.zarr, chunk .*: cannot be read"):
        predicted(tmp_path, known, "3d_fullres", by_brightness, "out")
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.zarr").array, before["a"].array)

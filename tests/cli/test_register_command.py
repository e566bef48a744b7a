"""``nnreg_register`` on tiny files: everything it promises to write, and one line for everything that is wrong."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import nnreg
from nnreg.cli.register import main
from nnreg.dataset.keypoints import write_keypoints
from nnreg.engine import Constraints
from nnreg.errors import ConfigurationError
from nnreg.geometry import AffineMap, FieldMap, Space, Transform
from nnreg.geometry.itk import read_itk, write_itk
from nnreg.imageio import Image, read_image, write_image
from nnreg.inference.registration.register import OUTPUTS, PairFiles, register_files
from tests.engine.pairs import error_voxels, known_pair, textured


@pytest.fixture(scope="module", params=[2, 3])
def files(request, tmp_path_factory) -> dict[str, Path]:
    """The files of a pair whose grids share nothing, as the names of the command's options."""
    folder = tmp_path_factory.mktemp(f"pair{request.param}")
    fixed, moving, fixed_labels, moving_labels, truth = known_pair(request.param)
    images = {"fixed": fixed, "moving": moving, "fixed_labels": fixed_labels, "moving_labels": moving_labels}
    paths = {name: folder / f"{name}{'.mha' if name == 'moving' else '.nii.gz'}" for name in images}
    for name, image in images.items():
        write_image(paths[name], image.array, image.space)
    index = np.argwhere(fixed.array[0] > 100)[::97]
    target = moving.space.to_index(truth.map_points(fixed.space.to_world(index)))
    for name, points in (("fixed_points", index), ("moving_points", target)):
        paths[name] = folder / f"{name}.csv"
        write_keypoints(paths[name], points[:, ::-1])
    paths["truth"] = folder / "truth.h5"
    write_itk(paths["truth"], truth)
    return paths


@pytest.fixture(scope="module")
def output(files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "result"
    named = [word for name in ("fixed_labels", "moving_labels", "fixed_points", "moving_points") for word in (f"--{name}", str(files[name]))]
    assert main([str(files["fixed"]), str(files["moving"]), "-o", str(folder), *named, "--measure_only", "--field", "--uncertainty"]) == 0
    return folder


def test_all_outputs_are_there_and_nothing_else(output):
    assert {path.name for path in output.iterdir()} == set(OUTPUTS)


def test_simpleitk_alone_gives_the_same_image_and_labels(files, output):
    fixed, moving, labels = (sitk.ReadImage(str(files[name])) for name in ("fixed", "moving", "moving_labels"))
    transform = sitk.ReadTransform(str(output / "transform.h5"))
    warped = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, float(sitk.GetArrayViewFromImage(moving).min()))
    ours = sitk.ReadImage(str(output / "warped.nii.gz"))
    assert np.abs(sitk.GetArrayFromImage(warped) - sitk.GetArrayFromImage(ours)).max() < 0.2  # of 390: the map in the file is rounded
    again = sitk.GetArrayFromImage(sitk.Resample(labels, fixed, transform, sitk.sitkNearestNeighbor, 0))
    # a position half way between two voxels may fall to either
    assert (again == sitk.GetArrayFromImage(sitk.ReadImage(str(output / "warped_labels.nii.gz")))).mean() > 0.999


def test_the_displacement_field_is_the_transform(files, output):
    fixed = read_image(files["fixed"]).space
    field, transform = read_itk(output / "field.nii.gz"), read_itk(output / "transform.h5")
    points = fixed.to_world(np.argwhere(np.ones(fixed.shape))[::31])
    assert np.abs(field.map_points(points) - transform.map_points(points)).max() < 2.5e-3  # mm: each is rounded, to half of 1/512 voxel


def test_the_inverse_leads_back(files, output):
    fixed = read_image(files["fixed"])
    points = fixed.space.to_world(np.argwhere(fixed.array[0] > 60))
    back = read_itk(output / "inverse_transform.h5").map_points(read_itk(output / "transform.h5").map_points(points))
    assert np.percentile(np.linalg.norm(back - points, axis=1), 95) < 0.1 * min(fixed.space.spacing)


def test_measures_tell_what_was_done(files, output):
    measures = json.loads((output / "measures.json").read_text())
    assert measures["succeeded"] is True
    assert measures["guided_by"] == []
    assert measures["dice"]["after"]["mean"] > measures["dice"]["header"]["mean"]
    assert measures["tre_mm"]["after"]["mean"] < measures["tre_mm"]["header"]["mean"]
    assert measures["folding_percent"] == 0
    assert all(decision["because"] for decision in measures["decisions"])
    assert measures["seconds"]["alignment"] > 0
    truth = read_itk(files["truth"])
    assert error_voxels(read_itk(output / "transform.h5"), truth, read_image(files["fixed"])) < 1


def test_uncertainty_lies_on_the_fixed_grid_and_failure_is_told(files, output):
    doubt, fixed = read_image(output / "uncertainty.nii.gz"), read_image(files["fixed"])
    assert doubt.space.same_as(fixed.space)
    assert 0 < float(doubt.array.max()) < float(max(fixed.space.extent))
    assert json.loads((output / "measures.json").read_text())["failure"]["probability"] < 0.5


def test_restricted_and_preserved(tmp_path):
    space = Space.plain((40, 46))
    image, mask = textured(space.shape), np.zeros((1, *space.shape), np.uint8)
    mask[:, 18:24, 20:26] = 1
    for name, array in (("fixed", image), ("moving", np.roll(image, (2, 2), (1, 2))), ("mask", mask)):
        write_image(tmp_path / f"{name}.mha", array, space)
    pair = [str(tmp_path / "fixed.mha"), str(tmp_path / "moving.mha"), "-o", str(tmp_path / "out"), "--alignment", "none", "--no_pictures", "--field"]
    main([*pair, "--restrict", "y"])
    moved = read_itk(tmp_path / "out" / "field.nii.gz").stages[0].displacement
    assert np.abs(moved[1]).max() < 1e-3
    assert np.abs(moved[0]).max() > 1
    assert main([*pair, "--preserve", str(tmp_path / "mask.mha")]) == 0
    changed = read_itk(tmp_path / "out" / "field.nii.gz").stages[0].determinants()
    assert np.abs(changed[19:23, 21:25] - 1).max() < 0.01
    assert np.abs(changed - 1).max() > 0.05


def test_results_of_an_earlier_run_do_not_stay(files, output):
    assert main([str(files["fixed"]), str(files["moving"]), "-o", str(output), "--affine_only", "--no_pictures"]) == 0
    assert {path.name for path in output.iterdir()} == set(OUTPUTS) - {"field.nii.gz", "warped_labels.nii.gz", "uncertainty.nii.gz", "overview.png"}


def test_colours_and_pictures(tmp_path, capsys):
    space = Space.plain((40, 46))
    for name, seed in (("fixed", 0), ("moving", 0)):
        array = np.concatenate([textured(space.shape, seed) * scale for scale in (0.6, 0.5, 0.4)])
        write_image(tmp_path / f"{name}.png", np.roll(array, 2 * (name == "moving"), axis=1).astype(np.uint8), space)
    assert main([str(tmp_path / "fixed.png"), str(tmp_path / "moving.png"), "-o", str(tmp_path / "out"), "--preset", "fast"]) == 0
    warped = read_image(tmp_path / "out" / "warped.png").array
    assert (warped.dtype, warped.shape) == (np.uint8, (3, 40, 46))
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines() if "header" in line] == [["header", "aligned", "after"]]
    assert " mm" not in shown  # a PNG says nothing of its size
    assert json.loads((tmp_path / "out" / "measures.json").read_text())["unit"] == "px"


def bad(tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """What is wrong, the arguments that are, and what the message names."""
    space = Space.plain((20, 24))
    good, far = textured(space.shape), Space(space.shape, space.spacing, (1e5, 0.0), space.direction)
    arrays = {
        "good": good,
        "constant": np.full_like(good, 4),
        "nan": np.where(good == good.max(), np.nan, good),
        "colour": np.repeat(good, 3, axis=0),
        "empty_mask": np.zeros_like(good),
    }
    for name, array in arrays.items():
        write_image(tmp_path / f"{name}.mha", array.astype(np.float32), space)
    write_image(tmp_path / "volume.mha", textured((9, 10, 11)), Space.plain((9, 10, 11)))
    write_image(tmp_path / "far.mha", good, far)
    whole = (tmp_path / "good.mha").read_bytes()
    (tmp_path / "truncated.mha").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nii.gz").write_text("not an image")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "broken.h5").write_text("not a transform")
    one = str(tmp_path / "good.mha")

    def pair(other: str, *more: str) -> list[str]:
        return [one, str(tmp_path / other), "-o", str(tmp_path / "out"), *more]

    return {
        "no overlap": (pair("far.mha", "--alignment", "none"), "no common view"),
        "constant": (pair("constant.mha"), "constant"),
        "nan": (pair("nan.mha"), "nan.mha: has 1 NaN"),
        "2D against 3D": (pair("volume.mha"), "2D or both 3D"),
        "channels": (pair("colour.mha"), "channels"),
        "empty mask": (pair("good.mha", "--fixed_mask", str(tmp_path / "empty_mask.mha")), "mask is empty"),
        "axis": (pair("good.mha", "--restrict", "1x1x0"), "names axes that these images do not have"),
        "axis name": (pair("absent.mha", "--restrict", "1x2"), "expected a 1"),
        "weight": (pair("absent.mha", "--landmark_weight", "-2"), "landmark weight -2"),
        "preserve elsewhere": (pair("good.mha", "--preserve", str(tmp_path / "far.mha")), "far.mha"),
        "preserve nothing": (pair("good.mha", "--preserve", str(tmp_path / "empty_mask.mha")), "preserve mask is empty"),
        "missing": (pair("absent.mha"), "absent.mha"),
        "truncated": (pair("truncated.mha"), "truncated.mha"),
        "unreadable": (pair("text.nii.gz"), "text.nii.gz"),
        "unknown ending": (pair("file"), "file"),
        "output is a file": ([one, one, "-o", str(tmp_path / "file")], "is a file"),
        "bad start": (pair("good.mha", "--init", str(tmp_path / "broken.h5")), "broken.h5"),
        "unknown preset": (pair("good.mha", "--preset", "quick"), "preset"),
        "unknown similarity": (pair("good.mha", "--similarity", "ssim"), "similarity"),
        "one-sided points": (pair("good.mha", "--fixed_points", str(tmp_path / "absent.csv")), "absent.csv"),
    }


@pytest.mark.parametrize(
    "what",
    [
        "no overlap",
        "constant",
        "nan",
        "2D against 3D",
        "channels",
        "empty mask",
        "missing",
        "truncated",
        "unreadable",
        "unknown ending",
        "output is a file",
        "bad start",
        "unknown preset",
        "unknown similarity",
        "one-sided points",
    ],
)
def test_one_line_and_nothing_half_written(what, tmp_path, capsys):
    arguments, named = bad(tmp_path)[what]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert named in lines[0]
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_interrupted_leaves_nothing(files, tmp_path, monkeypatch, capsys):
    import nnreg.inference.registration.register as room

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "write_image", interrupted)
    assert main([str(files["fixed"]), str(files["moving"]), "-o", str(tmp_path / "out"), "--affine_only"]) == 130
    assert not (tmp_path / "out").exists()
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_image_on_itself_is_a_success_that_gains_nothing(tmp_path, capsys):
    space = Space.plain((32, 36))
    write_image(tmp_path / "fixed.mha", textured(space.shape), space)
    assert main([*(str(tmp_path / "fixed.mha"),) * 2, "-o", str(tmp_path / "out"), "--similarity", "mse", "--no_pictures"]) == 0
    told = capsys.readouterr()
    assert "nothing was gained" in told.out
    assert "do not trust" not in told.err
    assert json.loads((tmp_path / "out" / "measures.json").read_text())["succeeded"] is True


def test_headers_without_overlap_are_told(tmp_path, capsys):
    space = Space.plain((32, 36))
    write_image(tmp_path / "fixed.mha", textured(space.shape), space)
    write_image(tmp_path / "moving.mha", textured(space.shape), Space(space.shape, space.spacing, (900.0, 0.0), space.direction))
    assert main([str(tmp_path / "fixed.mha"), str(tmp_path / "moving.mha"), "-o", str(tmp_path / "out"), "--preset", "fast", "--no_pictures"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("no overlap") == 3  # by the alignment, correlation, similarity
    assert "nan" not in shown
    assert "-inf" not in shown


def test_a_pair_whose_similarity_falls_exits_3_and_is_marked(tmp_path, capsys):
    space = Space.plain((32, 36))
    write_image(tmp_path / "fixed.mha", textured(space.shape), space)
    points = np.asarray([[10.0, 10.0], [25.0, 10.0], [18.0, 22.0]])
    for name, shift in (("fixed", 0), ("moving", 4)):  # against what the images show
        write_keypoints(tmp_path / f"{name}.csv", points + shift)
    named = "--fixed_points", str(tmp_path / "fixed.csv"), "--moving_points", str(tmp_path / "moving.csv")
    assert main([*(str(tmp_path / "fixed.mha"),) * 2, "-o", str(tmp_path / "out"), "--alignment", "none", *named]) == 3
    assert "the similarity fell" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "measures.json").read_text())["succeeded"] is False
    assert (tmp_path / "out" / "transform.h5").is_file()


def test_a_registration_that_likely_failed_exits_3_and_says_why(tmp_path, capsys):
    space = Space.plain((24, 28, 26), (2.0, 2.0, 2.0))
    noise = np.random.default_rng(0).normal(100, 20, (1, *space.shape)).astype(np.float32)
    write_image(tmp_path / "fixed.mha", textured(space.shape), space)
    write_image(tmp_path / "moving.mha", noise, space)
    words = [str(tmp_path / "fixed.mha"), str(tmp_path / "moving.mha"), "-o", str(tmp_path / "out"), "--preset", "fast", "--similarity", "lncc"]
    assert main([*words, "-q"]) == 3
    assert "likely failed" in capsys.readouterr().err.splitlines()[0]
    measures = json.loads((tmp_path / "out" / "measures.json").read_text())
    assert measures["succeeded"] is False
    assert measures["failure"]["probability"] > 0.5
    assert measures["failure"]["reasons"]
    assert (tmp_path / "out" / "warped.nii.gz").is_file()


WHOLE_RUN = """
import sys
from nnreg.cli.register import main
code = main(sys.argv[1:])
sys.exit("torch was loaded" if "torch" in sys.modules else code)
"""


def test_a_whole_run_loads_no_torch(files, tmp_path):
    """It takes two seconds of the processor to load, and the engine needs none of it."""
    named = [word for name in ("fixed_labels", "moving_labels", "fixed_points", "moving_points") for word in (f"--{name}", str(files[name]))]
    words = [str(files["fixed"]), str(files["moving"]), "-o", str(tmp_path / "out"), *named, "--preset", "fast"]
    result = subprocess.run([sys.executable, "-c", WHOLE_RUN, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def refused_with(capfd, words: str, *arguments: object) -> None:
    """One line that says `words`, exit code 2."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    lines = capfd.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("nnreg_register: ")
    assert words in lines[0]


def shifted_mask(files: dict[str, Path], path: Path) -> Path:
    fixed = read_image(files["fixed"])
    space = Space(fixed.space.shape, fixed.space.spacing, tuple(value + fixed.space.spacing[0] for value in fixed.space.origin), fixed.space.direction)
    write_image(path, np.ones(fixed.array.shape, np.uint8), space)
    return path


def test_a_mask_on_another_grid_is_refused_and_no_empty_folder_is_left(files, tmp_path, capfd):
    mask = shifted_mask(files, tmp_path / "mask.nii.gz")
    refused_with(capfd, "mask.nii.gz: lies elsewhere", files["fixed"], files["moving"], "-o", tmp_path / "a" / "b", "--fixed_mask", mask)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.nii.gz"]


def test_a_landmark_outside_its_image_is_refused_by_name(files, tmp_path, capfd):
    points = np.loadtxt(files["fixed_points"], delimiter=",")
    points[0, 0] = 500
    write_keypoints(tmp_path / "far.csv", points)
    named = "--fixed_points", tmp_path / "far.csv", "--moving_points", files["moving_points"]
    refused_with(capfd, "far.csv: 1 of ", files["fixed"], files["moving"], "-o", tmp_path / "out", *named, "--measure_only")


@pytest.mark.parametrize(("value", "words"), [(0.5, "holds 0.5"), (np.nan, "NaN"), (2.0**33, "fit in 32 bits")])
def test_labels_and_masks_that_are_no_whole_numbers_are_refused(files, tmp_path, capfd, value, words):
    fixed = read_image(files["fixed"])
    odd = np.zeros(fixed.array.shape)
    odd[(0, *(3,) * fixed.ndim)] = value
    write_image(tmp_path / "odd.nii.gz", odd, fixed.space)
    refused_with(capfd, words, files["fixed"], files["moving"], "-o", tmp_path / "out", "--fixed_mask", tmp_path / "odd.nii.gz")


def test_a_folder_named_as_a_file_is_refused(files, tmp_path, capfd):
    refused_with(capfd, "the name of a file, expected a folder. See nnreg_register -h.", files["fixed"], files["moving"], "-o", tmp_path / "out.nii.gz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--fixed", "--moving"])
def test_images_named_by_options_are_told_their_place(tmp_path, capfd, option):
    refused_with(capfd, f"there is no {option}: write nnreg_register FIXED MOVING", option, "a.nii.gz", "b.nii.gz", "-o", tmp_path / "out")


def test_a_result_does_not_replace_the_image_it_is_made_of(files, tmp_path, capfd):
    (tmp_path / "warped.nii.gz").write_bytes(files["fixed"].read_bytes())
    refused_with(capfd, "would overwrite it", files["fixed"], tmp_path / "warped.nii.gz", "-o", tmp_path)
    assert (tmp_path / "warped.nii.gz").read_bytes() == files["fixed"].read_bytes()


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> list[str]:
    """Two slices of which one is moved, without alignment: what the command takes, but for the output."""
    folder, space = tmp_path_factory.mktemp("flat"), Space.plain((40, 46), (2.0, 2.0))
    for name, shift in (("fixed", 0), ("moving", 2)):
        write_image(folder / f"{name}.mha", np.roll(textured(space.shape), shift, 1), space)
    mask = np.zeros((1, *space.shape), np.uint8)
    mask[:, 10:30, 12:30] = 1
    for name, shift in (("fixed", 0), ("moving", 2)):
        write_image(folder / f"{name}_labels.mha", np.roll(mask, shift, 1), space)
        write_keypoints(folder / f"{name}.csv", [[15.0, 12.0 + shift], [22.0, 20.0 + shift]])
    return [str(folder / "fixed.mha"), str(folder / "moving.mha"), "--preset", "fast", "-q"]


def beside(flat: list[str], name: str) -> str:
    return str(Path(flat[0]).with_name(name))


LABELS = ("fixed_labels.mha", "moving_labels.mha")
POINTS = ("fixed.csv", "moving.csv")


def test_files_of_the_user_stay_and_stand_in_the_way_only_of_what_is_written(flat, tmp_path, capsys):
    own = {"field.nii.gz", "warped.json", "warped.nrrd", "overview.png", "report.html"}
    for name in own:
        (tmp_path / name).write_text("mine")
    assert main([*flat, "-o", str(tmp_path), "--no_pictures"]) == 0
    assert all((tmp_path / name).read_text() == "mine" for name in own)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert main([*flat, "-o", str(tmp_path)]) == 2
    assert "overview.png: is there already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["measures.json", "warped.mha"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_in_the_way_is_refused_before_anything_is_written(flat, tmp_path, capsys, name, kind):
    (tmp_path / name).mkdir() if kind == "folder" else (tmp_path / name).write_text("{}")
    assert main([*flat, "-o", str(tmp_path)]) == 2
    assert f"{tmp_path / name}: is " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_page_of_an_earlier_pair_does_not_stay(flat, tmp_path):
    assert main([*flat, "-o", str(tmp_path), "--report"]) == 0
    assert (tmp_path / "report.html").is_file()
    assert main([*flat, "-o", str(tmp_path), "--no_pictures"]) == 0
    assert not (tmp_path / "report.html").exists()


def test_an_empty_name_is_refused(flat, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    refused_with(capfd, "-o/--output: found an empty name", *flat, "-o", "")


@pytest.mark.parametrize(
    ("more", "guides"),
    [((), ["labels", "points"]), (("--landmark_weight", "0"), ["labels"]), (("--affine_only",), []), (("--measure_only",), [])],
)
def test_what_guided_is_told_in_measures_and_table(flat, tmp_path, capsys, more, guides):
    named = [word for name, pair in (("labels", LABELS), ("points", POINTS)) for side, file in zip(("fixed", "moving"), pair, strict=True)
             for word in (f"--{side}_{name}", beside(flat, file))]  # fmt: skip
    main([*flat, "-o", str(tmp_path), *named, *more])
    assert json.loads((tmp_path / "measures.json").read_text())["guided_by"] == guides
    table = capsys.readouterr().out
    assert ("Dice, mean (guided)" in table) == ("labels" in guides)
    assert ("landmark error, median mm (guided)" in table) == ("points" in guides)
    assert ("do not report" in table) == bool(guides)


def test_a_map_without_inverse_is_written_and_exits_3(tmp_path, capsys):
    """It folds beside the body only, so that the registration succeeds."""
    space, folds = Space.plain((80, 92), (2.0, 2.0)), np.zeros((2, 80, 92), np.float32)
    folds[1][:, :8] = 6 * np.sin(np.arange(8))
    for name, shift in (("fixed", 0), ("moving", 2)):
        write_image(tmp_path / f"{name}.mha", np.roll(textured(space.shape), shift, 1), space)
    write_itk(tmp_path / "folds.h5", Transform((FieldMap(folds, space),), 2))
    words = [str(tmp_path / "fixed.mha"), str(tmp_path / "moving.mha"), "-o", str(tmp_path / "out"), "--init", str(tmp_path / "folds.h5")]
    assert main([*words, "--preset", "fast", "-q", "--no_pictures"]) == 3
    assert "inverse_transform.h5 is not written: the displacement field cannot be inverted" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "measures.json").read_text())["succeeded"] is True
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"transform.h5", "warped.mha", "measures.json"}


def test_a_full_disk_is_told_by_the_name_of_the_result(flat, tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    held = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        assert main([*flat, "-o", str(tmp_path / "out")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, held)
    assert f"{tmp_path / 'out' / 'transform.h5'}: cannot be written" in capsys.readouterr().err


def test_termination_leaves_no_lock_and_no_empty_folder(tmp_path):
    space = Space.plain((96, 96, 96))
    for name, seed in (("fixed", 0), ("moving", 1)):
        write_image(tmp_path / f"{name}.nii.gz", textured(space.shape, seed), space)
    words = [str(tmp_path / "fixed.nii.gz"), str(tmp_path / "moving.nii.gz"), "-o", str(tmp_path / "out"), "--preset", "accurate"]
    process = subprocess.Popen([sys.executable, "-m", "nnreg.cli.register", *words], stderr=subprocess.DEVNULL, env=os.environ)
    while not (tmp_path / "out" / ".lock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 143
    assert not (tmp_path / "out").exists()


def test_faults_of_a_pair_name_its_files(flat, tmp_path, capfd):
    space = Space.plain((40, 46), (2.0, 2.0))
    write_keypoints(tmp_path / "one.csv", [[5.0, 6.0]])
    write_itk(tmp_path / "singular.tfm", Transform((AffineMap(np.diag([1.0, 0.0, 1.0])),), 2))
    write_image(tmp_path / "same.mha", np.full((1, *space.shape), 7.0, np.float32), space)
    fixed, moving = flat[:2]
    rest = *flat[2:], "-o", tmp_path / "out"
    refused_with(
        capfd, "fixed.csv: has 2 landmarks, ", fixed, moving, *rest, "--fixed_points", beside(flat, "fixed.csv"), "--moving_points", tmp_path / "one.csv"
    )
    refused_with(capfd, "singular.tfm: its matrix cannot be inverted", fixed, moving, *rest, "--init", tmp_path / "singular.tfm")
    refused_with(capfd, f"the moving image ({tmp_path / 'same.mha'}) is constant (7)", fixed, tmp_path / "same.mha", *rest)


def test_a_learn2reg_field_of_another_image_is_named(tmp_path, capfd):
    space = Space.plain((20, 24, 22))
    write_image(tmp_path / "a.nii.gz", textured(space.shape), space)
    np.savez(tmp_path / "field.npz", np.zeros((3, 4, 5, 3)))
    refused_with(capfd, "field.npz: a Learn2Reg field", *(tmp_path / "a.nii.gz",) * 2, "-o", tmp_path / "out", "--init", tmp_path / "field.npz")


def test_an_opaque_alpha_channel_is_left_out_and_one_that_is_not_stays(tmp_path, capsys):
    space = Space.plain((40, 46))
    colours = np.concatenate([textured(space.shape) * scale for scale in (0.6, 0.5, 0.4)]).astype(np.uint8)
    for name, alpha in (("opaque", np.full_like(colours[:1], 255)), ("partly", 255 - colours[:1])):
        for side in ("fixed", "moving"):
            write_image(tmp_path / f"{name}_{side}.png", np.roll(np.concatenate([colours, alpha]), 2 * (side == "moving"), axis=1), space)
        main([*(str(tmp_path / f"{name}_{side}.png") for side in ("fixed", "moving")), "-o", str(tmp_path / name), "--preset", "fast", "-q"])
    assert capsys.readouterr().err.count("opaque everywhere (alpha) and was left out") == 2
    assert [read_image(tmp_path / name / "warped.png").channels for name in ("opaque", "partly")] == [3, 4]


IDLE = {
    "landmark weight 2": {"constraints": Constraints(landmark_weight=2)},
    "alignment 'rigid'": {"initial": True, "alignment": "rigid"},
    "radius 3": {"similarity": "mse", "radius": 3},
    "affine only": {"initial": True, "affine_only": True},
    "restrict": {"affine_only": True, "constraints": Constraints(restrict="x")},
    "preserve": {"affine_only": True, "preserve": True},
    "smoothness": {"affine_only": True, "smoothness": 2.0},
}


@pytest.mark.parametrize("named", IDLE)
def test_options_without_effect_are_refused_before_anything_is_read(named, tmp_path):
    options = dict(IDLE[named])
    initial, preserve = options.pop("initial", False), options.pop("preserve", False)
    files = PairFiles(["absent.mha"], ["absent.mha"], initial=["absent.h5"] if initial else [], preserve="absent.mha" if preserve else None)
    with pytest.raises(ConfigurationError, match=named):
        register_files(files, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    if preserve:
        options["constraints"] = Constraints(preserve=Image(np.ones((1, 4, 4)), Space.plain((4, 4))))
    with pytest.raises(ConfigurationError, match=named):
        nnreg.register("absent.mha", "absent.mha", initial=Transform.identity(2) if initial else None, **options)

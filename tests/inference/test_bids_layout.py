"""BIDS derivatives: names, sidecars, and that transforms do what their names say."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from nnreg.cli.register import main
from nnreg.errors import PredictionError
from nnreg.geometry import Space
from nnreg.geometry.itk import read_itk
from nnreg.imageio import read_image, write_image
from nnreg.inference.registration.bids import check_distinct, name_of, transform_stem
from tests.engine.pairs import textured

# the template of the specification: entities in this order, then suffix and ending
DERIVATIVE = re.compile(
    r"sub-[a-zA-Z0-9]+(_ses-[a-zA-Z0-9]+)?(_acq-[a-zA-Z0-9]+)?(_space-[a-zA-Z0-9]+|_from-[a-zA-Z0-9]+_to-[a-zA-Z0-9]+_mode-image)"
    r"(_desc-[a-zA-Z0-9]+)?_[a-zA-Z0-9]+\.(nii\.gz|h5|json|png)"
)


@pytest.mark.parametrize(
    ("moving", "fixed", "expected"),
    [
        ("sub-01_T2w.nii.gz", "sub-01_T1w.nii.gz", "sub-01/anat/sub-01_from-T2w_to-T1w_mode-image_xfm"),
        ("sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii.gz", "sub-01/ses-1/anat/sub-01_ses-1_from-sub01ses1T1w_to-sub01ses2T1w_mode-image_xfm"),
        ("sub-01_T1w.nii.gz", "tpl-MNI152NLin2009cAsym_T1w.nii.gz", "sub-01/anat/sub-01_from-sub01T1w_to-MNI152NLin2009cAsym_mode-image_xfm"),
        ("sub-01_acq-a_T1w.nii", "sub-01_acq-b_T1w.nii", "sub-01/anat/sub-01_acq-a_from-acqaT1w_to-acqbT1w_mode-image_xfm"),
    ],
)
def test_transforms_are_named_from_moving_to_fixed(moving, fixed, expected):
    assert transform_stem(name_of(fixed), name_of(moving)) == expected


def test_names_that_say_too_little_or_the_same_are_refused():
    with pytest.raises(PredictionError, match="no BIDS suffix"):
        name_of("brain.nii.gz")
    assert name_of("hippo_007", "T2").name("T2w", space="T1w", desc="nnReg") == "sub-hippo007_space-T1w_desc-nnReg_T2w"
    fixed = name_of("c", "T1")
    with pytest.raises(PredictionError, match="both be written"):
        check_distinct([(fixed, name_of("a_1", "T1")), (fixed, name_of("a1", "T1"))])


def test_a_pair_becomes_derivatives_that_mean_what_they_are_called(tmp_path, capsys):
    space = Space.plain((12, 16, 14))
    image = textured(space.shape)
    for name, array in (("sub-02_T1w", image), ("sub-01_T1w", np.roll(image, 1, axis=2))):
        write_image(tmp_path / f"{name}.nii.gz", array, space)
        write_image(tmp_path / f"{name[:6]}_dseg.nii.gz", (array > 90).astype(np.uint8), space)
    out = tmp_path / "derivatives"
    pair = [str(tmp_path / "sub-02_T1w.nii.gz"), str(tmp_path / "sub-01_T1w.nii.gz"), "-o", str(out), "--preset", "fast", "--output_layout", "bids"]
    labels = ["--moving_labels", str(tmp_path / "sub-01_dseg.nii.gz")]
    assert main([*pair, "--alignment", "none", *labels]) in (0, 3)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    description = json.loads((out / "dataset_description.json").read_text())
    assert (description["DatasetType"], description["GeneratedBy"][0]["Name"]) == ("derivative", "nnReg")
    stem = "sub-01/anat/sub-01_from-sub01T1w_to-sub02T1w_mode-image_xfm"
    assert f"{stem}.h5" in files
    assert "sub-01/anat/sub-01_space-sub02T1w_desc-nnReg_dseg.nii.gz" in files
    for file in files - {"dataset_description.json"}:
        assert DERIVATIVE.fullmatch(file.rpartition("/")[2]), file
        if file.endswith((".h5", ".nii.gz")):
            sidecar = json.loads((out / re.sub(r"\.(h5|nii\.gz)$", ".json", file)).read_text())
            assert sidecar["SpatialReference"] in sidecar["Sources"]
    assert json.loads((out / f"{stem}.json").read_text())["nnReg"]["similarity"]["measure"]
    there, back = read_itk(out / f"{stem}.h5"), read_itk(out / "sub-01/anat/sub-01_from-sub02T1w_to-sub01T1w_mode-image_xfm.h5")
    points = space.to_world(np.argwhere(image[0] > 120))
    assert np.median(np.linalg.norm(back.map_points(there.map_points(points)) - points, axis=1)) < 0.1
    warped = read_image(out / "sub-01/anat/sub-01_space-sub02T1w_desc-nnReg_T1w.nii.gz")
    assert np.corrcoef(warped.array.ravel(), image.ravel())[0, 1] > 0.98
    description["DatasetType"] = "raw"
    (out / "dataset_description.json").write_text(json.dumps(description))
    assert main(pair) == 2
    assert "is no derivative" in capsys.readouterr().err


def test_predictions_become_derivatives(plane, tmp_path, capsys):
    """Cases without BIDS names are subjects; every file of a pair goes where its name says, none stays in nnReg's own layout."""
    arguments = ["--output_layout", "bids", "--fixed", "s4_b", "--moving", "s4_a", "--inverse"]
    assert plane.try_predict(tmp_path / "out", *arguments) == 0
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()} - {"dataset_description.json"}
    stem = "sub-s4a/anat/sub-s4a_from-subs4aT1w_to-subs4bT1w"
    back = "sub-s4a/anat/sub-s4a_from-subs4bT1w_to-subs4aT1w_mode-image_xfm.h5"
    assert {f"{stem}_mode-image_xfm.h5", f"{stem}_mode-image_xfm.json", f"{stem}_mode-image_desc-linear_xfm.h5", back} <= files
    assert {"sub-s4a/anat/sub-s4a_space-subs4bT1w_desc-nnReg_T1w.nii.gz", "sub-s4a/anat/sub-s4a_space-subs4bT1w_desc-nnReg_dseg.nii.gz"} <= files
    assert all(DERIVATIVE.fullmatch(file.rpartition("/")[2]) for file in files), files
    record = json.loads((tmp_path / "out" / f"{stem}_mode-image_xfm.json").read_text())
    assert (record["nnReg"]["fixed"], record["nnReg"]["moving"]) == ("s4_b", "s4_a")
    points = read_image(plane.image("s4_b")).space.to_world([[5.0, 6.0], [12.0, 9.0]])
    there = read_itk(tmp_path / "out" / f"{stem}_mode-image_xfm.h5").map_points(points)
    np.testing.assert_allclose(read_itk(tmp_path / "out" / back).map_points(there), points, atol=0.1)
    assert plane.try_predict(tmp_path / "out", "--output_layout", "bids", "--continue_prediction") == 2
    assert "looks for pairs in nnReg's own layout" in capsys.readouterr().err

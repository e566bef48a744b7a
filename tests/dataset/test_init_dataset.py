"""nnreg_init_dataset: what people have becomes a raw dataset; what is not clear is told in one line and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnreg.cli.init_dataset import KINDS, main
from nnreg.dataset import RawDataset
from nnreg.dataset.sources import SOURCES, levels
from nnreg.errors import ImageError
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image
from nnreg.imageio.endings import unit_of

SPACE = Space((6, 7, 8), (2.0, 1.0, 1.5), (1.0, 2.0, 3.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def image(path: Path, value: int = 0, dtype: str = "int16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, (np.arange(6 * 7 * 8).reshape(1, 6, 7, 8) % 3 + value).astype(dtype), SPACE)
    return path


def made(tmp_path: Path, source: Path, *more: str) -> RawDataset:
    assert main([str(source), "-d", "5", "--name", "Mine", "--workspace", str(tmp_path / "work"), *more]) == 0
    return RawDataset.open(tmp_path / "work" / "nnReg_raw" / "Dataset005_Mine")


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Path, *more: str) -> str:
    assert main([str(source), "-d", "5", "--workspace", str(tmp_path / "work"), *more]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert not (tmp_path / "work").exists()
    return lines[0]


def test_the_command_offers_every_kind():
    assert tuple(SOURCES) == KINDS


# -- a folder of images -------------------------------------------------------------------------------------------------


def test_a_folder_of_images_and_one_of_labels(tmp_path, capsys):
    for number, ending in enumerate((".nii.gz", ".mha", ".nrrd")):
        image(tmp_path / "in" / f"person {number}{ending}", number)
        image(tmp_path / "lab" / f"person {number}_seg.nii.gz")
    raw = made(tmp_path, tmp_path / "in", "--labels", str(tmp_path / "lab"), "--channel_names", "T1", "--atlas", "person_1")
    assert raw.cases == ("person_0", "person_1", "person_2")
    assert raw.spec.labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert raw.spec.channel_names == {"0": "T1"}
    assert {pair.fixed for pair in raw.pairs()} == {"person_1"}
    found = raw.read_image("person_2")
    assert found.array.max() == 4
    assert found.space.same_as(SPACE)
    assert "3 images are 3 cases" in capsys.readouterr().out


def test_pictures_stay_pictures(tmp_path):
    """As NIfTI their pixels would be millimetres."""
    rng = np.random.default_rng(0)
    for name, ending in (("a", ".png"), ("b", ".jpg")):
        picture = sitk.GetImageFromArray(rng.integers(0, 255, (6, 7, 3), np.uint8), isVector=True)
        (tmp_path / "in").mkdir(exist_ok=True)
        sitk.WriteImage(picture, str(tmp_path / "in" / f"{name}{ending}"))
        write_image(tmp_path / "lab" / f"{name}.png", rng.integers(0, 3, (1, 6, 7), np.uint8), Space.plain((6, 7)))
    raw = made(tmp_path, tmp_path / "in", "--labels", str(tmp_path / "lab"))
    assert raw.spec.file_ending == ".png"
    for name, ending in (("a", ".png"), ("b", ".jpg")):
        assert np.array_equal(raw.read_image(name).array, read_image(tmp_path / "in" / f"{name}{ending}").array)
        assert raw.label_path(name).name == f"{name}.png"
        assert unit_of(raw.image_paths(name), raw.read_image(name).space) == "px"


def test_numbered_files_are_channels(tmp_path):
    for case in ("a", "b"):
        for channel in range(2):
            image(tmp_path / "in" / f"{case}_{channel:04d}.nii.gz", 10 * channel)
    raw = made(tmp_path, tmp_path / "in")
    assert raw.cases == ("a", "b")
    assert raw.read_image("a").array.max(axis=(1, 2, 3)).tolist() == [2, 12]


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    image(tmp_path / "in" / "a.nii.gz")
    assert main([str(tmp_path / "in"), "-d", "5", "--workspace", str(tmp_path / "work"), "--dry_run", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "folder"
    assert list(told["cases"]) == ["a"]
    assert not (tmp_path / "work").exists()


def test_a_folder_with_folders_of_images_and_labels_is_told_what_to_name(tmp_path, capsys):
    for folder in ("images", "labels"):
        image(tmp_path / "in" / folder / "a.nii.gz")
    told = refused(tmp_path, capsys, tmp_path / "in")
    assert "its folders do: images (1), labels (1)" in told
    assert told.endswith(f"nnreg_init_dataset {tmp_path / 'in' / 'images'} --labels {tmp_path / 'in' / 'labels'}")
    (tmp_path / "none").mkdir()
    assert "Name the folder that holds them" in refused(tmp_path, capsys, tmp_path / "none")


def test_frames_of_one_subject_are_told_and_paired_where_asked(tmp_path, capsys):
    for name in ("p1_frame01", "p1_frame12", "p2_frame01", "p2_frame09", "p3"):
        image(tmp_path / "in" / f"{name}.nii.gz")
    assert len(made(tmp_path / "all", tmp_path / "in").pairs()) == 20
    assert "p1_frame01, p1_frame12 are of p1" in (told := capsys.readouterr().out)
    assert "--pairing groups" in told
    pairs = made(tmp_path / "groups", tmp_path / "in", "--pairing", "groups").pairs()
    assert {(pair.fixed[:2], pair.moving[:2]) for pair in pairs} == {("p1", "p1"), ("p2", "p2")}


def test_what_is_not_clear_in_a_folder_is_told(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(tmp_path, capsys, tmp_path / "empty")
    image(tmp_path / "in" / "a.nii.gz")
    image(tmp_path / "lab" / "c.nii.gz")
    assert "c.nii.gz: is the label map of no case" in refused(tmp_path, capsys, tmp_path / "in", "--labels", str(tmp_path / "lab"))
    image(tmp_path / "in" / "a.mha")
    assert "is case 'a' as" in refused(tmp_path, capsys, tmp_path / "in")
    image(tmp_path / "mixed" / "a.nii.gz")
    image(tmp_path / "mixed" / "a_seg.nii.gz")
    assert "a_seg.nii.gz look like label maps" in refused(tmp_path, capsys, tmp_path / "mixed")
    assert "does not exist" in refused(tmp_path, capsys, tmp_path / "nowhere")


# -- a table of pairs ---------------------------------------------------------------------------------------------------


def test_a_table_names_pairs_with_labels(tmp_path):
    for visit in ("v1", "v2"):
        image(tmp_path / "p1" / f"{visit}.nii.gz")
        image(tmp_path / "p2" / f"{visit}.nii.gz")
    image(tmp_path / "lab" / "x.nii.gz")
    table = tmp_path / "pairs.csv"
    table.write_text("fixed,moving,fixed_labels\np1/v1.nii.gz,p1/v2.nii.gz,lab/x.nii.gz\np2/v1.nii.gz,p2/v2.nii.gz,\n")
    raw = made(tmp_path, table)
    assert [(pair.fixed, pair.moving) for pair in raw.pairs()] == [("p1_v1", "p1_v2"), ("p2_v1", "p2_v2")]
    assert raw.label_path("p1_v1") is not None
    assert raw.label_path("p2_v1") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "has the columns a, b"),
        ("fixed,moving\n", "has no row"),
        ("fixed,moving\nx.nii.gz,\n", "line 2: names no moving image"),
        ("fixed,moving\nx.nii.gz,y.nii.gz\n", "y.nii.gz, which does not exist"),
    ],
)
def test_a_table_that_cannot_be_read_is_told(tmp_path, capsys, text, words):
    image(tmp_path / "x.nii.gz")
    (tmp_path / "pairs.csv").write_text(text)
    assert words in refused(tmp_path, capsys, tmp_path / "pairs.csv")


# -- BIDS ---------------------------------------------------------------------------------------------------------------


def bids(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "dataset_description.json").write_text("{}")
    for name in names:
        image(folder / name)
    return folder


def test_bids_sessions_are_registered_within_a_subject(tmp_path):
    stems = [f"sub-0{subject}/ses-{session}/anat/sub-0{subject}_ses-{session}" for subject in (1, 2) for session in "ab"]
    source = bids(tmp_path / "bids", *(f"{stem}_{suffix}.nii.gz" for stem in stems for suffix in ("T1w", "T2w")))
    raw = made(tmp_path, source, "--suffix", "T1w", "T2w")
    assert raw.spec.channel_names == {"0": "T1w", "1": "T2w"}
    assert {(pair.fixed, pair.moving) for pair in raw.pairs()} == {(f"sub-0{s}_ses-{a}", f"sub-0{s}_ses-{b}") for s in (1, 2) for a, b in ("ab", "ba")}


def test_bids_without_the_suffix_or_with_two_images_is_told(tmp_path, capsys):
    source = bids(tmp_path / "bids", "sub-01/anat/sub-01_FLAIR.nii.gz")
    assert "no image with the suffix T1w. Found FLAIR: name one with --suffix" in refused(tmp_path, capsys, source)
    source = bids(tmp_path / "runs", *(f"sub-01/anat/sub-01_run-{run}_T1w.nii.gz" for run in (1, 2)))
    assert "sub-01 has 2 images of one suffix" in refused(tmp_path, capsys, source)


# -- Learn2Reg, nnU-Net -------------------------------------------------------------------------------------------------


def test_learn2reg_lists_training_test_keypoints_and_pairs(tmp_path):
    source = tmp_path / "l2r"
    for number in range(3):
        image(source / "imagesTr" / f"Lung_000{number}_0000.nii.gz")
    image(source / "imagesTs" / "Lung_0009_0000.nii.gz")
    (source / "keypointsTr").mkdir()
    (source / "keypointsTr" / "Lung_0000_0000.csv").write_text("1,2,3\n4,5,2\n")
    entries = [{"image": f"./imagesTr/Lung_000{number}_0000.nii.gz"} for number in range(3)]
    entries[0]["keypoints"] = "./keypointsTr/Lung_0000_0000.csv"
    content = {
        "modality": {"0": "CT"},
        "training": {"0": entries},
        "test": {"0": ["./imagesTs/Lung_0009_0000.nii.gz"]},
        "training_paired_images": {"0": [{"fixed": entries[0]["image"], "moving": entries[1]["image"]}]},
    }
    (source / "Lung_dataset.json").write_text(json.dumps(content))
    raw = made(tmp_path, source)
    assert raw.cases == ("Lung_0000", "Lung_0001", "Lung_0002")
    assert raw.test_cases == ("Lung_0009",)
    assert raw.spec.channel_names == {"0": "CT"}
    assert [(pair.fixed, pair.moving) for pair in raw.pairs()] == [("Lung_0000", "Lung_0001")]
    assert raw.read_keypoints("Lung_0000").tolist() == [[1, 2, 3], [4, 5, 2]]


def test_a_listed_file_that_is_missing_is_told(tmp_path, capsys):
    (tmp_path / "d.json").write_text(json.dumps({"training": [{"image": "a.nii.gz"}]}))
    assert "d.json: names" in refused(tmp_path, capsys, tmp_path / "d.json")


def test_a_dataset_of_nnunet_keeps_labels_and_names(tmp_path):
    source = tmp_path / "Dataset004_Organs"
    for case in ("a", "b"):
        image(source / "imagesTr" / f"{case}_0000.nii.gz")
        image(source / "labelsTr" / f"{case}.nii.gz", dtype="uint8")
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "numTraining": 2, "file_ending": ".nii.gz"}
    (source / "dataset.json").write_text(json.dumps(content))
    raw = made(tmp_path, source, "--task", "dense_prediction")
    assert raw.spec.task == "dense_prediction"
    assert raw.spec.labels == content["labels"]
    assert raw.read_labels("b").array.max() == 2


# -- DICOM --------------------------------------------------------------------------------------------------------------


def series(folder: Path, number: int, description: str, skip: int | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for position in range(6):
        if position == skip:
            continue
        plane = sitk.GetImageFromArray(np.full((1, 7, 8), 100 * number + position, np.int16))
        plane.SetSpacing((1.5, 1.0, 2.0))
        tags = {
            "0008|0060": "MR",
            "0008|103e": description,
            "0020|000d": "1.2.3",
            "0020|000e": f"1.2.3.{number}",
            "0008|0018": f"1.2.3.{number}.{position + 1}",
            "0020|0032": f"1\\2\\{3 + 2 * position}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(position),
        }
        for key, value in tags.items():
            plane.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{number}_{position}.dcm"))
        writer.Execute(plane)


def test_dicom_folders_are_cases_and_keep_their_geometry(tmp_path, capsys):
    series(tmp_path / "in" / "anna", 1, "T1")
    series(tmp_path / "in" / "bert", 2, "T1")
    raw = made(tmp_path, tmp_path / "in")
    assert raw.cases == ("anna", "bert")
    found = raw.read_image("bert")
    assert found.array[0, :, 0, 0].tolist() == [200 + position for position in range(6)]
    assert np.allclose(found.space.spacing, (2.0, 1.0, 1.5))
    assert np.allclose(found.space.origin, (1.0, 2.0, 3.0))
    assert "anna: series 'T1' of 6 files" in capsys.readouterr().out


def test_of_two_series_one_must_be_named_and_missing_slices_are_told(tmp_path, capsys):
    for number, description in ((1, "T1 MPRAGE"), (2, "T2 TSE")):
        series(tmp_path / "in" / "anna", number, description)
    assert "anna has 2 series" in refused(tmp_path, capsys, tmp_path / "in")
    assert "anna has no series 'FLAIR'" in refused(tmp_path, capsys, tmp_path / "in", "--series", "FLAIR")
    series(tmp_path / "gap" / "anna", 1, "T1", skip=3)
    assert "2 to 4 mm apart, so some are missing" in refused(tmp_path, capsys, tmp_path / "gap")
    assert made(tmp_path, tmp_path / "in", "--series", "t2 tse").read_image("anna").array.max() == 205


# -- OME-Zarr ---------------------------------------------------------------------------------------------------------


def pyramid(path: Path, array: np.ndarray, *, version: int = 3) -> Path:
    """A multiscale image of OME-NGFF written by the zarr library itself: micrometres, a channel axis, every level half the size of the one before."""
    zarr = pytest.importorskip("zarr")
    group, levels, data = zarr.open_group(str(path), mode="w", zarr_format=version), [], array
    for level in range(3):
        group.create_array(f"s{level}", data=data[None], chunks=(1, 4, 4, 4))
        scale = [1.0, 40.0 * 2**level, 20.0 * 2**level, 10.0 * 2**level]
        shift = [0.0, *(1000.0 + step * (1 - 0.5**level) / 2 for step in scale[1:])]  # the middle of a block lies between its voxels
        levels.append({"path": f"s{level}", "coordinateTransformations": [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]})
        data = data.reshape(*(part for size in data.shape for part in (size // 2, 2))).mean(axis=(1, 3, 5)).astype(array.dtype)
    axes = [{"name": "c", "type": "channel"}, *({"name": name, "type": "space", "unit": "micrometer"} for name in "zyx")]
    scales = [{"version": "0.4", "axes": axes, "datasets": levels}]
    group.attrs.update({"ome": {"version": "0.5", "multiscales": scales}} if version == 3 else {"multiscales": scales})
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_a_level_of_ome_zarr_is_chosen_that_is_not_too_large(tmp_path, capsys, monkeypatch, version):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 200, (16, 24, 32)).astype(np.uint16) for _ in range(2)]
    for name, array in zip("ab", arrays, strict=True):
        pyramid(tmp_path / "in" / f"{name}.ome.zarr", array, version=version)
        pyramid(tmp_path / "lab" / f"{name}.ome.zarr", (array > 100).astype(np.uint8), version=version)
    monkeypatch.setattr(levels, "MOST_VOXELS", {3: 2000})
    raw = made(tmp_path, tmp_path / "in", "--labels", str(tmp_path / "lab"))
    assert raw.cases == ("a", "b")
    found = raw.read_image("a")
    assert found.space.shape == (8, 12, 16)
    assert found.space.spacing == pytest.approx((0.08, 0.04, 0.02))
    assert found.space.origin == pytest.approx((1.005, 1.01, 1.02))  # x first
    np.testing.assert_array_equal(found.array, read_image(tmp_path / "in" / "a.ome.zarr" / "s1").array)
    assert raw.read_labels("a").space.shape == (8, 12, 16)
    told = capsys.readouterr().out
    assert "level 1 of the multiscale images (16 x 12 x 8 voxels of 0.02 x 0.04 x 0.08 mm), the finest of at most" in told


def test_a_level_can_be_named_and_one_that_is_missing_is_told(tmp_path, capsys):
    path = pyramid(tmp_path / "in" / "a.ome.zarr", np.zeros((16, 24, 32), np.uint16))
    assert made(tmp_path, tmp_path / "in", "--level", "2").read_image("a").space.shape == (4, 6, 8)
    capsys.readouterr()
    assert "has no level 3" in refused(tmp_path / "other", capsys, tmp_path / "in", "--level", "3")
    with pytest.raises(ImageError, match=r"has no level '7'. It has s0, s1, s2"):
        read_image(path / "7")
    image(tmp_path / "plain" / "a.nii.gz")
    assert "none of the images has levels" in refused(tmp_path / "other", capsys, tmp_path / "plain", "--level", "1")


def test_levels_can_be_registered_by_name(tmp_path):
    """A map in mm found at one level fits every level."""
    from nnreg.imageio.endings import is_image_file, stem_of

    path = pyramid(tmp_path / "a.ome.zarr", np.zeros((16, 24, 32), np.uint16))
    fine, coarse = read_image(path), read_image(path / "s1")
    np.testing.assert_allclose(fine.space.centre, coarse.space.centre, atol=1e-9)
    assert is_image_file(path / "s1")
    assert stem_of(path / "s1") == "a"

"""nnreg_verify_dataset: every problem in one line, exit code 2; nothing for a sound dataset."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnreg.cli.verify_dataset import main
from nnreg.dataset import verify_dataset
from nnreg.errors import DatasetError
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image


def run(builder, capfd, *options):
    """Exit code, stdout and the lines of stderr of the command."""
    code = main(["-d", "7", "--workspace", str(builder.folder.parents[1]), "-q", "-np", "1", *options])
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return code, out, err.splitlines()


def test_a_sound_dataset(tiny, capfd):
    code, out, err = run(tiny, capfd)
    assert (code, err) == (0, [])
    assert "3 training and 1 test cases are sound; training pairs (all): 6" in out
    report = verify_dataset(tiny.open())
    assert (report.problems, report.notes, report.cases) == ((), (), 4)
    report.require_sound()


def test_several_processes_find_the_same(tiny):
    (tiny.folder / "imagesTr" / "b_0000.nii.gz").write_bytes(b"no image")
    seen = []
    parallel = verify_dataset(tiny.open(), processes=2, on_progress=lambda done, total, case: seen.append((done, total)))
    assert parallel == verify_dataset(tiny.open())
    assert seen == [(i, 4) for i in range(1, 5)]


def spoil_channel(tiny):
    tiny.spec(channel_names={"0": "T1", "1": "T2"})
    for name in "act":
        suffix = "Ts" if name == "t" else "Tr"
        first = read_image(tiny.folder / f"images{suffix}" / f"{name}_0000.nii.gz")
        write_image(tiny.folder / f"images{suffix}" / f"{name}_0001.nii.gz", first.array, first.space)


def spoil_label_shape(tiny):
    write_image(tiny.folder / "labelsTr" / "b.nii.gz", np.zeros((1, 5, 6, 8), np.uint8), Space.plain((5, 6, 8), (2.0, 1.0, 0.5)))


def spoil_label_place(tiny):
    image = read_image(tiny.folder / "labelsTr" / "b.nii.gz")
    write_image(tiny.folder / "labelsTr" / "b.nii.gz", image.array, Space(image.space.shape, image.space.spacing, (9.0, 0.0, 0.0), image.space.direction))


def spoil_values(tiny):
    image = read_image(tiny.folder / "imagesTr" / "b_0000.nii.gz")
    array = image.array.copy()
    array.flat[:3] = np.nan
    write_image(tiny.folder / "imagesTr" / "b_0000.nii.gz", array, image.space)


def spoil_bytes(tiny):
    path = tiny.folder / "imagesTr" / "b_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def spoil_label_value(tiny):
    tiny.case("b", labels=(0, 1, 2, 5))


def spoil_dimensions(tiny):
    (tiny.folder / "labelsTr" / "b.nii.gz").unlink()
    tiny.case("b", shape=(6, 7))


def spoil_keypoints(tiny):
    (tiny.folder / "keypointsTr").mkdir()
    (tiny.folder / "keypointsTr" / "b.csv").write_text("1,2,3\n6,5,4\n7,5,4\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_channel, ["b_0001.nii.gz: does not exist, but case 'b' needs 2 channels (T1, T2)"]),
        (spoil_label_shape, ["labelsTr/b.nii.gz: has shape (5, 6, 8)", "imagesTr/b_0000.nii.gz has (5, 6, 7)"]),
        (spoil_label_place, ["labelsTr/b.nii.gz: lies elsewhere", "origin differ"]),
        (spoil_values, ["b_0000.nii.gz: has 3 NaN"]),
        (spoil_bytes, ["b_0000.nii.gz: is truncated"]),
        (spoil_label_value, ["labelsTr/b.nii.gz: holds the values 5"]),
        (spoil_keypoints, ["keypointsTr/b.csv: 1 of 3 keypoints lie outside the image of (7, 6, 5) voxels, such as (7, 5, 4)"]),
        (lambda tiny: tiny.spec(numTraining=4), ["numTraining is 4, but there are 3"]),
        (lambda tiny: tiny.spec(pairing="pairs", pairs=[{"fixed": "a", "moving": "q"}]), ["pairs[0].moving names 'q', which is no case"]),
        (lambda tiny: tiny.spec(pairing="groups", groups={"a": "1", "b": "2"}), ["gives no training pair among 3 cases"]),
        (lambda tiny: tiny.case("b", channels=2), ["b_0001.nii.gz: is a channel beyond the 1"]),
        (lambda tiny: (tiny.folder / "labelsTr" / "bb.nii.gz").write_bytes(b"x"), ["labelsTr/bb.nii.gz: belongs to no case of imagesTr"]),
        (spoil_dimensions, ["mixes 2D cases (such as 'b') and 3D cases (such as 'a')"]),
        (lambda tiny: (tiny.folder / "splits_final.json").write_text('[{"train": ["a"], "val": ["x"]}]'), ["fold 0 names 'x'"]),
    ],
)
def test_a_problem_is_one_line_with_its_file(tiny, capfd, spoil, said):
    spoil(tiny)
    code, _, err = run(tiny, capfd)
    assert code == 2
    assert err[-1].startswith("Dataset007_Tiny: ")
    assert any(all(text in line for text in said) and line.startswith(str(tiny.folder)) for line in err[:-1]), err


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda tiny: tiny.spec(pairng="all"), "unknown key 'pairng'; did you mean 'pairing'?"),
        (lambda tiny: tiny.json.unlink(), "dataset.json: does not exist"),
        (lambda tiny: tiny.json.write_text("["), "not valid JSON"),
        (lambda tiny: tiny.spec(file_ending=".mha"), "holds no case"),
    ],
)
def test_what_cannot_even_be_opened_is_one_line(tiny, capfd, spoil, said):
    spoil(tiny)
    code, out, err = run(tiny, capfd)
    assert (code, out, len(err)) == (2, "", 1)
    assert said in err[0]
    assert str(tiny.folder) in err[0]


def test_all_problems_are_listed_not_just_the_first(tiny, capfd):
    spoil_values(tiny)
    (tiny.folder / "imagesTr" / "a_0000.nii.gz").write_bytes(b"")
    tiny.spec(numTraining=1)
    _, _, err = run(tiny, capfd)
    assert len(err) == 4
    assert "3 problems in 4 cases" in err[-1]
    with pytest.raises(DatasetError, match=r"numTraining is 1.*and 2 more"):
        verify_dataset(tiny.open()).require_sound()


def test_keypoints_of_a_pair_must_correspond(tiny, capfd):
    (tiny.folder / "keypointsTr").mkdir()
    (tiny.folder / "keypointsTr" / "a.csv").write_text("1,2,3\n")
    (tiny.folder / "keypointsTr" / "b.csv").write_text("1,2,3\n2,3,4\n")
    assert run(tiny, capfd)[0] == 0  # of different subjects: nothing to correspond
    tiny.spec(pairing="pairs", pairs=[{"fixed": "a", "moving": "b"}])
    code, _, err = run(tiny, capfd)
    assert code == 2
    assert "keypointsTr/b.csv: has 2 keypoints, its fixed case 'a' has 1" in err[0]


def test_notes_do_not_make_a_dataset_bad(tiny, capfd):
    image = read_image(tiny.folder / "imagesTr" / "b_0000.nii.gz")
    write_image(tiny.folder / "imagesTr" / "b_0000.nii.gz", np.full_like(image.array, 3), image.space)
    code, out, _ = run(tiny, capfd)
    assert code == 0
    assert "b_0000.nii.gz: is constant" in out


def test_an_unknown_dataset_is_one_line(tiny, capfd):
    code = main(["-d", "99", "--workspace", str(tiny.folder.parents[1])])
    assert code == 2
    assert "Dataset007_Tiny" in capfd.readouterr().err


def test_ignore_is_a_value_of_its_own(tiny, capfd):
    tiny.case("b", labels=(0, 1, 2, 9))
    tiny.spec(labels={"background": 0, "left": 1, "right": 2, "ignore": 9})
    assert run(tiny, capfd)[0] == 0
    assert tiny.open().label_values == (1, 2)


def test_debug_shows_the_traceback(tiny):
    tiny.json.write_text(json.dumps({"channel_names": 3}))
    with pytest.raises(DatasetError):
        main(["-d", "7", "--workspace", str(tiny.folder.parents[1]), "--debug"])

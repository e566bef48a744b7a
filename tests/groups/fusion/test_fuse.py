"""Images labelled by atlases, on tiny phantoms: better than an atlas alone, named where something is missing, resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import anatomy, oblique_space, write_case

from nnreg.cli.fuse import main
from nnreg.engine.options import EngineOptions
from nnreg.errors import ConfigurationError, DatasetError
from nnreg.groups.fusion import FuseOptions, fuse, propagation, registrars
from nnreg.groups.fusion.atlases import atlases_in
from nnreg.groups.fusion.registrars import Found
from nnreg.groups.maps import register_members
from nnreg.imageio import read_image, write_image

OPTIONS = EngineOptions(preset="fast", similarity="lncc")
ATLASES = ["a", "b", "c"]


class Trusted:
    """The engine, whatever it thinks of its result: phantoms as small as these are at the edge of what it trusts."""

    def __repr__(self) -> str:
        return "the engine"

    def find(self, image, atlas, start):
        return Found(register_members(image, atlas, OPTIONS, start).transform)


class Never(Trusted):
    """Registers nothing; called the same as what made the atlases that are kept."""

    def find(self, image, atlas, start):
        raise AssertionError(f"{atlas.name} was registered to {image.name}")


class Fails(Trusted):
    """Fails for one atlas."""

    def find(self, image, atlas, start):
        return Found(super().find(image, atlas, start).transform, "not alike" if atlas.name == "b" else None)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Three atlases and an image, 2D."""
    folder = tmp_path_factory.mktemp("phantoms")
    for seed, name in enumerate(ATLASES):
        write_case(folder, name, oblique_space((24, 26), seed), seed)
    write_case(folder, "x", oblique_space((25, 24), 10), 10, suffix="Ts")
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    import shutil

    return Path(shutil.copytree(made, tmp_path / "data"))


def fused(data: Path, output: Path, notes: list[str] | None = None, **options: object):
    kept = {key: options.pop(key) for key in ("check", "registrar", "labels", "processes") if key in options}
    say = (lambda note: None) if notes is None else notes.append
    return fuse(data / "imagesTs", data / "imagesTr", output, **{"registrar": Trusted(), **kept}, options=FuseOptions(pictures=False, **options), on_note=say)  # type: ignore[arg-type]


def labels_of(path: Path) -> np.ndarray:
    return read_image(path).array[0]


@pytest.fixture(scope="module")
def kept(made: Path, tmp_path_factory) -> Path:
    """Warped atlases."""
    output = tmp_path_factory.mktemp("kept")
    fused(made, output, method="majority", keep_warped=True)
    return output


@pytest.fixture
def warped(kept: Path, tmp_path: Path) -> Path:
    """The same, in a folder of its own: nothing is registered again."""
    import shutil

    return Path(shutil.copytree(kept, tmp_path / "out"))


@pytest.mark.parametrize("method", ["majority", "weighted", "joint", "staple"])
def test_every_method_labels_on_the_grid_of_the_image(made, warped, method):
    content = fused(made, warped, method=method, registrar=Never())
    image, found, case = read_image(made / "imagesTs" / "x_0000.nii.gz"), read_image(warped / "x.nii.gz"), content["cases"]["x"]
    assert found.space.same_as(image.space)
    assert set(np.unique(found.array)) <= {0, 3, 7}
    doubt = read_image(warped / "uncertainty" / "x.nii.gz").array[0]
    assert doubt.min() >= 0
    assert (doubt > 0).mean() * 100 == pytest.approx(case["disputed_percent"], abs=0.01)
    assert case["dice"]["mean"] > 0.8
    assert content["mean_dice"] == case["dice"]["mean"]
    assert content["mean_dice_of_best_single"] == max(case["dice"]["alone"].values())
    assert not (warped / "work").exists()


def test_probabilities_are_shares_and_their_largest_is_the_label(made, warped):
    content = fused(made, warped, method="weighted", probabilities=True, registrar=Never())
    shares = np.load(warped / "probabilities" / "x.npz")["probabilities"]
    assert content["labels"] == [0, 3, 7]
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=2e-3)
    labels = labels_of(warped / "x.nii.gz")
    sure = np.sort(shares, axis=0)[-1] - np.sort(shares, axis=0)[-2] > 0.01
    assert np.array_equal(np.array([0, 3, 7])[shares.argmax(axis=0)][sure], labels[sure])
    fused(made, warped, method="majority", registrar=Never())
    assert not (warped / "probabilities" / "x.npz").exists()  # of other labels than are there now


def test_a_killed_run_goes_on_where_it_was(data, tmp_path, monkeypatch):
    whole = fused(data, tmp_path / "whole")
    save, count = propagation.write_json, []

    def killed(path, content):
        if path.name == "b.json":
            raise KeyboardInterrupt
        count.append(path)
        save(path, content)

    monkeypatch.setattr(propagation, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        fused(data, tmp_path / "out")
    assert [path.name for path in count] == ["a.json"]
    monkeypatch.setattr(propagation, "write_json", lambda path, content: (count.append(path), save(path, content)))
    again = fused(data, tmp_path / "out")
    assert [path.name for path in count] == ["a.json", "b.json", "c.json"]  # each once
    assert again["cases"]["x"]["dice"] == whole["cases"]["x"]["dice"]
    assert np.array_equal(labels_of(tmp_path / "out" / "x.nii.gz"), labels_of(tmp_path / "whole" / "x.nii.gz"))
    assert fused(data, tmp_path / "out", registrar=Never())["cases"] == again["cases"]  # finished images are kept


def test_a_changed_label_map_is_fused_again(data, warped):
    path = data / "labelsTr" / "a.nii.gz"
    image = read_image(path)
    write_image(path, np.where(image.array == 7, 3, image.array), image.space)
    assert "a was registered to x" in fused(data, warped, registrar=Never())["cases"]["x"]["failed"]


def test_an_atlas_that_lacks_a_label_does_not_vote_against_it(data, tmp_path):
    for name in ("a", "b"):
        path = data / "labelsTr" / f"{name}.nii.gz"
        image = read_image(path)
        write_image(path, np.where(image.array == 7, 0, image.array), image.space)
    notes: list[str] = []
    content = fused(data, tmp_path / "out", notes, method="majority")
    assert content["labels_missing"] == {"a": [7], "b": [7]}
    assert sum("lacks 1 labels that others have (7)" in note for note in notes) == 2
    assert content["cases"]["x"]["dice"]["labels"]["7"] > 0.7


def test_an_atlas_whose_registration_fails_is_left_out_and_said(data, tmp_path):
    notes: list[str] = []
    content = fused(data, tmp_path / "out", notes, registrar=Fails())
    assert content["cases"]["x"]["used"] == ["a", "c"]
    assert content["cases"]["x"]["atlases"]["b"]["failed"] == "not alike"
    assert "image x: atlas b left out: not alike" in notes


def test_a_false_alarm_can_be_overridden(made, monkeypatch):
    from nnreg.engine.failure import Failure
    from nnreg.groups.members import members_in

    monkeypatch.setattr(Failure, "likely", property(lambda self: True))
    image, atlas = members_in(made / "imagesTs")[0], members_in(made / "imagesTr")[0]
    assert registrars.EngineRegistrar(OPTIONS).find(image, atlas, None).failed
    assert registrars.EngineRegistrar(OPTIONS, accept_likely_failed=True).find(image, atlas, None).failed is None


def test_the_next_most_similar_atlas_takes_the_place_of_one_that_fails(data, tmp_path):
    content = fused(data, tmp_path / "out", registrar=Fails(), atlases_used=2)
    case = content["cases"]["x"]
    assert len(case["used"]) == 2
    likeness = [record["likeness"] for record in case["atlases"].values()]
    assert likeness == sorted(likeness, reverse=True)


def test_an_image_that_fails_is_named_and_the_others_are_labelled(data, tmp_path, capsys):
    write_case(data, "y", oblique_space((25, 24), 11), 11, suffix="Ts")
    (data / "imagesTs" / "x_0000.nii.gz").write_bytes(b"no image")
    given = [
        "-i",
        data / "imagesTs",
        "--atlases",
        data / "imagesTr",
        "-o",
        tmp_path / "out",
        "--method",
        "majority",
        "--preset",
        "fast",
        "-np",
        "1",
        "--no_pictures",
    ]
    assert main([str(word) for word in given]) == 3
    assert "image x could not be labelled" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "x_0000.nii.gz" in summary["cases"]["x"]["failed"]
    assert summary["cases"]["y"]["dice"]["mean"] > 0.8
    assert main([str(word) for word in (*given, "--strict")]) == 2


def test_an_image_among_the_atlases_is_not_labelled_by_itself(data, tmp_path):
    (data / "imagesTs" / "x_0000.nii.gz").unlink()
    (data / "imagesTs" / "c_0000.nii.gz").symlink_to(data / "imagesTr" / "c_0000.nii.gz")
    assert fused(data, tmp_path / "out", method="majority")["cases"]["c"]["used"] == ["a", "b"]


def test_regions_are_decided_one_by_one(data, tmp_path):
    spec = {"channel_names": {"0": "T1"}, "numTraining": 3, "file_ending": ".nii.gz", "labels": {"background": 0, "both": [3, 7], "right": 7}}
    (data / "dataset.json").write_text(json.dumps(spec | {"regions_class_order": [3, 7], "task": "dense_prediction"}))
    content = fused(data, tmp_path / "out", method="majority")
    assert set(content["cases"]["x"]["dice"]["labels"]) == {"3+7", "7"}
    assert content["mean_dice"] > 0.8


def test_a_check_says_whether_fusing_helps(made, tmp_path):
    notes: list[str] = []
    content = fused(made, tmp_path / "out", notes, check=1)
    check = content["check"]
    assert set(check["methods"]) == {"majority", "weighted", "joint", "staple"}
    assert check["no_harm"] == (check["methods"]["joint"] >= check["best_single"])
    assert notes[0].startswith("check on 1 atlases: Dice")
    assert not (tmp_path / "out" / "work").exists()


def test_atlases_that_cannot_be_used_are_named(data):
    (data / "labelsTr" / "a.nii.gz").unlink()
    found = atlases_in(data / "imagesTr")
    assert [atlas.name for atlas in found.atlases] == ["b", "c"]
    assert "has no labels" in found.left_out["a"]
    with pytest.raises(DatasetError, match="atlas 'a' cannot be used"):
        atlases_in(data / "imagesTr", strict=True)
    with pytest.raises(DatasetError, match="2 of 3 atlases can be used, 3 are needed"):
        atlases_in(data / "imagesTr", fewest=3)


def test_an_atlas_that_cannot_be_read_or_lies_elsewhere_than_its_labels_is_left_out(data):
    path = data / "labelsTr" / "b.nii.gz"
    labels = read_image(path)
    write_image(path, labels.array[:, 1:], replace(labels.space, shape=(labels.space.shape[0] - 1, *labels.space.shape[1:])))
    assert "Resample one onto the other's grid" in atlases_in(data / "imagesTr").left_out["b"]
    (data / "imagesTr" / "b_0000.nii.gz").write_bytes(b"no image")
    assert "is not a NIfTI file" in atlases_in(data / "imagesTr").left_out["b"]


def test_an_atlas_with_other_labels_is_left_out(data):
    path = data / "labelsTr" / "b.nii.gz"
    image = read_image(path)
    write_image(path, image.array * 10, image.space)
    assert "2 of its 2 labels (30, 70, ...)" in atlases_in(data / "imagesTr").left_out["b"]


def test_one_atlas_is_refused_but_by_majority(data):
    for name in ("a", "b"):
        (data / "imagesTr" / f"{name}_0000.nii.gz").unlink()
    with pytest.raises(DatasetError, match="holds 1 atlas; labels are fused from 2 or more"):
        atlases_in(data / "imagesTr")
    assert [atlas.name for atlas in atlases_in(data / "imagesTr", fewest=1).atlases] == ["c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "jiont"}, "did you mean 'joint'"),
        ({"method": "staple", "probabilities": True}, "gives labels alone"),
        ({"patch_radius": 0}, "patch radius 0: expected 1 to 6"),
        ({"atlases_used": 1}, "method joint needs 2"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        FuseOptions(**options)


def test_atlases_that_cannot_be_registered_are_told_with_the_reason(data, tmp_path):
    class None_(Trusted):
        def find(self, image, atlas, start):
            return Found(Trusted().find(image, atlas, start).transform, "not alike")

    reason = fused(data, tmp_path / "out", registrar=None_())["cases"]["x"]["failed"]
    assert "0 of 3 atlases could be registered to it, method joint needs 2. Atlas a: not alike. Give atlases" in reason


@pytest.mark.slow
def test_a_trained_model_registers(plane, tmp_path, monkeypatch):
    monkeypatch.setattr(registrars, "LIKELY", 2)  # phantoms of other subjects: it would leave all of them out
    given = ["-i", plane.raw / "imagesTs", "--atlases", plane.raw / "imagesTr", "-m", plane.model(), "-o", tmp_path / "out", "-np", "1", "--no_pictures"]
    assert main([str(word) for word in (*given, "--method", "majority", "--atlases_used", "3")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert plane.model().name in summary["registered_by"]
    # two of three are other subjects, which no vote can mend
    assert all(len(case["used"]) == 3 and case["dice"]["best_single"]["mean"] > 0.9 for case in summary["cases"].values())


def test_volumes_of_several_channels(tmp_path):
    for seed, name in enumerate([*ATLASES, "x"]):
        suffix, space = ("Ts" if name == "x" else "Tr"), oblique_space((16, 18, 15), seed)
        image, labels = anatomy(space, seed)
        for channel, array in enumerate((image, np.sqrt(image))):
            write_image(tmp_path / f"images{suffix}" / f"{name}_000{channel}.nii.gz", array, space)
        write_image(tmp_path / f"labels{suffix}" / f"{name}.nii.gz", labels, space)
    content = fused(tmp_path, tmp_path / "out")
    assert content["cases"]["x"]["dice"]["mean"] > 0.75

"""The page: every pair is in it, nothing outside of it, and one line for every folder that holds no results."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter

from nnreg.cli.report import main
from nnreg.errors import EvaluationError
from nnreg.evaluation.slices import stacks, views
from nnreg.geometry import Space, Transform
from nnreg.imageio import Image, write_image
from nnreg.report import report_after, write_report
from nnreg.report.folder import read_curves, read_results
from nnreg.report.tiles import BRIEF, DETAILED, PairImages, Size, pair_pictures, strip
from tests.report.folders import bump, change, image_of, label_maps, pair_alone, predictions, summary_of, write

TEMPLATE = Path(__file__).parents[2] / "nnreg_results_template" / "Dataset900_Ellipsoids" / "nnRegTrainer__nnRegPlans__3d_fullres" / "fold_0"
VOID = {"meta", "link", "input"}


class Page(HTMLParser):
    """Elements with their attributes, text by element, and whether all are closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data

    def named(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())]

    @property
    def about(self) -> dict:
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return predictions(tmp_path_factory.mktemp("predicted"))


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page(write_report(folder))


def test_every_pair_is_there_the_worst_first_and_what_got_worse_is_flagged(page):
    assert [item["name"] for item in page.about["items"]] == ["a__b", "c__a", "b__c"]
    assert len(page.named("script", class_="pictures")) == len(page.named("button", class_="open")) == 3
    assert [bool(item["reasons"]) for item in page.about["items"]] == [True, False, False]
    assert "Dice is worse than before: 0.6, then 0.55" in page.text
    assert "1 to look at" in page.text


def test_every_element_is_closed_and_nothing_points_out_of_the_page(page, folder):
    assert page.open == []
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text


def test_it_can_be_read_aloud_and_reached_by_keyboard(page):
    ids = {attributes["id"] for _, attributes in page.elements if attributes.get("id")}
    assert all(attributes["aria-labelledby"] in ids for _, attributes in page.elements if attributes.get("aria-labelledby"))
    assert all(attributes["href"][1:] in ids for attributes in page.named("a"))
    assert all(chart["aria-label"] for chart in page.named("svg"))
    assert page.named("html", lang="en")
    assert not any("onclick" in attributes for _, attributes in page.elements)


def test_tables_and_charts_have_what_was_measured(page):
    for said in ("Means over all pairs", "0.6800", "label 1", "nnreg_predict -i imagesTs -o out", "Dataset001_Test"):
        assert said in page.text
    assert len(page.named("circle", class_="after")) == len(page.named("circle", class_="before")) == 6


def test_slices_hold_what_the_images_hold(page):
    planes = json.loads(page.scripts[1])
    assert [plane["name"] for plane in planes] == ["axial", "coronal", "sagittal"]
    for plane in planes:
        assert set(plane["layers"]) == {"fixed", "before", "warped", "fixed_labels", "before_labels", "warped_labels", "field"}
        for layer, text in plane["layers"].items():
            tiles = np.asarray(Picture.open(io.BytesIO(base64.b64decode(text))))
            rows, columns = (plane["field"][side] if layer == "field" else plane[side] for side in ("rows", "columns"))
            assert tiles.shape[:2] == (rows * len(plane["numbers"]), columns)
            if layer.endswith("labels"):
                assert set(np.unique(tiles)) <= {0, 1, 2}
                assert tiles.any()


def test_strips_of_labels_come_back_exactly():
    tiles = np.random.default_rng(0).integers(0, 256, (3, 4, 11, 7)).astype(np.uint8)
    back = np.asarray(Picture.open(io.BytesIO(base64.b64decode(strip(tiles, exact=True)))))
    assert np.array_equal(np.moveaxis(back.reshape(4, 11, 7, 3), -1, 0), tiles)


@pytest.mark.parametrize("count", [1, 4, 15, 60])
def test_stacks_are_even_go_through_the_middle_and_have_square_pixels(count):
    space = Space.plain((13, 40, 30), (4.0, 1.0, 1.5))
    image = image_of(space, 0)
    middles = {view.name: view for view in views(fixed=image, moving=image, warped=image, transform=Transform.identity(3))}
    for stack in stacks(image, count=count, size=1000):
        assert stack.name in middles
        assert len(set(np.diff(stack.numbers))) <= 1
        assert 1 <= stack.numbers[0] <= stack.numbers[-1] <= stack.total
        assert len(stack.numbers) <= count
        assert stack.grid.shape[0] == len(stack.slabs) == len(stack.numbers)
        assert stack.grid.spacing[1] == pytest.approx(stack.grid.spacing[2])
    assert all(max(stack.grid.shape[1:]) <= 16 for stack in stacks(image, count=count, size=16))


def test_a_hundred_pairs_stay_below_thirty_megabytes():
    space = Space.plain((150, 200, 160))
    rng = np.random.default_rng(0)
    body = np.sqrt(sum((index / size - 0.5) ** 2 for index, size in zip(np.indices(space.shape), space.shape, strict=True))) < 0.42
    texture = gaussian_filter(rng.normal(size=space.shape), 2.0) + 0.1 * gaussian_filter(rng.normal(size=space.shape), 0.7)
    brain = Image((body * (1 + texture / texture.std()))[None].astype(np.float32), space)
    labels = Image((body * (1 + (texture > 0) + 2 * (texture > texture.std())))[None].astype(np.int16), space)
    pair = PairImages(brain, brain, brain, bump(space, 5.0), labels, labels, labels)
    sizes = {size: sum(len(text) for plane in pair_pictures(pair, size).planes for text in plane["layers"].values()) for size in (DETAILED, BRIEF)}
    assert 10 * sizes[DETAILED] + 90 * sizes[BRIEF] < 29e6


def test_pairs_beyond_the_worst_have_one_slice_of_each_view(folder, tmp_path):
    page = Page(write_report(folder, output=tmp_path / "page.html", detailed=1))
    counts = [max(len(plane["numbers"]) for plane in json.loads(text)) for text in page.scripts[1:4]]
    assert counts[0] > 1
    assert counts[1:] == [1, 1]
    assert "All slices are shown of the worst 1; of the other 2" in page.text


def test_of_two_contrasts_correlation_says_nothing(tmp_path):
    page = Page(write_report(pair_alone(tmp_path, similarity="nmi")))
    assert page.about["twoContrasts"]
    assert "Correlation" not in page.text
    assert not Page(write_report(pair_alone(tmp_path / "one"))).about["twoContrasts"]


def test_a_failed_pair_is_flagged_and_texts_of_files_stay_text(tmp_path):
    out = pair_alone(tmp_path, succeeded=False)
    change(out / "measures.json", failure_probability=0.83)
    page = Page(write_report(out))
    assert "do not trust the transform" in page.text
    assert "probability of failure 83%" in page.text
    assert "local correlation <b>0.9</b>" in page.text
    assert not page.named("b")


def test_uncertainty_is_shown_where_it_is(tmp_path):
    out = pair_alone(tmp_path)
    space = Space.plain((24, 31))
    write_image(out / "uncertainty.nii.gz", np.linspace(0, 4, 24 * 31, dtype=np.float32).reshape(1, 24, 31), space)
    measures = json.loads((out / "measures.json").read_text())
    (out / "measures.json").write_text(json.dumps(measures | {"unit": "px"}))
    page = Page(write_report(out))
    [plane] = json.loads(page.scripts[1])
    assert page.about["lengthUnit"] == "px"
    assert " mm" not in page.text
    assert "uncertainty" in plane["layers"]
    assert plane["uncertainty_top"] == pytest.approx(3.96, abs=0.01)


def test_without_labels_that_is_said(tmp_path):
    page = Page(write_report(predictions(tmp_path, labels=False, measured=False)))
    assert "Nothing was measured with labels" in page.text
    assert not page.named("circle", class_="after")
    assert [item["reasons"] for item in page.about["items"]] == [[], [], []] or "correlation is worse" in page.text


def test_without_the_images_that_is_said(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "out")
    change(copy / "prediction.json", images_folder=str(tmp_path / "gone"))
    page = Page(write_report(copy))
    assert "The fixed images of 3 of 3 pairs were not found" in page.text
    assert set(json.loads(page.scripts[1])[0]["layers"]) >= {"warped"}
    again = Page(write_report(copy, images=folder.parent / "imagesTs"))
    assert "were not found" not in again.text


def test_label_maps_have_a_page_too(tmp_path):
    page = Page(write_report(label_maps(tmp_path)))
    assert [item["name"] for item in page.about["items"]] == ["y", "x"]
    assert not page.about["registers"]
    assert set(json.loads(page.scripts[1])[0]["layers"]) == {"fixed", "predicted_labels", "fixed_labels"}
    assert "label 1" in page.text


def test_continuous_values_are_not_drawn_and_that_is_said(tmp_path):
    out = label_maps(tmp_path)
    write_image(out / "x.nii.gz", np.full((1, 14, 20, 17), 0.5, np.float32), Space.plain((14, 20, 17)))
    page = Page(write_report(out))
    assert "1 of 2 cases are not drawn here" in page.text
    assert json.loads(page.scripts[2]) == []


def test_of_several_targets_the_first_is_drawn(tmp_path):
    out = label_maps(tmp_path)
    (out / "x.nii.gz").rename(out / "x_organs.nii.gz")
    assert "predicted_labels" in json.loads(Page(write_report(out)).scripts[2])[0]["layers"]


def test_a_fold_has_its_curves_and_decisions(tmp_path):
    page = Page(write_report(TEMPLATE, output=tmp_path / "fold.html"))
    assert "Loss" in page.text
    assert "3 of 3 epochs" in page.text
    assert len(page.named("polyline")) >= 4
    for said in ("pre_alignment", "Registration engine", "Configuration 3d_fullres", "structure_1 (2)", "engine is best"):
        assert said in page.text


def test_a_training_that_goes_on_is_shown_as_far_as_it_is(tmp_path):
    fold = tmp_path / "model" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "training_log.txt").write_text("2026-01-01 10:00:00: [Epoch 001/004] train_loss = -0.5, val_loss = nan, lr = 1.00e-03, 2.5 s (0.1 waiting)\n")
    page = Page(write_report(fold))
    assert "1 of 4 epochs are done" in page.text
    assert "The validation is not done yet" in page.text


def test_of_an_epoch_that_was_trained_again_the_later_counts(tmp_path):
    lines = [
        "[Epoch 001/003] train_loss = 3.0, lr = 1e-3, 1.0 s",
        "[Epoch 002/003] train_loss = 2.0, lr = 1e-3, 1.0 s",
        "[Epoch 002/003] train_loss = 1.0, lr = 1e-3, 1.5 s",
    ]
    (tmp_path / "training_log.txt").write_text("\n".join(lines))
    curves, epochs = read_curves(tmp_path / "training_log.txt")
    assert curves["train_loss"] == [3.0, 1.0]
    assert curves["epoch_seconds"] == [1.0, 1.5]
    assert epochs == (2, 3)


def _broken(folder: Path, how: str) -> Path:
    """A copy of a results folder with something wrong."""
    if how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "folder gone":
        shutil.rmtree(folder)
    elif how == "half a pair":
        (folder / "b__c" / "transform.h5").unlink()
    elif how == "no warped image":
        (folder / "b__c" / "warped.nii.gz").unlink()
    elif how == "no pair yet":
        change(folder / "prediction.json", pairs=[])
    elif how == "other model":
        change(folder / "summary.json", model="otherPlans")
    elif how == "other pairs":
        write(folder / "summary.json", summary_of() | {"pairs": summary_of()["pairs"][:2]})
    elif how == "other plans":
        write(folder / "plans.json", {"dataset_name": "Dataset009_Other"})
    elif how == "damaged":
        (folder / "summary.json").write_text("{")
    elif how == "model folder":
        shutil.rmtree(folder)
        (folder / "fold_0").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("empty", "holds no results or they are not finished"),
        ("folder gone", "no such folder"),
        ("half a pair", "transform.h5: is missing"),
        ("no warped image", "has no warped image"),
        ("no pair yet", "expected a list of pairs"),
        ("other model", "was made for model otherPlans, the predictions are of model nnRegPlans"),
        ("other pairs", "lacks 'c__a'"),
        ("other plans", "is of Dataset001_Test, the plans.json that belongs to it of Dataset009_Other"),
        ("damaged", "is not valid JSON"),
        ("model folder", "Give one of its folds: fold_0"),
    ],
)
def test_bad_folders_are_told_in_a_line_and_leave_nothing(folder, tmp_path, capsys, how, said):
    broken = _broken(shutil.copytree(folder, tmp_path / "out", ignore=shutil.ignore_patterns("report.html")), how)
    assert main([str(broken), "-q"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not (broken / "report.html").exists()


def test_other_plans_than_the_training_had_are_refused(tmp_path):
    fold = tmp_path / "model" / "fold_0"
    fold.mkdir(parents=True)
    write(fold / "debug.json", {"dataset": "Dataset001_Test", "plans": "nnRegPlans"})
    write(fold.parent / "plans.json", {"dataset_name": "Dataset001_Test", "plans_name": "otherPlans"})
    with pytest.raises(EvaluationError, match="trained with plans nnRegPlans"):
        read_results(fold)


def test_a_page_that_fails_is_told_and_no_error_of_the_command(tmp_path):
    said: list[str] = []
    report_after(tmp_path, said.append)
    assert said[0].startswith("no report: ")


def test_the_command_says_where_the_page_is(folder, tmp_path, capsys):
    assert main([str(folder), "-o", str(tmp_path / "x.html"), "-n", "2", "-q"]) == 0
    assert "x.html" in capsys.readouterr().out
    assert Page(tmp_path / "x.html").open == []


def test_flat_images_have_one_view(tmp_path):
    page = Page(write_report(predictions(tmp_path, ndim=2)))
    assert [plane["name"] for plane in json.loads(page.scripts[1])] == [""]


def test_labels_of_many_values_and_images_of_one_slice():
    space = Space.plain((1, 12, 13))
    image = Image(gaussian_filter(np.random.default_rng(0).normal(size=(1, 1, 12, 13)), 1.0).astype(np.float32), space)
    many = Image(np.arange(12 * 13, dtype=np.int32).reshape(1, 1, 12, 13) * 1000, space)
    pictures = pair_pictures(PairImages(image, image, image, Transform.identity(3), many, many, many), Size(5, 64, 64))
    assert [plane["name"] for plane in pictures.planes] == ["axial"]
    assert pictures.after == pytest.approx(1.0)

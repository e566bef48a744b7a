"""A metric of a package that nnReg knows nothing of: the one that the documentation shows, and one for each thing that a metric may need."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnreg.errors import ConfigurationError
from nnreg.evaluation import Case, evaluate_pair, summarise, table
from nnreg.evaluation.dense_prediction.case import COLUMNS, COUNTS, dense_table, evaluate_label_files, evaluate_labels, label_files
from nnreg.evaluation.summary import FIELD_ROWS, ROWS
from nnreg.geometry import Space, Transform
from nnreg.imageio import Image, write_image
from nnreg.metrics import METRICS, NSD_2MM, SDLOGJ_LEARN2REG, Metric, additional_metrics, nsd, sdlogj_learn2reg
from nnreg.metrics.additional import BUILT_IN

Install = Callable[..., None]
GROUP = "nnreg.metrics"
SPACE = Space.plain((8, 9, 10), (2.0, 1.0, 1.5))
OURS = """
from nnreg.metrics import Metric, ncc, tre


def spoil(fixed, warped, mask, spacing):
    found = ncc(fixed, warped, mask)
    fixed[:], warped[:] = 0, 0  # what is not its own
    return found


SPOIL = Metric("spoil", "images", spoil, larger_is_better=True, stages=("header", "after"))
LANDMARKS = Metric("landmarks", "points", lambda mapped, target, spacing: tre(mapped, target), larger_is_better=False)
REACH = Metric("reach", "field", lambda displacement, mask, spacing: abs(displacement[0] * spacing[0]).max(), larger_is_better=False)
"""


@pytest.fixture
def pair() -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def case() -> Case:
        labels = rng.integers(0, 3, (1, *SPACE.shape)).astype(np.int16)
        return Case(Image(rng.random((2, *SPACE.shape)).astype(np.float32), SPACE), Image(labels, SPACE), rng.random((4, 3)) * 8)

    matrix = np.eye(4)
    matrix[:3, 3] = (0.0, 0.0, 2.0)
    return {"fixed": case(), "moving": case(), "transform": Transform.affine(matrix), "aligned": Transform.identity(3)}


@pytest.fixture
def volume_error(install: Install, page_code: Callable[[str], str]) -> None:
    install("volume_package", page_code("how_to_add_a_metric"), GROUP, "volume_error = volume_package:VOLUME_ERROR")


def without(found: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in found.items() if not key.startswith(names)}


def test_a_pair_is_measured_by_it_and_our_figures_stay(pair: dict[str, Any], install: Install, page_code: Callable[[str], str]) -> None:
    ours = evaluate_pair(**pair)
    install("volume_package", page_code("how_to_add_a_metric"), GROUP, "volume_error = volume_package:VOLUME_ERROR")
    install("several", OURS, GROUP, "spoil = several:SPOIL", "landmarks = several:LANDMARKS", "reach = several:REACH")
    assert evaluate_pair(**pair, additional=False) == ours
    found = evaluate_pair(**pair)
    figures = found["metrics"]
    assert without(figures, "volume_error", "spoil", "landmarks", "reach") == ours["metrics"]
    assert {label: without(scores, "volume_error") for label, scores in found["labels"].items()} == ours["labels"]
    for stage in ("header", "aligned", "after"):
        assert figures[f"landmarks_{stage}"] == figures[f"tre_mm_{stage}"]
        assert figures[f"volume_error_{stage}"] == pytest.approx(np.mean([scores[f"volume_error_{stage}"] for scores in found["labels"].values()]))
    assert [figures.get(f"spoil_{stage}") for stage in ("header", "aligned", "after")] == [figures["ncc_header"], None, figures["ncc_after"]]
    assert figures["reach"] == pytest.approx(2.0)
    count = [int((pair[case].labels.array == 1).sum()) for case in ("fixed", "moving")]
    assert found["labels"]["1"]["volume_error_header"] == pytest.approx(abs(count[1] - count[0]) / count[0])


def test_means_worst_pairs_and_table_have_it(pair: dict[str, Any], install: Install) -> None:
    names = {"name": "a", "fixed": "f", "moving": "m"}
    ours = summarise([names | evaluate_pair(**pair)], {})
    assert "additional_metrics" not in ours
    install("several", OURS, GROUP, "spoil = several:SPOIL", "reach = several:REACH")
    one = names | evaluate_pair(**pair)
    others = [one | {"name": str(i), "metrics": one["metrics"] | {"spoil_after": float(i), "reach": float(i)}} for i in range(3)]
    summary = summarise(others, {})
    assert summary["additional_metrics"]["spoil"] == {"larger_is_better": True, "needs": "images", "package": "several"}
    assert (summary["mean"]["spoil_after"], summary["worst_30_percent"]["spoil_after"]) == (1.0, 0.0)
    assert (summary["mean"]["reach"], summary["worst_30_percent"]["reach"]) == (1.0, 2.0)
    rows = {line.split()[0]: line.split()[1:] for line in table(summary).splitlines() if line}
    assert rows["reach"] == ["1", "2"]
    assert rows["spoil"][1:] == ["-", "1", "0"]


def test_label_maps_are_measured_by_it(volume_error: None, tmp_path: Path) -> None:
    truth, found = np.zeros((2, 1, 6, 7), np.uint8)
    truth[0, :3], found[0, :2] = 1, 1
    for folder, array in (("truth", truth), ("found", found)):
        write_image(tmp_path / folder / "a.nii.gz", array, Space.plain((6, 7)))
    summary = evaluate_label_files(label_files(tmp_path / "truth"), label_files(tmp_path / "found"), labels=[1, 2, (1, 2)])
    scores = summary["metric_per_case"][0]["metrics"]
    assert scores["1"]["volume_error"] == scores["(1, 2)"]["volume_error"] == pytest.approx(1 / 3)
    assert math.isnan(scores["2"]["volume_error"])
    assert list(scores["1"])[:8] == ["Dice", "IoU", *COUNTS, "n_pred", "n_ref"]
    assert summary["foreground_mean"]["volume_error"] == pytest.approx(1 / 3)
    assert summary["additional_metrics"]["volume_error"]["package"] == "volume_package"
    assert "volume_error" in dense_table(summary).splitlines()[0]
    assert "0.3333" in dense_table(summary)


def test_those_of_ours_that_are_not_always_measured(pair: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for metric in (NSD_2MM, SDLOGJ_LEARN2REG):
        monkeypatch.setitem(METRICS._entries, metric.name, metric)
    found = evaluate_pair(**pair)
    fixed, moving = (pair[case].labels.array for case in ("fixed", "moving"))
    assert found["labels"]["2"]["nsd_2mm_header"] == nsd(fixed, moving, [2], SPACE.spacing, tolerance=2.0)[2]
    assert found["metrics"]["sdlogj_learn2reg"] == sdlogj_learn2reg(pair["transform"].sampled_on(SPACE).displacement)


def test_every_figure_of_ours_is_a_name_that_is_taken(pair: dict[str, Any]) -> None:
    names = {name for _, name, _ in (*ROWS, *FIELD_ROWS)} | set(COLUMNS) | set(COUNTS) | {"n_pred", "n_ref", "pairs"}
    assert {name.lower() for name in names} <= BUILT_IN
    metrics = evaluate_pair(**pair)["metrics"]
    assert {name.removesuffix("_header").removesuffix("_aligned").removesuffix("_after") for name in metrics} <= BUILT_IN
    assert (additional_metrics(), len(METRICS)) == ((), 0)


METRIC = "from nnreg.metrics import Metric\nM = Metric({name!r}, 'labels', lambda reference, prediction, spacing: {value}, larger_is_better=True)"


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("fails", METRIC.format(name="fails", value="1 / 0"), r"failed \(ZeroDivisionError: division by zero\)\."),
        ("words", METRIC.format(name="words", value="'0.5'"), "returned a str, expected a number"),
        ("truth", METRIC.format(name="truth", value="True"), "returned a bool, expected a number"),
        ("Dice", METRIC.format(name="Dice", value="1"), "nnReg has a figure of that name already"),
        ("two", METRIC.format(name="one", value="1"), "it is the metric 'one', registered as 'two'"),
        ("none", "M = 3", "is a int, expected a Metric"),
        ("absent", "", "entry point wrong:M cannot be loaded"),
        ("dice_after", METRIC.format(name="dice_after", value="1"), r"does not end in a stage\.\)"),
        ("other", METRIC.format(name="other", value="1").replace("'labels'", "'label'"), "needs is 'label', expected one of images"),
    ],
)
def test_mistakes_are_told_in_one_line(name: str, code: str, message: str, pair: dict[str, Any], install: Install) -> None:
    install("wrong", code, GROUP, f"{name} = wrong:M")
    maps = {"reference": pair["fixed"].labels, "prediction": pair["moving"].labels, "labels": [1]}
    for work in (lambda: evaluate_pair(**pair), lambda: evaluate_labels(**maps)):
        with pytest.raises(ConfigurationError, match=message) as caught:
            work()
        told = str(caught.value)
        assert told.startswith(f"metric {name!r} of the package wrong")
        assert told.endswith("Mend or remove the package.")
        assert "\n" not in told
    assert evaluate_labels(**maps, additional=False)["1"]["n_ref"] > 0


def test_two_cannot_have_one_name(volume_error: None, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(METRICS._entries, "volume_error", Metric("volume_error", "points", lambda **values: 0.0, larger_is_better=True))
        with pytest.raises(ConfigurationError, match=r"'volume_error' of the package volume_package: it is registered in nnreg\.metrics\.METRICS already"):
            additional_metrics()
    install("second", "", GROUP, "volume_error = second:X")
    with pytest.raises(ConfigurationError, match="registered by two packages"):
        additional_metrics()

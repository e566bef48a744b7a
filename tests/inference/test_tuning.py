"""Measuring alternatives on synthetic pairs: complete comparisons, kept work, trained networks, refusals."""

from __future__ import annotations

import json
import shutil

import pytest

from nnreg.cli import extract_fingerprint, plan_and_preprocess, plan_experiment, synthesize, tune
from nnreg.cli.common import duration
from nnreg.engine import PRESETS
from nnreg.errors import PlansError
from nnreg.inference.registration import tuning
from nnreg.planning.plans import OPTIMISE, Plans
from nnreg.planning.registration.tuning import PLANNED
from nnreg.workspace import Workspace

DATASET = "Dataset900_Ellipsoids"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Three pairs in 2D with labels and keypoints, planned and tuned."""
    root = tmp_path_factory.mktemp("tuning")
    where = ["--workspace", str(root), "-q"]
    assert synthesize.main(["-d", "900", "--shape", "22", "25", "--pairs", "3", "--test_pairs", "1", "--keypoints", "6", *where]) == 0
    assert plan_and_preprocess.main(["-d", "900", "--no_pp", "--pair_budget", "0.1", "-np", "1", *where]) == 0
    shutil.copy(_plans_path(root), root / "untuned.json")
    assert tune.main(["-d", "900", "--budget", "10m", *where]) == 0
    return root


@pytest.fixture
def root(measured, tmp_path):
    """A copy to change; file times are kept, so nothing looks changed."""
    shutil.copytree(measured, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _plans_path(root):
    return root / "nnReg_preprocessed" / DATASET / "nnRegPlans.json"


def _tune(root, **more):
    return tuning.tune(Workspace.resolve(root), 900, **more)


@pytest.fixture
def count(monkeypatch):
    """How often the engine runs; from the run numbered ``stop`` on, as if Ctrl-C were pressed."""
    runs = {"done": 0, "stop": None}
    engine = tuning.run_engine

    def counted(*arguments, **more):
        if runs["done"] == runs["stop"]:
            raise KeyboardInterrupt
        runs["done"] += 1
        return engine(*arguments, **more)

    monkeypatch.setattr(tuning, "run_engine", counted)
    return runs


def _pairs(root):
    return json.loads((root / "nnReg_raw" / DATASET / "dataset.json").read_text())["pairs"]


def test_every_alternative_is_compared_on_every_pair_and_the_best_is_kept(measured):
    plans = Plans.read(_plans_path(measured))
    found = plans.tuning
    assert found.measure == "keypoint_mm"
    assert len(found.pairs) == 3
    others = {f"preset {name}" for name in PRESETS if name != found.planned.preset}
    assert {PLANNED, *others} < {score.name for score in found.scores}
    assert len(others) == len(PRESETS) - 1
    assert all(score.accuracy is not None and score.robust30 >= score.accuracy for score in found.scores)
    best = found.scores[0]
    assert best.rank == min(score.rank for score in found.scores if score.rank is not None)
    assert {key: str(getattr(plans.optimisation, key)) for key in best.changes} == best.changes
    untuned = Plans.read(measured / "untuned.json")
    assert found.planned == untuned.optimisation
    assert plans.recommended == untuned.recommended


def test_tuning_again_measures_nothing_and_says_the_same(root, count):
    before = _plans_path(root).read_bytes()
    assert _tune(root).tuning.pairs
    assert count["done"] == 0
    assert _plans_path(root).read_bytes() == before


def test_an_interrupted_run_goes_on_where_it_stopped(root, count, measured):
    folder = _plans_path(root).parent / tuning.FOLDER
    shutil.rmtree(folder)
    shutil.copy(root / "untuned.json", _plans_path(root))
    count["stop"] = 4
    assert tune.main(["-d", "900", "--workspace", str(root), "-q"]) == 130
    assert _plans_path(root).read_bytes() == (root / "untuned.json").read_bytes()
    assert len([json.loads(path.read_text()) for path in folder.rglob("*.json")]) == 4
    count["stop"] = None
    found = _tune(root).tuning
    whole = Plans.read(_plans_path(measured)).tuning
    assert count["done"] == 3 * len(found.scores)
    assert found.pairs == whole.pairs
    numbers = [{score.name: (score.accuracy, score.sdlogj, score.rank) for score in table.scores} for table in (found, whole)]
    assert numbers[0] == numbers[1]


def test_the_budget_ends_between_pairs(root):
    found = _tune(root, seconds=1e-9, write=False).tuning
    assert len(found.pairs) == tuning.FEWEST


def test_a_changed_file_is_measured_again_and_replanning_forgets(root, count):
    plans = Plans.read(_plans_path(root))
    assert plan_experiment.main(["-d", "900", "--workspace", str(root), "-device", "cpu"]) == 0
    assert Plans.read(_plans_path(root)).tuning.scores == plans.tuning.scores
    assert Plans.read(_plans_path(root)).optimisation == plans.optimisation
    pair = _pairs(root)[0]
    points = root / "nnReg_raw" / DATASET / "keypointsTr" / f"{pair['fixed']}.csv"
    points.write_text(points.read_text() + "\n")
    with pytest.raises(PlansError, match="have changed since it was made"):
        _tune(root, write=False)
    assert extract_fingerprint.main(["-d", "900", "--workspace", str(root), "-q", "-np", "1"]) == 0
    _tune(root, write=False)
    assert count["done"] == len(plans.tuning.scores)
    assert plan_experiment.main(["-d", "900", "--workspace", str(root), "-device", "cpu"]) == 0
    assert Plans.read(_plans_path(root)).tuning is None


@pytest.mark.parametrize(("error", "better"), [(0.001, True), (1000.0, False)])
def test_a_trained_network_joins_on_the_pairs_it_was_validated_on(root, error, better):
    names = [f"{pair['fixed']}__{pair['moving']}" for pair in _pairs(root)]
    figures = {"tre_mm_after": error, "sdlogj": 1e-6 * error, "folding_percent": 0.0}
    for fold, known in (("0", names[:1]), ("1", names[1:2]), ("all", names)):
        content = {"pairs": [{"name": name, "metrics": figures, "seconds": 0.1} for name in known]}
        path = root / "nnReg_results" / DATASET / "Mine__nnRegPlans__2d" / f"fold_{fold}" / "validation_summary.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    plans = _tune(root)
    assert set(plans.tuning.pairs) == set(names[:2])
    network = next(score for score in plans.tuning.scores if score.configuration)
    assert (network.name, network.configuration, network.accuracy) == ("trained 2d (Mine)", "2d", error)
    assert plans.recommended == ("2d" if better else OPTIMISE)


def test_labels_measure_where_there_are_no_keypoints_and_nothing_is_refused(root, capsys):
    where = ["-d", "900", "--workspace", str(root), "-q"]
    raw = root / "nnReg_raw" / DATASET
    shutil.rmtree(raw / "keypointsTr")
    plan = [*where, "--no_pp", "--pair_budget", "0", "-np", "1", "--clean"]
    assert plan_and_preprocess.main(plan) == 0
    found = _tune(root, seconds=1e-9, write=False).tuning
    assert found.measure == "dice"
    assert all(0 < score.robust30 <= score.accuracy <= 1 for score in found.scores)
    shutil.rmtree(raw / "labelsTr")
    content = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(content | {"labels": {"background": 0}}))
    assert plan_and_preprocess.main(plan) == 0
    before = _plans_path(root).read_bytes()
    capsys.readouterr()
    assert tune.main(where) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "nothing to rank by" in lines[0]
    assert _plans_path(root).read_bytes() == before


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("0.5m", 30), ("45", 45)])
def test_times_are_read_as_people_write_them(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-3s", "0", "nan", "inf", "3 days", "1h30m"])
def test_other_times_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        tune.main(["-d", "900", f"--budget={text}"])
    assert "expected a time" in capsys.readouterr().err

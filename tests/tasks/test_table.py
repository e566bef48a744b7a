"""The table of tasks: a task of another package through the shared functions, packages that are damaged or at odds, and no task's name anywhere else."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nnreg
from nnreg.cli import evaluate as evaluate_command
from nnreg.cli import extract_fingerprint, plan_experiment
from nnreg.cli import predict as predict_command
from nnreg.dataset import DatasetSpec, RawDataset
from nnreg.errors import ConfigurationError, DatasetError, PlansError
from nnreg.files import read_json
from nnreg.geometry import Space
from nnreg.imageio import write_image
from nnreg.planning.plans import Plans
from nnreg.preprocessing import plan_dataset
from nnreg.task import DEFAULT_TASK, DENSE_PREDICTION, REGISTRATION, TASKS, TaskEntry, imported, task_named, usable_tasks
from nnreg.workspace import Workspace

SOURCES = Path(nnreg.__file__).parent
ROOMS = {REGISTRATION, DENSE_PREDICTION}
COUNTING = Path(__file__).parent / "data" / "outside_counting.py"

Package = Callable[..., None]


@pytest.fixture
def counting(install: Package) -> None:
    """The task ``counting``, installed."""
    install("outside_counting", COUNTING.read_text(encoding="utf-8"), "nnreg.tasks", "counting = outside_counting:ENTRY")


@pytest.fixture
def workspace(counting: None, tmp_path: Path) -> Workspace:
    """One dataset of two images."""
    made = Workspace.resolve(tmp_path / "workspace")
    folder = made.raw / "Dataset007_Dots"
    (folder / "imagesTr").mkdir(parents=True)
    for case, count in (("a", 3), ("b", 5)):
        values = np.zeros((4, 5, 6), np.float32)
        values.flat[:count] = 2
        write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", values[None], Space.plain(values.shape))
    DatasetSpec({"0": "T1"}, 2, ".nii.gz", task="counting").write(folder / "dataset.json")
    return made


@pytest.fixture
def model(workspace: Workspace, tmp_path: Path) -> Path:
    """A folder as a training would have left it."""
    nnreg.plan_and_preprocess(workspace, 7)
    folder = tmp_path / "nnRegTrainer__nnRegPlans__3d"
    folder.mkdir()
    for source in (workspace.preprocessed / "Dataset007_Dots" / "nnRegPlans.json", workspace.raw / "Dataset007_Dots" / "dataset.json"):
        (folder / source.name.replace("nnRegPlans", "plans")).write_bytes(source.read_bytes())
    return folder


def test_a_task_of_another_package_is_planned_applied_and_evaluated(model: Path, workspace: Workspace, tmp_path: Path) -> None:
    plans = Plans.read(model / "plans.json")
    assert (plans.task, plans.threshold, plans.registers_pairs) == ("counting", 1.0, False)  # type: ignore[attr-defined]
    assert plan_dataset(workspace, 7, planner="low").threshold == 0.5  # type: ignore[attr-defined]
    assert nnreg.preprocessing.preprocess_dataset(workspace, 7)["3d"].is_dir()
    raw = RawDataset.open(workspace.raw / "Dataset007_Dots")
    assert nnreg.predict(model, raw.folder / "imagesTr", tmp_path / "out", least=4)["counts"] == {"b": 5}
    assert nnreg.evaluate(tmp_path / "out", raw)["found"] == 5
    assert task_named("counting").name == "counting"


def test_the_commands_know_it(model: Path, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["-d", "7", "--workspace", str(workspace.raw.parent)]
    assert extract_fingerprint.main(where) == plan_experiment.main(where) == 0
    images, out = str(workspace.raw / "Dataset007_Dots" / "imagesTr"), str(tmp_path / "out")
    assert predict_command.main(["-i", images, "-o", out, "-m", str(model), "--least", "4"]) == 0
    assert evaluate_command.main([out, *where]) == 0
    shown = capsys.readouterr().out
    for line in ("largest 2", "threshold 1", "1 counts", "5 voxels"):
        assert line in shown
    with pytest.raises(SystemExit):
        predict_command.main(["-h"])
    assert "--least N" in capsys.readouterr().out.replace("LEAST", "N")
    assert predict_command.main(["-i", images, "-o", out, "-m", str(model), "--disable_tta"]) == 2
    assert "--disable_tta: belongs to the task dense_prediction, not to counting" in capsys.readouterr().err


def test_its_mistakes_are_named(model: Path, workspace: Workspace) -> None:
    content = read_json(model / "plans.json", PlansError)
    for changes, message in (({"threshold": -1.0}, "threshold is -1.0"), ({"task": "countin"}, "task 'countin' is unknown; did you mean 'counting'")):
        with pytest.raises(PlansError, match=message):
            Plans.from_dict(content | changes)
    with pytest.raises(DatasetError, match="task: found 'countin'; did you mean 'counting'"):
        DatasetSpec.from_dict({"channel_names": {"0": "T1"}, "numTraining": 1, "file_ending": ".nii.gz", "task": "countin"})
    with pytest.raises(ConfigurationError, match="belongs to the task registration, not to counting"):
        plan_dataset(workspace, 7, time_budget=1.0)
    with pytest.raises(ConfigurationError, match="-pl resenc: is a planner of the task dense_prediction, not of counting"):
        plan_dataset(workspace, 7, planner="resenc")


@pytest.mark.parametrize(
    ("code", "point", "reason"),
    [
        ("import no_such_module", "damaged:ENTRY", "No module named 'no_such_module'"),
        ("1 / 0", "damaged:ENTRY", "division by zero"),
        ("", "damaged:ENTRY", "has no attribute 'ENTRY'"),
        ("ENTRY = 3", "damaged:ENTRY", "is a int, expected a TaskEntry"),
    ],
)
def test_a_damaged_package_is_named_and_stops_no_other_task(code: str, point: str, reason: str, install: Package, capsys: pytest.CaptureFixture[str]) -> None:
    install("damaged", code, "nnreg.tasks", f"faulty = {point}")
    assert "faulty" in TASKS
    with pytest.raises(ConfigurationError) as raised:
        TASKS["faulty"]
    message = str(raised.value)
    assert reason in message
    assert f"task 'faulty' of the package damaged: entry point {point} " in message
    assert message.endswith("Mend or remove the package.")
    assert "\n" not in message
    assert [name for name, _ in usable_tasks()] == [REGISTRATION, DENSE_PREDICTION]
    with pytest.raises(SystemExit) as ended:
        predict_command.main(["-h"])
    assert ended.value.code == 0
    assert capsys.readouterr().err == f"nnreg_predict: {message}\n"


@pytest.mark.parametrize(("name", "others"), [("twice", ()), (REGISTRATION, ("nnReg itself",))])
def test_a_name_that_two_packages_claim_is_refused(name: str, others: tuple[str, ...], install: Package) -> None:
    packages = ("first_claim", "second_claim")[len(others) :]
    for package in packages:
        install(package, COUNTING.read_text(encoding="utf-8"), "nnreg.tasks", f"{name} = {package}:ENTRY")
    with pytest.raises(ConfigurationError) as raised:
        TASKS[name]
    claims = ", ".join([*others, *(f"{package}:ENTRY of {package}" for package in packages)])
    assert str(raised.value) == (
        f"task {name!r} is registered 2 times in the entry points nnreg.tasks: {claims}. Remove all of these packages but one."
        if not others
        else f"task {name!r} of nnReg itself is registered in the entry points nnreg.tasks too: {claims.removeprefix('nnReg itself, ')}. Rename or remove it."
    )


def test_an_entry_whose_parts_are_missing_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"nnreg\.no_such_module:Part: cannot be imported"):
        imported("nnreg.no_such_module:Part")


@pytest.mark.parametrize("name", [REGISTRATION, DENSE_PREDICTION])
def test_every_part_of_our_entries_exists(name: str) -> None:
    entry = TASKS[name]
    for part in vars(entry).values():
        if isinstance(part, str) and part.startswith("nnreg."):
            imported(part)
    assert "default" in imported(entry.planners)
    assert task_named(name).name == name


def test_the_table_is_light_and_frozen() -> None:
    code = "import sys, nnreg.task as t; [t.TASKS[n] for n in t.TASKS]; assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError):
        TASKS[DEFAULT_TASK].title = "other"  # type: ignore[misc]
    assert not hasattr(TASKS, "__setitem__")
    assert isinstance(TASKS[DEFAULT_TASK], TaskEntry)


def test_no_other_source_knows_a_task() -> None:
    """Neither as a literal nor by the constants; what belongs to one task lies in a folder of its name."""
    known = []
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES).parts
        if parts == ("task.py",) or parts[0] == "tasks" or ROOMS & set(parts[1:-1]):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            literal = isinstance(node, ast.Constant) and node.value in ROOMS
            constant = isinstance(node, ast.ImportFrom) and any(alias.name in ("REGISTRATION", "DENSE_PREDICTION") for alias in node.names)
            if literal or constant:
                known.append(f"{Path(*parts)}:{node.lineno}")  # type: ignore[attr-defined]
    assert known == []

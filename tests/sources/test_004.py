"""What the manual of a segmentation framework of trainers and configurations prints, typed as printed: its names are nnReg's, epochs and networks are small."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from nnreg.errors import ConfigurationError, NnRegError, TrainingError
from nnreg.training.configs import TRAINER_CONFIGS, TrainerConfig, resolve_trainer
from nnreg.training.logging import History
from nnreg.training.trainer.monitor import Monitor
from nnreg.workspace import Workspace

NAME, SECOND = "Dataset001_Name", "Dataset002_Target"
TRAINER_FILE = '''
import torch
from nnreg.training.nnRegTrainer.nnRegTrainer import nnRegTrainer

class MyTrainer(nnRegTrainer):
    def configure_optimizers(self):
        """Override optimizer configuration."""
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=0.001
        )

    def train_step(self, batch):
        """Override training step logic."""
        data, target = batch['data'], batch['target']

        # Custom forward pass
        output = self.network(data)

        # Custom loss computation
        loss = self.my_custom_loss(output, target)

        return loss

    def my_custom_loss(self, output, target):
        return torch.nn.functional.cross_entropy(output[0], (target[:, 0] > 0).long())
'''
CONFIG_FILE = """
from nnreg.training.configs import TrainerConfig
from nnreg.architecture.custom import DynamicKiUNet
from nnreg.training.losses import DC_and_CE_loss

kiunet_config = TrainerConfig(
    architecture=DynamicKiUNet,
    architecture_kwargs={
        'pool_type': 'max',
        'deep_supervision': True
    },
    loss=DC_and_CE_loss,
    loss_kwargs={'soft_dice_kwargs': {}, 'ce_kwargs': {}}
)

from nnreg.training.configs import TRAINER_CONFIGS

TRAINER_CONFIGS['kiunet'] = kiunet_config
"""
pytestmark = pytest.mark.usefixtures("one_thread")


def typed(line: str) -> int:
    """Run a command as a shell would; returns its exit code."""
    name, *arguments = shlex.split(line)
    return importlib.import_module(f"nnreg.cli.{name.removeprefix('nnreg_')}").main(arguments)


def write(root: Path, name: str, **spec: Any) -> Path:
    """A raw dataset of five volumes, whose label files hold 0, 3 and 7."""
    return tiny.write_dataset(root / "nnReg_raw" / name, tiny.spaces((12, 14, 12), [f"case_{i}" for i in range(5)]), task="dense_prediction", **spec)


def shorten(plans: Path) -> None:
    """Epochs of one step, networks of few features: what the manual calls editing the plans file."""
    content = json.loads(plans.read_text())
    for configuration in content["configurations"].values():
        configuration["training"] |= {"epochs": 1, "iterations_per_epoch": 1, "validation_iterations": 1, "batch_size": 2}
        architecture = configuration["architecture"]
        architecture["features_per_stage"] = [4] * len(architecture["features_per_stage"])
    plans.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose first dataset is planned and preprocessed."""
    root = tmp_path_factory.mktemp("manual")
    write(root, NAME)
    tiny.succeeded(importlib.import_module("nnreg.cli.plan_and_preprocess").main, "-d", "001", "--workspace", root, *tiny.QUIET)
    shorten(root / "nnReg_preprocessed" / NAME / "nnRegPlans.json")
    return root


def move_into(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace is that of the environment, commands are typed in its folder."""
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnReg_{kind}", str(root / f"nnReg_{kind}"))
    monkeypatch.chdir(root)


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may change, and the current folder."""
    shutil.copytree(prepared, tmp_path / "place")
    move_into(tmp_path / "place", monkeypatch)
    return tmp_path / "place"


@pytest.fixture
def recipes() -> Any:
    """What a test registers is gone after it."""
    before = dict(TRAINER_CONFIGS)
    yield
    for name in list(TRAINER_CONFIGS):
        del TRAINER_CONFIGS[name]
    TRAINER_CONFIGS.replaced.clear()
    TRAINER_CONFIGS.update(before)


def results(place: Path, trainer: str = "nnRegTrainer", configuration: str = "3d_fullres", plans: str = "nnRegPlans", dataset: str = NAME) -> Path:
    return place / "nnReg_results" / dataset / f"{trainer}__{plans}__{configuration}"


# -- command line, outputs ------------------------------------------------------------------------------------------------


def test_basic_training_leaves_the_printed_files_and_goes_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("nnreg_train 001 3d_fullres 0") == 0
    fold = results(place) / "fold_0"
    printed = ("checkpoint_best.pth", "checkpoint_final.pth", "checkpoint_latest.pth", "training_log.txt", "progress.png", "debug.json")
    assert all((fold / name).is_file() for name in printed)
    assert list((fold / "validation_raw").glob("case_*.nii.gz"))
    content = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert {"network_weights", "optimizer_state", "grad_scaler_state", "epoch", "current_epoch", "init"} <= content.keys()
    debug = json.loads((fold / "debug.json").read_text())
    assert debug["parameters"] > 0
    assert debug["configuration"]["architecture"]["name"] == "plain_unet"
    assert typed("nnreg_train 001 3d_fullres 0") == 2
    assert "is trained to its end" in capsys.readouterr().err
    # continue from checkpoint; the manual prints --c for several GPUs
    for line in ("nnreg_train 001 3d_fullres 0 -c", "nnreg_train 001 3d_fullres 0 --c"):
        assert typed(f"{line} --epochs {content['current_epoch'] + 1}") == 0
        content = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert content["current_epoch"] == 3


def test_2d_on_all_cases(place: Path) -> None:
    assert typed("nnreg_train 001 2d all") == 0
    assert (results(place, configuration="2d") / "fold_all" / "checkpoint_final.pth").is_file()


def test_a_recipe_and_probabilities(place: Path) -> None:
    assert typed("nnreg_train 001 3d_fullres 0 -tr kiunet --npz") == 0
    assert list((results(place, "kiunet") / "fold_0" / "validation_raw").glob("*.npz"))
    assert json.loads((results(place, "kiunet") / "fold_0" / "debug.json").read_text())["trainer_source"] == ""


def test_val_best_is_a_flag_of_a_training(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from nnreg.training.trainer.trainer import nnRegTrainer

    loaded: list[str] = []
    load = nnRegTrainer.load_checkpoint
    monkeypatch.setattr(nnRegTrainer, "load_checkpoint", lambda self, path, **more: (loaded.append(path.name), load(self, path, **more))[1])
    assert typed("nnreg_train 001 2d 0 --val_best") == 0
    assert loaded == ["checkpoint_best.pth"]
    assert (results(place, configuration="2d") / "fold_0" / "validation_summary.json").is_file()
    before = (results(place, configuration="2d") / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns
    assert typed("nnreg_train 001 2d 0 --val --val_best") == 0
    assert typed("nnreg_train 001 2d 0 --val") == 0
    assert loaded == ["checkpoint_best.pth", "checkpoint_best.pth", "checkpoint_final.pth"]
    assert (results(place, configuration="2d") / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns == before
    capsys.readouterr()
    assert typed("nnreg_train 001 2d 0 --val_best") == 2
    assert "validate it (--val --val_best)" in capsys.readouterr().err
    assert typed("nnreg_train 001 2d 1 --val_best --set validate_every=0") == 2
    assert "validate_every is 0" in capsys.readouterr().err
    assert not (results(place, configuration="2d") / "fold_1").exists()


# -- recipes --------------------------------------------------------------------------------------------------------------


def test_a_recipe_registered_beside_the_command_takes_the_place_of_ours(place: Path, recipes: None, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "my_configs.py").write_text(CONFIG_FILE)
    assert typed("nnreg_train 001 3d_fullres 0 -tr kiunet --set architecture.base_features=2") == 0
    assert "trainer kiunet, from my_configs.py (in place of nnReg's own kiunet)" in capsys.readouterr().out
    content = torch.load(results(place, "kiunet") / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert content["init"]["custom_network"]
    # a prediction finds it by -tr, typed in the folder of that module
    predict = "nnreg_predict -i nnReg_raw/Dataset001_Name/imagesTr -o out -d 001 -c 3d_fullres -f 0 --no_pictures"
    assert typed(f"{predict} -tr kiunet") == 0
    # nnReg's own does not go on in that folder
    (place / "my_configs.py").unlink()
    del TRAINER_CONFIGS["kiunet"]
    TRAINER_CONFIGS["kiunet"] = TRAINER_CONFIGS.replaced.pop("kiunet")
    assert typed("nnreg_train 001 3d_fullres 1 -tr kiunet") == 2
    assert "was trained by kiunet of my_configs.py" in capsys.readouterr().err


def test_a_recipe_registered_in_python_takes_the_place_of_ours(recipes: None) -> None:
    assert TRAINER_CONFIGS.replaced == {}  # no two of nnReg's own have one name
    mine = TrainerConfig(loss="dice_ce")
    TRAINER_CONFIGS["kiunet"] = mine
    found = resolve_trainer("kiunet")
    assert found.config is mine
    assert "in place of nnReg's own kiunet" in found.source
    TRAINER_CONFIGS["kiunet"] = TRAINER_CONFIGS.replaced["kiunet"]
    assert resolve_trainer("kiunet").source == ""


def test_the_loss_of_components_as_an_instance(place: Path, recipes: None) -> None:
    from nnreg import train
    from nnreg.training.losses import DC_and_Blob_CE_loss

    TRAINER_CONFIGS["blobs"] = TrainerConfig(loss=DC_and_Blob_CE_loss({"batch_dice": True}, {}))
    train(Workspace.resolve(), 1, "2d", 0, trainer="blobs", device="cpu")
    log = (results(place, "blobs", "2d") / "fold_0" / "training_log.txt").read_text()
    assert "blob_dice" in log


# -- trainers of one's own ------------------------------------------------------------------------------------------------


def test_a_trainer_in_a_module_beside_the_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "my_trainer.py").write_text(TRAINER_FILE)
    assert typed("nnreg_train 001 3d_fullres 0 -tr MyTrainer") == 0
    assert "trainer MyTrainer, from my_trainer.py" in capsys.readouterr().out
    content = torch.load(results(place, "MyTrainer") / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert content["optimizer_state"]["param_groups"][0]["lr"] == 0.001
    # the module's name before the class, and a folder of its own, whose name serves as well
    assert typed("nnreg_train 001 2d 0 -tr my_trainer:MyTrainer") == 0
    assert resolve_trainer("my_trainer.MyTrainer", beside=place).name == "my_trainer.MyTrainer"
    assert typed("nnreg_find_lr 001 2d 0 -tr MyTrainer --steps 10") in (0, 2)  # 2: the loss falls at no rate in ten steps
    assert (results(place, "my_trainer.MyTrainer", "2d") / "fold_0" / "checkpoint_final.pth").is_file()


def test_two_modules_with_one_name_and_broken_ones_are_told(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text("class Mine: pass\n")
    with pytest.raises(ConfigurationError, match=r"'Mine' of first\.py is a type, expected a subclass of nnRegTrainer"):
        resolve_trainer("Mine", beside=tmp_path)
    (tmp_path / "second.py").write_text("raise SystemError\nclass Mine: pass\n")
    with pytest.raises(ConfigurationError, match=r"first\.py and by second\.py"):
        resolve_trainer("Mine", beside=tmp_path)
    (tmp_path / "first.py").unlink()
    with pytest.raises(ConfigurationError, match=r"second\.py: trainer 'Mine' is defined here, but cannot be imported \(SystemError\)"):
        resolve_trainer("Mine", beside=tmp_path)
    (tmp_path / "second.py").write_text("class Mine(:\n")
    with pytest.raises(ConfigurationError, match=r"second\.py: holds the name 'Mine', but is no Python module"):
        resolve_trainer("Mine", beside=tmp_path)
    # what is not asked for is never imported, and no name of nnReg's looks for a class
    (tmp_path / "second.py").write_text("raise SystemError\nclass kiunet: pass\nclass nnRegTrainer: pass\n")
    assert resolve_trainer("kiunet", beside=tmp_path).source == resolve_trainer("nnRegTrainer", beside=tmp_path).source == ""
    with pytest.raises(ConfigurationError, match="is unknown"):
        resolve_trainer("Mine")


def test_a_script_that_trains_its_own_class_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnreg import nnRegTrainer

    (tmp_path / "run.py").write_text("class Mine(nnRegTrainer): pass\nraise SystemError\n")
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", str(tmp_path / "run.py"), raising=False)
    monkeypatch.setattr(main, "Mine", type("Mine", (nnRegTrainer,), {}), raising=False)
    assert resolve_trainer("Mine", beside=tmp_path).trainer is main.Mine


def test_a_checkpoint_never_imports_what_it_names(place: Path) -> None:
    from nnreg.inference.predictor import ModelFolder

    (place / "my_trainer.py").write_text("raise SystemError('imported')\nclass MyTrainer: pass\n")
    assert typed("nnreg_train 001 2d 0") == 0
    path = results(place, configuration="2d") / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=True)
    model = ModelFolder.open(path.parents[1])
    for name in ("MyTrainer", "my_trainer:MyTrainer", "recipe.yaml", "nnRegTrainer"):
        torch.save(content | {"trainer_name": name, "init": content["init"] | {"custom_network": True}}, path)
        with pytest.raises(NnRegError, match=f"{name}.*Say -tr as in training"):
            model.predictor(folds=["0"], checkpoint=path.name, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("asked", "folder"),
    [
        ("kiunet", "kiunet"),
        ("mymodule:kiunet", "mymodule.kiunet"),
        ("recipes/mine.yaml+50epochs", "mine+50epochs"),
        ("kiunet.yaml", "kiunet.yaml"),
        ("50epochs.yaml", "50epochs.yaml"),
    ],
)
def test_no_two_trainers_share_a_folder(asked: str, folder: str) -> None:
    from nnreg.training.configs.names import results_name

    assert results_name(asked) == folder


def test_a_folder_of_before_goes_on(place: Path) -> None:
    from nnreg.training.run_folders import model_folder

    workspace = Workspace.resolve()
    former = results(place, "kiunet", "2d")
    (former / "fold_0").mkdir(parents=True)
    (former / "fold_0" / "debug.json").write_text("{}")
    assert model_folder(workspace, 1, "mymodule:kiunet", "nnRegPlans", "2d") == former
    (former / "fold_0" / "debug.json").write_text('{"trainer_source": ""}')  # nnReg's own kiunet
    new = results(place, "mymodule.kiunet", "2d")
    assert model_folder(workspace, 1, "mymodule:kiunet", "nnRegPlans", "2d") == new
    with pytest.raises(ConfigurationError, match="two underscores"):
        resolve_trainer("my__module:kiunet")


def test_entries_of_a_batch_by_both_names() -> None:
    from nnreg.task import DENSE_PREDICTION, REGISTRATION, TASKS
    from nnreg.training.dataloading.batch import Batch

    image, labels = torch.ones(1), torch.zeros(1)
    batch = Batch({"image": image, "labels": labels}, TASKS[DENSE_PREDICTION].batch_names)
    assert batch["data"] is image
    assert batch["target"] is labels
    assert set(batch) == {"image", "labels"}
    with pytest.raises(TrainingError, match="has no 'data'; it has fixed, moving"):
        Batch({"fixed": image, "moving": image}, TASKS[REGISTRATION].batch_names)["data"]


# -- from Python ----------------------------------------------------------------------------------------------------------


def test_the_programmatic_example(place: Path) -> None:
    from nnreg.training.nnRegTrainer.nnRegTrainer import nnRegTrainer
    from nnreg.utilities.plans_handling.plans_handler import PlansManager

    # Initialize trainer
    trainer = nnRegTrainer(dataset_id=1, configuration="3d_fullres", fold=0, plans_identifier="nnRegPlans", device="cpu")
    # Run training
    trainer.run_training()
    assert (results(place) / "fold_0" / "checkpoint_final.pth").is_file()
    path = place / "nnReg_preprocessed" / NAME / "nnRegPlans.json"
    for given in (path, json.loads(path.read_text())):
        plans = PlansManager(given)
        assert (plans.dataset_name, plans.plans_name) == (NAME, "nnRegPlans")
        assert plans.available_configurations == ["2d", "3d_fullres"]
        assert plans.get_configuration("3d_fullres") == trainer.plans.configuration("3d_fullres")


# -- pretraining ----------------------------------------------------------------------------------------------------------


def test_pretraining_from_start_to_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second dataset was never measured, planned or preprocessed, and has one label less."""
    write(place, SECOND, labels={"background": 0, "both": 3, "nothing": 5, "right": 7})
    assert typed("nnreg_train 001 3d_fullres 0") == 0
    assert typed("nnreg_move_plans_between_datasets -s 001 -t 002 -sp nnRegPlans -tp nnRegPlans_pretrained") == 0
    assert "next: nnreg_preprocess -d 002 -plans_name nnRegPlans_pretrained" in capsys.readouterr().out
    weights = results(place) / "fold_0" / "checkpoint_final.pth"
    assert typed(f"nnreg_train 002 3d_fullres 0 -p nnRegPlans_pretrained -pretrained_weights {weights}") == 0
    said = capsys.readouterr().out
    assert "is not preprocessed yet" in said
    assert "weights of other outputs are left out: heads.0" in said
    fold = results(place, plans="nnRegPlans_pretrained", dataset=SECOND) / "fold_0"
    given, own = (torch.load(path, weights_only=True)["network_weights"] for path in (weights, fold / "checkpoint_final.pth"))
    assert given["heads.0.weight"].shape[0] == 3
    assert own["heads.0.weight"].shape[0] == 4
    assert not list((place / "nnReg_preprocessed" / SECOND).glob(".*.preprocessing"))


def test_moved_plans_have_arrays_of_their_own_and_the_losses_of_the_targets_labels(place: Path) -> None:
    """The source shares its arrays with other plans, as nnU-Net's presets do, and has labels where the target has regions."""
    from nnreg.preprocessing.move import move_plans

    write(place, SECOND, labels={"background": 0, "both": [3, 7], "right": 7}, regions_class_order=[3, 7])
    folder = place / "nnReg_preprocessed" / NAME
    content = json.loads((folder / "nnRegPlans.json").read_text())
    (folder / "nnRegOther.json").write_text(json.dumps(content | {"plans_name": "nnRegOther"}))
    plans, path = move_plans(Workspace.resolve(), 1, 2, source_plans="nnRegOther")
    assert path.name == "nnRegOther.json"
    for name, configuration in plans.configurations.items():
        assert configuration.data_identifier == f"nnRegOther_{name}"
        assert [term.name for term in configuration.training.supervision] == ["negative_dice", "binary_cross_entropy"]  # type: ignore[attr-defined]
    # terms that someone wrote stay, channels must be as many
    content["configurations"]["2d"]["training"]["supervision"] = [{"name": "focal"}]
    (folder / "nnRegOther.json").write_text(json.dumps(content | {"plans_name": "nnRegOther"}))
    plans, _ = move_plans(Workspace.resolve(), 1, 2, source_plans="nnRegOther", overwrite=True)
    assert [term.name for term in plans.configurations["2d"].training.supervision] == ["focal"]  # type: ignore[attr-defined]
    (folder / "nnRegOther.json").write_text(json.dumps(content | {"plans_name": "nnRegOther", "channel_names": ["T1", "T2"]}))
    with pytest.raises(NnRegError):
        move_plans(Workspace.resolve(), 1, 2, source_plans="nnRegOther", overwrite=True)


def test_the_weights_that_fit_are_the_start_and_others_are_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nnreg.training.execution.run import build_trainer
    from nnreg.training.trainer.state import start_from

    first = build_trainer(Workspace.resolve(), 1, "2d", 0, device="cpu", overrides={"seed": 5})
    first.initialize()
    given = {name: value.clone() for name, value in first.network.state_dict().items()}
    second = build_trainer(Workspace.resolve(), 1, "2d", 1, device="cpu", overrides={"ema_decay": 0.9})
    start_from(second, {"network_weights": given}, tmp_path / "first.pth")
    assert all(torch.equal(value, given[name]) for name, value in second.network.state_dict().items())
    assert all(torch.equal(value, given[name]) for name, value in second.average.module.state_dict().items())  # type: ignore[union-attr]
    wrong = {name: value[:, :1] if name.startswith("backbone") and value.ndim > 1 else value for name, value in given.items()}
    with pytest.raises(TrainingError, match="do not fit the planned network"):
        start_from(second, {"network_weights": wrong}, tmp_path / "wrong.pth")
    torch.save({"state": 1}, tmp_path / "strange.pth")
    for name, message in (("absent.pth", "does not exist"), ("strange.pth", "holds no weights that nnReg knows")):
        assert typed(f"nnreg_train 001 2d 2 -pretrained_weights {tmp_path / name}") == 2
        assert message in capsys.readouterr().err
    assert not (results(place, configuration="2d") / "fold_2").exists()


def test_missing_arrays_are_made_by_the_command_and_asked_for_by_python(place: Path) -> None:
    from nnreg.training.nnRegTrainer.nnRegTrainer import nnRegTrainer

    arrays = place / "nnReg_preprocessed" / NAME / "nnRegPlans_2d"
    shutil.rmtree(arrays)
    with pytest.raises(TrainingError, match="Run nnreg_preprocess -d 001 -c 2d"):
        nnRegTrainer(dataset_id=1, configuration="2d")
    marker = arrays.with_name(".nnRegPlans_2d.preprocessing")
    marker.write_text("unfinished")
    assert typed("nnreg_train 001 2d 0 -tr nonsense") == 2
    assert not arrays.exists()
    assert typed("nnreg_train 001 2d 0") == 0
    assert not marker.exists()


# -- splits and labels ----------------------------------------------------------------------------------------------------


def test_splits_of_ones_own_in_the_dataset_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = [{"train": ["case_0", "case_1"], "val": ["case_2", "case_3"]}]
    given, kept = (place / f"nnReg_{kind}" / NAME / "splits_final.json" for kind in ("raw", "preprocessed"))
    given.write_text(json.dumps(splits))
    assert typed("nnreg_train 001 2d 0") == 0
    assert "takes the place of the folds made by nnU-Net's rule" in capsys.readouterr().out
    predicted = (results(place, configuration="2d") / "fold_0" / "validation_raw").glob("case_*.nii.gz")
    assert sorted(path.name[:6] for path in predicted) == ["case_2", "case_3"]
    assert json.loads(kept.read_text()) == splits
    given.write_text(json.dumps([splits[0], splits[0]]))
    assert typed("nnreg_train 001 2d 0 --val") == 0
    assert f"{given}: is not used" in capsys.readouterr().out


def test_the_printed_ignore_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipes: None) -> None:
    """No task is named: the ignore label tells that this is no registration. A loss that was made before trains, too."""
    from nnreg.training.losses import DC_and_Blob_CE_loss

    raw = write(tmp_path, NAME)
    content = json.loads((raw / "dataset.json").read_text())
    printed = {"labels": {"background": 0, "tumor": 3, "ignore": 255}, "ignore_label": 255}
    (raw / "dataset.json").write_text(json.dumps({key: content[key] for key in ("channel_names", "numTraining", "file_ending")} | printed))
    relabel(raw)
    move_into(tmp_path, monkeypatch)
    assert typed("nnreg_plan_and_preprocess -d 001 -c 2d -np 1 --no_pbar") == 0
    shorten(tmp_path / "nnReg_preprocessed" / NAME / "nnRegPlans.json")
    assert typed("nnreg_train 001 2d 0") == 0
    TRAINER_CONFIGS["blobs"] = TrainerConfig(loss=DC_and_Blob_CE_loss({"batch_dice": True}, {}))
    assert typed("nnreg_train 001 2d 0 -tr blobs") == 0
    TRAINER_CONFIGS["wrong"] = TrainerConfig(loss=DC_and_Blob_CE_loss({}, {}, regions=True))
    assert typed("nnreg_train 001 2d 0 -tr wrong") == 2


def relabel(raw: Path) -> None:
    """One of the two labels becomes what is not annotated."""
    from nnreg.imageio import read_image, write_image

    for path in (raw / "labelsTr").iterdir():
        image = read_image(path)
        labels = image.array.astype("int16")
        labels[labels == 7] = 255
        write_image(path, labels, image.space)


# -- the moving average ---------------------------------------------------------------------------------------------------


def test_the_moving_average_starts_at_the_first_value_of_the_metric() -> None:
    """The validation loss stands in for a Dice that is not there; it has no part in the average of the Dice."""
    plan: Any = type("Plan", (), {"monitor": None, "monitor_mode": None})
    monitor, history, nothing = Monitor(plan, "dice"), History(), float("nan")
    epochs = [{}, {"val_loss": -3.0, "val_dice": nothing}, {"val_loss": 0.9, "val_dice": 0.5}, {"val_loss": 0.1, "val_dice": nothing}, {"val_dice": 0.7}]
    better = []
    for epoch, numbers in enumerate(epochs):
        better.append(monitor.update(history, epoch, numbers))
        history.add(epoch, {**numbers, "ema": history.values["ema"][-1]})
    assert history.values["ema"][1:] == pytest.approx([3.0, 0.5, 0.5, 0.52])
    assert better == [False, True, True, False, True]
    assert (history.best_epoch, history.best_ema) == (4, pytest.approx(0.52))

"""``nnreg_results_template/`` is what training writes today."""

import importlib
import json
import shlex
from pathlib import Path

import pytest
import torch

TEMPLATE = Path(__file__).parents[2] / "nnreg_results_template"
DATASET = "Dataset900_Ellipsoids"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The results of the commands that the template's own page names."""
    workspace = tmp_path_factory.mktemp("template")
    block = (TEMPLATE / "README.md").read_text(encoding="utf-8").split("```bash\n")[1].split("```")[0]
    for line in block.splitlines():
        command, *arguments = shlex.split(line)
        module = importlib.import_module(f"nnreg.cli.{command.removeprefix('nnreg_')}")
        assert module.main([*arguments, "--workspace", str(workspace)]) == 0, line
    return workspace / "nnReg_results" / DATASET


def _files(folder):
    """All but the curves for TensorBoard, which are there only where it is installed."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts)


def _keys(content, where=""):
    """Dotted names of everything in nested mappings; lists are followed through their first entry."""
    if isinstance(content, dict):
        return {name for key, value in content.items() for name in (f"{where}.{key}", *_keys(value, f"{where}.{key}"))}
    if isinstance(content, list) and content:
        return _keys(content[0], f"{where}[]")
    return set()


def test_same_files(written):
    assert _files(written) == _files(TEMPLATE / DATASET)


@pytest.mark.parametrize("name", [name for name in _files(TEMPLATE / DATASET) if name.endswith(".json")])
def test_same_keys(written, name):
    ours, example = (json.loads((folder / name).read_text(encoding="utf-8")) for folder in (written, TEMPLATE / DATASET))
    assert _keys(ours) == _keys(example)


@pytest.mark.parametrize("name", [name for name in _files(TEMPLATE / DATASET) if name.endswith(".pth")])
def test_same_content_of_checkpoints(written, name):
    ours, example = (torch.load(folder / name, weights_only=True, map_location="cpu") for folder in (written, TEMPLATE / DATASET))
    assert _keys(ours) == _keys(example)
    shapes = [{key: tuple(value.shape) for key, value in content["network_weights"].items()} for content in (ours, example)]
    assert shapes[0] == shapes[1]


def test_same_lines_in_the_log(written):
    """Numbers and times differ between machines, what is said does not."""
    log = next(iter((TEMPLATE / DATASET).rglob("training_log.txt"))).relative_to(TEMPLATE / DATASET)
    said = []
    for folder in (written, TEMPLATE / DATASET):
        lines = (folder / log).read_text(encoding="utf-8").splitlines()
        said.append([[word for word in line.split()[2:] if word.rstrip(",:").replace("_", "").isalpha()] for line in lines if "New best" not in line])
    assert said[0] == said[1]
    assert any("Validation" in line for line in said[0])

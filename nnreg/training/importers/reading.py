"""Which of the known forms a file or folder has, and the run that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnreg.documents import parse_json, parse_yaml
from nnreg.errors import ConfigurationError
from nnreg.training.importers.run import ImportedRun
from nnreg.training.importers.values import values_of

FORMS = "YAML with model, loss ... or with tr_config, dataset_config ..., a JSON workflow, or a folder with fixed/ and moving/ or images/ and labels/"


def read_run(source: Path, **flags: Any) -> ImportedRun:
    """The run that a file or folder of another program describes; nothing is written.

    Parameters
    ----------
    source
        YAML of the synthetic registration tutorial (``model``, ``loss``, ``train_dataset`` ...), YAML of the multi-target trainings
        (``tr_config``, ``dataset_config``, ``auxiliary_tasks`` ...), JSON workflow of nodes, a folder of an atlas registration (``fixed``,
        ``moving`` ...) or of labelled images (``images``, ``labels``, ``masks``).
    **flags
        What the command line says besides, by the other program's names.

    Raises
    ------
    ConfigurationError
        A file that cannot be read, is of no known form, or has an unknown key (the nearest valid one is named).
    """
    if source.is_dir():
        return _folder(source, flags)
    from nnreg.training.importers.dense_prediction import target_yaml, workflow_json
    from nnreg.training.importers.registration import synthetic_yaml

    content = values_of(_parsed(source))
    if workflow_json.is_workflow(content):
        return workflow_json.read(content, source, **flags)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{source}: is of no form that nnReg can import. Expected {FORMS}.")
    keys = set(content)
    content = {key: value for key, value in content.items() if value is not None}  # a section of nothing but comments
    if keys & set(target_yaml.BLOCKS):
        return target_yaml.read(content, source, **flags)
    if keys & set(synthetic_yaml.SECTIONS):
        return synthetic_yaml.read(content, source, **flags)
    if keys & set(workflow_json.ALL_KEYS):  # the inside of a node by itself, as guides print it
        return workflow_json.read({"type": "Trainer", "config": content}, source, **flags)
    raise ConfigurationError(f"{source}: has the keys {', '.join(content) or 'none'}, which are of no form that nnReg can import. Expected {FORMS}.")


def _folder(source: Path, flags: dict[str, Any]) -> ImportedRun:
    from nnreg.training.importers.dense_prediction import target_yaml
    from nnreg.training.importers.registration import atlas_folder

    if (source / "fixed").is_dir():
        return atlas_folder.read(source, **flags)
    if (source / "images").is_dir():
        return target_yaml.read({}, source, data_path=str(source), **flags)
    raise ConfigurationError(f"{source}: is of no form that nnReg can import. Expected {FORMS}.")


def _parsed(source: Path) -> Any:
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{source}: cannot be read as text ({str(error).splitlines()[0]}). Name a YAML or JSON file, or a folder.") from error
    return (parse_json if source.suffix == ".json" else parse_yaml)(text, str(source), ConfigurationError)

"""Files to copy: a run in each of the YAML forms that nnReg imports, every key explained."""

from __future__ import annotations

from pathlib import Path

from nnreg.errors import ConfigurationError, did_you_mean

FOLDER = Path(__file__).with_name("templates")


def template_names() -> list[str]:
    """What :func:`template` knows."""
    return sorted(path.stem for path in FOLDER.iterdir() if path.suffix == ".yaml")


def template(name: str) -> str:
    """Text of the template `name`.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    if name not in template_names():
        raise ConfigurationError(f"--template {name!r} is unknown; {did_you_mean(name, template_names())}")
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")

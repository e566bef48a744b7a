"""Lets Primus be tested where torchvision was built for another torch: its operators, which no network calls, are declared so that timm imports."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch


def _declared_by(package: Path) -> set[str]:
    """Names of the operators whose shapes torchvision registers as it is imported."""
    return set(re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', (package / "_meta_registrations.py").read_text(encoding="utf-8")))


@pytest.fixture(scope="session", autouse=True)
def _torchvision_imports():
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        yield
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in _declared_by(Path(spec.origin).parent):
            library.define(f"{name}(Tensor nothing) -> Tensor")
        yield
        return  # the library lives as long as this generator
    yield

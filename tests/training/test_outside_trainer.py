"""Trainer classes of packages that nnReg knows nothing of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nnreg.errors import ConfigurationError
from nnreg.training.configs import TRAINER_CONFIGS
from nnreg.training.configs.lookup import resolve_trainer, trainer_classes

Install = Callable[..., None]
GROUP = "nnreg.trainers"
CODE = "from nnreg.training.trainer.trainer import nnRegTrainer\n\n\nclass Slow(nnRegTrainer):\n    pass\n"


def test_it_is_found_by_name_and_a_broken_package_stops_no_other(install: Install) -> None:
    install("slow_package", CODE, GROUP, "slow = slow_package:Slow")
    install("broken", "1 / 0", GROUP, "halting = broken:X")
    assert resolve_trainer("slow").trainer.__name__ == "Slow"
    assert resolve_trainer().name == "nnRegTrainer"
    for work in (lambda: resolve_trainer("halting"), trainer_classes):
        with pytest.raises(ConfigurationError, match=r"trainer 'halting' of the package broken: .*ZeroDivisionError.* Mend or remove"):
            work()


@pytest.mark.parametrize(
    ("name", "packages", "message"),
    [
        ("nnRegTrainer", ("first_package",), "trainer 'nnRegTrainer' of the package first_package: nnReg has that name already"),
        (next(iter(TRAINER_CONFIGS)), ("first_package",), "of the package first_package: nnReg has that name already"),
        ("slow", ("first_package", "second_package"), "trainer 'slow' is registered by two packages, .* Remove one"),
    ],
)
def test_a_name_registered_twice_is_refused(name: str, packages: tuple[str, ...], message: str, install: Install) -> None:
    for package in packages:
        install(package, CODE, GROUP, f"{name} = {package}:Slow")
    with pytest.raises(ConfigurationError, match=message):
        resolve_trainer(name)


def test_what_is_no_trainer_class_is_refused(install: Install) -> None:
    install("wrong", "X = 3", GROUP, "odd = wrong:X")
    with pytest.raises(ConfigurationError, match=r"trainer 'odd' of the package wrong: entry point wrong:X is no subclass of nnRegTrainer\. Mend"):
        resolve_trainer("odd")
